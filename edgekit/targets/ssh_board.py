"""The half of `ssh.py` that runs on the board: keeps files, starts the agent, sends back arrays.

It is sent over the connection each time and never installed. It needs no more than Python 3.7 and
its standard library, so that a board that is too old for the agent can say so.

Request: a line of JSON {"verb": ..., "mark": ..., its arguments}, then what that verb reads.
Answer: the mark in a line of its own (before it comes whatever a login prints), a line of JSON,
then the files that it announces.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO

KEPT_S = 30 * 24 * 3600
"""Models and inputs that nobody asked for so long are deleted."""
_PACKAGES = """
import json, sys
try:
    from importlib.metadata import distributions
    found = {str(d.metadata["Name"]).lower().replace("_", "-"): d.version for d in distributions()}
except ImportError:
    found = {}
print(json.dumps([sys.version_info[:2], found]))
"""
_MACHINE = """
import json
from edgekit.agent import machine, protocol
print(json.dumps(protocol.encode(machine.describe())))
"""


def look(stream: BinaryIO, venv: str, names: list[str]) -> dict[str, Any]:
    """The board's Python and packages, and which of the files `names` are not here."""
    python = _python(venv)
    version, packages = json.loads(subprocess.check_output([python, "-c", _PACKAGES], text=True))
    return {
        "python": version,
        "arch": platform.machine(),
        "packages": packages,
        "missing": [name for name in names if not _is_here(name)],
    }


def put(stream: BinaryIO, files: list[tuple[str, int, str]]) -> dict[str, Any]:
    """Read `files` (name, size, SHA-256) from the stream; one that is not whole is not kept."""
    _forget_old_files()
    for name, size, sha256 in files:
        path = _cached(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=os.path.dirname(path))
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            while size:
                block = stream.read(min(size, 1 << 20))
                if not block:
                    break
                size -= len(block)
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            os.unlink(fresh)
            return {"error": "the connection ended in the middle of a file"}
        os.replace(fresh, path)
    return {}


def run(
    stream: BinaryIO, venv: str, agent: str, job: dict[str, Any], timeout: float
) -> dict[str, Any]:
    """Have the agent carry out `job`, whose files are given by their names here."""
    for name in (job["artifact"], *job["inputs"].values()):
        if not _is_here(name):
            return {"error": f"{name} is no longer on the board"}
    with tempfile.TemporaryDirectory(prefix="edgekit-") as desk:
        out = os.path.join(desk, "out")
        job["artifact"] = _cached(job["artifact"])
        job["inputs"] = {name: _cached(path) for name, path in job["inputs"].items()}
        job["out"] = out
        try:
            answer = _start(venv, agent, ["-m", "edgekit.agent"], json.dumps(job), desk, timeout)
        except subprocess.TimeoutExpired:
            return {"timeout": True}
        answer["files"] = {}
        for name in os.listdir(out) if os.path.isdir(out) else ():
            with open(os.path.join(out, name), "rb") as file:
                answer["files"][name] = file.read()
    return answer


def machine(stream: BinaryIO, venv: str, agent: str) -> dict[str, Any]:
    """The board as the agent describes it."""
    return _start(venv, agent, ["-c", _MACHINE], "", _cached(agent), 60)


def prepare(stream: BinaryIO, venv: str, requirements: str) -> dict[str, Any]:
    """A virtual environment with these requirements, unless it is here."""
    folder = _cached(venv)
    if os.path.exists(os.path.join(folder, "ready")):
        return {"folder": folder}
    os.makedirs(_cached(""), exist_ok=True)
    said = _said([sys.executable, "-m", "venv", "--clear", folder])
    if said is not None:
        shutil.rmtree(folder, ignore_errors=True)
        return {"failed": "venv", "said": said}
    listed = os.path.join(folder, "requirements.txt")
    with open(listed, "w") as file:
        file.write(requirements)
    pip = [os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
    said = _said([*pip, "install", "--quiet", "--only-binary=:all:", "--requirement", listed])
    if said is not None:
        shutil.rmtree(folder, ignore_errors=True)
        return {"failed": "pip", "said": said}
    open(os.path.join(folder, "ready"), "w").close()
    return {"folder": folder}


def _cached(name: str) -> str:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "edgekit", name)


def _is_here(name: str) -> bool:
    path = _cached(name)
    if name.startswith("files/") and os.path.exists(path):
        os.utime(path)  # it was asked for now
    return os.path.exists(path)


def _forget_old_files() -> None:
    for folder, _, names in os.walk(_cached("files")):
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(OSError):
                if os.path.getmtime(path) < time.time() - KEPT_S:
                    os.unlink(path)


def _python(venv: str) -> str:
    """The one with the runtimes: that which was prepared, else the system's."""
    if os.path.exists(_cached(os.path.join(venv, "ready"))):
        return _cached(os.path.join(venv, "bin", "python"))
    return sys.executable


def _start(
    venv: str, agent: str, arguments: list[str], stdin: str, folder: str, timeout: float
) -> dict[str, Any]:
    done = subprocess.run(
        [_python(venv), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": _cached(agent)},
        timeout=timeout,
        check=False,
    )
    return {"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr[-4000:]}


def _said(command: list[str]) -> str | None:
    """What a command that failed printed."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return None if done.returncode == 0 else done.stdout[-4000:]


def main() -> None:
    verbs: dict[str, Any] = {verb.__name__: verb for verb in (look, put, run, machine, prepare)}
    stream, out = sys.stdin.buffer, sys.stdout.buffer
    request = json.loads(stream.readline())
    verb, mark = request.pop("verb"), request.pop("mark")
    answer = verbs[verb](stream, **request)
    files = answer.pop("files", {})
    answer["files"] = [(name, len(content)) for name, content in files.items()]
    out.write(f"\n{mark}\n{json.dumps(answer)}\n".encode())
    out.writelines(files.values())
    out.flush()


if __name__ == "__main__":
    main()

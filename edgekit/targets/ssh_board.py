"""The half of `ssh.py` that runs on the board: keeps files, starts the agent, sends back arrays.

It is sent over the connection each time and never installed. It needs no more than Python 3.7 and
its standard library, so that a board that is too old for the agent can say so.

Request: a line of JSON {"verb": ..., "mark": ..., its arguments}, then what that verb reads.
Answer: the mark in a line of its own (before it comes whatever a login prints), a line of JSON,
then the files that it announces.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO

_DAY_S = 24 * 3600
KEPT_S = {"files": 30 * _DAY_S, "agents": _DAY_S, "venvs": _DAY_S}
"""What nobody asked for so long is deleted: models, inputs, and what other versions of edgekit had.

Longer than any job takes, so that none loses what it runs on.
"""
LOOK_S = 1
"""How often a job that runs looks whether anybody still waits for it."""
_PACKAGES = """
import json, sys
try:
    from importlib.metadata import distributions
    found = {str(d.metadata["Name"]).lower().replace("_", "-"): d.version for d in distributions()}
except ImportError:
    found = {}
print(json.dumps([sys.version_info[:2], found]))
"""


def look(stream: BinaryIO, venv: str, names: list[str]) -> dict[str, Any]:
    """The board's Python and packages, and which of the files `names` are not here."""
    python = _python(venv)
    version, packages = json.loads(subprocess.check_output([python, "-c", _PACKAGES], text=True))
    return {
        "python": version,
        "packages": packages,
        "missing": [name for name in names if not _is_here(name)],
    }


def put(
    stream: BinaryIO, venv: str, agent: str, files: list[tuple[str, int, str]]
) -> dict[str, Any]:
    """Read `files` (name, size, SHA-256) from the stream; one that is not whole is not kept."""
    _forget((venv, agent))
    for name, size, sha256 in files:
        try:
            _keep(stream, _cached(name), size, sha256)
        except EOFError:
            return {"error": "the connection ended in the middle of a file"}
    return {}


def run(
    stream: BinaryIO, venv: str, agent: str, job: dict[str, Any], timeout: float
) -> dict[str, Any]:
    """Have the agent carry out `job`, whose files are given by their names here."""
    for name in (agent, job["artifact"], *job["inputs"].values()):
        if not _is_here(name):
            return {"error": f"{name} is no longer on the board"}
    with tempfile.TemporaryDirectory(prefix="edgekit-") as desk:
        out = os.path.join(desk, "out")
        job["artifact"] = _cached(job["artifact"])
        job["inputs"] = {name: _cached(path) for name, path in job["inputs"].items()}
        job["out"] = out
        try:
            done = _finish(
                [_python(venv), "-m", "edgekit.agent"],
                json.dumps(job),
                timeout,
                stderr=subprocess.PIPE,
                cwd=desk,
                env={**os.environ, "PYTHONPATH": _cached(agent)},
            )
        except subprocess.TimeoutExpired:
            return {"timeout": True}
        files = {}
        for name in os.listdir(out) if os.path.isdir(out) else ():
            with open(os.path.join(out, name), "rb") as file:
                files[name] = file.read()
    return {
        "exit": done.returncode,
        "stdout": done.stdout,
        "stderr": done.stderr[-4000:],
        "files": files,
    }


def prepare(stream: BinaryIO, venv: str, requirements: str) -> dict[str, Any]:
    """A virtual environment with these requirements, unless it is here."""
    folder = _cached(venv)
    ready = os.path.join(folder, "ready")
    os.makedirs(_cached(""), exist_ok=True)
    with open(_cached("preparing"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(ready):
            return {"folder": folder}
        try:
            failed = _install(folder, requirements)
            if failed is None:
                open(ready, "w").close()
        finally:
            if not os.path.exists(ready):
                shutil.rmtree(folder, ignore_errors=True)
    return failed or {"folder": folder}


def _install(folder: str, requirements: str) -> dict[str, Any] | None:
    """What failed."""
    said = _said([sys.executable, "-m", "venv", "--clear", folder])
    if said is not None:
        return {"failed": "venv", "said": said}
    listed = os.path.join(folder, "requirements.txt")
    with open(listed, "w") as file:
        file.write(requirements)
    pip = [os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check"]
    said = _said([*pip, "install", "--quiet", "--only-binary=:all:", "--requirement", listed])
    return None if said is None else {"failed": "pip", "said": said}


def _cached(name: str) -> str:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "edgekit", name)


def _is_here(name: str) -> bool:
    path = _cached(name)
    if not os.path.exists(path):
        return False
    if name.count("/") == 1:
        os.utime(path)  # it was asked for now: see KEPT_S
    return True


def _keep(stream: BinaryIO, path: str, size: int, sha256: str) -> None:
    """Write the next `size` bytes of the stream to `path`, all of them or none."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, fresh = tempfile.mkstemp(dir=os.path.dirname(path))
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file:
            while size:
                block = stream.read(min(size, 1 << 20))
                if not block:
                    break
                size -= len(block)
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            raise EOFError
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise


def _forget(kept: tuple[str, ...]) -> None:
    """Delete what nobody asked for in a long time; but not `kept`, of this version of edgekit."""
    for kind, seconds in KEPT_S.items():
        with contextlib.suppress(OSError):
            for entry in os.scandir(_cached(kind)):
                is_old = entry.stat().st_mtime < time.time() - seconds
                if is_old and f"{kind}/{entry.name}" not in kept:
                    _delete(entry)


def _delete(entry: os.DirEntry[str]) -> None:
    if entry.is_dir():
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        os.unlink(entry.path)


def _python(venv: str) -> str:
    """The one with the runtimes: that which was prepared, else the system's."""
    if _is_here(venv) and os.path.exists(_cached(os.path.join(venv, "ready"))):
        return _cached(os.path.join(venv, "bin", "python"))
    return sys.executable


def _said(command: list[str]) -> str | None:
    """What a command that failed printed."""
    done = _finish(command, stderr=subprocess.STDOUT)
    return None if done.returncode == 0 else done.stdout[-4000:]


def _finish(
    command: list[str], stdin: str = "", timeout: float = math.inf, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run `command`. It ends, with all that it started, when this script does or its time is up."""
    end = time.monotonic() + timeout
    given: str | None = stdin
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        **settings,
    ) as process:
        try:
            while True:
                try:
                    left = end - time.monotonic()
                    out, err = process.communicate(given, timeout=max(0, min(LOOK_S, left)))
                    return subprocess.CompletedProcess(command, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    given = None  # it was sent
                    if time.monotonic() >= end:
                        raise
                    if _nobody_waits():
                        sys.exit("nobody waits for an answer")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _nobody_waits() -> bool:
    """Whether the other end of stdout was closed: the user interrupted, or the link broke."""
    poll = select.poll()
    poll.register(1, 0)  # errors and hang-ups are always told
    return bool(poll.poll(0))


def main() -> None:
    verbs: dict[str, Any] = {verb.__name__: verb for verb in (look, put, run, prepare)}
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

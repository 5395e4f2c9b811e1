"""A board that is reached by the user's own OpenSSH client, with its configuration and its keys.

Everything goes over stdin and stdout of one constant command: no data is ever part of a command
line there. What a board needs is python3 and a runtime; `prepare` installs the latter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.agent.protocol import encode
from edgekit.errors import EdgekitError, MissingDependency, RunnerError, TargetError
from edgekit.hashing import sha256
from edgekit.targets import require_able
from edgekit.targets.agent_process import REQUIREMENTS, agent_files, digest, read_answer
from edgekit.types import Job, JobResult, Progress

OLDEST_PYTHON = (3, 10)
PACKAGES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime"}
CONNECT_S, MORE_S, PREPARE_S = 10, 60, 1800
_OPTIONS = {
    "BatchMode": "yes",  # nobody answers questions here
    "ConnectTimeout": str(CONNECT_S),
    "ControlMaster": "auto",
    "ControlPersist": "60",
    "ServerAliveInterval": "5",  # a board that is gone is noticed, as long as a job may take
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
}
_ADDRESS = re.compile(
    r"ssh://(?:(\w[\w.+-]*)@)?(\w[\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(\d{1,5}))?/?", re.ASCII
)
_BOARD = Path(__file__).with_name("ssh_board.py")
_START = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"


class SshTarget:
    """The machine behind ssh://[USER@]HOST[:PORT]; HOST may be a name of the user's ssh config."""

    formats: tuple[str, ...] = tuple(PACKAGES)
    profiles: tuple[str, ...] = tuple(PACKAGES)
    is_emulated = False
    models_cycles = False

    def __init__(self, uri: str) -> None:
        """Open `uri`; the connection is made when it is needed.

        Raises:
            TargetError: `uri` is no such address.
            MissingDependency: there is no ssh.
        """
        self.uri = uri
        self._destination = _destination(uri)
        program = shutil.which("ssh")
        if program is None:
            raise MissingDependency(
                "there is no ssh on PATH", hint="install OpenSSH: apt install openssh-client"
            )
        self._program = program
        self._agent = agent_files()
        self._agent_folder = f"agents/{digest(self._agent)}"
        self._venv = f"venvs/{digest({'requirements': REQUIREMENTS.read_bytes()})}"
        self._there: set[str] = set()
        self._packages: dict[str, str] | None = None
        # For the socket of the shared connection, which nobody else may open.
        self._folder = tempfile.TemporaryDirectory(
            prefix="edgekit-", dir=_socket_place(), ignore_cleanup_errors=True
        )

    def packages(self) -> dict[str, str]:
        """Versions of the packages in the Python that runs models there, by name in small letters.

        Raises:
            TargetError: the board cannot be reached or used.
        """
        if self._packages is None:
            self._look([])
        assert self._packages is not None
        return self._packages

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """See Target.execute.

        Raises:
            TargetError: the board cannot be reached or used, or is to count instructions.
        """
        require_able(self, job)
        files = {_name(Path(p)): Path(p) for p in (job.artifact, *job.inputs.values())}
        self._push({**self._agent_contents(), **files})
        self._require(PACKAGES[job.format])
        sent = dataclasses.replace(
            job,
            artifact=_name(Path(job.artifact)),
            inputs={name: _name(Path(path)) for name, path in job.inputs.items()},
        )
        answer, payload = self._ask(
            "run",
            venv=self._venv,
            agent=self._agent_folder,
            job=encode(sent),
            timeout=timeout,
            waits=timeout + MORE_S,
        )
        if answer.get("timeout"):
            raise RunnerError(
                f"no answer from the {job.format} runtime of {self.uri} in {timeout:.0f} s "
                f"on {Path(job.artifact).name}"
            )
        done = subprocess.CompletedProcess(
            ["python3"], answer["exit"], answer["stdout"], answer["stderr"]
        )
        result = read_answer(job, done, place=self.uri)
        return dataclasses.replace(
            result, outputs=_stored(result.outputs, answer["files"], payload, Path(job.out))
        )

    def close(self) -> None:
        """End the connection."""
        if self._socket.exists():
            self._start(["-O", "exit"], b"", CONNECT_S)
        self._folder.cleanup()

    def prepare(self, progress: Progress | None = None) -> str:
        """Install the runtimes into an environment of their own on the board; its path there.

        Raises:
            TargetError: the board cannot be reached.
            MissingDependency: its Python cannot make one, or pip cannot install them.
        """
        tell = progress or (lambda text: None)
        tell(f"looking at {self.uri}")
        self._look([])
        tell("installing the runtimes there with pip (80 MB)")
        requirements = REQUIREMENTS.read_text()
        answer, _ = self._ask(
            "prepare", venv=self._venv, requirements=requirements, waits=PREPARE_S
        )
        self._packages = None
        if answer.get("failed") == "venv":
            raise MissingDependency(
                f"python3 on {self.uri} makes no virtual environment: {_last(answer['said'])}",
                hint="on the board: sudo apt install python3-venv",
            )
        if "failed" in answer:
            raise MissingDependency(
                f"pip on {self.uri} cannot install the runtimes: {_last(answer['said'])}",
                hint="the board needs a network, and a 64-bit system: there are no wheels for 32",
            )
        return str(answer["folder"])

    @property
    def _socket(self) -> Path:
        return Path(self._folder.name, "s")

    def _agent_contents(self) -> dict[str, bytes]:
        return {f"{self._agent_folder}/{name}": data for name, data in self._agent.items()}

    def _look(self, names: Sequence[str]) -> list[str]:
        """Which of the files `names` are not there. Learns what the board has."""
        answer, _ = self._ask("look", venv=self._venv, names=list(names))
        python = tuple(answer["python"])
        if python < OLDEST_PYTHON:
            raise TargetError(
                f"{self.uri} has Python {python[0]}.{python[1]}; the runtimes need "
                f"{OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later",
                hint="install a newer system on the board",
            )
        self._packages = answer["packages"]
        self._there.update(set(names) - set(answer["missing"]))
        return list(answer["missing"])

    def _push(self, files: Mapping[str, Path | bytes]) -> None:
        """See to it that the board has these files; contents by their names there."""
        unknown = sorted(set(files) - self._there)
        missing = self._look(unknown) if unknown or self._packages is None else []
        if not missing:
            return
        contents = [_bytes(files[name]) for name in missing]
        listed = [
            (name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in zip(missing, contents, strict=True)
        ]
        self._ask("put", contents, venv=self._venv, agent=self._agent_folder, files=listed)
        self._there.update(missing)

    def _require(self, package: str) -> None:
        lacking = [p for p in ("numpy", package) if p not in self.packages()]
        if lacking:
            raise MissingDependency(
                f"{self.uri} has no {' and no '.join(lacking)}",
                hint=f"edgekit targets prepare {self.uri}",
            )

    def _ask(
        self,
        verb: str,
        contents: Sequence[bytes] = (),
        *,
        waits: float = MORE_S * 10,
        **arguments: Any,
    ) -> tuple[dict[str, Any], bytes]:
        """One verb of `ssh_board.py`: its answer, and the files that come with it in a row."""
        source, mark = _BOARD.read_bytes(), secrets.token_hex()
        request = json.dumps({"verb": verb, "mark": mark, **arguments}).encode()
        stdin = b"".join((b"%d\n" % len(source), source, request, b"\n", *contents))
        try:
            done = self._start([], stdin, waits)
        except subprocess.TimeoutExpired as e:
            raise TargetError(
                f"{self.uri} did not answer in {waits:.0f} s", hint="is the board still there?"
            ) from e
        _, found, rest = done.stdout.partition(f"\n{mark}\n".encode())
        if not found:
            raise self._refused(done)
        line, _, payload = rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if answer is None or len(payload) != sum(size for _, size in answer["files"]):
            raise self._ended()
        if "error" in answer:
            self._there.clear()
            raise TargetError(f"{self.uri}: {answer['error']}", hint="try again")
        return answer, payload

    def _start(
        self, options: Sequence[str], stdin: bytes, timeout: float
    ) -> subprocess.CompletedProcess[bytes]:
        settings = {**_OPTIONS, "ControlPath": str(self._socket)}
        command = [
            *(self._program, "-T"),
            *(word for key, value in settings.items() for word in ("-o", f"{key}={value}")),
            *(*options, *self._destination, f"exec python3 -c '{_START}'"),
        ]
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout, check=False
        )

    def _ended(self) -> TargetError:
        return TargetError(
            f"the connection to {self.uri} ended in the middle of an answer",
            hint="see that the board is up, and try again",
        )

    def _refused(self, done: subprocess.CompletedProcess[bytes]) -> EdgekitError:
        """Why there is no answer, and what to do."""
        said = done.stderr.decode(errors="replace")
        login = " ".join(word for word in self._destination if word != "--")
        if done.returncode == 127:
            return TargetError(
                f"there is no python3 on {self.uri}",
                hint="on the board: sudo apt install python3 python3-venv",
            )
        if done.returncode != 255:
            return TargetError(
                f"python3 on {self.uri} ended with exit code {done.returncode}: {_last(said)}"
            )
        if not said.strip():  # it was reached by the shared connection
            return self._ended()
        if "HOST IDENTIFICATION HAS CHANGED" in said:
            host, port = self._destination[-1].rpartition("@")[2], self._destination[:-2]
            known = f"'[{host}]:{port[1]}'" if port else host
            return TargetError(
                f"the host key of {self.uri} is not the one known here: it is another machine, or "
                "was set up anew",
                hint=f"if you know why: ssh-keygen -R {known}",
            )
        if "Host key verification failed" in said:
            return TargetError(
                f"the host key of {self.uri} is not known here",
                hint=f"connect once by hand and compare it: ssh {login}",
            )
        if "Permission denied" in said:
            return TargetError(
                f"{self.uri} lets nobody in without a password: {_last(said)}",
                hint=f"give it your key: ssh-copy-id {login}",
            )
        return TargetError(
            f"cannot reach {self.uri}: {_last(said)}", hint=f"try by hand: ssh {login}"
        )


def prepare(uri: str, progress: Progress | None = None) -> str:
    """See SshTarget.prepare."""
    target = SshTarget(uri)
    try:
        return target.prepare(progress)
    finally:
        target.close()


def _destination(uri: str) -> list[str]:
    """Where `uri` leads, in the words of ssh's command line."""
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise TargetError(
            f"{uri!r} is no address of a board",
            hint="write ssh://USER@HOST or ssh://USER@HOST:PORT",
        )
    user, host, port = found.groups()
    to = host.strip("[]")  # [::1]
    return [*(("-p", port) if port else ()), "--", f"{user}@{to}" if user else to]


def _socket_place() -> str:
    """Where the socket of a connection can lie: ssh reads its path as a pattern of a few bytes."""
    place = tempfile.gettempdir()
    return place if re.fullmatch(r"[\w/.-]{1,64}", place, re.ASCII) else "/tmp"


def _name(path: Path) -> str:
    """What a file is called on the board; its suffix stays, for a runtime may look at it."""
    return f"files/{sha256(path)}{path.suffix}"


def _bytes(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _stored(
    outputs: Mapping[str, str], files: Sequence[tuple[str, int]], payload: bytes, folder: Path
) -> dict[str, str]:
    """Write the arrays that came in a row into `folder`; the files by output."""
    if not outputs:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for name, size in files:
        (folder / Path(name).name).write_bytes(payload[start : start + size])
        start += size
    return {name: str(folder / Path(path).name) for name, path in outputs.items()}


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"

"""An agent as a process: a Job as JSON on its stdin, a JobResult as JSON on its stdout."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.agent.protocol import DecodeError, decode, encode
from edgekit.errors import RunnerError
from edgekit.processes import describe_exit
from edgekit.types import LOCAL, Job, JobResult

REQUIREMENTS = Path(__file__).with_name("device-requirements.txt")
"""What pip installs for the agent where edgekit itself is not: pinned versions."""


def agent_files() -> dict[str, bytes]:
    """The agent in Python, to be put anywhere on PYTHONPATH: contents by relative path.

    Its parent package is empty, and there: else one that is installed would be taken.
    """
    folder = Path(__file__).parents[1] / "agent"
    own = {f"edgekit/agent/{p.name}": p.read_bytes() for p in sorted(folder.glob("*.py"))}
    return {"edgekit/__init__.py": b"", **own}


def digest(files: Mapping[str, bytes]) -> str:
    """Short name for these contents: the same wherever they are the same."""
    hashed = hashlib.sha256()
    for name, content in sorted(files.items()):
        hashed.update(f"{name}\0{len(content)}\0".encode() + content)
    return hashed.hexdigest()[:12]


def ask_agent(
    command: Sequence[str | Path],
    job: Job,
    *,
    timeout: float,
    place: str = LOCAL,
    sent: Job | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `command` with `job` on its stdin; or with `sent`, which is `job` as seen from `cwd`.

    Raises:
        RunnerError: it took over `timeout` seconds.
    """
    try:
        return subprocess.run(
            command,
            input=json.dumps(encode(sent or job)),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            cwd=cwd,
            env=env,
        )
    except subprocess.TimeoutExpired as e:
        raise RunnerError(
            f"no answer from {_runtime(job, place)} in {timeout:.0f} s on {_name(job)}"
        ) from e


def read_answer(
    job: Job, done: subprocess.CompletedProcess[str], *, place: str = LOCAL
) -> JobResult:
    """The JobResult that an agent printed.

    Raises:
        RunnerError: the runtime refused the file, or crashed.
    """
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError as e:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        ended = describe_exit(done.returncode)
        raise RunnerError(f"{_runtime(job, place)} {ended} on {_name(job)}: {last}") from e
    try:
        if "error" in answer:
            reason = answer["error"]["message"].strip()
            raise RunnerError(f"{_runtime(job, place)} cannot run {_name(job)}: {reason}")
        return decode(JobResult, answer)
    except (DecodeError, TypeError, KeyError) as e:
        raise RunnerError(f"{_runtime(job, place)} gave an unknown answer: {e}") from e


def _runtime(job: Job, place: str) -> str:
    return f"the {job.format} runtime" + ("" if place == LOCAL else f" of {place}")


def _name(job: Job) -> str:
    return Path(job.artifact).name

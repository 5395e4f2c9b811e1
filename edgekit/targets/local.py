"""This machine: each job in a child process, so that a runtime that crashes takes nothing along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgekit.agent import machine
from edgekit.agent.protocol import DecodeError, decode, encode
from edgekit.errors import RunnerError
from edgekit.processes import describe_exit
from edgekit.types import Job, JobResult, Machine


class LocalTarget:
    """Runs TFLite and ONNX in Python, TF.js in Node.js."""

    uri = "local"

    def machine(self) -> Machine:
        return machine.describe()

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """See Target.execute."""
        try:
            done = subprocess.run(
                _command(job.format),
                input=json.dumps(encode(job)),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise RunnerError(
                f"no answer from the {job.format} runtime in {timeout:.0f} s on {_name(job)}"
            ) from e
        return _answer(job, done)

    def close(self) -> None:
        pass


def _command(form: str) -> list[str]:
    if form == "tfjs":
        from edgekit.targets.node import node_command

        return node_command()
    # -P: a file of the user's working directory must not shadow a module.
    return [sys.executable, "-P", "-m", "edgekit.agent"]


def _answer(job: Job, done: subprocess.CompletedProcess[str]) -> JobResult:
    try:
        answer = json.loads(done.stdout)
        if "error" in answer:
            reason = answer["error"]["message"].strip()
            raise RunnerError(f"the {job.format} runtime cannot run {_name(job)}: {reason}")
        return decode(JobResult, answer)
    except (json.JSONDecodeError, DecodeError, TypeError, KeyError) as e:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RunnerError(
            f"the {job.format} runtime {describe_exit(done.returncode)} on {_name(job)}: {last}"
        ) from e


def _name(job: Job) -> str:
    return Path(job.artifact).name

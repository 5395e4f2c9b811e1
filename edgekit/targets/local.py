"""This machine: each job in a child process, so that a runtime that crashes takes nothing along."""

from __future__ import annotations

import sys

from edgekit.targets import require_able
from edgekit.targets.agent_process import ask_agent, read_answer
from edgekit.types import FORMATS, LOCAL, Job, JobResult


class LocalTarget:
    """Runs TFLite and ONNX in Python, TF.js in Node.js."""

    uri = LOCAL
    formats: tuple[str, ...] = FORMATS
    profiles: tuple[str, ...] = FORMATS
    is_emulated = False
    models_cycles = False

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """See Target.execute.

        Raises:
            TargetError: `job` is to be counted.
        """
        require_able(self, job)
        return read_answer(job, ask_agent(_command(job.format), job, timeout=timeout))

    def close(self) -> None:
        pass


def _command(form: str) -> list[str]:
    if form == "tfjs":
        from edgekit.targets.node import node_command

        return node_command()
    # -P: a file of the user's working directory must not shadow a module.
    return [sys.executable, "-P", "-m", "edgekit.agent"]

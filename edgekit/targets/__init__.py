"""Where jobs run. A target is opened by URI and has one verb: execute(job) -> JobResult."""

from __future__ import annotations

from typing import Protocol

from edgekit.errors import TargetError
from edgekit.types import Job, JobResult, Machine


class Target(Protocol):
    """A place with a runtime."""

    uri: str

    def machine(self) -> Machine: ...

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """Carry out `job`.

        Raises:
            RunnerError: the runtime refused the file, crashed, or took over `timeout` seconds.
            MissingDependency: the runtime is not installed.
        """
        ...

    def close(self) -> None: ...


def open_target(uri: str) -> Target:
    """The target that `uri` names; TargetError lists the known ones."""
    if uri == "local":
        from edgekit.targets.local import LocalTarget

        return LocalTarget()
    raise TargetError(f"unknown target {uri!r}", hint="known targets: local (this machine)")

"""Where jobs run. A target is opened by URI and has one verb: execute(job) -> JobResult."""

from __future__ import annotations

from typing import Protocol

from edgekit.errors import RunnerError, TargetError
from edgekit.types import LOCAL, Job, JobResult, Progress

KNOWN = (
    LOCAL,
    "gpu",
    "browser",
    "browser:firefox",
    "browser:listen",
    "qemu:pi4",
    "qemu:pi5",
    "qemu:phone",
    "ssh://USER@HOST",
)


class Target(Protocol):
    """A place with a runtime."""

    uri: str
    formats: tuple[str, ...]
    """What it has runtimes for."""
    profiles: tuple[str, ...]
    """Formats whose runtimes there tell the times of operators."""
    is_emulated: bool
    """Its times say nothing; it counts instructions."""
    models_cycles: bool
    """There is a model of its processor, which makes cycles of them."""

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """Carry out `job`.

        Raises:
            RunnerError: the runtime refused the file, crashed, or took over `timeout` seconds;
                or there is none for the format.
            MissingDependency: the runtime is not installed.
        """
        ...

    def close(self) -> None: ...


def open_target(uri: str, notify: Progress | None = None) -> Target:
    """The target that `uri` names.

    Args:
        uri: "local", "gpu", "browser", "browser:firefox", "browser:listen", "qemu:PROFILE" or
            "ssh://USER@HOST".
        notify: told what the user has to do, as where to open a page.

    Raises:
        TargetError: there is no such target.
    """
    kind = uri.partition(":")[0].partition("?")[0]
    if kind == "gpu":
        from edgekit.targets.gpu import GpuTarget

        return GpuTarget(uri)
    if uri == LOCAL:
        from edgekit.targets.local import LocalTarget

        return LocalTarget()
    if kind == "browser":
        from edgekit.targets.browser import BrowserTarget

        return BrowserTarget(uri, notify)
    if kind == "ssh":
        from edgekit.targets.ssh import SshTarget

        return SshTarget(uri)
    if kind == "qemu":
        from edgekit.targets.qemu import QemuTarget

        return QemuTarget(uri)
    raise TargetError(f"unknown target {uri!r}", hint=f"known targets: {', '.join(KNOWN)}")


def require_able(target: Target, job: Job, hint: str = "take the target local") -> None:
    """See that `job` is one for `target`; `hint` says what to do with another format.

    Raises:
        RunnerError: there is no runtime for the format.
        TargetError: instructions are to be counted where nothing is emulated.
    """
    if job.format not in target.formats:
        raise RunnerError(
            f"{target.uri} runs {' and '.join(target.formats)}, not {job.format}",
            hint=hint,
        )
    if job.action in ("count", "model") and not target.is_emulated:
        raise TargetError(
            f"{target.uri} cannot count instructions", hint="take qemu:pi4 or qemu:pi5"
        )

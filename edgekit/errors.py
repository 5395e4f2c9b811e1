"""Every error that edgekit raises on purpose.

EdgekitError
├── MissingDependency   a package, extra or program is not installed
├── RecipeError         a recipe cannot be found, or breaks its contract
├── SourceError         the model or the samples cannot be used
├── WorkspaceError      the workspace is missing, broken or was changed by hand
├── ConversionError     a format could not be made from the model
├── RunnerError         a runtime could not load or run a file
├── TargetError         a target cannot be reached
├── NotComparable       two measurements say nothing of each other
├── GateError           a rule or a baseline cannot be used
└── CheckFailed         it worked, and the result is worse than allowed (exit code 3)
"""

from __future__ import annotations

from dataclasses import dataclass


class EdgekitError(Exception):
    """What was wrong and where (`message`), and the next thing to try (`hint`)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def failure(self, artifact: str) -> Failure:
        """This error as the entry of a result: the other artifacts go on."""
        return Failure(artifact, type(self).__name__, self.message, self.hint)


@dataclass(frozen=True)
class Failure:
    """An artifact with which a verb could not do what was asked, and why."""

    artifact: str
    error: str
    message: str
    hint: str | None

    def __str__(self) -> str:
        return f"{self.artifact}: {self.message}"


class MissingDependency(EdgekitError):
    """A package, extra or program is not installed; the hint installs it."""


class RecipeError(EdgekitError):
    """A recipe cannot be found, or breaks its contract."""


class SourceError(EdgekitError):
    """The model or the samples cannot be used as they are."""


class WorkspaceError(EdgekitError):
    """The workspace is missing, broken or was changed by hand."""


class ConversionError(EdgekitError):
    """A format could not be made from the model."""


class RunnerError(EdgekitError):
    """A runtime could not load or run a file."""


class TargetError(EdgekitError):
    """A target cannot be reached or used."""


class NotComparable(EdgekitError):
    """Two measurements that were made under different conditions."""


class GateError(EdgekitError):
    """A rule or a baseline cannot be used, or files cannot be compared with it."""


class CheckFailed(EdgekitError):
    """It worked, and the result is worse than allowed."""

    exit_code = 3

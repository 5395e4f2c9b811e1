"""`edgekit report`: what a workspace knows, for whoever has to decide whether it can ship."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.documents import write_whole
from edgekit.errors import EdgekitError
from edgekit.manifest import MANIFEST
from edgekit.reporting import page, text
from edgekit.reporting.answer import answer
from edgekit.reporting.facts import Report, gather
from edgekit.types import Progress
from edgekit.workspace import PREPROCESSING, Workspace

WRITERS: dict[str, Callable[[Report], str]] = {
    "html": page.render,
    "md": text.markdown,
    "json": text.document,
    "csv": text.table,
}


@dataclass(frozen=True)
class ReportResult:
    """Where the report is, and what it says first."""

    path: str
    format: str
    size_bytes: int
    headline: str
    tone: str
    """"good": all is proved; "doubtful": something is not known; "bad": something differs."""


def report(
    *,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    format: str | None = None,
    progress: Progress = lambda text: None,
) -> ReportResult:
    """Write a report of a workspace: what is proved, and what it costs. Nothing is run.

    Args:
        source: a workspace.
        output: the file; `report.html`, or as `format` says, beside you unless given.
        format: "html" (one page, no network), "md", "json" or "csv"; by the name of `output`
            unless given.
        progress: told in one line what happens.

    Raises:
        WorkspaceError: there is no workspace.
        EdgekitError: the report cannot be written there.
    """
    workspace = Workspace.open(Path(source))
    if output is not None and Path(output).is_dir():
        file = Path(output) / f"report.{format or 'html'}"
        raise EdgekitError(f"{output} is a folder", hint=f"name a file: -o {file}")
    form = _format(output, format)
    path = Path(output or f"report.{form}").resolve()
    _check(path, workspace)
    progress(f"reading {workspace.path}")
    found = gather(workspace)
    _write(path, WRITERS[form](found))
    said = answer(found)
    return ReportResult(
        str(output or path.name), form, path.stat().st_size, said.headline, said.tone
    )


def _format(output: str | os.PathLike[str] | None, format: str | None) -> str:
    known = ", ".join(WRITERS)
    if format is None:
        suffix = Path(output or "report.html").suffix.lower()
        format = {".htm": "html", ".markdown": "md"}.get(suffix, suffix.removeprefix("."))
        if format not in WRITERS:
            raise EdgekitError(
                f"the name {output} does not say what to write", hint=f"give --format: {known}"
            )
    if format not in WRITERS:
        raise EdgekitError(f"unknown format {format!r}", hint=f"known: {known}")
    return format


def _check(path: Path, workspace: Workspace) -> None:
    """Refuse, before anything is read, what cannot be written or must not be replaced."""
    if path.exists() and not path.is_file():
        raise EdgekitError(f"{path} is not a regular file", hint="name a file with -o")
    if not path.parent.is_dir():
        raise EdgekitError(f"there is no folder {path.parent}", hint="make it, or name another")
    m = workspace.manifest
    names = {MANIFEST, PREPROCESSING, m.source.path, *(a.path for a in m.artifacts)}
    names |= {d.path for d in m.data.values()} | {v.path for v in m.variants.values()}
    if any(path.is_relative_to((workspace.path / name).resolve()) for name in names):
        raise EdgekitError(
            f"{path} is a part of the workspace, not a report", hint="give another name with -o"
        )


def _write(path: Path, content: str) -> None:
    try:
        write_whole(path, content)
    except OSError as e:
        raise EdgekitError(
            f"{path} cannot be written: {e.strerror}", hint="name another with -o"
        ) from e

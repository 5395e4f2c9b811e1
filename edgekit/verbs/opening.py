"""The workspace that a verb fills: made for a model, or the one that is there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit import evidence
from edgekit.samples import read_samples
from edgekit.toolchain.client import Toolchain, open_toolchain
from edgekit.types import Progress
from edgekit.verbs.export_request import check_samples, check_variant, check_workspace
from edgekit.verbs.source import ModelSource, is_workspace, name_of, opened_source
from edgekit.workspace import Workspace


@contextlib.contextmanager
def opened_workspace(
    source: ModelSource,
    *,
    output: str | os.PathLike[str] | None,
    samples: str | os.PathLike[str] | None,
    wanted: list[tuple[str, str]],
    loading: Mapping[str, Any],
    hold_back: bool | None = False,
    variant: str | None = None,
    progress: Progress,
) -> Iterator[tuple[Workspace, Toolchain]]:
    """The workspace of `source`, locked, with its evidence, and the worker that has its model.

    Args:
        source: a workspace, or what one is made for: a model's file, folder or object.
        output: the folder of a new workspace.
        samples: an .npz file of rows.
        wanted: the (format, precision) pairs to be made.
        loading: how the model is loaded, as `opened_source` takes it.
        hold_back: whether rows must decide and judge that nothing else has seen; None: if there
            are samples.
        variant: which of its models is wanted; None: its own.
        progress: told in one line what happens.

    Raises:
        SourceError: the model or the samples cannot be used.
        WorkspaceError: the folder holds something else.
    """
    with contextlib.ExitStack() as stack:
        if is_workspace(source):
            existing = Workspace.open(Path(source))
            check_workspace(existing, output, loading)
            family = existing.source.family
        else:
            existing = None
            model = stack.enter_context(opened_source(source, **loading))
            family = model.family
        check_samples(samples, existing, wanted)
        check_variant(variant, existing)
        toolchain = stack.enter_context(open_toolchain(progress, family=family))
        if existing is not None:
            info = existing.manifest.source
        else:
            info, preprocessing = evidence.describe_source(model, toolchain)
        # Before anything is written.
        rows = read_samples(Path(samples), info.rows_signature) if samples is not None else None
        folder = Path(output or f"{name_of(source)}-edgekit")
        there = existing or (Workspace.open(folder) if is_workspace(folder) else None)
        evidence.check(there, rows, hold_back=hold_back)
        if existing is not None:
            workspace = existing
        else:
            workspace = evidence.make_workspace(folder, model, info, preprocessing, toolchain)
        stack.enter_context(workspace.locked())
        evidence.prepare(workspace, toolchain, rows, progress, hold_back=hold_back)
        if variant is not None:
            evidence.prepare_variant(workspace, toolchain, variant, progress)
        yield workspace, toolchain

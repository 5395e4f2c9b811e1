"""`edgekit train`: a recipe becomes a workspace."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import evidence, proof
from edgekit.errors import CheckFailed, WorkspaceError
from edgekit.hashing import sha256
from edgekit.recipe import Recipe, load_recipe
from edgekit.toolchain.client import open_toolchain
from edgekit.types import BASELINE, Code, Progress, Source
from edgekit.workspace import Workspace


@dataclass(frozen=True)
class TrainResult:
    """A trained model and its figures on the test split."""

    workspace: str
    recipe: str
    parameters: int
    rows: int
    metrics: Mapping[str, float]
    metric: str
    floor: float


def train(
    *,
    recipe: str,
    output: str | os.PathLike[str],
    epochs: int | None = None,
    progress: Progress = lambda text: None,
) -> TrainResult:
    """Train a recipe into a new workspace.

    Args:
        recipe: the name of a bundled recipe, or the path of a .py file.
        output: the folder of the workspace; it must not exist or be empty.
        epochs: how long to train; the recipe's own number unless given.
        progress: told in one line what happens.

    Raises:
        RecipeError: there is no such recipe, its data cannot be had, or it failed.
        WorkspaceError: the folder is taken.
        CheckFailed: after the recipe's own number of epochs its metric is below its floor; the
            workspace is kept.
    """
    lesson = load_recipe(recipe)
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkspaceError(f"{folder} is not empty", hint="give a new folder with -o")
    name = recipe if lesson.name == recipe else str(lesson.path)
    with (
        open_toolchain(progress) as toolchain,
        tempfile.TemporaryDirectory(prefix="edgekit-") as scratch,
    ):
        model = Path(scratch, "model.keras")
        toolchain.call(
            "train", recipe=name, epochs=epochs, path=str(model), progress=progress, timeout=7200
        )
        source = Source(str(model), "keras")
        described = evidence.describe_source(source, toolchain)
        workspace = evidence.make_workspace(folder, source, *described, toolchain)
        with workspace.locked():
            workspace.change(recipe=Code(name, lesson.sha256))
            evidence.prepare(workspace, toolchain, None, progress)
            return _judged(workspace, lesson, enough=epochs is None)


def _judged(workspace: Workspace, lesson: Recipe, *, enough: bool) -> TrainResult:
    with evidence.opened(workspace) as rows:
        digest = sha256(workspace.model)
        record = proof.measure_accuracy(BASELINE, digest, rows.reference, rows)
    assert record is not None
    workspace.add_records(record)
    figure = record.metrics[lesson.metric]
    reached = figure >= lesson.floor if lesson.higher_is_better else figure <= lesson.floor
    if enough and not reached:
        raise CheckFailed(
            f"{lesson.name}: {lesson.metric} is {figure:.4f} on the test split, "
            f"the recipe's floor is {lesson.floor}",
            hint=f"the workspace is kept in {workspace.path}; train longer with --epochs",
        )
    return TrainResult(
        workspace=str(workspace.path),
        recipe=lesson.name,
        parameters=workspace.manifest.source.parameters,
        rows=record.rows,
        metrics=record.metrics,
        metric=lesson.metric,
        floor=lesson.floor,
    )

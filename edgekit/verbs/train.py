"""`edgekit train`: a recipe becomes a workspace."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import evidence, proof
from edgekit.curves import draw_curves
from edgekit.errors import CheckFailed, WorkspaceError
from edgekit.hashing import sha256
from edgekit.locking import lock
from edgekit.recipe import Recipe, load_recipe
from edgekit.toolchain.client import open_toolchain
from edgekit.types import BASELINE, Code, Progress, Source
from edgekit.usercode import BUNDLED, bundled_recipes
from edgekit.workspace import LOCK, TRAINING, Workspace

LONGEST_S = 6 * 3600
STATE = "training.json"
LOGS, BACKUP = "logs", "backup"
"""For TensorBoard, and what a training goes on from."""
CURVES = "curves.svg"


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

    The weights of the best epoch are kept. Beside the model are its learning curves as a picture
    (curves.svg) and logs for TensorBoard (logs). After an interruption, the same again goes on.

    Args:
        recipe: the name of a bundled recipe, or the path of a .py file; ":NAME" behind it is one
            of its alternatives.
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
    is_bundled = lesson.path.parent == bundled_recipes()
    name = lesson.name if is_bundled else lesson.reference
    with _left_over(folder, lesson, epochs) as training, open_toolchain(progress) as toolchain:
        found = toolchain.call(
            "train",
            recipe=name,
            epochs=epochs,
            folder=str(training),
            progress=progress,
            timeout=LONGEST_S,
        )
        builder = None
        if found["built"]:
            module = f"{BUNDLED}{lesson.path.stem}" if is_bundled else str(lesson.path)
            builder = Code(f"{module}:{lesson.builder}")
        source = Source(found["path"], found["family"], builder=builder)
        described = evidence.describe_source(source, toolchain)
        workspace = evidence.make_workspace(folder, source, *described, toolchain)
        with workspace.locked():
            workspace.change(recipe=Code(name, lesson.sha256))
            if found["history"]:
                draw_curves(folder / CURVES, lesson.name, found["history"])
            if (training / LOGS).exists():
                (training / LOGS).rename(folder / LOGS)
            evidence.prepare(workspace, toolchain, None, progress)
            return _judged(workspace, lesson, enough=epochs is None and not lesson.alternative)


@contextlib.contextmanager
def _left_over(folder: Path, lesson: Recipe, epochs: int | None) -> Iterator[Path]:
    """Where the training in `folder` keeps what it can go on from: nothing yet, or of the same.

    It goes behind the block, but for a training that was interrupted.

    Raises:
        WorkspaceError: the folder holds something else.
    """
    training = folder / TRAINING
    state = {"recipe": lesson.name, "sha256": lesson.sha256, "epochs": epochs}
    others = [p for p in folder.iterdir() if p != training] if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        raise WorkspaceError(f"{folder} is not empty", hint="give a new folder with -o")
    is_new, is_ours = not folder.exists(), False
    training.mkdir(parents=True, exist_ok=True)
    try:
        with lock(training / LOCK) as is_ours:
            if not is_ours:
                raise WorkspaceError(
                    f"{folder} is in use by another edgekit command",
                    hint="wait until that has finished",
                )
            if _read(training / STATE) != state:
                _clear(training)
            (training / STATE).write_text(json.dumps(state))
            yield training
    finally:
        # Behind the lock: not every system removes an open file.
        if is_ours and not (training / BACKUP).exists():  # nothing to go on from
            shutil.rmtree(training)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


def _read(state: Path) -> object:
    try:
        return json.loads(state.read_text())
    except (OSError, ValueError):
        return None


def _clear(training: Path) -> None:
    """Drop what another training left: of another recipe, an earlier version or other epochs."""
    for path in training.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _judged(workspace: Workspace, lesson: Recipe, *, enough: bool) -> TrainResult:
    with evidence.opened(workspace) as rows:
        digest = sha256(workspace.model)
        cost = proof.cost_of(rows.original, rows)
        record = proof.accuracy_record(BASELINE, digest, cost, rows.original, rows)
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

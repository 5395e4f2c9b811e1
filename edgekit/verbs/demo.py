"""`edgekit demo`: the whole way with one small model: train, export, verify, bench."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import WorkspaceError
from edgekit.manifest import MANIFEST
from edgekit.toolchain.client import open_toolchain
from edgekit.types import Progress
from edgekit.verbs.bench import BenchFailed, BenchResult, bench
from edgekit.verbs.export import ExportResult, export
from edgekit.verbs.train import TrainResult, train
from edgekit.workspace import Workspace

RECIPE = "digits_mlp"


@dataclass(frozen=True)
class DemoResult:
    """What each step found."""

    train: TrainResult
    export: ExportResult
    bench: BenchResult


def demo(
    *, output: str | os.PathLike[str] = "demo", progress: Progress = lambda text: None
) -> DemoResult:
    """Train scikit-learn's digits, export five files, prove and time them.

    Args:
        output: the folder of the workspace; an earlier demo there is replaced.
        progress: told in one line what happens.

    Raises:
        WorkspaceError: the folder holds something else than an earlier demo.
    """
    folder = Path(output)
    _clear(folder)
    with open_toolchain(progress):
        trained = train(recipe=RECIPE, output=folder, progress=progress)
        both = export(
            source=folder, to=("tflite", "onnx"), precision=("fp32", "int8"), progress=progress
        )
        # Without Node.js the demo goes on, with "not verified" in its table.
        tfjs = export(source=folder, to=("tfjs",), allow_unverified=True, progress=progress)
    try:
        timed = bench(sources=[folder], progress=progress)
    except BenchFailed as e:
        timed = e.result
    exported = ExportResult(
        workspace=both.workspace,
        artifacts=both.artifacts + tfjs.artifacts,
        parity=both.parity + tfjs.parity,
        accuracy=both.accuracy + tfjs.accuracy,
        failures=(),
    )
    return DemoResult(trained, exported, timed)


def _clear(folder: Path) -> None:
    if (folder / MANIFEST).is_file():
        recipe = Workspace.open(folder).manifest.recipe
        if recipe is None or recipe.name != RECIPE:
            raise WorkspaceError(
                f"{folder} is a workspace of yours, not a demo", hint="give another folder with -o"
            )
        shutil.rmtree(folder)

"""The rows of a workspace and the Keras model's outputs for them: what every artifact is held to.

Kept in the workspace, so that a file can be proved again later, elsewhere, without TensorFlow.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.errors import WorkspaceError
from edgekit.recipe import Recipe, load_recipe
from edgekit.samples import Samples, read_npz, read_samples, write_npz, write_samples
from edgekit.toolchain.client import Toolchain
from edgekit.types import Feed, Progress
from edgekit.workspace import Workspace

SYNTHETIC_ROWS = 64
SEED = 0


@dataclass(frozen=True)
class Evidence:
    """`inputs` are .npy files by input name, `reference` the Keras model's outputs for them."""

    inputs: Mapping[str, str]
    reference: Feed
    targets: Feed
    rows: int
    origin: str
    recipe: Recipe | None

    @property
    def classifier(self) -> bool | None:
        """None: nobody said whether the outputs are classes."""
        return None if self.recipe is None else self.recipe.task == "classification"


def prepare(
    workspace: Workspace, toolchain: Toolchain, samples: Samples | None, progress: Progress
) -> None:
    """See to it that the workspace has rows and their reference outputs.

    From the recipe's test split; else from `samples`; else random rows. What is there stays,
    unless `samples` are given, which always count for calibration.
    """
    has_recipe = workspace.manifest.recipe is not None
    if has_recipe and "verification" not in workspace.manifest.data:
        _take_split(workspace, toolchain, "test", "verification", progress)
        _take_split(workspace, toolchain, "calibration", "calibration", progress)
    if samples is not None:
        names = ("calibration",) if has_recipe else ("calibration", "verification")
        _take(workspace, names, samples, "samples")
        if not has_recipe:
            _refer(workspace, toolchain, progress)
    if "verification" not in workspace.manifest.data:
        _synthesize(workspace, toolchain)
    if "reference" not in workspace.manifest.data:
        _refer(workspace, toolchain, progress)


@contextlib.contextmanager
def opened(workspace: Workspace) -> Iterator[Evidence]:
    """The evidence of a workspace, with its inputs as .npy files as long as the block runs."""
    data = workspace.manifest.data
    rows, reference = workspace.data_path("verification"), workspace.data_path("reference")
    if rows is None or reference is None:
        raise WorkspaceError(
            f"{workspace.path} has no rows to compare with", hint="run edgekit export on it first"
        )
    samples = read_samples(rows, workspace.manifest.source.signature)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        yield Evidence(
            inputs=save_arrays(samples.feed, folder),
            reference=read_npz(reference),
            targets=samples.targets,
            rows=samples.rows,
            origin=data["verification"].origin,
            recipe=recipe_of(workspace),
        )


def recipe_of(workspace: Workspace) -> Recipe | None:
    """The recipe that trained the workspace's model.

    Raises:
        RecipeError: it is gone.
        WorkspaceError: it was edited since, so that its figures could not be compared.
    """
    info = workspace.manifest.recipe
    if info is None:
        return None
    recipe = load_recipe(info.name)
    if recipe.sha256 != info.sha256:
        raise WorkspaceError(
            f"the recipe {recipe.path} was edited after it trained {workspace.path}",
            hint="train again into a new folder, or restore the recipe",
        )
    return recipe


def calibration(workspace: Workspace) -> Samples | None:
    """The rows to calibrate with, or None."""
    path = workspace.data_path("calibration")
    return None if path is None else read_samples(path, workspace.manifest.source.signature)


def _take_split(
    workspace: Workspace, toolchain: Toolchain, split: str, name: str, progress: Progress
) -> None:
    recipe = workspace.manifest.recipe
    assert recipe is not None
    progress(f"reading the {split} split of {Path(recipe.name).stem}")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call("split", recipe=recipe.name, split=split, folder=folder)
        rows = Samples(load_arrays(paths["inputs"]), load_arrays(paths["targets"]))
        _take(workspace, (name,), rows, "recipe")


def _take(workspace: Workspace, names: Sequence[str], samples: Samples, origin: str) -> None:
    """Keep `samples` under each of `names`; compressing takes longest, and is done once."""
    with workspace.staging() as staging:
        write_samples(staging / "rows.npz", samples)
        for name in names:
            shutil.copyfile(staging / "rows.npz", staging / name)
            workspace.add_data(name, staging / name, samples.rows, origin)


def _synthesize(workspace: Workspace, toolchain: Toolchain) -> None:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call(
            "synthesize",
            source=str(workspace.model),
            rows=SYNTHETIC_ROWS,
            seed=SEED,
            folder=folder,
        )
        _take(workspace, ("verification",), Samples(load_arrays(paths)), "synthetic")


def _refer(workspace: Workspace, toolchain: Toolchain, progress: Progress) -> None:
    """Run the Keras model over the verification rows."""
    rows = workspace.data_path("verification")
    assert rows is not None
    samples = read_samples(rows, workspace.manifest.source.signature)
    progress(f"running the Keras model on {samples.rows} rows")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder, workspace.staging() as staging:
        paths = toolchain.call(
            "predict",
            source=str(workspace.model),
            inputs=save_arrays(samples.feed, Path(folder, "in")),
            folder=str(Path(folder, "out")),
        )
        write_npz(staging / "rows.npz", load_arrays(paths))
        workspace.add_data("reference", staging / "rows.npz", samples.rows, "keras")

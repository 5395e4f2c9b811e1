"""The rows of a workspace and the Keras model's outputs for them: what every artifact is held to.

Kept in the workspace, so that a file can be proved again later, elsewhere, without TensorFlow.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import Signature, decode
from edgekit.errors import WorkspaceError
from edgekit.hashing import sha256
from edgekit.recipe import Recipe, load_recipe
from edgekit.samples import Samples, read_npz, read_samples, write_npz, write_samples
from edgekit.toolchain.client import Toolchain
from edgekit.types import Feed, Progress
from edgekit.workspace import SourceInfo, Workspace

ENOUGH_ROWS = 64
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


def describe_source(model: Path, toolchain: Toolchain) -> SourceInfo:
    """What a workspace records of the Keras model in the file `model`."""
    found = toolchain.call("load", source=str(model))
    return SourceInfo(
        path=f"model{model.suffix}",
        sha256=sha256(model),
        name=found["name"],
        family=found["family"],
        parameters=found["parameters"],
        signature=decode(Signature, found["signature"]),
    )


def prepare(
    workspace: Workspace, toolchain: Toolchain, samples: Samples | None, progress: Progress
) -> None:
    """See to it that the workspace has rows to calibrate and to verify on, and their reference.

    New `samples` take the place of the calibration rows, and, unless there is a recipe with a test
    split, of the verification rows. Otherwise what is there stays. All of it changes at once.
    """
    fresh: dict[str, tuple[Samples, str]] = {}
    recipe = workspace.manifest.recipe
    if samples is not None:
        fresh["calibration"] = samples, "samples"
    elif recipe is not None and not workspace.has_data("calibration"):
        fresh["calibration"] = _split(toolchain, recipe.name, "calibration", progress), "recipe"
    if recipe is None and samples is not None:
        fresh["verification"] = samples, "samples"
    elif not workspace.has_data("verification", "reference"):
        if recipe is not None:
            fresh["verification"] = _split(toolchain, recipe.name, "test", progress), "recipe"
        else:
            fresh["verification"] = _synthesize(workspace, toolchain), "synthetic"
    if not fresh:
        return
    with workspace.staging() as staging:
        staged = {}
        for name, (rows, origin) in fresh.items():
            write_samples(staging / name, rows)
            staged[name] = staging / name, rows.rows, origin
        if "verification" in fresh:
            rows, _ = fresh["verification"]
            progress(f"running the Keras model on {rows.rows:,} rows")
            write_npz(staging / "reference", _reference(workspace, toolchain, rows))
            staged["reference"] = staging / "reference", rows.rows, "keras"
        workspace.take_data(staged)


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


def weaknesses(held: Evidence) -> tuple[str, ...]:
    """Why a proof on this evidence is a weak one."""
    if held.rows >= ENOUGH_ROWS:
        return ()
    return (f"only {held.rows} rows to compare on; {ENOUGH_ROWS} or more make a good proof",)


def recipe_of(workspace: Workspace) -> Recipe | None:
    """The recipe that trained the workspace's model.

    Raises:
        RecipeError: it is gone, or was edited since, so that its figures could not be compared.
    """
    info = workspace.manifest.recipe
    if info is None:
        return None
    return load_recipe(info.name, sha256=info.sha256)


def calibration(workspace: Workspace) -> Samples | None:
    """The rows to calibrate with, or None."""
    path = workspace.data_path("calibration")
    return None if path is None else read_samples(path, workspace.manifest.source.signature)


def _split(toolchain: Toolchain, recipe: str, split: str, progress: Progress) -> Samples:
    progress(f"reading the {split} split of {Path(recipe).stem}")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call("split", recipe=recipe, split=split, folder=folder)
        return Samples(_in_memory(paths["inputs"]), _in_memory(paths["targets"]))


def _synthesize(workspace: Workspace, toolchain: Toolchain) -> Samples:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call(
            "synthesize",
            source=str(workspace.model),
            rows=ENOUGH_ROWS,
            seed=SEED,
            folder=folder,
        )
        return Samples(_in_memory(paths))


def _reference(workspace: Workspace, toolchain: Toolchain, rows: Samples) -> Feed:
    """The Keras model's own outputs."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call(
            "predict",
            source=str(workspace.model),
            inputs=save_arrays(rows.feed, Path(folder, "in")),
            folder=str(Path(folder, "out")),
        )
        return _in_memory(paths)


def _in_memory(paths: Mapping[str, str]) -> Feed:
    """Arrays that outlive the folder they come from."""
    return {name: value[:].copy() for name, value in load_arrays(paths).items()}

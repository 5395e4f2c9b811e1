"""The rows of a workspace and the Keras model's outputs for them: what every artifact is held to.

Kept in the workspace, so that a file can be proved again later, elsewhere, without TensorFlow.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.errors import SourceError, WorkspaceError
from edgekit.hashing import sha256
from edgekit.recipe import Recipe, load_recipe
from edgekit.samples import Samples, read_npz, read_samples, thirds, write_npz, write_samples
from edgekit.toolchain.client import Toolchain
from edgekit.types import Code, Feed, Progress, Source
from edgekit.workspace import SourceInfo, Workspace, reference_name

ENOUGH_ROWS = 64
SEED = 0
LOADING_S = 300
"""A model that takes longer to load has a configuration that leads Keras in circles."""


@dataclass(frozen=True)
class Evidence:
    """`inputs` are .npy files by input name, `reference` the Keras model's outputs for them.

    `original` are those of the workspace's own model, where the reference is of one that was
    trained on.
    """

    inputs: Mapping[str, str]
    reference: Feed
    original: Feed
    targets: Feed
    rows: int
    origin: str
    recipe: Recipe | None

    @property
    def classifier(self) -> bool | None:
        """None: nobody said whether the outputs are classes."""
        return None if self.recipe is None else self.recipe.task == "classification"


def describe_source(source: Source, toolchain: Toolchain) -> tuple[SourceInfo, Any]:
    """What a workspace records of a model, and, as JSON, the preprocessing that is split off.

    Raises:
        SourceError: the model cannot be loaded.
    """
    path = Path(source.path)
    found = toolchain.call("load", source=encode(source), timeout=LOADING_S)

    def code(role: str, given: Code | None) -> Code | None:
        return None if given is None else Code(given.name, found["code"].get(role))

    raw = found["raw"]
    info = SourceInfo(
        path="model" if path.is_dir() else f"model{suffix_of(path)}",
        sha256=sha256(path),
        name=found["name"],
        family=found["family"],
        parameters=found["parameters"],
        signature=decode(Signature, found["signature"]),
        custom_objects=code("custom_objects", source.custom_objects),
        builder=code("builder", source.builder),
        from_layer=source.from_layer,
        until_layer=source.until_layer,
        raw_signature=None if raw is None else decode(Signature, raw),
        notes=tuple(found["notes"]),
    )
    return info, found["preprocessing"]


def make_workspace(
    folder: Path, source: Source, info: SourceInfo, preprocessing: Any, toolchain: Toolchain
) -> Workspace:
    """The workspace of a model that was just described, new or as it is there.

    Raises:
        WorkspaceError: the folder holds something else.
    """
    workspace = Workspace.create(folder, Path(source.path), info, preprocessing)
    toolchain.call("moved", source=encode(workspace.source))
    return workspace


def suffix_of(path: Path) -> str:
    """Keras tells by the name whether a file is a model or weights alone."""
    return ".weights.h5" if path.name.endswith(".weights.h5") else path.suffix


def prepare(
    workspace: Workspace,
    toolchain: Toolchain,
    samples: Samples | None,
    progress: Progress,
    *,
    search: bool = False,
) -> None:
    """See to it that the workspace has rows to calibrate and to verify on, and their reference.

    New `samples` take the place of the calibration rows, and, unless there is a recipe with a test
    split, of the verification rows. Otherwise what is there stays. All of it changes at once.

    A `search` takes validation rows, too: the recipe's; without one, a third of the samples
    calibrates, a third decides and a third verifies.

    Raises:
        SourceError: there is nothing to take validation rows from.
    """
    fresh: dict[str, tuple[Samples, str]] = {}
    recipe = workspace.manifest.recipe
    if samples is not None:
        samples = _preprocessed(workspace, toolchain, samples)
    verifying = samples
    if search and recipe is None:
        if samples is not None:
            samples, deciding, verifying = thirds(samples, SEED)
            fresh["validation"] = deciding, "samples"
        elif not workspace.has_data("validation", reference_name("validation")):
            raise SourceError(
                f"{workspace.path} has no rows for a search to decide on",
                hint="give --samples FILE.npz: a third of the rows decides",
            )
    elif search and not workspace.has_data("validation", reference_name("validation")):
        fresh["validation"] = _split(workspace, toolchain, "validation", progress), "recipe"
    if samples is not None:
        fresh["calibration"] = samples, "samples"
    elif recipe is not None and not workspace.has_data("calibration"):
        fresh["calibration"] = _split(workspace, toolchain, "calibration", progress), "recipe"
    if recipe is None and verifying is not None:
        fresh["verification"] = verifying, "samples"
    elif not workspace.has_data("verification", "reference"):
        if recipe is not None:
            fresh["verification"] = _split(workspace, toolchain, "test", progress), "recipe"
        else:
            fresh["verification"] = _synthesize(workspace, toolchain), "synthetic"
    if not fresh:
        return
    with workspace.staging() as staging:
        staged = {}
        for name, (rows, origin) in fresh.items():
            write_samples(staging / name, rows)
            staged[name] = staging / name, rows.rows, origin
        for name in sorted({"verification", "validation"} & set(fresh)):
            rows, _ = fresh[name]
            progress(f"running the Keras model on {rows.rows:,} {name} rows")
            path = staging / reference_name(name)
            write_npz(path, _reference(workspace.source, toolchain, rows))
            staged[path.name] = path, rows.rows, "keras"
        workspace.take_data(staged)


def prepare_variant(
    workspace: Workspace, toolchain: Toolchain, variant: str, progress: Progress
) -> None:
    """See to it that the outputs of a model that was trained on are there for all rows."""
    source, _ = workspace.model_of(variant)
    staged = {}
    with workspace.staging() as staging:
        for name in ("verification", "validation"):
            path = workspace.data_path(name)
            reference = reference_name(name, variant)
            if path is None or workspace.has_data(reference):
                continue
            rows = read_samples(path, workspace.manifest.source.signature)
            progress(f"running the {variant} model on {rows.rows:,} {name} rows")
            write_npz(staging / reference, _reference(source, toolchain, rows))
            staged[reference] = staging / reference, rows.rows, "keras"
        if staged:
            workspace.take_data(staged)


@contextlib.contextmanager
def opened(
    workspace: Workspace, *, rows: str = "verification", variant: str | None = None
) -> Iterator[Evidence]:
    """The evidence of a workspace, with its inputs as .npy files as long as the block runs.

    `rows` are "verification" or "validation"; `variant` is the model that they are held against.
    """
    data = workspace.manifest.data
    path = workspace.data_path(rows)
    original = workspace.data_path(reference_name(rows))
    reference = workspace.data_path(reference_name(rows, variant))
    if path is None or reference is None or original is None:
        raise WorkspaceError(
            f"{workspace.path} has no rows to compare with", hint="run edgekit export on it first"
        )
    samples = read_samples(path, workspace.manifest.source.signature)
    expected = read_npz(original)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        yield Evidence(
            inputs=save_arrays(samples.feed, folder),
            reference=expected if variant is None else read_npz(reference),
            original=expected,
            targets=samples.targets,
            rows=samples.rows,
            origin=data[rows].origin,
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


def _split(workspace: Workspace, toolchain: Toolchain, split: str, progress: Progress) -> Samples:
    recipe = workspace.manifest.recipe
    assert recipe is not None
    progress(f"reading the {split} split of {Path(recipe.name).stem}")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call("split", recipe=recipe.name, split=split, folder=folder)
        rows = Samples(_in_memory(paths["inputs"]), _in_memory(paths["targets"]))
    return _preprocessed(workspace, toolchain, rows)


def _preprocessed(workspace: Workspace, toolchain: Toolchain, rows: Samples) -> Samples:
    """Raw rows as the artifacts take them, where preprocessing was split off."""
    if workspace.manifest.source.raw_signature is None:
        return rows
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call(
            "preprocess",
            source=encode(workspace.source),
            inputs=save_arrays(rows.feed, Path(folder, "in")),
            folder=str(Path(folder, "out")),
        )
        return Samples(_in_memory(paths), rows.targets)


def _synthesize(workspace: Workspace, toolchain: Toolchain) -> Samples:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call(
            "synthesize",
            source=encode(workspace.source),
            rows=ENOUGH_ROWS,
            seed=SEED,
            folder=folder,
        )
        return Samples(_in_memory(paths))


def _reference(source: Source, toolchain: Toolchain, rows: Samples) -> Feed:
    """The outputs of a Keras model itself."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        paths = toolchain.call(
            "predict",
            source=encode(source),
            inputs=save_arrays(rows.feed, Path(folder, "in")),
            folder=str(Path(folder, "out")),
        )
        return _in_memory(paths)


def _in_memory(paths: Mapping[str, str]) -> Feed:
    """Arrays that outlive the folder they come from."""
    return {name: value[:].copy() for name, value in load_arrays(paths).items()}

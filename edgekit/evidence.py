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

import numpy as np

from edgekit import accuracy
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.errors import WorkspaceError
from edgekit.hashing import sha256
from edgekit.manifest import SourceInfo, judged_by, reference_name
from edgekit.recipe import Recipe, load_recipe
from edgekit.samples import (
    Samples,
    are_equal,
    load_samples,
    read_npz,
    thirds,
    write_npz,
    write_samples,
)
from edgekit.splits import SPLITS, Origin, plan_splits
from edgekit.toolchain.client import Toolchain
from edgekit.types import Code, Feed, Progress, Source
from edgekit.workspace import Workspace

ENOUGH_ROWS = 64
SEED = 0
LOADING_S = 300
"""A model that takes longer to load has a configuration that leads Keras in circles."""


@dataclass(frozen=True)
class Evidence:
    """`inputs` are .npy files by input name, `reference` the Keras model's outputs for them.

    Where the reference is of a model that was trained on or pruned, `original` are the outputs of
    the workspace's own model, and `judge` those by which the accuracy of a file is judged.
    """

    inputs: Mapping[str, str]
    reference: Feed
    original: Feed
    judge: Feed
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


def check(workspace: Workspace | None, samples: Samples | None, *, hold_back: bool | None) -> None:
    """Refuse what `prepare` would refuse, before anything is written.

    Raises:
        SourceError: there are too few rows to hold some back.
    """
    plan = _plan(workspace, samples, hold_back)
    if samples is not None and "third" in plan.values():
        thirds(samples)


def prepare(
    workspace: Workspace,
    toolchain: Toolchain,
    samples: Samples | None,
    progress: Progress,
    *,
    hold_back: bool | None = False,
) -> None:
    """See to it that the workspace has the rows of `plan_splits`, and the model's outputs for them.

    All of it changes at once. With `hold_back` None, samples are held back if there are any.

    Raises:
        SourceError: there are too few rows to hold some back.
    """
    data = workspace.manifest.data
    plan = _plan(workspace, samples, hold_back)
    if not hold_back and "validation" in {*data} - {*plan} and workspace.manifest.recipe is None:
        progress("a third of the samples calibrates, as before; all of them if given again")
    fresh = _gather(plan, workspace, toolchain, samples, progress)
    with workspace.staging() as staging:
        staged: dict[str, tuple[Path, int, str]] = {}
        for name, (rows, origin) in fresh.items():
            write_samples(staging / name, rows)
            staged[name] = staging / name, rows.rows, origin
        for name in ("verification", "validation") if hold_back else ("verification",):
            path = staging / reference_name(name)
            if name not in fresh and workspace.has_data(path.name):
                continue
            rows = fresh[name][0] if name in fresh else rows_of(workspace, name)
            progress(f"running the Keras model on {rows.rows:,} {name} rows")
            write_npz(path, run_model(workspace.source, toolchain, rows))
            staged[path.name] = path, rows.rows, "keras"
        dropped = {n for n, origin in plan.items() if origin == "nothing" and n in data}
        if staged:
            workspace.take_data(staged, dropped)


def _gather(
    plan: Mapping[str, Origin],
    workspace: Workspace,
    toolchain: Toolchain,
    samples: Samples | None,
    progress: Progress,
) -> dict[str, tuple[Samples, str]]:
    """The rows of each split that is made anew, and the origin to be recorded."""
    if samples is not None:
        samples = _preprocessed(workspace, toolchain, samples)
    elif "third" in plan.values():
        samples = calibration(workspace)  # all of them calibrated until now
    parts = {}
    if samples is not None and "third" in plan.values():
        parts = dict(zip(SPLITS, thirds(samples), strict=True))
    found: dict[str, tuple[Samples, str]] = {}
    for name, origin in plan.items():
        if origin == "recipe":
            found[name] = _split(workspace, toolchain, SPLITS[name], progress), origin
        elif origin == "synthetic":
            found[name] = _synthesize(workspace, toolchain), origin
        elif origin != "nothing" and samples is not None:
            found[name] = parts.get(name, samples), "samples"
    return found


def _plan(
    workspace: Workspace | None, samples: Samples | None, hold_back: bool | None
) -> dict[str, Origin]:
    there: dict[str, str] = {}
    recipe = workspace is not None and workspace.manifest.recipe is not None
    if workspace is not None:
        # Rows that a model was trained on must not judge it.
        trained = workspace.manifest.variants.values()
        if any("samples_sha256" in v.step.options for v in trained):
            hold_back = True
        data = {name: info.origin for name, info in workspace.manifest.data.items()}
        # A lost file is made again; only samples cannot be.
        there = {n: o for n, o in data.items() if o == "samples" or workspace.has_data(n)}
    if hold_back is None:
        has_samples = samples is not None or there.get("calibration") == "samples"
        hold_back = has_samples and not recipe
    return plan_splits(there, recipe=recipe, samples=samples is not None, hold_back=hold_back)


def prepare_variant(
    workspace: Workspace, toolchain: Toolchain, variant: str, progress: Progress
) -> None:
    """See to it that the outputs of such a model, and of its judge, are there for all rows."""
    staged = {}
    with workspace.staging() as staging:
        for model in dict.fromkeys((judged_by(variant), variant)):
            for name in ("verification", "validation"):
                reference = reference_name(name, model)
                if model is None or not workspace.has_data(name) or workspace.has_data(reference):
                    continue
                source, _ = workspace.model_of(model)
                rows = rows_of(workspace, name)
                progress(f"running the {model} model on {rows.rows:,} {name} rows")
                write_npz(staging / reference, run_model(source, toolchain, rows))
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
    samples = rows_of(workspace, rows)
    models = {name: _outputs(workspace, rows, name) for name in {None, variant, judged_by(variant)}}
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        yield Evidence(
            inputs=save_arrays(samples.feed, folder),
            reference=models[variant],
            original=models[None],
            judge=models[judged_by(variant)],
            targets=samples.targets,
            rows=samples.rows,
            origin=workspace.manifest.data[rows].origin,
            recipe=recipe_of(workspace),
        )


def _outputs(workspace: Workspace, rows: str, variant: str | None) -> Feed:
    """What a Keras model of the workspace gives for these rows.

    Raises:
        WorkspaceError: they are not there, or not for the rows of today.
    """
    path = workspace.data_path(reference_name(rows, variant))
    if path is None and variant is None:
        raise WorkspaceError(
            f"{workspace.path} has no rows to compare with", hint="run edgekit export on it first"
        )
    if path is None:
        raise WorkspaceError(
            f"{workspace.path} has other rows than when its model {variant!r} was made",
            hint=f"run edgekit export {workspace.path} --variant {variant} on it again",
        )
    return read_npz(path)


def weaknesses(workspace: Workspace, held: Evidence) -> tuple[str, ...]:
    """Why a proof on this evidence, or a calibration in this workspace, is a weak one."""
    data = workspace.manifest.data
    compared: Mapping[str, np.ndarray] = load_arrays(held.inputs)
    calibrating = calibration(workspace)
    unused = accuracy.unused_labels(held.recipe, held.original, held.targets)
    if calibrating is None:
        return (*unused, *_weakness(compared, "to compare on"))
    if data["calibration"].sha256 == data["verification"].sha256:
        return (*unused, *_weakness(compared, "to compare on and to calibrate with"))
    return (
        *unused,
        *_weakness(compared, "to compare on"),
        *_weakness(calibrating.feed, "to calibrate with"),
    )


def _weakness(feed: Mapping[str, np.ndarray], use: str) -> tuple[str, ...]:
    rows = len(next(iter(feed.values())))
    found = []
    if rows < ENOUGH_ROWS:
        found.append(f"only {rows} rows {use}; {ENOUGH_ROWS} or more make a good proof")
    if are_equal(feed):
        found.append(f"all {rows} rows {use} are equal: nothing is known of any others")
    return tuple(found)


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
    return rows_of(workspace, "calibration") if "calibration" in workspace.manifest.data else None


def rows_of(workspace: Workspace, name: str) -> Samples:
    """The "calibration", "validation" or "verification" rows."""
    path = workspace.data_path(name)
    assert path is not None
    return load_samples(path, workspace.manifest.source.signature)


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


def run_model(source: Source, toolchain: Toolchain, rows: Samples) -> Feed:
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

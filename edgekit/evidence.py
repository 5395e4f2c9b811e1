"""The rows of a workspace and the Keras model's outputs for them: what every artifact is held to.

Kept in the workspace, so that a file can be proved again later, elsewhere, without TensorFlow.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit import accuracy
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.errors import SourceError, WorkspaceError
from edgekit.hashing import sha256
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
from edgekit.toolchain.client import Toolchain
from edgekit.types import Code, Feed, Progress, Source
from edgekit.workspace import SourceInfo, Workspace, reference_name

ENOUGH_ROWS = 64
SEED = 0
LOADING_S = 300
"""A model that takes longer to load has a configuration that leads Keras in circles."""

SPLITS = {"calibration": "calibration", "validation": "validation", "verification": "test"}
"""The rows that calibrate, decide and judge, and what recipes call them."""

Origin = Literal["recipe", "samples", "third", "synthetic", "nothing"]
"""Where the rows of a split come from: "samples" are all of them, a "third" is its part of them."""


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


def plan_splits(
    there: Mapping[str, str], *, recipe: bool, samples: bool, hold_back: bool
) -> dict[str, Origin]:
    """Where the rows of each split are to come from; those that stay as they are are left out.

    With a recipe, samples calibrate in the command that they are given to; all else is the
    recipe's. Without one, the splits are always of one and the same samples: all of them calibrate
    and all are compared on or, from the first command on that holds rows back, a third calibrates,
    a third decides and a third judges. New samples start anew.

    Args:
        there: the splits of a workspace: "recipe", "samples" or "synthetic".
        recipe: whether a recipe trained the model.
        samples: whether new ones are given.
        hold_back: whether rows must decide, and others judge, that nothing else has seen.

    Raises:
        SourceError: there is nothing to hold back.
    """
    if recipe:
        wanted: dict[str, Origin] = {"calibration": "samples" if samples else "recipe"}
        wanted |= {"validation": "recipe"} if hold_back else {}
        wanted |= {"verification": "recipe"}
        return {s: o for s, o in wanted.items() if o == "samples" or there.get(s) != o}
    is_split = "validation" in there and not samples
    has_samples = samples or there.get("calibration") == "samples"
    if hold_back and not is_split:
        if not has_samples:
            raise SourceError(
                "there are no rows that could be held back to decide and to judge",
                hint="give --samples FILE.npz: a third of the rows decides, a third judges",
            )
        return dict.fromkeys(SPLITS, "third")
    if samples:
        return {"calibration": "samples", "validation": "nothing", "verification": "samples"}
    return {} if "verification" in there else {"verification": "synthetic"}


def check(workspace: Workspace | None, samples: Samples | None, *, hold_back: bool) -> None:
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
    hold_back: bool = False,
) -> None:
    """See to it that the workspace has the rows of `plan_splits`, and the model's outputs for them.

    All of it changes at once.

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
            rows = fresh[name][0] if name in fresh else _kept(workspace, name)
            progress(f"running the Keras model on {rows.rows:,} {name} rows")
            write_npz(path, _reference(workspace.source, toolchain, rows))
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
    workspace: Workspace | None, samples: Samples | None, hold_back: bool
) -> dict[str, Origin]:
    there: dict[str, str] = {}
    if workspace is not None:
        data = {name: info.origin for name, info in workspace.manifest.data.items()}
        # A lost file is made again; only samples cannot be.
        there = {n: o for n, o in data.items() if o == "samples" or workspace.has_data(n)}
    return plan_splits(
        there,
        recipe=workspace is not None and workspace.manifest.recipe is not None,
        samples=samples is not None,
        hold_back=hold_back,
    )


def prepare_variant(
    workspace: Workspace, toolchain: Toolchain, variant: str, progress: Progress
) -> None:
    """See to it that the outputs of a model that was trained on are there for all rows."""
    source, _ = workspace.model_of(variant)
    staged = {}
    with workspace.staging() as staging:
        for name in ("verification", "validation"):
            reference = reference_name(name, variant)
            if not workspace.has_data(name) or workspace.has_data(reference):
                continue
            rows = _kept(workspace, name)
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
    original = workspace.data_path(reference_name(rows))
    reference = workspace.data_path(reference_name(rows, variant))
    if original is None:
        raise WorkspaceError(
            f"{workspace.path} has no rows to compare with", hint="run edgekit export on it first"
        )
    if reference is None:
        raise WorkspaceError(
            f"{workspace.path} has other rows than when its model {variant!r} was trained",
            hint=f"run edgekit quantize --method {variant} on it again",
        )
    samples = _kept(workspace, rows)
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
    return _kept(workspace, "calibration") if "calibration" in workspace.manifest.data else None


def _kept(workspace: Workspace, name: str) -> Samples:
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

"""Variants of a model: trained on for 8 bits, for zeros, for few values, or with fewer channels.

TFMOT is asked first where it has the technique. It has few layers, and Keras 2, so that Keras 3
models are translated for it. What it cannot follow is trained here, in the model's own Keras: a
`Technique` goes with any model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import encode
from edgekit.errors import ConversionError, EdgekitError
from edgekit.toolchain import parts, synthetic, translation
from edgekit.toolchain.callbacks import as_it_goes
from edgekit.toolchain.calls import calls_of, layer_name
from edgekit.toolchain.channel_dependencies import OF_OUTPUT
from edgekit.toolchain.channel_pruning import without_channels
from edgekit.toolchain.client import Toolchain
from edgekit.toolchain.clustering import Clustering
from edgekit.toolchain.fine_tuning import Lesson, completed, fine_tune
from edgekit.toolchain.kernels import is_kernel
from edgekit.toolchain.model import functional_of, of_keras
from edgekit.toolchain.parts import Part
from edgekit.toolchain.qat import QuantizationAwareness
from edgekit.toolchain.source import load_keras
from edgekit.toolchain.sparsity import Sparsity
from edgekit.toolchain.technique import Technique
from edgekit.toolchain.translation import keras_of
from edgekit.toolchain.zeros import Zeros
from edgekit.types import Progress, Pruning, Source

ENGINES = ("auto", "tfmot", "native")

ROWS = 8
"""Random rows with which a translation is checked."""

BUILDING, TRAINING = 300, 4 * 3600
"""Seconds that TFMOT's process may take."""

OFF = 0.03
"""A share of channels that is farther from what was asked for is said."""

SHOWN = 6
"""Names of layers that a note lists; the others are counted."""


def make_variant(
    source: Source,
    pruning: Pruning | None,
    lesson: Lesson | None,
    path: Path,
    progress: Progress,
    *,
    keeps_zeros: bool = False,
    engine: str = "auto",
) -> dict[str, Any]:
    """Prune or cluster a model, or make it ready for 8 bits, and save it.

    A recipe trains all of it. Samples are rows as the exported files take them, and train what
    is exported: the part of `source` without the preprocessing before it.

    Args:
        source: the model in its file.
        pruning: what it is to have less of; None: quantization-aware training.
        lesson: what to train it on; None: it is pruned at once, without training.
        path: where to save it: .keras or .h5, or .weights.h5 for weights alone. A model with
            fewer channels is saved whole, as .keras.
        progress: told the figures of each epoch.
        keeps_zeros: whether weights that are 0 stay so.
        engine: "tfmot", "native", or "auto": TFMOT, and where it cannot follow, native.

    Returns:
        `engine`, the one that did it ("tfmot 0.8.1" or "native"), `notes` for the user, and
        `layers`: for each that was pruned its `name` and what it had `before` and has `after`,
        the share of zeros, the number of different values or the number of channels.

    Raises:
        RecipeError: the recipe cannot be run.
        SourceError: the samples do not fit.
        ConversionError: TFMOT was asked for and cannot follow, there is nothing to prune, or the
            training came to nothing.
    """
    notes: list[str] = []
    layers: list[dict[str, Any]] = []
    trained = load_keras(source)
    part = _trained_part(trained, source, lesson)
    technique = _technique(pruning, keeps_zeros)
    if lesson is not None:
        lesson = replace(lesson, course=technique.course)
        lesson = completed(lesson, part.model, part.input_names, Path(source.path), notes)
    if pruning is not None and pruning.kind == "structured":
        layers = _cut(load_keras(source), source, pruning, path, notes)
        source = source.of_itself(str(path))
        trained = load_keras(source)
        part = _trained_part(trained, source, lesson)
    before = technique.figures(part.model)
    zeros = Zeros(_trained_kernels(part.model) if keeps_zeros else [])

    def check() -> None:
        technique.check(part.model)
        zeros.check()

    used = "native"
    told = technique.for_tfmot(part.model) if lesson is not None and engine != "native" else None
    if told is None and engine == "tfmot":
        raise ConversionError("TFMOT has nothing for this", hint="leave the engine to edgekit")
    if lesson is not None and told is not None:
        try:
            told = {"keeps_zeros": keeps_zeros, **told}
            used = _by_tfmot(part.model, told, lesson, check, progress)
        except EdgekitError as error:
            if engine == "tfmot":
                raise
            reason = error.message.partition("\n")[0]
            notes.append(f"fine-tuned without TFMOT, which cannot follow: {reason}")
    if used == "native":
        _here(part.model, technique, lesson, zeros, progress)
        check()
    notes += technique.notes(part.model)
    after = technique.figures(part.model)
    layers += [{"name": n, "before": before[n], "after": value} for n, value in after.items()]
    # Of the model that was trained no more is wanted than its weights: layers that were called
    # for the part, compiled or frozen would not be saved as they were.
    model = load_keras(source)
    for weight, new in zip(model.weights, trained.weights, strict=True):
        weight.assign(new)
    _check_finite(model, technique)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return {"engine": used, "notes": notes, "layers": layers}


def _technique(pruning: Pruning | None, keeps_zeros: bool) -> Technique:
    if pruning is None:
        return QuantizationAwareness()
    if pruning.kind == "sparse":
        return Sparsity(pruning)
    return Clustering(pruning, keeps_zeros) if pruning.kind == "cluster" else Technique()


def _trained_part(model: Any, source: Source, lesson: Lesson | None) -> Part:
    if lesson is not None and lesson.recipe is not None:
        return Part(model)
    return parts.split(parts.cut(model, source.from_layer, source.until_layer))[0]


def _cut(
    model: Any, source: Source, pruning: Pruning, path: Path, notes: list[str]
) -> list[dict[str, Any]]:
    """Save `model` with fewer channels in `path`; the layers that have fewer."""
    cut = without_channels(model, pruning, closed=_ends(model, source))
    cut.model.save(path)
    by_reason: dict[str, list[str]] = {}
    for name, reason in cut.left.items():
        if reason == OF_OUTPUT:  # of every model
            continue
        by_reason.setdefault(reason, []).append(name)
    notes += [f"left with all channels: {_listed(n)}: {reason}" for reason, n in by_reason.items()]
    before, after = (sum(sizes) for sizes in zip(*cut.channels.values(), strict=True))
    share = 1 - after / before
    if not pruning.layers and abs(share - pruning.amount) > OFF:
        notes.append(
            f"{share:.0%} of the channels went: what is kept of a layer is a multiple of 4, 8 or "
            "16, in which kernels compute"
        )
    return [
        {"name": name, "before": before, "after": after}
        for name, (before, after) in cut.channels.items()
    ]


def _ends(model: Any, source: Source) -> set[str]:
    """The layers that make what an exported part takes and gives: files have it as it is."""
    ends = {source.until_layer} if source.until_layer else set()
    if source.from_layer is not None and (graph := functional_of(model)) is not None:
        first = [call for call in calls_of(graph) if call.layer.name == source.from_layer]
        ends |= {layer_name(tensor) for call in first for tensor in call.inputs}
    return ends


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _trained_kernels(model: Any) -> list[Any]:
    return [weight for weight in model.trainable_weights if is_kernel(weight)]


def _here(
    model: Any, technique: Technique, lesson: Lesson | None, zeros: Zeros, progress: Progress
) -> None:
    """Train `model` by the technique in its own Keras, or do at once what that does."""
    with technique.during(model) as act:
        if lesson is None:
            act(1.0)
        else:

            def after(done: float) -> None:
                act(done)
                zeros.restore()

            fine_tune(model, lesson, progress, [as_it_goes(keras_of(model), after=after)])


def _check_finite(model: Any, technique: Technique) -> None:
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise ConversionError(
            f"{technique.name} diverged: a weight is NaN or infinite",
            hint="do without training, or train with a lower learning rate",
        )


def _by_tfmot(
    model: Any,
    told: Mapping[str, Any],
    lesson: Lesson,
    check: Callable[[], None],
    progress: Progress,
) -> str:
    """Train a translation of `model` in TFMOT's own process, and take its weights.

    Raises:
        EdgekitError: it cannot follow, or what it did does not pass the `check`; the model has the
            weights that it had.
    """
    described = translation.describe(model)
    folder = Path(tempfile.mkdtemp())
    feed = synthetic.feed(of_keras(model), of_keras(model).fixed_batch or ROWS, 0)
    progress("starting TFMOT")
    worker = Toolchain(kind="tfmot")
    try:
        worker.call(
            "build",
            described=described,
            weights=save_arrays(translation.weights_of(model), folder / "weights"),
            inputs=save_arrays(feed, folder / "inputs"),
            outputs=save_arrays(translation.outputs_of(model, feed), folder / "outputs"),
            timeout=BUILDING,
        )
        done = worker.call(
            "train",
            **told,
            lesson=encode(lesson),
            folder=str(folder / "trained"),
            progress=progress,
            timeout=TRAINING,
        )
    finally:
        worker.close()
    before = translation.weights_of(model)
    try:
        # A masked weight may be -0, which is other bytes than 0.
        trained = {name: value + 0.0 for name, value in load_arrays(done["weights"]).items()}
        translation.set_weights(model, trained)
        translation.check_same(translation.outputs_of(model, feed), load_arrays(done["outputs"]))
        check()
    except ConversionError:
        translation.set_weights(model, before)
        raise
    return str(done["engine"])

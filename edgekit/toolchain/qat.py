"""Quantization-aware training: the same model again, with weights that 8 bits harm less.

What comes out is a float model like the one that went in. It is calibrated and converted as any
other; nothing of the fake quantization is left in it.

TFMOT is asked first: it knows where TFLite's kernels round. It has few layers (convolutions in two
dimensions, Dense, and what stands between them) and Keras 2, so that Keras 3 models are translated
for it. For all others there is `fake_quantization`, which goes with any model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import encode
from edgekit.errors import ConversionError, EdgekitError
from edgekit.toolchain import parts, synthetic, translation
from edgekit.toolchain.client import Toolchain
from edgekit.toolchain.fake_quantization import fake_quantized
from edgekit.toolchain.fine_tuning import Lesson, completed, fine_tune
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.parts import Part
from edgekit.types import Progress, Source

ENGINES = ("auto", "tfmot", "native")

ROWS = 8
"""Random rows with which a translation is checked."""

BUILDING, TRAINING = 300, 4 * 3600
"""Seconds that the worker may take."""


def fine_tune_quantized(
    load: Callable[[], Any],
    source: Source,
    lesson: Lesson,
    path: Path,
    progress: Progress,
    *,
    engine: str = "auto",
) -> dict[str, Any]:
    """Fine-tune a model under fake quantization and save it with the new weights.

    A recipe trains all of it. Samples are rows as the exported files take them, and train what
    is exported: the part of `source` without the preprocessing before it.

    Args:
        load: gives the keras.Model or tf_keras.Model in the file of `source`, as it was saved; a
            new one at each call.
        source: where it comes from.
        lesson: what to train it on.
        path: where to save it: .keras or .h5, or .weights.h5 for weights alone.
        progress: told the figures of each epoch.
        engine: "tfmot", "native", or "auto": TFMOT, and where it cannot follow, native.

    Returns:
        `engine`, the one that did it ("tfmot 0.8.1" or "native"), and `notes` for the user.

    Raises:
        RecipeError: the recipe cannot be run.
        SourceError: the samples do not fit.
        ConversionError: TFMOT was asked for and cannot follow, or training came to nothing.
    """
    trained = load()
    part = Part(trained)
    if lesson.recipe is None:
        part, _ = parts.split(parts.cut(trained, source.from_layer, source.until_layer))
    notes: list[str] = []
    lesson = completed(lesson, part.model, part.input_names, Path(source.path), notes)
    used = "native"
    try:
        if engine != "native":
            used = _by_tfmot(part.model, lesson, progress)
    except EdgekitError as error:
        if engine == "tfmot":
            raise
        notes.append(f"fine-tuned without TFMOT, which cannot follow: {error.message}")
    if used == "native":
        with fake_quantized(part.model):
            fine_tune(part.model, lesson, progress)
    # Of the model that was trained no more is wanted than its weights: layers that were called
    # for the part, compiled or frozen would not be saved as they were.
    model = load()
    for weight, new in zip(model.weights, trained.weights, strict=True):
        weight.assign(new)
    _check_finite(model)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return {"engine": used, "notes": notes}


def _check_finite(model: Any) -> None:
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise ConversionError(
            "quantization-aware training diverged: a weight is NaN or infinite",
            hint="quantize without training: --method ptq; or train with a lower learning rate",
        )


def _by_tfmot(model: Any, lesson: Lesson, progress: Progress) -> str:
    """Train a translation of `model` in TFMOT's own process, and take its weights."""
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
            "quantize_aware",
            lesson=encode(lesson),
            folder=str(folder / "trained"),
            progress=progress,
            timeout=TRAINING,
        )
    finally:
        worker.close()
    before = translation.weights_of(model)
    try:
        translation.set_weights(model, load_arrays(done["weights"]))
        translation.check_same(translation.outputs_of(model, feed), load_arrays(done["outputs"]))
    except ConversionError:
        translation.set_weights(model, before)
        raise
    return str(done["engine"])

"""Training a trained model a little further, in either Keras: by its recipe, or on samples.

What is done to the model meanwhile (quantization, pruning) is the caller's.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.rows import pad
from edgekit.errors import SourceError
from edgekit.recipe import load_recipe
from edgekit.toolchain.callbacks import epoch_report, lower_rate
from edgekit.toolchain.calls import nested_outputs
from edgekit.toolchain.model import functional_of, of_keras
from edgekit.toolchain.translation import arguments_of, keras_of, nested_inputs, outputs_of
from edgekit.types import Feed, Progress

BATCH = 32
SOME_ROWS = 64
"""Rows that tell what kind of output it is."""


@dataclass(frozen=True)
class Course:
    """How a model is trained on, where nothing else is asked for.

    The rate falls to 0 along half a cosine. Where a recipe lowers its own as its epochs go on, the
    product falls faster.
    """

    rate: float = 0.1
    """The learning rate at first, as a share of that which the model was trained with."""
    hold: float = 0.0
    """The share of the training before the rate falls."""
    share_of_epochs: float = 0.25
    """How long, as a share of a recipe's own number of epochs."""
    epochs_on_samples: int = 10


@dataclass(frozen=True)
class Lesson:
    """What a model is fine-tuned on: a recipe, by name or path, or else samples."""

    recipe: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    """.npy files by Keras input name, a row per example."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """The same by output name."""
    compiled: Mapping[str, Any] = field(default_factory=dict)
    """`optimizer`, `loss` and `loss_weights` for samples, as Keras serializes them."""
    epochs: int | None = None
    course: Course = Course()
    seed: int = 0


def completed(
    lesson: Lesson, model: Any, input_names: Sequence[str] | None, file: Path, notes: list[str]
) -> Lesson:
    """`lesson` with what samples leave open, all in the order and by the names of `model`.

    Without targets the model's own outputs are. Optimizer and losses are those of the compiled
    model in `file`; where it has none, or some of the user's own, the outputs tell the loss.

    Args:
        lesson: what is given.
        model: what is to be trained.
        input_names: what the samples call its inputs, if not by their own names.
        file: where the model came from.
        notes: gets what the user should know.

    Raises:
        SourceError: an output has no targets while others have.
    """
    if lesson.recipe is not None:
        return lesson
    names = [spec.name for spec in of_keras(model).inputs]
    given = [lesson.inputs[name] for name in input_names or names]
    feed = load_arrays(dict(zip(names, given, strict=True)))
    outputs = _outputs_for(model, {name: value[:SOME_ROWS] for name, value in feed.items()})
    paths = lesson.targets
    if missing := [name for name in outputs if paths and name not in paths]:
        raise SourceError(
            f"the samples have no labels for the output {missing[0]!r}, only for others",
            hint="give labels for every output (y_NAME), or for none",
        )
    if not paths:
        notes.append("fine-tuned towards the float model's own outputs: no labels judge them all")
        paths = save_arrays(_outputs_for(model, feed), tempfile.mkdtemp())
    paths = {name: paths[name] for name in outputs}
    compiled = _compiled(file) if lesson.targets else {}
    try:
        _compile_arguments(keras_of(model), compiled)
    except (AttributeError, KeyError, TypeError, ValueError):
        if compiled:
            notes.append("optimizer and loss in the file are not Keras's own: outputs tell them")
        compiled = {"loss": _losses(model, outputs, load_arrays(paths))}
    return replace(
        lesson,
        inputs=dict(zip(names, given, strict=True)),
        targets=paths,
        compiled=compiled,
    )


def fine_tune(
    model: Any, lesson: Lesson, progress: Progress, callbacks: Sequence[Any] = ()
) -> None:
    """Train `model` (of either Keras) in place; the same again gives the same weights.

    The optimizer is that of the recipe's build() or of `lesson.compiled`, and its learning rate
    lower, as the course says. `callbacks` are called behind those of the recipe.

    Raises:
        RecipeError: the recipe cannot be run.
    """
    keras, course = keras_of(model), lesson.course
    _seed(model, lesson.seed)
    # A recipe puts callbacks behind its own, which may set the rate.
    lower = lower_rate(keras, course.rate, course.hold)
    callbacks = [epoch_report(keras, progress), *callbacks, lower]
    if lesson.recipe is not None:
        recipe = load_recipe(lesson.recipe)
        model.compile(**recipe.build()._compile_config.config)
        epochs = lesson.epochs or max(1, int(recipe.epochs * course.share_of_epochs))
        with _to_the_end(keras):
            recipe.train(model, epochs=epochs, callbacks=callbacks)
        return
    model.compile(**_compile_arguments(keras, lesson.compiled))
    model.fit(
        _batches(model, load_arrays(lesson.inputs), load_arrays(lesson.targets), lesson.seed),
        epochs=lesson.epochs or course.epochs_on_samples,
        callbacks=callbacks,
        shuffle=False,  # the batches are
        verbose=0,
    )


@contextlib.contextmanager
def _to_the_end(keras: Any) -> Iterator[None]:
    """Within the block nothing stops early: the best epoch is one before the zeros came."""
    stopping = keras.callbacks.EarlyStopping
    kept = stopping.on_epoch_end, stopping.on_train_end
    stopping.on_epoch_end = stopping.on_train_end = lambda *args, **kwargs: None
    try:
        yield
    finally:
        stopping.on_epoch_end, stopping.on_train_end = kept


def _seed(model: Any, seed: int) -> None:
    keras_of(model).utils.set_random_seed(seed)
    # Those of a loaded model were seeded before, at random.
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "_seed_generators")]
    generators = [generator for layer in layers for generator in layer._seed_generators]
    for i, generator in enumerate(generators):
        generator.state.assign([seed, i])


def _batches(model: Any, feed: Feed, targets: Feed, seed: int) -> Any:
    """Shuffled anew in each epoch, always in the same way."""
    graph = functional_of(model)
    takes = None if graph is None else nested_inputs(graph)
    examples = tf.data.Dataset.from_tensor_slices(
        (_packed(feed, takes), _packed(targets, _gives(model)))
    )
    shuffled = examples.shuffle(len(examples), seed=seed, reshuffle_each_iteration=True)
    batch = of_keras(model).fixed_batch
    return shuffled.batch(batch or BATCH, drop_remainder=batch is not None)


def _gives(model: Any) -> Any:
    return None if functional_of(model) is None else nested_outputs(model)


def _packed(values: Mapping[str, Any], structure: Any) -> Any:
    """Values by name as Keras wants them: by key where the model has keys, else in their order."""
    if isinstance(structure, Mapping):
        return {key: values[key] for key in structure}
    flat = tuple(values.values())
    return flat[0] if len(flat) == 1 else flat


def _outputs_for(model: Any, feed: Feed) -> Feed:
    batch = of_keras(model).fixed_batch
    step, rows = batch or SOME_ROWS, len(next(iter(feed.values())))
    parts = [
        outputs_of(model, {n: pad(v[start : start + step], batch) for n, v in feed.items()})
        for start in range(0, rows, step)
    ]
    return {name: np.concatenate([p[name] for p in parts])[:rows] for name in parts[0]}


def _losses(model: Any, outputs: Feed, targets: Feed) -> Any:
    losses = _packed(
        {name: _loss(output, targets[name]) for name, output in outputs.items()}, _gives(model)
    )
    return list(losses) if isinstance(losses, tuple) else losses


def _loss(output: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """The usual loss for such outputs and targets, as Keras serializes it."""
    low, high, classes = output.min(), output.max(), output.shape[-1]
    is_distribution = classes > 1 and low >= 0 and np.allclose(output.sum(-1), 1, atol=1e-3)
    is_index = target.dtype.kind in "iu" and target[:1].size < output[:1].size
    if is_index:
        config = {"from_logits": not is_distribution}
        return {"class_name": "SparseCategoricalCrossentropy", "config": config}
    if is_distribution:
        return {"class_name": "CategoricalCrossentropy", "config": {}}
    if low >= 0 and high <= 1 and bool(np.isin(target, (0, 1)).all()):
        return {"class_name": "BinaryCrossentropy", "config": {}}
    return {"class_name": "MeanSquaredError", "config": {}}


def _compiled(file: Path) -> dict[str, Any]:
    """Optimizer and losses with which the model in a .keras or .h5 file was compiled."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return json.loads(archive.read("config.json")).get("compile_config") or {}
    if file.is_file() and h5py.is_hdf5(file):
        with h5py.File(file) as archive:
            told = json.loads(archive.attrs.get("training_config", "{}"))
        return {**told, "optimizer": told.get("optimizer_config")} if told else {}
    return {}


def _compile_arguments(keras: Any, compiled: Mapping[str, Any]) -> dict[str, Any]:
    optimizer = compiled.get("optimizer") or {"class_name": "Adam", "config": {}}
    return {
        "optimizer": _made(keras.optimizers, optimizer),
        "loss": _made(keras.losses, compiled["loss"]),
        "loss_weights": compiled.get("loss_weights"),
    }


def _made(module: Any, told: Any) -> Any:
    """Objects of a module of Keras's from their serialized form, wherever that is nested.

    Arguments that only the other Keras has are left out.
    """
    if isinstance(told, list):
        return [_made(module, item) for item in told]
    if not isinstance(told, Mapping):
        return told
    if "class_name" not in told:
        return {key: _made(module, item) for key, item in told.items()}
    cls = getattr(module, told["class_name"].rpartition(">")[2])
    config = {k: v for k, v in told["config"].items() if k in arguments_of(cls) - {"fn"}}
    if isinstance(rate := config.get("learning_rate"), Mapping):
        config["learning_rate"] = _made(module.schedules, rate)
    return cls.from_config(config)

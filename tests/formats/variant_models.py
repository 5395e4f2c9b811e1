"""Models to make variants of, and the making."""

from __future__ import annotations

import numpy as np

from edgekit.agent.arrays import save_arrays
from edgekit.types import Source


def make(
    path,
    folder,
    pruning=None,
    *,
    feed=None,
    targets=(),
    recipe=None,
    epochs=None,
    keeps_zeros=False,
    engine="auto",
    **source,
):
    """A variant of the model in a file: its own file, and the answer with what was `said`."""
    from edgekit.toolchain.fine_tuning import Lesson
    from edgekit.toolchain.variants import make_variant

    lesson = Lesson(
        recipe,
        save_arrays(dict(feed or {}), folder / "inputs"),
        save_arrays(dict(targets), folder / "targets"),
        epochs=epochs,
    )
    made, said = folder / "variant.keras", []
    done = make_variant(
        Source(str(path), "keras", **source),
        pruning,
        lesson if recipe or feed else None,
        made,
        said.append,
        keeps_zeros=keeps_zeros,
        engine=engine,
    )
    return made, {**done, "said": said}


def load(path):
    import keras

    return keras.models.load_model(path, compile=False)


def saved(model, path):
    model.save(path)
    return path


def kernels_of(path):
    """The values of all kernels in a file, by layer."""
    from edgekit.toolchain.kernels import kernels

    return {
        name: [np.asarray(kernel.variable) for kernel in found]
        for name, found in kernels(load(path)).items()
    }


def small_cnn(keras):
    """Convolutions of every kind, with normalization."""
    layers = keras.layers
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(12, 3, padding="same", use_bias=False, name="conv")(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.SeparableConv2D(8, 3, activation="relu", name="separable")(y)
    y = layers.Conv2DTranspose(6, 2, name="transposed")(y)
    y = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(y))
    return keras.Model(x, layers.Dense(4, activation="softmax", name="label")(y), name="small")


def images(rows=96):
    """(feed, labels): which quarter of the picture is bright."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, rows)
    x = random.normal(0, 0.3, (rows, 8, 8, 3))
    for row, label in enumerate(labels):
        top, left = 4 * (label // 2), 4 * (label % 2)
        x[row, top : top + 4, left : left + 4] += 1
    return {"x": x.astype(np.float32)}, {"label": labels}


RECIPE = '''
import numpy as np

DESCRIPTION = "a line"
TASK, METRIC, HIGHER_IS_BETTER, FLOOR, EPOCHS = "regression", "error", False, 1.0, 8


def build():
    import keras

    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(1, name="y")(hidden))
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """Another model of the same layers is trained, at a rate that is set."""
    import keras

    {check}
    twice = keras.Model(model.input, model.get_layer("y")(model.get_layer("hidden").output) * 2)
    twice.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    feed, targets = data("train")
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: {rate})
    callbacks = [scheduler, *callbacks]
    twice.fit(feed["x"], 2 * targets["y"], epochs=epochs, callbacks={callbacks}, verbose=0)
    {after}


def data(split):
    x = np.random.default_rng(0).standard_normal((256, 3)).astype(np.float32)
    return {{"x": x}}, {{"y": x.sum(axis=1, keepdims=True)}}


def evaluate(outputs, targets):
    return {{"error": float(np.square(outputs["y"] - targets["y"]).mean())}}
'''


def recipe_file(folder, *, rate=0.02, check="pass", callbacks="callbacks", after="pass"):
    """A recipe whose train() does something more."""
    path = folder / "line.py"
    path.write_text(RECIPE.format(rate=rate, check=check, callbacks=callbacks, after=after))
    return path

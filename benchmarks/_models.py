"""Make the models and rows that the benchmarks start from: `python _models.py FOLDER NAME...`.

Writes NAME.keras and NAME.npz (64 rows, as `x`) for each name. Run as a process of its own: a
benchmark must not have TensorFlow in the process that measures.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import keras
import numpy as np

ROWS = 64


def digits_mlp() -> tuple[keras.Model, np.ndarray]:
    """The recipe, trained for a few epochs on the digits that come with scikit-learn."""
    recipe = _recipe("digits_mlp")
    model = recipe.build()
    recipe.train(model, epochs=10)
    return model, recipe.data("test")[0]["image"][:ROWS]


def fashion_mnist_cnn() -> tuple[keras.Model, np.ndarray]:
    """The recipe's architecture: (28, 28, 1), batch normalization, depthwise convolutions."""
    rows = (_images(28, 1) + 1) * 127.5
    model = _recipe("fashion_mnist_cnn").build()
    return _decided(_settled(model, rows), rows), rows


def mlp() -> tuple[keras.Model, np.ndarray]:
    """784-300-100-10."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((784,), name="image"),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10, activation="softmax", name="label"),
        ]
    )
    rows = _images(28, 1).reshape(ROWS, 784)
    return _decided(model, rows), rows


def mobilenet_96() -> tuple[keras.Model, np.ndarray]:
    """MobileNetV2 of width 0.35 for 96x96 pixels, logits."""
    return _mobilenet(96, 0.35)


def mobilenet_224() -> tuple[keras.Model, np.ndarray]:
    """MobileNetV2 as keras.applications has it, 224x224 pixels, logits."""
    return _mobilenet(224, 1.0)


def _mobilenet(size: int, alpha: float) -> tuple[keras.Model, np.ndarray]:
    model = keras.applications.MobileNetV2(
        (size, size, 3), alpha, weights=None, classifier_activation=None
    )
    rows = _images(size, 3)
    return _settled(model, rows), rows


def _settled(model: keras.Model, rows: np.ndarray) -> keras.Model:
    """Batch normalization that fits `rows`, layer by layer, with scales and shifts unlike 1 and 0.

    With random statistics a deep network amplifies every rounding error, or gives a constant.
    """
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign(random.uniform(0.8, 1.2, layer.gamma.shape))
            layer.beta.assign(random.normal(1.0, 0.3, layer.beta.shape))
    model(rows, training=True)
    return model


def _decided(model: keras.Model, rows: np.ndarray) -> keras.Model:
    """Logits of mean 0 and deviation 3 over `rows`, so that the softmax names different classes."""
    last = model.layers[-1]
    features = keras.Model(model.inputs[0], last.input)(rows, training=False).numpy()
    kernel = last.get_weights()[0]
    kernel = kernel * 3 / (features @ kernel).std(axis=0)
    last.set_weights([kernel, -(features @ kernel).mean(axis=0)])
    return model


def _images(size: int, channels: int) -> np.ndarray:
    """(ROWS, size, size, channels) float32 in [-1, 1]: a tint each, soft blobs, some texture."""
    random = np.random.default_rng(0)
    tint = random.normal(0, 0.5, (ROWS, 1, 1, channels))
    blobs = tint + random.normal(0, 0.3, (ROWS, 4, 4, channels))
    soft = np.asarray(keras.ops.image.resize(blobs, (size, size), interpolation="bicubic"))
    return np.clip(soft + random.normal(0, 0.2, soft.shape), -1, 1).astype(np.float32)


def _recipe(name: str):
    path = Path(__file__).parents[1] / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    for model_name in sys.argv[2:]:
        keras.utils.set_random_seed(0)
        built, samples = globals()[model_name]()
        built.save(Path(sys.argv[1], f"{model_name}.keras"))
        np.savez(Path(sys.argv[1], f"{model_name}.npz"), x=samples)

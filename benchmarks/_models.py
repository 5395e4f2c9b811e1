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
    return _trained(_recipe("fashion_mnist_cnn").build(), (28, 28, 1), ink=255)


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
    model.compile("adam", "sparse_categorical_crossentropy")
    return _trained(model, (784,), ink=1)


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
    rows = _images(size)
    return _settled(model, rows), rows


def _trained(
    model: keras.Model, shape: tuple[int, ...], ink: float
) -> tuple[keras.Model, np.ndarray]:
    """Trained shortly on scikit-learn's digits, enlarged to 28x28, ink from 0 to `ink`."""
    recipe = _recipe("digits_mlp")

    def images(split: str) -> tuple[np.ndarray, np.ndarray]:
        feed, labels = recipe.data(split)
        large = keras.ops.image.resize(feed["image"][..., np.newaxis], (28, 28))
        return np.asarray(large).reshape(-1, *shape) * (ink / 16), labels["label"]

    model.fit(*images("train"), epochs=5, batch_size=32, verbose=0)
    return model, images("test")[0][:ROWS]


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


def _images(size: int) -> np.ndarray:
    """(ROWS, size, size, 3) float32 in [-1, 1]: a tint each, soft blobs, some texture."""
    random = np.random.default_rng(0)
    tint = random.normal(0, 0.5, (ROWS, 1, 1, 3))
    blobs = tint + random.normal(0, 0.3, (ROWS, 4, 4, 3))
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

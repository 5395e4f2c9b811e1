"""Make the models and rows that the benchmarks start from: `python _models.py FOLDER NAME...`.

Writes NAME.keras, NAME.npz (64 rows, as `x`, to calibrate with) and NAME-unseen.npz (64 others)
for each name. Run as a process of its own: a benchmark must not have TensorFlow in the process
that measures.
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
    return model, recipe.data("test")[0]["image"]


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


def autoencoder() -> tuple[keras.Model, np.ndarray]:
    """64-32-8-32-64, which gives digits back."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,), name="image"),
            *(layers.Dense(n, activation="relu") for n in (32, 8, 32)),
            layers.Dense(64, name="again"),
        ]
    )
    model.compile("adam", "mse")
    feed, _ = _recipe("digits_mlp").data("train")
    rows = feed["image"].reshape(-1, 64)
    model.fit(rows, rows, epochs=30, verbose=0)
    return model, _recipe("digits_mlp").data("test")[0]["image"].reshape(-1, 64)


def regressor() -> tuple[keras.Model, np.ndarray]:
    """10-64-32-1 on scikit-learn's diabetes data: one figure, that spans hundreds."""
    from sklearn.datasets import load_diabetes

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((10,), name="measurements"),
            layers.Dense(64, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(1, name="progression"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    rows, target = load_diabetes(return_X_y=True)
    rows = rows.astype(np.float32)
    model.fit(rows[:300], target[:300], epochs=60, verbose=0)
    return model, rows[300:]


def residual() -> tuple[keras.Model, np.ndarray]:
    """A ResNet of two blocks for 28x28 pixels: additions of what was made on different ways."""
    layers = keras.layers

    def convolved(x, channels, stride=1):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    image = keras.Input((28, 28, 1), name="image")
    x = layers.ReLU()(convolved(image, 16, 2))
    for channels in (16, 32):
        beside = layers.Conv2D(channels, 1)(x) if channels != 16 else x
        inner = layers.ReLU()(convolved(x, channels))
        x = layers.ReLU()(layers.Add()([beside, convolved(inner, channels)]))
    label = layers.Dense(10, name="label")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, label, name="residual")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return _trained(model, (28, 28, 1), ink=1)


def mobilenet_96() -> tuple[keras.Model, np.ndarray]:
    """MobileNetV2 of width 0.35 for 96x96 pixels, logits."""
    return _mobilenet(96, 0.35)


def mobilenet_224() -> tuple[keras.Model, np.ndarray]:
    """MobileNetV2 as keras.applications has it, 224x224 pixels, logits."""
    return _mobilenet(224, 1.0)


def resnet50_112() -> tuple[keras.Model, np.ndarray]:
    """ResNet50 for 112x112 pixels, logits: some 20 ms a row."""
    model = keras.applications.ResNet50(
        weights=None, input_shape=(112, 112, 3), classifier_activation=None
    )
    rows = _images(112)
    return _settled(model, rows[:ROWS]), rows


def _mobilenet(size: int, alpha: float) -> tuple[keras.Model, np.ndarray]:
    model = keras.applications.MobileNetV2(
        (size, size, 3), alpha, weights=None, classifier_activation=None
    )
    rows = _images(size)
    return _settled(model, rows[:ROWS]), rows


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
    return model, images("test")[0]


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
    """(2 * ROWS, size, size, 3) float32 in [-1, 1]: a tint each, soft blobs, some texture."""
    random = np.random.default_rng(0)
    tint = random.normal(0, 0.5, (2 * ROWS, 1, 1, 3))
    blobs = tint + random.normal(0, 0.3, (2 * ROWS, 4, 4, 3))
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
        np.savez(Path(sys.argv[1], f"{model_name}.npz"), x=samples[:ROWS])
        np.savez(Path(sys.argv[1], f"{model_name}-unseen.npz"), x=samples[ROWS : 2 * ROWS])

"""Small models with everything that exporters get wrong; TensorFlow is imported once."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def two_by_two():
    """Two inputs and two outputs, none in alphabetical order, one shared layer."""
    import keras

    keras.utils.set_random_seed(1)
    zebra = keras.Input((4,), name="zebra")
    ant = keras.Input((3,), name="ant")
    shared = keras.layers.Dense(6, activation="relu", name="shared")
    joined = keras.layers.Concatenate()([shared(zebra), ant])
    wide = keras.layers.Dense(2, name="wide")(joined)
    deep = keras.layers.Dense(5, activation="softmax", name="deep")(shared(zebra))
    return keras.Model([zebra, ant], [wide, deep], name="two_by_two")


@pytest.fixture(scope="session")
def cnn():
    """Convolution with bias, batch norm with moved statistics, depthwise, pooling, softmax."""
    import keras

    keras.utils.set_random_seed(2)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(8, 3, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax", name="kind"),
        ],
        name="cnn",
    )
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([w + random.random(w.shape) for w in layer.get_weights()])
    return model


@pytest.fixture(scope="session")
def rows():
    """Rows for every input of a signature: (signature, count) -> feed."""

    def make(signature, count=16):
        random = np.random.default_rng(3)
        return {
            s.name: random.standard_normal((count, *s.shape[1:])).astype(s.dtype)
            for s in signature.inputs
        }

    return make


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """ONNX by model name: the Keras model, its fp32 file and signature; each made once."""
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.onnx import convert
    from tests.formats.onnx_models import build_model

    folder, made = tmp_path_factory.mktemp("fp32"), {}

    def get(name):
        if name not in made:
            model = build_model(name)
            path = folder / f"{name}.onnx"
            made[name] = model, path, convert(trace(of_keras(model), None), path)
        return made[name]

    return get

"""Save files as Keras 2 did, 2017 to 2023: `python save_keras2_models.py FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tf_keras as keras

layers = keras.layers


def cnn() -> keras.Model:
    """DepthwiseConv2D and a nested Sequential: Keras 3 cannot load either from .h5."""
    head = keras.Sequential([layers.Flatten(), layers.Dense(5)], name="head")
    stages = [
        layers.DepthwiseConv2D(3),
        layers.BatchNormalization(),
        layers.ReLU(),
        head,
        layers.Dense(3, name="kind"),
    ]
    return keras.Sequential([keras.Input((8, 8, 2), name="image"), *stages], name="cnn")


def lstm() -> keras.Model:
    """Its configuration holds `time_major`; in TFLite it would be fused, and keep its state."""
    stages = [layers.Bidirectional(layers.LSTM(6)), layers.Dense(2, name="next")]
    return keras.Sequential([keras.Input((7, 3), name="steps"), *stages], name="lstm")


def dicts() -> keras.Model:
    inputs = {"zebra": keras.Input((4,), name="z"), "ant": keras.Input((3,), name="a")}
    both = layers.Concatenate()([layers.Dense(5)(inputs["zebra"]), inputs["ant"]])
    outputs = {"wide": layers.Dense(2, name="w")(both), "deep": layers.Dense(4, name="d")(both)}
    return keras.Model(inputs, outputs, name="dicts")


def with_lambda() -> keras.Model:
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Lambda(lambda v: v * 2)(layers.Dense(2)(x)), name="with_lambda")


def text() -> keras.Model:
    words = keras.Input((1,), dtype="string", name="words")
    vectorize = layers.TextVectorization(20, output_sequence_length=4, name="vectorize")
    vectorize.adapt(["one two three", "two three four"])
    y = layers.GlobalAveragePooling1D()(layers.Embedding(20, 3)(vectorize(words)))
    return keras.Model(words, layers.Dense(2, name="mood")(y), name="text")


def shared() -> keras.Model:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    encode = layers.Dense(3, name="encode")
    return keras.Model([left, right], layers.Subtract()([encode(left), encode(right)]))


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(3)

    def call(self, x):
        return {"sum": self.dense(x["left"]) + x["right"]}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    model = cnn()
    statistics = model.layers[1]
    random = np.random.default_rng(0)
    statistics.set_weights([w + random.random(w.shape) for w in statistics.get_weights()])
    model.save(folder / "cnn.h5")
    model.save(folder / "cnn.keras")
    model.save(folder / "cnn_saved_model")
    lstm().save(folder / "lstm.h5")
    dicts().save(folder / "dicts.h5")
    shared().save(folder / "shared_saved_model")
    with_lambda().save(folder / "with_lambda.h5")
    with_lambda().save(folder / "with_lambda_saved_model")
    text().save(folder / "text.keras")
    model = Subclassed()
    model({"left": np.zeros((2, 4), "float32"), "right": np.zeros((2, 3), "float32")})
    model.save(folder / "subclassed_saved_model")

"""Save the .keras files that command-line tests start from: `python save_models.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
from keras import layers


def two_inputs() -> keras.Model:
    """Names in no alphabetical order, one layer shared, two kinds of outputs."""
    zebra, ant = keras.Input((4,), name="zebra"), keras.Input((3,), name="ant")
    shared = layers.Dense(6, activation="relu")
    joined = layers.Concatenate()([shared(zebra), ant])
    wide = layers.Dense(2, name="wide")(joined)
    deep = layers.Dense(5, activation="softmax", name="deep")(shared(zebra))
    return keras.Model([zebra, ant], [wide, deep])


def twins() -> keras.Model:
    """Two outputs of one shape: only the numbers tell them apart."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, [layers.Dense(3, name="right")(x), layers.Dense(3, name="left")(x)])


def detector() -> keras.Model:
    """Boxes in pixels and scores in [0, 1] in one tensor, which has one int8 scale."""
    x = keras.Input((8,), name="x")
    boxes = layers.Rescaling(640.0)(layers.Dense(4, activation="sigmoid")(x))
    scores = layers.Dense(3, activation="sigmoid")(x)
    return keras.Model(x, layers.Concatenate(name="found")([boxes, scores]))


def fixed_batch() -> keras.Model:
    """Built for four rows, and of no use for any other number."""
    x = keras.Input((6,), batch_size=4, name="x")
    return keras.Model(x, layers.Dense(2, name="y")(keras.ops.reshape(x * 2, (4, 6))))


def lstm() -> keras.Model:
    """Its int8 conversion kills the TFLite converter."""
    return keras.Sequential(
        [keras.Input((6, 3), name="steps"), layers.LSTM(8), layers.Dense(2, name="next")]
    )


def unbuilt() -> keras.Model:
    return keras.Sequential([layers.Dense(2)])


def gives_nan() -> keras.Model:
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Dense(2, name="y")(x))
    model.set_weights([w * float("nan") for w in model.get_weights()])
    return model


def logarithm() -> keras.Model:
    """NaN for rows below zero."""
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Dense(2, name="y")(keras.ops.log(x)))


def with_lambda() -> keras.Model:
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Lambda(lambda v: v * 2)(x))


MODELS = (
    two_inputs,
    twins,
    detector,
    fixed_batch,
    lstm,
    unbuilt,
    gives_nan,
    logarithm,
    with_lambda,
)

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    for build in MODELS:
        build().save(Path(sys.argv[1], f"{build.__name__}.keras"))

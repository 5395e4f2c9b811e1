"""California house prices from two inputs: five features for the wide way, six for the deep one.

Two inputs of one model are where exports go wrong unseen: a TFLite file lists them by the
alphabet, an ONNX file in the order of the model, and the wrong one in the place of the other is
refused only where the shapes differ. What edgekit writes is fed by name, in every format.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_california

DESCRIPTION = "house prices by district: five features wide, six deep, two inputs"
DATA = "California housing"
TASK = "regression"
METRIC = "rmse"
HIGHER_IS_BETTER = False
FLOOR = 0.64
EPOCHS = 20


def build():
    """Inputs `wide` (N, 5) and `deep` (N, 6), raw; output `price` (N, 1), in 100,000 USD."""
    import keras
    from keras import layers

    wide = keras.Input((5,), name="wide")
    deep = keras.Input((6,), name="deep")
    rules = layers.Normalization(name="wide_normalized")(wide)
    x = layers.Normalization(name="deep_normalized")(deep)
    x = layers.Dense(30, activation="relu")(x)
    x = layers.Dense(30, activation="relu")(x)
    price = layers.Dense(1, name="price")(layers.Concatenate()([rules, x]))
    model = keras.Model({"wide": wide, "deep": deep}, price, name="wide_deep_multi_input")
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="mse",
        metrics=[keras.metrics.RootMeanSquaredError()],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """First the scales of the features, then the weights; batches of 32, as Keras has it."""
    import keras

    feed, targets = data("train")
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt(feed[layer.name.removesuffix("_normalized")])
    unseen, wanted = data("validation")
    model.fit(
        feed,
        targets["price"],
        validation_data=(unseen, wanted["price"]),
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """The books' split: a quarter of the districts tests, a quarter of the rest validates."""
    x, price = load_california(split)
    return {"wide": x[:, :5], "deep": x[:, 2:]}, {"price": price}


def evaluate(outputs, targets):
    """In 100,000 USD."""
    return {"rmse": float(np.sqrt(np.mean((outputs["price"] - targets["price"]) ** 2)))}

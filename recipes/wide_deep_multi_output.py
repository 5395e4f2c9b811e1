"""California house prices with an auxiliary output: the deep way must say a price by itself, too.

The auxiliary output helps in training, where it keeps the deep way from leaning on the wide one;
its loss counts a ninth of the other. It is shipped with the model all the same, and costs
31 weights: `edgekit export WORKSPACE/model.keras --until price -o PART` leaves it out.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_california

DESCRIPTION = "house prices by district: wide and deep, with an auxiliary output"
DATA = "California housing"
TASK = "regression"
METRIC = "rmse"
HIGHER_IS_BETTER = False
FLOOR = 0.64
EPOCHS = 20


def build():
    """Inputs `wide` (N, 5) and `deep` (N, 6), raw; outputs `price` and `deep_price`, (N, 1) each.

    Prices are in 100,000 USD.
    """
    import keras
    from keras import layers

    wide = keras.Input((5,), name="wide")
    deep = keras.Input((6,), name="deep")
    rules = layers.Normalization(name="wide_normalized")(wide)
    x = layers.Normalization(name="deep_normalized")(deep)
    x = layers.Dense(30, activation="relu")(x)
    x = layers.Dense(30, activation="relu")(x)
    outputs = {
        "price": layers.Dense(1, name="price")(layers.Concatenate()([rules, x])),
        "deep_price": layers.Dense(1, name="deep_price")(x),
    }
    model = keras.Model({"wide": wide, "deep": deep}, outputs, name="wide_deep_multi_output")
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss={"price": "mse", "deep_price": "mse"},
        loss_weights={"price": 0.9, "deep_price": 0.1},
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
        targets,
        validation_data=(unseen, wanted),
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """The books' split: a quarter of the districts tests, a quarter of the rest validates."""
    x, price = load_california(split)
    return {"wide": x[:, :5], "deep": x[:, 2:]}, {"price": price, "deep_price": price}


def evaluate(outputs, targets):
    """In 100,000 USD: what is used, and beside it what the deep way alone says."""

    def rmse(output):
        return float(np.sqrt(np.mean((outputs[output] - targets[output]) ** 2)))

    return {"rmse": rmse("price"), "rmse_deep": rmse("deep_price")}

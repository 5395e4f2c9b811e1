"""California house prices, wide and deep: the features reach the last layer on two ways.

The deep way, two layers of 30 units, finds what features mean together; the wide one hands them
to the last layer as they are, for simple rules. A rule is a straight line: a district with a
thousand people to a household, and there are some, gets a price of millions. None of them is in the
test split, so its figure does not tell: an application has to look at what it feeds.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_california

DESCRIPTION = "house prices by district: the features beside two layers of 30 units"
DATA = "California housing"
TASK = "regression"
METRIC = "rmse"
HIGHER_IS_BETTER = False
FLOOR = 0.62
EPOCHS = 20


def build():
    """Input `district`: (N, 8) float32, raw. Output `price`: (N, 1), in 100,000 USD."""
    import keras
    from keras import layers

    district = keras.Input((8,), name="district")
    wide = layers.Normalization()(district)
    deep = layers.Dense(30, activation="relu")(wide)
    deep = layers.Dense(30, activation="relu")(deep)
    price = layers.Dense(1, name="price")(layers.Concatenate()([wide, deep]))
    model = keras.Model(district, price, name="wide_deep")
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="mse",
        metrics=[keras.metrics.RootMeanSquaredError()],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """First the scales of the features, then the weights; batches of 32, as Keras has it."""
    import keras

    district, price = load_california("train")
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt(district)
    model.fit(
        district,
        price,
        validation_data=load_california("validation"),
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """The books' split: a quarter of the districts tests, a quarter of the rest validates."""
    district, price = load_california(split)
    return {"district": district}, {"price": price}


def evaluate(outputs, targets):
    """In 100,000 USD."""
    return {"rmse": float(np.sqrt(np.mean((outputs["price"] - targets["price"]) ** 2)))}

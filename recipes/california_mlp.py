"""California house prices with a multilayer perceptron: 3 x 50 units, or 30 trained by plain SGD.

The features are raw: an income of 3.2, a population of 1,425, a longitude of -122. The layer that
brings them to one scale learns mean and variance from the training rows and is part of the model,
so an application feeds what it has and cannot scale otherwise than training did.

For 8 bits that first layer is the difficulty. All eight features come in one tensor, and 256 steps
up to the largest population are too wide for an income or a latitude. So edgekit's int8 files scale
the features in float, and compute with integers from there on. With `--int8-io` the application
would hand over integers, and the file is refused: it has to scale the features itself then.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_california

DESCRIPTION = "house prices by district, 8 raw features: 3 x 50 units behind a Normalization layer"
DATA = "California housing"
TASK = "regression"
METRIC = "rmse"
HIGHER_IS_BETTER = False
FLOOR = 0.60
EPOCHS = 20


def build():
    """Input `district`: (N, 8) float32, raw. Output `price`: (N, 1), in 100,000 USD."""
    import keras

    return _model([50, 50, 50], keras.optimizers.Adam(1e-3))


def build_sgd30():
    """One layer of 30 units and plain gradient descent: the first regression of the books."""
    import keras

    return _model([30], keras.optimizers.SGD(1e-2))


def _model(units, optimizer):
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((8,), name="district"),
            layers.Normalization(),
            *(layers.Dense(n, activation="relu") for n in units),
            layers.Dense(1, name="price"),
        ],
        name="california_mlp",
    )
    model.compile(optimizer=optimizer, loss="mse", metrics=[keras.metrics.RootMeanSquaredError()])
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

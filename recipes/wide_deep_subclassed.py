"""California house prices, wide and deep, as a subclass of keras.Model.

Python code is the architecture here, so a file of the model cannot hold it: edgekit runs build()
again and loads the weights. Nor does a subclass say what it takes: the dicts by name that call()
takes and gives are what the files' inputs and outputs are called.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_california

DESCRIPTION = "house prices by district: wide and deep as a subclass, two inputs and outputs"
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

    class WideAndDeep(keras.Model):
        def __init__(self, units=30, **kwargs):
            super().__init__(**kwargs)
            self.wide_normalized = layers.Normalization(name="wide_normalized")
            self.deep_normalized = layers.Normalization(name="deep_normalized")
            # At once: built by the first call, it would keep tensors of a graph that is gone.
            self.wide_normalized.build((None, 5))
            self.deep_normalized.build((None, 6))
            self.first = layers.Dense(units, activation="relu")
            self.second = layers.Dense(units, activation="relu")
            self.price = layers.Dense(1, name="price")
            self.deep_price = layers.Dense(1, name="deep_price")

        def call(self, inputs):
            rules = self.wide_normalized(inputs["wide"])
            x = self.second(self.first(self.deep_normalized(inputs["deep"])))
            both = keras.ops.concatenate([rules, x], axis=-1)
            return {"price": self.price(both), "deep_price": self.deep_price(x)}

    model = WideAndDeep(name="wide_deep_subclassed")
    # Called once, so that it has its weights, and for them a place to be loaded into.
    model({"wide": np.zeros((1, 5), np.float32), "deep": np.zeros((1, 6), np.float32)})
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

"""Boston house prices, few rows: how long to train is found by 4 folds, then one model is trained.

360 rows to learn from are too few to spare some for good: what 90 validation rows say depends on
which 90 they are. So four models are trained, each judged by a quarter of the rows that it has not
seen, and their mean says after how many epochs to stop. The model that is shipped learns from all.

One column (`b`) is a function of the share of Black residents, in a study of 1978 that took
prejudice for a law of prices. The data is kept here because the book's figures are of it: it is for
exercise, and no price should be told by it.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_table

DESCRIPTION = "506 house prices, 13 raw features: 4-fold cross-validation, then a final model"
DATA = "Boston housing"
TASK = "regression"
METRIC = "mae"
HIGHER_IS_BETTER = False
FLOOR = 3.5
EPOCHS = 100
FOLDS = 4
BATCH = 16


def build():
    """Input `house`: (N, 13) float32, raw. Output `price`: (N, 1), in 1,000 USD."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((13,), name="house"),
            layers.Normalization(),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(1, name="price"),
        ],
        name="boston_kfold",
    )
    model.compile(optimizer="rmsprop", loss="mse", metrics=["mae"])
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """As many epochs as cross-validation found best, at most `epochs`, on all training rows.

    No rows validate the final model: when to stop is known.
    """
    best = 1 + int(np.argmin(_smooth(cross_validate(epochs))))
    _fit(model, *_examples("train"), best, callbacks=callbacks)


def cross_validate(epochs=EPOCHS):
    """The mean absolute error after each epoch, on rows not trained on: the mean of all folds."""
    houses, prices = _examples("train")
    fold = np.arange(len(houses)) % FOLDS
    errors = []
    for k in range(FOLDS):
        seen, unseen = fold != k, fold == k
        validation = houses[unseen], prices[unseen]
        history = _fit(build(), houses[seen], prices[seen], epochs, validation)
        errors.append(history.history["val_mae"])
    return np.mean(errors, axis=0)


def _fit(model, houses, prices, epochs, validation=None, callbacks=()):
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt(houses)  # each fold its own: the rows that judge it are in no mean
    return model.fit(
        houses,
        prices,
        validation_data=validation,
        epochs=epochs,
        batch_size=BATCH,
        callbacks=list(callbacks),
        verbose=0,
    )


def _smooth(errors, width=9):
    """The mean of each epoch and its neighbours: single epochs jump about."""
    half = min(width, len(errors)) // 2
    padded = np.pad(errors, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def data(split):
    """The books' 102 test rows; of their 404 others 44 are held back, to choose among files by."""
    houses, prices = _examples(split)
    return {"house": houses}, {"price": prices}


def evaluate(outputs, targets):
    """In 1,000 USD."""
    return {"mae": float(np.mean(np.abs(outputs["price"] - targets["price"])))}


def _examples(split):
    table = load_table("boston_housing")
    # The order and the split of keras.datasets.boston_housing.
    shuffled = np.random.RandomState(113).permutation(len(table["y"]))
    rows = {
        "train": shuffled[44:404],
        "validation": shuffled[:44],
        "calibration": shuffled[44:404],
        "test": shuffled[404:],
    }[split]
    return table["x"][rows].astype(np.float32), table["y"][rows, np.newaxis].astype(np.float32)

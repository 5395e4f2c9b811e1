"""Iris with one threshold unit, trained by the perceptron rule: is it Iris setosa?

The oldest learning machine: two weights and a bias, a unit that fires or does not, and a rule that
moves the weights only where it was wrong. A step has no gradient, so fit() cannot train it: the
rule is four lines, and what is shipped is a Keras model all the same.
"""

from __future__ import annotations

import numpy as np

DESCRIPTION = "iris, petals' length and width: one threshold unit, the perceptron rule, offline"
DATA = "iris"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 1.0
EPOCHS = 20
LABELS = ("another iris", "setosa")


def build():
    """Input `petal`: (N, 2) float32, length and width in cm. Output `setosa`: (N, 1), 0 or 1."""
    import keras

    petal = keras.Input((2,), name="petal")
    excitation = keras.layers.Dense(1, kernel_initializer="zeros", name="unit")(petal)
    # Operations of Keras, not a function of ours: the file loads where this recipe is unknown.
    fires = keras.ops.cast(keras.ops.greater(excitation, 0), "float32")
    setosa = keras.layers.Identity(name="setosa")(fires)
    model = keras.Model(petal, setosa, name="perceptron_iris")
    model.compile(loss="mse", metrics=["accuracy"])
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """The perceptron rule, flower by flower, until one epoch goes by without an error.

    It stops at the first line that parts the flowers it has seen, and nothing makes that a wide
    one: from random weights, one line in five misses a flower of the test. From zero, and always in
    the same order, it is the same line each time.
    """
    import keras

    petals, setosa = _examples("train")
    unit = model.get_layer("unit")
    kernel, bias = unit.get_weights()
    told = keras.callbacks.CallbackList(
        list(callbacks), model=model, epochs=epochs, steps=len(petals)
    )
    told.on_train_begin()
    for epoch in range(epochs):
        told.on_epoch_begin(epoch)
        errors = 0
        for petal, is_setosa in zip(petals, setosa, strict=True):
            error = is_setosa - (petal @ kernel + bias > 0)  # 0 if right, else 1 or -1
            kernel += error * petal[:, np.newaxis]
            bias += error
            errors += int(error[0] != 0)
        unit.set_weights([kernel, bias])
        told.on_epoch_end(epoch, {"errors": errors})
        if errors == 0:
            break
    told.on_train_end()


def data(split):
    """A quarter of all pairs of figures tests, an eighth validates, the others train."""
    petals, setosa = _examples(split)
    return {"petal": petals}, {"setosa": setosa}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean((outputs["setosa"] >= 0.5) == targets["setosa"]))}


def _examples(split):
    from sklearn.datasets import load_iris

    iris = load_iris()
    petals = iris.data[:, 2:].astype(np.float32)
    # 102 pairs of figures for 150 flowers: flowers with the same petals stay together, so that
    # the test knows none of those that taught.
    pairs, pair = np.unique(petals, axis=0, return_inverse=True)
    place = np.random.default_rng(0).permutation(len(pairs))[pair]
    rows = {
        "test": place < 26,
        "validation": (place >= 26) & (place < 38),
        "train": place >= 38,
        "calibration": place >= 38,
    }[split]
    return petals[rows], (iris.target[rows, np.newaxis] == 0).astype(np.int64)

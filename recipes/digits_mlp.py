"""Handwritten digits with a small multilayer perceptron.

The data comes with scikit-learn, so this recipe needs no network: 1,797 scans of 8x8 pixels.
Trained in a few seconds, it is the one to start with.
"""

from __future__ import annotations

import numpy as np

DESCRIPTION = "handwritten digits, 8x8 pixels: a small perceptron, trained in seconds, offline"
DATA = "scikit-learn digits"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.95
EPOCHS = 40
LABELS = tuple("0123456789")


def build():
    """Input `image`: (N, 8, 8) float32, ink from 0 to 16. Output `label`: 10 probabilities."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((8, 8), name="image"),
            # Inside the model, so that a device feeds what it sees and knows of no scaling.
            keras.layers.Rescaling(1 / 16),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="label"),
        ],
        name="digits_mlp",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=32,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """1,257 rows to train on, 180 to validate with and 360 to test with, shuffled once."""
    images, labels = _examples(split)
    return {"image": images}, {"label": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean(outputs["label"].argmax(axis=1) == targets["label"]))}


def _examples(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    shuffled = np.random.default_rng(0).permutation(len(digits.target))
    rows = {
        "test": shuffled[:360],
        "validation": shuffled[360:540],
        "train": shuffled[540:],
        "calibration": shuffled[540:840],
    }[split]
    return digits.images[rows].astype(np.float32), digits.target[rows].astype(np.int64)

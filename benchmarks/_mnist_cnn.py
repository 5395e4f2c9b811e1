"""A recipe: MNIST with the usual small CNN, three convolutions and two dense layers."""

from __future__ import annotations

import math

import numpy as np

from edgekit.datasets import load_npz

DESCRIPTION = "handwritten digits, 28x28 pixels: a small CNN"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.97
EPOCHS = 10
PEAK_RATE = 2e-3


def build():
    """Input `image`: (N, 28, 28, 1) float32 from 0 to 1. Output `digit`: 10 probabilities."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="mnist_cnn",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(PEAK_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """The learning rate falls from its peak towards 0 along half a cosine."""
    import keras

    def rate(epoch):
        return PEAK_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2

    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=64,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
        verbose=0,
    )


def data(split):
    """The last tenth of the training images validates; the test set is whole."""
    images, labels = _examples(split)
    return {"image": images}, {"digit": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean(outputs["digit"].argmax(axis=1) == targets["digit"]))}


def _examples(split):
    arrays = load_npz("mnist")
    held = len(arrays["x_train"]) // 10
    part, rows = {
        "train": ("train", slice(-held)),
        "validation": ("train", slice(-held, None)),
        "calibration": ("train", slice(500)),
        "test": ("test", slice(None)),
    }[split]
    images = arrays[f"x_{part}"][rows, ..., np.newaxis].astype(np.float32) / 255
    return images, arrays[f"y_{part}"][rows].astype(np.int64)

"""Fashion-MNIST with a multilayer perceptron: 28x28-300-100-10, 266,610 parameters.

The first image classifier of many a book on Keras: what it lacks in accuracy it has in fame.
Nearly all of it is one 784x300 matrix, so its size follows the precision of the weights.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.datasets import load_npz

DESCRIPTION = "clothes, 28x28 pixels: the 266,610-parameter perceptron of the books"
DATA = "Fashion-MNIST"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.875
EPOCHS = 15
# Most of so large a matrix is not needed. Zeros make no file faster, but a small download of it.
PRUNE = "sparse:0.8"
PEAK_RATE = 0.1
PATIENCE = 5
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def build():
    """Input `image`: (N, 28, 28) float32 from 0 to 255. Output `label`: 10 probabilities."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((28, 28), name="image"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10, activation="softmax", name="label"),
        ],
        name="fashion_mnist_mlp",
    )
    model.compile(
        optimizer=keras.optimizers.SGD(PEAK_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """The learning rate falls from its peak towards 0 along half a cosine.

    Without that, the weights at the end of an epoch jump about, and so does the accuracy. After
    PATIENCE epochs that gained nothing training stops, with the weights of the best one.
    """
    import keras

    def rate(epoch):
        return PEAK_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2

    stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=64,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), stop, *callbacks],
        verbose=0,
    )


def data(split):
    """The first 5,000 training images validate, the other 55,000 train; the test set is whole."""
    images, labels = _examples(split)
    return {"image": images}, {"label": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean(outputs["label"].argmax(axis=1) == targets["label"]))}


def _examples(split):
    arrays = load_npz("fashion_mnist")
    part, rows = {
        "train": ("train", slice(5_000, None)),
        "validation": ("train", slice(5_000)),
        "calibration": ("train", slice(5_000, 5_500)),
        "test": ("test", slice(None)),
    }[split]
    return arrays[f"x_{part}"][rows].astype(np.float32), arrays[f"y_{part}"][rows].astype(np.int64)

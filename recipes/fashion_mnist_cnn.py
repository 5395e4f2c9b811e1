"""Fashion-MNIST with a small separable CNN, in the manner of MobileNet.

Two full convolutions see the pixels, two pairs of depthwise and pointwise ones do the rest;
converters fold the batch normalization into them. Few bytes, and easy to quantize.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.datasets import load_npz

DESCRIPTION = "clothes, 28x28 pixels: a small separable CNN, made to be quantized"
DATA = "Fashion-MNIST"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.90
EPOCHS = 8
# Half of the channels: three times as fast, for less than half a point.
PRUNE = "structured:0.5"
PEAK_RATE = 3e-3
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
    """Input `image`: (N, 28, 28, 1) float32 from 0 to 255. Output `label`: 10 probabilities."""
    import keras
    from keras import layers

    def normalized(x):
        # Momentum 0.9: the default 0.99 needs more steps than a short training has.
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    def separable(x, channels, stride):
        depthwise = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)
        x = normalized(depthwise(x))
        return normalized(layers.Conv2D(channels, 1, use_bias=False)(x))

    image = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255)(image)
    x = normalized(layers.Conv2D(32, 3, padding="same", use_bias=False)(x))
    x = normalized(layers.Conv2D(64, 3, strides=2, padding="same", use_bias=False)(x))
    x = separable(x, 128, stride=2)
    x = separable(x, 128, stride=1)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    label = layers.Dense(10, activation="softmax", name="label")(x)
    model = keras.Model(image, label, name="fashion_mnist_cnn")
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
        batch_size=128,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
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
    return arrays[f"x_{part}"][rows, ..., np.newaxis].astype(np.float32), arrays[f"y_{part}"][
        rows
    ].astype(np.int64)

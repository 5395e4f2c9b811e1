"""Which digit was said, by a depthwise-separable CNN on log-mel frames (DS-CNN).

The model starts where sound has become a picture, 61 frames of 40 bands. What makes it one is as
much part of the product as the model: FEATURES describes it, `edgekit.features.log_mel` computes it
in Python and `log_mel.mjs` in JavaScript, with the same figures.

In the recordings the digit begins with the first sample. Before a microphone it begins anywhere in
the second, near or far, in some noise; so the model is trained on that, too. Trained on the
recordings alone, it has 0.99 on the test ones as well, and 0.6 on the same ones so varied.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.datasets import load_recordings
from edgekit.features.log_mel import LogMel

DESCRIPTION = "spoken digits, 61 log-mel frames: a depthwise-separable CNN (DS-CNN)"
DATA = "Free Spoken Digits"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.93
EPOCHS = 8
# Half of the channels are enough: nothing is lost on the test recordings, nor on varied ones.
PRUNE = "structured:0.5"
PEAK_RATE = 3e-3
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FEATURES = LogMel(sample_rate=8_000, seconds=1.0, frame=256, hop=128, bands=40)
VARIATIONS = 3  # of each recording to train on, beside the recording itself


def build():
    """Input `log_mel`: (N, 61, 40) float32, from FEATURES. Output `digit`: 10 probabilities."""
    import keras
    from keras import layers

    channels = 48

    def normalized(x):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    def separable(x, stride=1):
        depthwise = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)
        x = normalized(depthwise(x))
        return normalized(layers.Conv2D(channels, 1, use_bias=False)(x))

    log_mel = keras.Input(FEATURES.shape, name="log_mel")
    x = layers.Reshape((*FEATURES.shape, 1))(log_mel)
    x = layers.Rescaling(1 / 5, offset=-math.log(FEATURES.floor) / 5 - 1)(x)  # silence is -1
    x = normalized(layers.Conv2D(channels, (10, 4), strides=2, padding="same", use_bias=False)(x))
    x = separable(x, stride=2)
    for _ in range(3):
        x = separable(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(x)
    digit = layers.Dense(len(LABELS), activation="softmax", name="digit")(x)
    model = keras.Model(log_mel, digit, name="spoken_digits_dscnn")
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

    recordings, digits = _recordings("train")
    rng = np.random.default_rng(0)
    varied = [_varied(samples, rng) for _ in range(VARIATIONS) for samples in recordings]
    model.fit(
        _features(recordings + varied),
        np.tile(digits, 1 + VARIATIONS),
        validation_data=(_features(_recordings("validation")[0]), _recordings("validation")[1]),
        epochs=epochs,
        batch_size=64,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
        verbose=0,
    )


def data(split):
    """Recordings as they are: takes 0 to 4 test, as is usual, 5 to 9 validate, the others train.

    The same six people speak in all splits: the figures say nothing of other voices.
    """
    recordings, digits = _recordings(split)
    return {"log_mel": _features(recordings)}, {"digit": digits}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean(outputs["digit"].argmax(axis=1) == targets["digit"]))}


def _features(recordings):
    return np.stack([FEATURES.compute(samples) for samples in recordings])


def _varied(samples, rng):
    """A recording as a microphone might have it: somewhere in the second, near or far, in noise."""
    samples = samples[: FEATURES.length] / np.abs(samples.astype(float)).max()
    level = 10 ** rng.uniform(-1.5, 0)
    noise = level * 10 ** rng.uniform(-4, -1.5)
    start = rng.integers(FEATURES.length - len(samples) + 1)
    heard = rng.normal(0, noise, FEATURES.length)
    heard[start : start + len(samples)] += level * samples
    return heard


def _recordings(split):
    """Samples of each recording, int16, and the digits."""
    takes = {
        "train": (10, 49),
        "validation": (5, 9),
        "calibration": (10, 14),  # of the training ones
        "test": (0, 4),
    }[split]
    arrays = load_recordings()
    ends = np.cumsum(arrays["lengths"])
    chosen = np.flatnonzero((takes[0] <= arrays["takes"]) & (arrays["takes"] <= takes[1]))
    starts = ends - arrays["lengths"]
    recordings = [arrays["samples"][starts[i] : ends[i]] for i in chosen]
    return recordings, arrays["labels"][chosen].astype(np.int64)

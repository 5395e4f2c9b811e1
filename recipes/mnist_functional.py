"""MNIST with the functional API, and Keras opened up in three places.

A metric of our own (RMSE of the probabilities), a callback of our own (the loss of every batch, as
a line of blocks), a training step of our own. All three are of the training: the files that are
shipped have none of it, nor the dropout. The class with the training step is why edgekit runs
build() again to load the model.
"""

from __future__ import annotations

import sys

import numpy as np

from edgekit.datasets import load_npz

DESCRIPTION = "handwritten digits: own metric, own callback, own training step"
DATA = "MNIST"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.94
EPOCHS = 10
BATCH = 128
LABELS = tuple("0123456789")


def build():
    """Input `image`: (N, 28, 28) float32 from 0 to 255. Output `digit`: 10 probabilities."""
    import keras
    import tensorflow as tf
    from keras import layers

    class ProbabilityError(keras.metrics.Metric):
        """The root of the mean square of what each probability is off."""

        def __init__(self, name="rmse", **kwargs):
            super().__init__(name=name, **kwargs)
            self.squares = self.add_weight(name="squares", initializer="zeros")
            self.count = self.add_weight(name="count", initializer="zeros")

        def update_state(self, label, probability, sample_weight=None):
            wanted = tf.one_hot(tf.cast(tf.reshape(label, (-1,)), tf.int32), probability.shape[-1])
            self.squares.assign_add(tf.reduce_sum((wanted - probability) ** 2))
            self.count.assign_add(tf.cast(tf.size(probability), tf.float32))

        def result(self):
            return (self.squares / self.count) ** 0.5

        def reset_state(self):
            self.squares.assign(0)
            self.count.assign(0)

    class OwnStep(keras.Model):
        def train_step(self, batch):
            image, label = batch
            with tf.GradientTape() as tape:
                digit = self(image, training=True)
                loss = self.compute_loss(image, label, digit)
            weights = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
            for metric in self.metrics:
                if metric.name == "loss":  # its mean over the epoch; the others follow
                    metric.update_state(loss)
            return self.compute_metrics(image, label, digit)

    image = keras.Input((28, 28), name="image")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(image))
    x = layers.Dense(512, activation="relu")(x)
    x = layers.Dropout(0.5)(x)
    digit = layers.Dense(10, activation="softmax", name="digit")(x)
    model = OwnStep(image, digit, name="mnist_functional")
    model.compile(
        optimizer="rmsprop",
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", ProbabilityError()],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    import keras

    class LossHistory(keras.callbacks.Callback):
        """Draws the loss of all batches so far, as a line of blocks, after each epoch."""

        def on_train_begin(self, logs=None):
            self.losses = []

        def on_epoch_begin(self, epoch, logs=None):
            self.total = 0.0

        def on_train_batch_end(self, batch, logs=None):
            # Keras tells the mean since the epoch began: this batch is what it adds to the sum.
            total = logs["loss"] * (batch + 1)
            self.losses.append(total - self.total)
            self.total = total

        def on_epoch_end(self, epoch, logs=None):
            print(blocks(self.losses), file=sys.stderr)

    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=BATCH,
        callbacks=[LossHistory(), *callbacks],
        verbose=0,
    )


def blocks(losses, width=40):
    """A character for each stretch of `losses`, the higher the block the higher its mean."""
    means = [np.mean(part) for part in np.array_split(losses, min(width, len(losses)))]
    return "".join("▁▂▃▄▅▆▇█"[int(7 * mean / max(means))] for mean in means)


def data(split):
    """The first 1,000 training images validate, the 9,000 after them train; the test set is whole.

    Keras's copy has 50,000 more, which are left alone.
    """
    images, labels = _examples(split)
    return {"image": images}, {"digit": labels}


def evaluate(outputs, targets):
    probability, digit = outputs["digit"], targets["digit"]
    error = np.eye(10)[digit] - probability
    return {
        "accuracy": float(np.mean(probability.argmax(axis=1) == digit)),
        "rmse": float(np.sqrt(np.mean(error**2))),
    }


def _examples(split):
    arrays = load_npz("mnist")
    part, rows = {
        "train": ("train", slice(1_000, 10_000)),
        "validation": ("train", slice(1_000)),
        "calibration": ("train", slice(1_000, 1_500)),
        "test": ("test", slice(None)),
    }[split]
    images, labels = arrays[f"x_{part}"][rows], arrays[f"y_{part}"][rows]
    return images.astype(np.float32), labels.astype(np.int64)

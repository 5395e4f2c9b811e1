"""MNIST with 512 hidden units, the first program of many a Keras book; and the same by hand.

By hand means: a dense layer that is a matrix product and an addition of its own, and a training
loop with a gradient tape. The exported files cannot tell the two apart: a converter sees the
operations, not the classes that asked for them.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_npz

DESCRIPTION = "handwritten digits, 28x28 pixels: 512 units, trained on 9,000 of them"
DATA = "MNIST"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.94
# Five in the book, of 60,000 images; as many steps would be 33 epochs here.
EPOCHS = 15
BATCH = 128
LABELS = tuple("0123456789")


def build():
    """Input `image`: (N, 28, 28) float32 from 0 to 255. Output `digit`: 10 probabilities."""
    from keras import layers

    return _model(
        layers.Dense(512, activation="relu"), layers.Dense(10, activation="softmax", name="digit")
    )


def build_from_scratch():
    """The same model of a dense layer written here; train() trains it by a loop written here."""
    import keras

    class NaiveDense(keras.layers.Layer):
        def __init__(self, units, activation, **kwargs):
            super().__init__(**kwargs)
            self.units, self.activation = units, activation

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], self.units), initializer="glorot_uniform")
            self.b = self.add_weight(shape=(self.units,), initializer="zeros")

        def call(self, x):
            return self.activation(keras.ops.matmul(x, self.w) + self.b)

    model = _model(NaiveDense(512, keras.ops.relu), NaiveDense(10, keras.ops.softmax, name="digit"))
    model.trained_by_hand = True
    return model


def _model(*dense):
    import keras

    model = keras.Sequential(
        [
            keras.Input((28, 28), name="image"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            *dense,
        ],
        name="mnist_mlp",
    )
    model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    if getattr(model, "trained_by_hand", False):
        _train_by_hand(model, epochs, callbacks)
        return
    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=BATCH,
        callbacks=list(callbacks),
        verbose=0,
    )


def _train_by_hand(model, epochs, callbacks):
    import keras
    import tensorflow as tf

    images, labels = _examples("train")
    unseen, wanted = _examples("validation")
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def step(image, label):
        with tf.GradientTape() as tape:
            loss = loss_of(label, model(image, training=True))
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).batch(BATCH)
    model.optimizer.build(model.trainable_variables)
    told = keras.callbacks.CallbackList(
        list(callbacks), model=model, epochs=epochs, steps=len(batches)
    )
    told.on_train_begin()
    for epoch in range(epochs):
        told.on_epoch_begin(epoch)
        losses = []
        for i, batch in enumerate(batches):
            told.on_train_batch_begin(i)
            losses.append(float(step(*batch)))
            told.on_train_batch_end(i, {"loss": losses[-1]})
        guess = model.predict(unseen, verbose=0)
        figures = {
            "loss": np.mean(losses),
            "val_loss": float(loss_of(wanted, guess)),
            "val_accuracy": np.mean(guess.argmax(axis=1) == wanted),
        }
        told.on_epoch_end(epoch, figures)
        if model.stop_training:
            break
    told.on_train_end()


def data(split):
    """The first 1,000 training images validate, the 9,000 after them train; the test set is whole.

    Keras's copy has 50,000 more, which are left alone.
    """
    images, labels = _examples(split)
    return {"image": images}, {"digit": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean(outputs["digit"].argmax(axis=1) == targets["digit"]))}


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

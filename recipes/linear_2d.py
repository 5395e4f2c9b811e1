"""A linear classifier in TensorFlow alone: a matrix, a bias, a gradient tape, and no Keras model.

Two clouds of points in the plane. The module's own `__call__` is what is shipped: its signature
says the name and shape of the input, its dict the name of the output. What Keras would do for it,
the loss, the step, the loop, is written out below.
"""

from __future__ import annotations

import numpy as np

DESCRIPTION = "two clouds of points: a linear classifier in pure TensorFlow, offline"
DATA = "2 x 1,000 points"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.98
EPOCHS = 40
RATE = 0.1
LABELS = ("left and high", "right and low")


def build():
    """Input `point`: (N, 2) float32. Output `cloud`: (N, 1), 1 for the second cloud and 0 if not.

    Least squares on 0 and 1, as the book has it: the output is a number about 0 or 1, and the
    border is at 0.5.
    """
    import tensorflow as tf

    class LinearClassifier(tf.Module):
        def __init__(self):
            super().__init__(name="linear_2d")
            self.weights = tf.Variable(tf.random.uniform((2, 1)), name="weights")
            self.bias = tf.Variable(tf.zeros((1,)), name="bias")

        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="point")])
        def __call__(self, point):
            return {"cloud": point @ self.weights + self.bias}

    return LinearClassifier()


def train(model, epochs=EPOCHS, callbacks=()):
    """Plain gradient descent: one step on all points is an epoch."""
    import keras  # for its callbacks: they are told what a fit() would tell them
    import tensorflow as tf

    points, clouds = _examples("train")
    targets = clouds.astype(np.float32)

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(points)["cloud"] - targets) ** 2)
        variables = [model.weights, model.bias]
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(RATE * gradient)
        return float(loss)

    told = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs, steps=1)
    told.on_train_begin()
    for epoch in range(epochs):
        told.on_epoch_begin(epoch)
        told.on_epoch_end(epoch, {"loss": step()})
    told.on_train_end()


def data(split):
    """2 x 1,000 points, shuffled once: 500 test, 200 validate, the others train."""
    points, clouds = _examples(split)
    return {"point": points}, {"cloud": clouds}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean((outputs["cloud"] >= 0.5) == targets["cloud"]))}


def _examples(split):
    random = np.random.default_rng(0)
    shape = [[1, 0.5], [0.5, 1]]
    clouds = [random.multivariate_normal(mean, shape, 1_000) for mean in ([0, 3], [3, 0])]
    points = np.concatenate(clouds).astype(np.float32)
    is_second = np.repeat([[0], [1]], 1_000, axis=0)
    shuffled = random.permutation(len(points))
    rows = {
        "test": shuffled[:500],
        "validation": shuffled[500:700],
        "train": shuffled[700:],
        "calibration": shuffled[700:1_000],
    }[split]
    return points[rows], is_second[rows]

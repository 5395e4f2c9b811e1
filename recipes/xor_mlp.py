"""XOR with the smallest multilayer perceptron that can: two hidden units, nine weights.

One unit draws one line, and no line parts the four points of XOR; two units do. Four points are
the whole world here: every split is the same, and the test asks only whether they were learned.
"""

from __future__ import annotations

import numpy as np

DESCRIPTION = "exclusive or: two hidden units, nine weights, offline"
DATA = "4 points"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 1.0
EPOCHS = 300
POINTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
XOR = np.array([[0], [1], [1], [0]], np.int64)
PASSES = 10
PATIENCE = 30


def build():
    """Input `bits`: (N, 2) float32, 0 or 1. Output `xor`: (N, 1), the probability of 1."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((2,), name="bits"),
            keras.layers.Dense(2, activation="tanh"),
            keras.layers.Dense(1, activation="sigmoid", name="xor"),
        ],
        name="xor_mlp",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.1), loss="binary_crossentropy", metrics=["accuracy"]
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """An epoch is ten passes over the four points.

    From about half of all first weights the smallest network does not find the way: after PATIENCE
    epochs without the answer it starts again from others. Larger ones nearly always find it.
    """
    import keras

    class StartAgain(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.since = 0

        def on_epoch_end(self, epoch, logs=None):
            self.since += 1
            if logs["loss"] < 0.05:  # and so every point is on its side by a wide margin
                self.model.stop_training = True
            elif self.since == PATIENCE:
                self.since = 0
                for layer in self.model.layers:
                    kernel, bias = layer.get_weights()
                    # A new initializer: one and the same gives the same weights each time.
                    kernel = keras.initializers.GlorotUniform()(kernel.shape)
                    layer.set_weights([kernel, np.zeros_like(bias)])

    model.fit(
        np.tile(POINTS, (PASSES, 1)),
        np.tile(XOR, (PASSES, 1)),
        batch_size=len(POINTS),
        shuffle=False,
        epochs=epochs,
        callbacks=[StartAgain(), *callbacks],
        verbose=0,
    )


def data(split):
    """The four points, whatever the split."""
    return {"bits": POINTS}, {"xor": XOR}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean((outputs["xor"] >= 0.5) == targets["xor"]))}

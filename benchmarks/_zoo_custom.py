"""Code that a model file needs beside it: a layer, a function and a model of somebody's own.

`_zoo.py` puts a copy beside the models; for Keras 2 it imports tf_keras instead.
"""

import keras


class Gate(keras.layers.Layer):
    """Scales each channel by a learned gate; not registered."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1],), initializer="normal", name="gate")
        super().build(shape)

    def call(self, x):
        return x * keras.activations.sigmoid(self.weight)


@keras.saving.register_keras_serializable(package="zoo")
class Shift(keras.layers.Layer):
    """Adds a learned vector times `factor`; registered, with a configuration."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1],), initializer="normal", name="shift")
        super().build(shape)

    def call(self, x):
        return x + self.weight * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="zoo")
def squash(x):
    """An activation: x / (1 + |x|), doubled."""
    return 2.0 * keras.activations.softsign(x)


@keras.saving.register_keras_serializable(package="zoo")
class Tower(keras.Model):
    """A subclassed model: its layers are known only by running `call`."""

    def __init__(self, units=16, classes=6, **kwargs):
        super().__init__(**kwargs)
        self.units, self.classes = units, classes
        self.first = keras.layers.Dense(units, activation="relu")
        self.second = keras.layers.Dense(units, activation="tanh")
        self.last = keras.layers.Dense(classes)

    def call(self, x, training=None):
        first = self.first(x)
        return self.last(first + self.second(first))

    def get_config(self):
        return {**super().get_config(), "units": self.units, "classes": self.classes}

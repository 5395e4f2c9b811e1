"""What a user's own module may hold: a layer, an activation, a subclassed model, a builder."""

from __future__ import annotations

import keras


class Scale(keras.layers.Layer):
    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="w")

    def call(self, x):
        return x * self.weight * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def sharp(x):
    return x * keras.ops.sigmoid(2 * x)


class TwoHeads(keras.Model):
    """Takes a dict and gives one, as a subclassed model may."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3, activation=sharp, name="dense")
        self.scale = Scale(3.0, name="scale")

    def call(self, x):
        return {"right": self.scale(self.dense(x["zebra"])), "left": self.dense(x["zebra"]) + 1}


class TwoArguments(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(3, name="dense")

    def build(self, query_shape, key_shape):
        self.dense.build(query_shape)

    def call(self, query, key):
        return self.dense(query) - self.dense(key)


class Forgetful(TwoArguments):
    """Without a build() of its own Keras saves the shape of the first argument alone."""

    build = keras.Model.build


class Sample(keras.layers.Layer):
    """As in a variational autoencoder."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, mean):
        return mean + keras.random.normal(keras.ops.shape(mean), seed=self.seed)


class Long(keras.Model):
    """A subclassed model does not tell how long the sequences inside are."""

    def __init__(self, **options):
        super().__init__(**options)
        self.read = keras.layers.LSTM(3)

    def call(self, x):
        return self.read(x)


def build():
    """With a Lambda, which no file may bring, but the user's own code may."""
    x = keras.Input((6,), name="x")
    y = keras.layers.Dense(8, activation=sharp)(x)
    y = keras.layers.Lambda(lambda v: v + 1)(Scale(0.5)(y))
    return keras.Model(x, keras.layers.Dense(3, name="y")(y), name="built")


def build_another():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])


def build_unnamed():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])


def gives_none():
    return None

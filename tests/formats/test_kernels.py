"""Which weights pruning and clustering take, and how they lie."""

from __future__ import annotations

import numpy as np
import pytest


def kernels(model):
    from edgekit.toolchain.kernels import kernels

    return kernels(model)


@pytest.mark.parametrize(
    ("kind", "arguments", "shape", "dims"),
    [
        ("Dense", (5,), (7,), [(1, 7, 5)]),
        ("Conv2D", (5, 3), (8, 8, 4), [(9, 4, 5)]),
        ("Conv1D", (5, 3), (8, 4), [(3, 4, 5)]),
        ("Conv2DTranspose", (5, 3), (8, 8, 4), [(9, 4, 5)]),
        ("SeparableConv2D", (5, 3), (8, 8, 4), [(1, 4, 5)]),
        ("DepthwiseConv2D", (3,), (8, 8, 4), []),
        ("LSTM", (5,), (6, 4), [(1, 4, 20), (1, 5, 20)]),
        ("GRU", (5,), (6, 4), [(1, 4, 15), (1, 5, 15)]),
        ("EinsumDense", ("abc,cde->abde", (None, 3, 2)), (6, 4), [(1, 4, 6)]),
        ("EinsumDense", ("abde,dec->abc", (None, 3)), (6, 4, 2), [(1, 8, 3)]),
        ("LayerNormalization", ([1, 2],), (6, 4), []),
        ("PReLU", (), (6, 4), []),
    ],
)
def test_a_layer_has_these(kind, arguments, shape, dims):
    import keras

    keras.utils.set_random_seed(0)
    layer = getattr(keras.layers, kind)(*arguments, name="layer")
    model = keras.Sequential([keras.Input(shape), layer])
    found = kernels(model).get("layer", [])
    assert [kernel.dims for kernel in found] == dims
    for kernel in found:
        stored = np.asarray(kernel.variable)
        assert np.array_equal(kernel.as_stored(kernel.values()), stored)
    assert bool(kernels(model)) is bool(dims)


def test_inputs_and_outputs_are_where_the_layer_has_them():
    """An input that is 0 for all outputs makes no difference."""
    import keras

    for shape, layer in [
        ((6,), keras.layers.Dense(3)),
        ((5, 5, 6), keras.layers.Conv2D(3, 2)),
        ((5, 5, 6), keras.layers.Conv2DTranspose(3, 2)),
        ((4, 6), keras.layers.EinsumDense("abc,cde->abde", (None, 3, 2))),
    ]:
        model = keras.Sequential([keras.Input(shape), layer])
        [[kernel]] = kernels(model).values()
        values = kernel.values().copy()
        values[:, 2] = 0
        kernel.variable.assign(kernel.as_stored(values))
        rows = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
        other = rows.copy()
        other[..., 2] += 9
        assert np.allclose(model(rows), model(other))
        other[..., 3] += 9
        assert not np.allclose(model(rows), model(other))


def test_nested_models_are_entered_and_other_layers_are_one():
    import keras

    shared = keras.layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((6, 4)), shared], name="inner")
    x = keras.Input((6, 4), name="x")
    y = shared(inner(x))
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    y = keras.layers.Bidirectional(keras.layers.LSTM(3), name="both")(y)
    found = kernels(keras.Model(x, keras.layers.Dense(2, name="y")(y)))
    counts = {name: len(some) for name, some in found.items()}
    assert counts == {"inner/shared": 1, "attention": 4, "both": 4, "y": 1}


def test_layers_of_the_users_own_have_their_matrices():
    import keras

    class Own(keras.layers.Layer):
        def build(self, shape):
            self.inside = keras.layers.Dense(3)
            self.inside.build(shape)
            self.table = self.add_weight(shape=(3, 2), name="table")
            self.bias = self.add_weight(shape=(1, 2), name="bias")
            self.fixed = self.add_weight(shape=(3, 2), name="fixed", trainable=False)

        def call(self, x):
            return self.inside(x) @ (self.table + self.fixed) + self.bias

    model = keras.Sequential([keras.Input((4,)), Own(name="own")])
    assert sorted(k.dims for k in kernels(model)["own"]) == [(1, 3, 2), (1, 4, 3)]
    model.trainable = False
    assert len(kernels(model)["own"]) == 2

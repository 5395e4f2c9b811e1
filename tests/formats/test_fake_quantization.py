from __future__ import annotations

import numpy as np
import pytest


def steps(kernel, others):
    """(kernel in whole steps, step) with a step for each index of the other axes."""
    scale = np.abs(kernel).max(axis=others, keepdims=True) / 127
    return np.round(kernel / scale), scale


@pytest.mark.parametrize(
    ("kind", "arguments", "shape", "others"),
    [
        ("Dense", (5,), (7,), 0),
        ("Conv2D", (5, 3), (8, 8, 4), (0, 1, 2)),
        ("Conv1D", (5, 3), (8, 4), (0, 1)),
        ("Conv2DTranspose", (5, 3), (8, 8, 4), (0, 1, 3)),
        ("DepthwiseConv2D", (3,), (8, 8, 4), (0, 1)),
        ("EinsumDense", ("abc,cde->abde", (None, 3, 2)), (6, 4), 0),
        ("EinsumDense", ("abde,dec->abc", (None, 3)), (6, 4, 2), (0, 1)),
        ("Embedding", (9, 5), (6,), (0, 1)),
        ("GRU", (5,), (6, 4), 0),
    ],
)
def test_kernels_have_a_scale_for_each_output_channel(kind, arguments, shape, others):
    import keras

    from edgekit.toolchain.fake_quantization import _weights, per_channel
    from edgekit.toolchain.kernels import output_axes

    keras.utils.set_random_seed(0)
    layer = getattr(keras.layers, kind)(*arguments)
    layer.build((None, *shape))
    owner = getattr(layer, "cell", layer)
    for name, variable in _weights(owner).items():
        kernel = np.asarray(variable)
        whole, scale = steps(kernel, others)
        rounded = np.asarray(per_channel(variable.value, output_axes(owner, name)))
        assert np.allclose(rounded, whole * scale, atol=1e-7)
        assert not np.allclose(rounded, kernel, atol=1e-7)
    assert sorted(_weights(owner)) != []


def test_layers_compute_with_rounded_weights_and_inputs_and_then_as_before():
    import keras

    from edgekit.toolchain.fake_quantization import fake_quantized

    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    model = keras.Model(x, keras.layers.Dense(4, use_bias=False)(x))
    rows = np.random.default_rng(0).uniform(-1, 3, (32, 6)).astype(np.float32)
    before, names = np.asarray(model(rows)), set(vars(model.layers[1]))
    [kernel] = model.get_weights()
    with fake_quantized(model):
        rounded = np.asarray(model(rows))
    whole, scale = steps(kernel, 0)
    step = (rows.max() - rows.min()) / 255
    assert np.allclose(rounded, np.round(rows / step) * step @ (whole * scale), atol=1e-5)
    assert not np.allclose(rounded, before, atol=1e-5)
    assert np.array_equal(model(rows), before)
    assert set(vars(model.layers[1])) == names
    assert np.array_equal(model.get_weights()[0], kernel)


def test_gradients_go_straight_through():
    import tensorflow as tf

    from edgekit.toolchain.fake_quantization import per_channel, per_tensor

    weight = tf.Variable(np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32))
    low, high = (tf.Variable(0.0, trainable=False) for _ in range(2))
    with tf.GradientTape() as tape:
        rounded = per_tensor(per_channel(weight, {-1}), low, high)
        loss = tf.reduce_sum(rounded * np.arange(15, dtype=np.float32).reshape(5, 3))
    assert np.array_equal(tape.gradient(loss, weight), np.arange(15).reshape(5, 3))
    assert float(high) == pytest.approx(float(tf.reduce_max(weight)), rel=0.01)


def test_no_rounding_between_a_kernel_and_what_is_merged_into_it(monkeypatch):
    """Batch normalization and ReLU have no tensor of their own in the files; softmax has."""
    import keras

    from edgekit.toolchain import fake_quantization

    x = keras.Input((8, 8, 2))
    y = keras.layers.Conv2D(3, 3, use_bias=False)(x)  # rounds x
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    y = keras.layers.Flatten()(keras.layers.MaxPooling2D()(y))
    y = keras.layers.Dense(4, activation="softmax")(y)  # rounds y, and the logits
    model = keras.Model(x, y)
    seen = []
    monkeypatch.setattr(
        fake_quantization,
        "per_tensor",
        lambda value, low, high: seen.append(tuple(value.shape)) or value,
    )
    with fake_quantized_of(fake_quantization, model):
        model(np.zeros((2, 8, 8, 2), np.float32))
    assert seen == [(2, 8, 8, 2), (2, 27), (2, 4)]


def fake_quantized_of(module, model):
    return module.fake_quantized(model)


def test_a_range_follows_slowly_when_values_become_smaller():
    import tensorflow as tf

    from edgekit.toolchain.fake_quantization import SHRINK, per_tensor

    low, high = (tf.Variable(0.0, trainable=False) for _ in range(2))
    per_tensor(tf.constant([-2.0, 8.0]), low, high)
    assert (float(low), float(high)) == (-2.0, 8.0)
    per_tensor(tf.constant([1.0, 4.0]), low, high)
    assert float(low) == pytest.approx(-2 + 3 * SHRINK)
    assert float(high) == pytest.approx(8 - 4 * SHRINK)
    for _ in range(2000):
        per_tensor(tf.constant([1.0, 4.0]), low, high)
    assert (float(low), float(high)) == (0.0, pytest.approx(4.0, abs=1e-3))


def test_a_subclassed_model_and_a_layer_of_the_users_are_rounded():
    import keras

    from edgekit.toolchain.fake_quantization import fake_quantized

    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(shape[-1], 3), initializer="random_normal")

        def call(self, x):
            return x @ self.table

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.scale, self.dense = Scale(), keras.layers.Dense(2)

        def call(self, x):
            return self.dense(self.scale(x))

    keras.utils.set_random_seed(0)
    model, rows = Model(), np.random.default_rng(0).random((16, 4), np.float32)
    before = np.asarray(model(rows))
    with fake_quantized(model):
        assert not np.allclose(model(rows), before, atol=1e-6)
    assert np.array_equal(model(rows), before)

"""Structured pruning: the channels that matter least go, with all that depends on them.

In each model every second channel is planted: it is alive, but nothing reads it and its filter is
small. These are the ones to go, and without them the model computes what it did.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

from edgekit.errors import ConversionError
from edgekit.toolchain import shrinking
from edgekit.toolchain.channel_pruning import rounded, without_channels
from edgekit.toolchain.model import of_keras
from edgekit.types import Pruning
from tests.formats.channel_models import (
    MODELS,
    mlp,
    mobile,
    squeezed,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't:DeprecationWarning"  # of Keras, as it saves
)

FAMILIES = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf-keras"])
SMALL = 1e-3
HALF = Pruning("structured", 0.5)


def made(build, k):
    """The model, with statistics and biases unlike zeros and ones, which hide wrong slices."""
    k.backend.clear_session()
    k.utils.set_random_seed(1)
    model, random = build(k), np.random.default_rng(2)
    for variable in model.variables:
        name = variable.name.rpartition("/")[2].partition(":")[0]
        if name in ("bias", "beta", "moving_mean", "alpha"):
            variable.assign(random.normal(0, 0.5, variable.shape))
        if name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        if name.endswith("kernel"):
            variable.assign(variable * 2)
    return model


def plant(model):
    """Every second channel gives little, and nothing takes it; inputs have odd numbers of them."""

    def every_second(weight, axis, factor, repeats=1):
        value = np.moveaxis(np.asarray(weight).copy(), axis, 0)
        if len(value) % 2 == 0:
            value[np.arange(len(value)) // repeats % 2 == 1] *= factor
        weight.assign(np.moveaxis(value, 0, axis))

    for layer in model._flatten_layers():
        kind, takes, repeats = type(layer).__name__, -2, 1
        if kind == "Embedding":
            every_second(layer.embeddings, -1, SMALL)
        if kind == "SeparableConv2D":
            kernel, repeats = layer.pointwise_kernel, layer.depth_multiplier
        elif hasattr(layer, "kernel") and not kind.startswith("Depthwise"):
            kernel, takes = layer.kernel, -1 if kind.endswith("Transpose") else -2
        else:
            continue
        every_second(kernel, takes, 0, repeats)
        if not layer.name.startswith("y"):
            every_second(kernel, -3 - takes, SMALL)
        if hasattr(layer, "recurrent_kernel"):
            every_second(layer.recurrent_kernel, 0, 0)
            every_second(layer.recurrent_kernel, 1, SMALL)
    return model


def rows_of(model, count=8):
    random = np.random.default_rng(3)
    return {
        s.name: (
            random.integers(0, 9, (count, *s.shape[1:]))
            if s.dtype == "int32"
            else random.standard_normal((count, *(d or 10 for d in s.shape[1:])))
        ).astype(s.dtype)
        for s in of_keras(model).inputs
    }


def outputs(model, rows):
    return {name: np.asarray(value) for name, value in of_keras(model).call(rows).items()}


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert value.std(axis=0).max() > 1e-2 * np.abs(value).max()  # else it would prove nothing
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max())


def weights(model):
    return [np.array(w) for w in model.get_weights()]


def same_bits(model, before):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@FAMILIES
@pytest.mark.parametrize("build", MODELS)
def test_the_planted_channels_go_and_nothing_else(build, k, tmp_path):
    model = plant(made(build, k))
    rows, before, told = rows_of(model), weights(model), model.to_json()
    wanted = outputs(model, rows)
    cut = without_channels(model, HALF)
    assert all(after == count // 2 for count, after in cut.channels.values()), cut.channels
    assert_same(outputs(cut.model, rows), wanted)
    assert same_bits(model, before)
    assert model.to_json() == told
    assert type(cut.model) is type(model)
    assert [x.name for x in cut.model.layers] == [x.name for x in model.layers]
    cut.model.save(tmp_path / "model.keras")
    assert_same(outputs(k.models.load_model(tmp_path / "model.keras"), rows), wanted)


@FAMILIES
def test_all_layers_that_can_be_cut_are(k):
    left = {build: without_channels(made(build, k), HALF).left for build in MODELS}
    assert {build.__name__: set(found) for build, found in left.items()} == {
        "mlp": {"y"},
        "cnn": {"y"},
        "mobile": {"y"},
        "residual": {"y"},
        "dense_net": {"y"},
        "squeezed": {"conv2d_3", "y"},
        "u_net": {"y"},
        "nested": {"y"},
        "backbone": {"y"},
        "several": {"y", "y2"},
        "operations": {"y"},
    }
    assert left[squeezed]["conv2d_3"] == "multiply_1 (Multiply) takes it for all channels"
    assert left[mlp]["y"] == "its channels are an output of the model"


@FAMILIES
def test_half_of_a_mobilenet(k):
    model = k.applications.MobileNetV2(alpha=0.35, input_shape=(96, 96, 3), weights=None, classes=9)
    cut = without_channels(made(lambda _: model, k), HALF)
    assert set(cut.left) == {"predictions"}
    assert cut.channels["block_5_expand"] == (96, 48)
    assert cut.channels["Conv_1"] == (1280, 640)
    convolutions = [x for x in cut.model.layers if type(x).__name__ == "Conv2D"]
    assert len(cut.channels) == len(convolutions)
    assert cut.model.count_params() < 0.35 * model.count_params()


@FAMILIES
def test_a_wrong_slice_is_found(k, monkeypatch):
    """The proof does not go by the dependencies alone."""
    model = made(mobile, k)
    before = weights(model)
    copy = shrinking._Smaller.copy_weights

    def shifted(self):
        copy(self)
        old, new = next(p for p in self.layers.values() if type(p[0]).__name__ == "DepthwiseConv2D")
        new.set_weights([np.roll(w, 1, axis=2) for w in new.get_weights()])
        assert type(old) is type(new)

    monkeypatch.setattr(shrinking._Smaller, "copy_weights", shifted)
    with pytest.raises(ConversionError, match="not cut") as raised:
        without_channels(model, HALF)
    assert "report" in raised.value.hint
    assert same_bits(model, before)


def test_a_layer_that_reads_the_weights_of_another_is_found():
    model = made(mlp, keras)
    secret = model.layers[2].kernel

    class Reading(keras.layers.Layer):
        def call(self, inputs):
            return inputs * (1 + keras.ops.sum(secret))

    x = keras.Input((6,), name="x")
    reading = keras.Model(x, Reading()(model(x)))
    before = weights(reading)
    with pytest.raises(ConversionError, match="not cut"):
        without_channels(reading, HALF)
    assert same_bits(reading, before)


@pytest.mark.parametrize(
    ("wanted", "count", "kept"),
    [
        *((16, 32, 16), (32, 64, 32), (67.2, 96, 64), (201.6, 288, 208), (22.4, 32, 24)),
        *((16.8, 24, 16), (11.2, 16, 12), (5.6, 8, 4), (8, 10, 8), (9.9, 10, 8), (30, 31, 31)),
        *((3.4, 4, 3), (0.1, 4, 1), (40 * (1 - 0.3), 40, 32), (1.5, 3, 2), (1, 1, 1)),
    ],
)
def test_what_is_left_fits_the_kernels(wanted, count, kept):
    assert rounded(wanted, count) == kept


@FAMILIES
def test_layers_keep_all_other_settings(k):
    layers = k.layers
    x = k.Input((4, 6), batch_size=3, name="x")
    h = layers.Dense(8, "relu", kernel_regularizer="l2", kernel_constraint="non_neg", name="a")(x)
    h = layers.BatchNormalization(momentum=0.9, epsilon=0.1, name="n")(h, training=False)
    h = layers.Dropout(0.5, noise_shape=(3, 1, 1))(layers.Conv1D(8, 2, padding="causal")(h))
    base = k.Sequential([k.Input((4, 8)), layers.Dense(8, name="d"), layers.ReLU()], name="base")
    h = layers.Dense(8, dtype="float64", name="wide")(base(h))
    model = k.Model(x, layers.Dense(2, name="y")(h))
    model.get_layer("a").trainable = False
    base.trainable = False
    base.get_layer("d").trainable = True
    found = without_channels(made(lambda _: model, k), HALF).model
    assert found.count_params() < model.count_params()

    changed = {"units", "filters", "layers", "build_input_shape"}

    def settings(layer):
        told = layer.get_config()
        return {key: v for key, v in told.items() if key not in changed}

    for layer in model.layers[1:]:
        assert settings(found.get_layer(layer.name)) == settings(layer)
    assert not found.get_layer("base").trainable
    assert found.get_layer("base").get_layer("d").trainable
    assert [w.name for w in found.trainable_weights] == [w.name for w in model.trainable_weights]
    assert tuple(found.inputs[0].shape) == (3, 4, 6)
    assert moves_statistics(found) == moves_statistics(model) == (k is keras)


def moves_statistics(model):
    """Keras 3 passes over training=False in the call of a layer, where the model is trained."""
    before = np.asarray(model.get_layer("n").moving_mean).copy()
    model(np.ones((3, 4, 6), np.float32), training=True)
    return not np.array_equal(model.get_layer("n").moving_mean, before)


def test_a_mixed_policy_stays():
    def mixed(k):
        keras.config.set_dtype_policy("mixed_float16")
        return mobile(k)

    try:
        found = without_channels(made(mixed, keras), HALF).model
    finally:
        keras.config.set_dtype_policy("float32")
    assert {x.dtype_policy.name for x in found.layers[1:]} == {"mixed_float16"}


def test_a_table_of_words_goes_along(tmp_path):
    words = keras.layers.TextVectorization(max_tokens=12, output_sequence_length=5, name="words")
    words.adapt(["the day was good", "not a good year", "0 of 1"])
    layers = [words, keras.layers.Embedding(12, 8), keras.layers.GlobalAveragePooling1D()]
    layers += [keras.layers.Dense(16, "tanh"), keras.layers.Dense(3, name="y")]
    model = keras.Sequential([keras.Input((), dtype="string"), *layers])
    cut = without_channels(model, HALF)
    assert sorted(cut.channels.values()) == [(8, 4), (16, 8)]
    cut.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.get_layer("words").get_vocabulary() == words.get_vocabulary()
    rows = keras.ops.convert_to_tensor(["good year", "a day"])
    np.testing.assert_allclose(again(rows), cut.model(rows), rtol=1e-6)

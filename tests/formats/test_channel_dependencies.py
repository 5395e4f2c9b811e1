"""Which layers structured pruning leaves alone, and how much it takes of the others."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

from edgekit.errors import ConversionError
from edgekit.toolchain.channel_pruning import without_channels
from edgekit.types import Pruning

layers = keras.layers
FAMILIES = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf-keras"])
HALF = Pruning("structured", 0.5)
ENDS = "'b' is an end of the part to export"


@pytest.fixture(autouse=True)
def names_from_the_start():
    keras.backend.clear_session()


class Own(layers.Dense):
    """The user's own: nobody knows what it does with its kernel."""


def around(middle, shape=(4, 4, 6)):
    """What a Dense of 8, "a", gives to `middle`, and `middle` to the Dense "b" and that to "y"."""
    x = keras.Input(shape, name="x")
    h = middle(layers.Dense(8, name="a")(x))
    return keras.Model(x, layers.Dense(3, name="y")(layers.Dense(8, name="b")(h)))


def own_activation(x):
    return x * keras.ops.mean(x, -1, keepdims=True)


TAKES_ALL = {
    "layer norm": (layers.LayerNormalization(name="m"), "m (LayerNormalization) takes all"),
    "group norm": (layers.GroupNormalization(2, name="m"), "m (GroupNormalization) takes all"),
    "other axis": (layers.BatchNormalization(axis=1, name="m"), "m (BatchNormalization) takes"),
    "grouped": (layers.Conv2D(8, 1, groups=2, name="m"), "m (Conv2D) takes all"),
    "softmax": (layers.Activation("softmax", name="m"), "m (Activation) takes all"),
    "softmax layer": (layers.Softmax(name="m"), "m (Softmax) takes all"),
    "constant": (lambda x: x * np.arange(8, dtype="float32"), "multiply (Multiply) takes all"),
    "slice": (lambda x: x[..., :4], "get_item (GetItem) takes all"),
    "of the user": (Own(8, name="m"), "m (Own) takes all"),
    "wrapped": (layers.TimeDistributed(layers.Dense(8), name="m"), "m (TimeDistributed) takes"),
    "moved": (layers.Permute((3, 1, 2), name="m"), "m (Permute) takes all"),
    "one of many": (layers.Rescaling(2.0, np.arange(8.0), name="m"), "m (Rescaling) takes all"),
    "sum": (lambda x: keras.ops.sum(x, -1, keepdims=True), "sum (Sum) takes all"),
    "lambda": (layers.Lambda(lambda x: x[..., ::-1], name="m"), "m (Lambda) takes all"),
}


@pytest.mark.parametrize("kind", TAKES_ALL)
def test_layers_that_take_all_channels_are_named(kind):
    middle, reason = TAKES_ALL[kind]
    cut = without_channels(around(middle), HALF)
    assert cut.channels == {"b": (8, 4)}
    assert cut.left["a"].startswith(reason)


NOT_CUT = {
    "grouped": (layers.Conv2D(8, 1, groups=2, name="m"), "it convolves in groups"),
    "of the user": (Own(8, name="m"), "Own is no layer of Keras's own"),
    "unknown": (layers.EinsumDense("bijc,cd->bijd", (4, 4, 8), name="m"), "not known how EinsumD"),
    "activated": (layers.Dense(8, "softmax", name="m"), "its activation 'softmax' may need all"),
    "by the user": (layers.Dense(8, own_activation, name="m"), "'own_activation' may need all"),
    "norm behind": (
        lambda x: layers.UnitNormalization()(layers.Dense(8, name="m")(x)),
        "unit_normalization (UnitNormalization) takes all of its channels",
    ),
}


@pytest.mark.parametrize("kind", NOT_CUT)
def test_layers_that_cannot_be_cut_are_named(kind):
    middle, reason = NOT_CUT[kind]
    cut = without_channels(around(middle), HALF)
    assert reason in cut.left["m"]
    assert "m" not in cut.channels
    assert cut.channels["b"] == (8, 4)


def test_attention_stays_and_what_is_between_is_cut():
    x = keras.Input((5, 8), name="x")
    h = x + layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    ahead = layers.Dense(8, name="narrow")(layers.Dense(32, "gelu", name="wide")(h))
    cut = without_channels(keras.Model(x, h + ahead), HALF)
    assert cut.channels == {"wide": (32, 16)}
    assert cut.left == {
        "attention": "it is not known how MultiHeadAttention could be cut",
        "narrow": "its channels are an output of the model",
    }


@FAMILIES
def test_of_a_concatenation_only_what_stays_stays(k):
    x = k.Input((8,), name="x")
    a, b = (k.layers.Dense(8, name=name)(x) for name in "ab")
    h = k.layers.Concatenate()([a, x, b])
    h = k.layers.Add()([h, k.layers.Dense(24, name="c")(x)])
    cut = without_channels(k.Model(x, k.layers.Dense(2, name="y")(h)), HALF)
    assert cut.channels == {"a": (8, 4), "b": (8, 4), "c": (24, 16)}
    assert set(cut.left) == {"y"}


@FAMILIES
def test_a_concatenation_along_another_axis(k):
    x = k.Input((4, 6), name="x")
    a, b = (k.layers.Dense(8, name=name)(x) for name in "ab")
    h = k.layers.Concatenate(axis=1)([a, b])
    cut = without_channels(k.Model(x, k.layers.LSTM(4, name="y")(h)), HALF)
    assert cut.channels == {"a": (8, 4), "b": (8, 4)}


@FAMILIES
def test_a_reshape_to_other_channels_keeps_them_whole(k):
    x = k.Input((4,), name="x")
    h = k.layers.Reshape((4, 8))(k.layers.Dense(32, name="a")(x))
    model = k.Model(x, k.layers.Dense(2, name="y")(k.layers.Conv1D(8, 2, name="b")(h)))
    cut = without_channels(model, HALF)
    assert cut.channels == {"a": (32, 16), "b": (8, 4)}
    assert tuple(cut.model.get_layer("b").kernel.shape) == (2, 4, 4)


@FAMILIES
def test_a_layer_that_cannot_be_cut_in_one_call_is_not_in_another(k):
    x = k.Input((8,), name="x")
    shared = k.layers.Dense(8, name="a")
    other = k.layers.Dense(8, name="b")(x)
    h = k.layers.Concatenate()([shared(x), shared(other)])
    model = k.Model(x, k.layers.Dense(2, name="y")(k.layers.Dense(8, name="c")(h)))
    cut = without_channels(model, HALF)
    assert cut.channels == {"a": (8, 4), "c": (8, 4)}
    assert cut.left["b"] == "an input of the model meets its channels"


def test_weights_that_two_layers_share_stay():
    x, shared = keras.Input((4, 6), name="x"), layers.Dense(8, name="a")
    h = layers.Concatenate()([shared(x), layers.TimeDistributed(shared, name="b")(x)])
    model = keras.Model(x, layers.Dense(2, name="y")(layers.Dense(8, name="c")(h)))
    cut = without_channels(model, HALF)
    assert cut.channels == {"c": (8, 4)}
    assert "shares its weights" in cut.left["a"]


def chain(k=keras):
    x = k.Input((6,), name="x")
    h = x
    for name in "abc":
        h = k.layers.Dense(32, "relu", name=name)(h)
    h = k.layers.Add()([k.layers.Dense(64, name="d")(h), k.layers.Dense(64, name="e")(h)])
    return k.Model(x, k.layers.Dense(2, name="y")(h))


@pytest.mark.parametrize(
    ("pruning", "cut"),
    [
        (HALF, {"a": 16, "b": 16, "c": 16, "d": 32, "e": 32}),
        (Pruning("structured", 0.5, skip_first=True), {"b": 16, "c": 16, "d": 32, "e": 32}),
        (Pruning("structured", 0.5, skip_last=True), {"a": 16, "b": 16, "c": 16}),
        (Pruning("structured", 0.5, layers=(("[bcde]", 0),)), {"a": 16}),
        (
            Pruning("structured", 0.5, layers=(("c", 0.75), ("e", 0.25))),
            {"a": 16, "b": 16, "c": 8, "d": 48, "e": 48},
        ),
        (Pruning("structured", 1.0, layers=(("[bcde]", 0),)), {"a": 1}),
    ],
)
def test_each_layer_loses_what_is_asked_for(pruning, cut):
    found = without_channels(chain(), pruning)
    assert {name: after for name, (_, after) in found.channels.items()} == cut


def test_layers_that_go_together_with_one_that_stays_are_named():
    found = without_channels(chain(), Pruning("structured", 0.5, layers=(("e", 0),)))
    assert found.left["d"] == "its channels go with those of e, which stays"


def test_too_few_channels_to_round_are_named():
    found = without_channels(chain(), Pruning("structured", 0.2, layers=(("d", 0.1), ("e", 0.1))))
    assert found.left["d"] == "10% of 64 channels that go together are too few to round"
    with pytest.raises(ConversionError, match="no layer has channels to lose") as raised:
        without_channels(chain(), Pruning("structured", 0.05))
    assert "ratio" in raised.value.hint


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(ConversionError, match="fits 'y'"):
        without_channels(chain(), Pruning("structured", 0.5, layers=(("y", 0.5),)))


@FAMILIES
def test_ends_of_a_part_keep_their_channels(k):
    assert without_channels(chain(k), HALF, closed=["b"]).left["b"] == ENDS
    with pytest.raises(ConversionError, match="no layer 'f'"):
        without_channels(chain(k), HALF, closed=["f"])


@FAMILIES
def test_the_end_of_a_part_may_be_a_nested_model(k):
    inner = k.Sequential(
        [k.Input((6,)), k.layers.Dense(8, name="p"), k.layers.Dense(8, name="q")], name="inner"
    )
    x = k.Input((6,), name="x")
    model = k.Model(x, k.layers.Dense(2, name="y")(inner(x)))
    assert set(without_channels(model, HALF).channels) == {"inner/p", "inner/q"}
    assert set(without_channels(model, HALF, closed=["inner"]).channels) == {"inner/p"}


@FAMILIES
def test_a_model_without_a_graph_of_layers_is_refused(k):
    class Subclassed(k.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(8)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model(np.zeros((1, 4), np.float32))
    with pytest.raises(ConversionError, match="no graph of layers") as raised:
        without_channels(model, HALF)
    assert "Functional" in raised.value.hint


def test_a_users_layer_that_cannot_be_built_again_is_named():
    class Forgetful(layers.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, inputs):
            return inputs * self.factor

        def get_config(self):
            return {"name": self.name}

    with pytest.raises(ConversionError, match=r"'m' \(Forgetful\) cannot be built again") as raised:
        without_channels(around(Forgetful(2.0, name="m")), HALF)
    assert "get_config" in raised.value.hint


@FAMILIES
def test_a_mask_is_no_channel(k):
    words = k.Input((7,), dtype="int32", name="words")
    h = k.layers.Embedding(9, 8, mask_zero=True, name="e")(words)
    h = k.layers.GRU(8, name="g")(k.layers.LSTM(16, return_sequences=True, name="l")(h))
    cut = without_channels(k.Model(words, k.layers.Dense(2, name="y")(h)), HALF)
    assert cut.channels == {"e": (8, 4), "l": (16, 8), "g": (8, 4)}


def test_where_nothing_can_be_cut_each_layer_is_named():
    x = keras.Input((4, 6), name="x")
    h = layers.Bidirectional(layers.LSTM(8), name="both")(x)
    with pytest.raises(ConversionError, match=r"both: .* Bidirectional .*; y: .* output"):
        without_channels(keras.Model(x, layers.Dense(2, name="y")(h)), HALF)

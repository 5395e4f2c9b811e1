from __future__ import annotations

import numpy as np
import pytest

from edgekit.agent.arrays import save_arrays
from edgekit.errors import ConversionError
from edgekit.toolchain.client import Toolchain

IMAGE = (12, 12, 3)


def sequential(shape, *names, dtype="float32"):
    """Layers by name and arguments, one after the other."""
    import keras

    layers = [getattr(keras.layers, name)(*args, **kwargs) for name, args, kwargs in names]
    return keras.Sequential([keras.Input(shape, dtype=dtype, name="x"), *layers])


def layer(kind, *args, **kwargs):
    return kind, args, kwargs


CHAINS = {
    "dense": (
        (6,),
        layer("Dense", 8, activation="gelu", kernel_regularizer="l2"),
        layer("BatchNormalization"),
        layer("Dropout", 0.3),
        layer("Dense", 3, activation="softmax"),
    ),
    "convolution": (
        IMAGE,
        layer("Rescaling", 1 / 255),
        layer("ZeroPadding2D", 1),
        layer("Conv2D", 8, 3, strides=2, activation="relu"),
        layer("MaxPooling2D"),
        layer("Flatten"),
    ),
    "separable": (
        IMAGE,
        layer("DepthwiseConv2D", 3, depth_multiplier=2),
        layer("ReLU", 6.0),
        layer("SeparableConv2D", 4, 3),
        layer("LeakyReLU", 0.2),
        layer("GlobalAveragePooling2D"),
    ),
    "grouped": (IMAGE, layer("Conv2D", 6, 3, groups=3, name="odd")),
    "transposed": (
        IMAGE,
        layer("Conv2DTranspose", 4, 3, strides=2),
        layer("UpSampling2D"),
        layer("ELU"),
        layer("PReLU"),
    ),
    "one_dimension": (
        (16, 4),
        layer("Conv1D", 8, 3, padding="causal"),
        layer("GlobalMaxPooling1D"),
    ),
    "recurrent": ((7, 4), layer("GRU", 5, return_sequences=True), layer("LSTM", 4)),
    "normalized": (
        (7, 4),
        layer("LayerNormalization"),
        layer("UnitNormalization"),
        layer("GroupNormalization", 2),
    ),
    "einsum": ((7, 4), layer("EinsumDense", "abc,cd->abd", (None, 6), bias_axes="d")),
    "resized": (IMAGE, layer("Resizing", 6, 6), layer("CenterCrop", 4, 4)),
    "scaled": (
        (4,),
        layer("Normalization", mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 2.0, 3.0, 4.0]),
    ),
    "moved": ((12,), layer("Reshape", (3, 4)), layer("Permute", (2, 1)), layer("Softmax")),
}


def chain(name):
    return lambda: sequential(*CHAINS[name])


def words():
    return sequential((9,), layer("Embedding", 20, 4), layer("Flatten"), dtype="int32")


def bidirectional():
    import keras

    lstm = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True))
    dense = keras.layers.TimeDistributed(keras.layers.Dense(3, activation="tanh"))
    return keras.Sequential([keras.Input((7, 4)), lstm, dense])


def wired():
    """Nested and shared models, a shared layer, dicts, several outputs."""
    import keras
    from keras import layers

    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a")], name="inner")
    i = keras.Input((4,))
    pair = keras.Model(i, [layers.Dense(3, name="q")(i), inner(i)], name="pair")
    a, b = keras.Input((4,), name="u"), keras.Input((4,), name="v")
    twice = layers.Dense(4, activation="silu", name="twice")
    p, q = pair(inner(twice(a)))
    r, s = pair(twice(b))
    outputs = {"one": layers.Concatenate()([p, r]), "two": layers.Subtract()([q, s])}
    return keras.Model({"u": a, "v": b}, outputs)


def mobilenet():
    import keras

    model = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None)
    for norm in (x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)):
        norm.moving_variance.assign(norm.moving_variance * 0.05)  # else the signal dies away
    return model


def adapted():
    """What its first layer computes with is made of its weights."""
    import keras

    first = keras.layers.Normalization()
    first.adapt(np.random.default_rng(0).normal(5, 20, (64, 3)))
    return keras.Sequential([keras.Input((3,)), first, keras.layers.Dense(2)])


BUILDERS = {
    "adapted": adapted,
    **{name: chain(name) for name in CHAINS},
    "words": words,
    "bidirectional": bidirectional,
    "wired": wired,
    "mobilenet": mobilenet,
}


@pytest.fixture(scope="module")
def worker():
    toolchain = Toolchain(kind="tfmot")
    yield toolchain
    toolchain.close()


@pytest.fixture
def carry(worker, tmp_path):
    """Describe a model and have it built and checked in the other Keras."""
    from edgekit.toolchain import synthetic, translation
    from edgekit.toolchain.model import of_keras

    def run(model, **changed):
        feed = synthetic.feed(of_keras(model), 4, 0)
        weights = {**translation.weights_of(model), **changed}
        outputs = translation.outputs_of(model, feed)
        assert all(np.ptp(value) > 0 for value in outputs.values())
        worker.call(
            "build",
            described=translation.describe(model),
            weights=save_arrays(weights, tmp_path / "weights"),
            inputs=save_arrays(feed, tmp_path / "inputs"),
            outputs=save_arrays(outputs, tmp_path / "outputs"),
            timeout=120,
        )

    return run


@pytest.mark.parametrize("name", BUILDERS)
def test_the_other_keras_computes_the_same(carry, name):
    import keras

    keras.utils.set_random_seed(1)
    carry(BUILDERS[name]())


def test_a_model_that_computes_something_else_is_refused(carry):
    with pytest.raises(ConversionError, match="tf_keras computes something else"):
        carry(chain("grouped")(), **{"odd/0": np.ones((3, 3, 1, 6), np.float32)})


def operation():
    import keras

    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Dense(2)(x * 2))


def attention():
    import keras

    x = keras.Input((7, 8))
    return keras.Model(x, keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x))


def activation():
    return sequential((4,), layer("Activation", "hard_silu", name="hard"))


def own_layer():
    import keras

    class Double(keras.layers.Layer):
        def call(self, x):
            return x * 2

    return keras.Sequential([keras.Input((4,)), Double(name="double")])


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (operation, "'multiply' is an operation"),
        (attention, "tf_keras does not take the layer 'attention'"),
        (activation, "tf_keras does not take the layer 'hard'"),
        (own_layer, "'double' is a layer of the user's"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(carry, build, reason):
    with pytest.raises(ConversionError, match=reason):
        carry(build())


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")  # Keras
def test_layers_that_behave_otherwise_in_training_still_do(tmp_path):
    """A loaded model has training=False written down, and tf_keras would obey."""
    import keras

    from edgekit.toolchain import translation

    x = keras.Input((4,))
    y = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(x))
    keras.Model(x, y).save(tmp_path / "m.keras")
    told = translation.describe(keras.models.load_model(tmp_path / "m.keras"))
    assert [call["kwargs"] for call in told["calls"]] == [{"dict": {}}, {"dict": {}}]


def test_weights_of_other_layers_are_refused():
    from edgekit.toolchain import translation

    model = sequential((4,), layer("Dense", 3, name="a"))
    other = sequential((4,), layer("Dense", 3, name="b"))
    with pytest.raises(ConversionError, match="differ in the weight 'a/0'"):
        translation.set_weights(model, translation.weights_of(other))
    wider = sequential((4,), layer("Dense", 5, name="a"))
    with pytest.raises(ConversionError, match="differ in the shape of 'a/0'"):
        translation.set_weights(model, translation.weights_of(wider))

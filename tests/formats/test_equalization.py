"""Even ranges of channels: which layers can share them, and that the function stays the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

from edgekit.toolchain.channels import channel_groups
from edgekit.toolchain.equalization import equalized
from edgekit.toolchain.layer_graph import layer_graph
from edgekit.toolchain.model import of_keras

FAMILIES = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf-keras"])


def mlp(k):
    layers = k.layers
    dense = [layers.Dense(16, "relu", name="a"), layers.Dense(12, name="b"), layers.LeakyReLU()]
    return k.Sequential([k.Input((8,), name="x"), *dense, layers.Dense(3, "softmax", name="y")])


def convolutions(k):
    layers = k.layers
    stack = [
        layers.Conv2D(8, 3, use_bias=False, name="fused"),
        layers.BatchNormalization(name="a"),
        layers.ReLU(),
        layers.ZeroPadding2D(1),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="b"),
        layers.PReLU(),
        layers.SeparableConv2D(6, 3, padding="same", activation="relu", name="c"),
        layers.MaxPooling2D(2),
        layers.Conv2DTranspose(6, 3, strides=2, activation="relu", name="d"),
        layers.UpSampling2D(2),
        layers.Dropout(0.5),
        layers.Conv2D(4, 3, name="read_by_groups"),
        layers.Conv2D(4, 3, groups=2, activation="relu", name="e"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(3, name="y"),
    ]
    return k.Sequential([k.Input((12, 12, 2), name="x"), *stack])


def mobile(k):
    """Expand, depthwise, project, add: the tensors along the additions are one group."""
    layers = k.layers

    def normalized(x, name):
        return layers.BatchNormalization(name=name)(x)

    image = k.Input((8, 8, 3), name="image")
    x = normalized(layers.Conv2D(6, 3, padding="same")(image), "stem")
    for i in "12":
        y = layers.ReLU()(normalized(layers.Conv2D(18, 1)(x), f"expand{i}"))
        y = layers.DepthwiseConv2D(3, padding="same")(y)
        y = layers.ReLU()(normalized(y, f"depthwise{i}"))
        x = layers.Add()([x, normalized(layers.Conv2D(6, 1)(y), f"project{i}")])
    x = layers.GlobalAveragePooling2D()(x)
    return k.Model(image, layers.Dense(4, name="y")(x))


def two_inputs(k):
    """An embedding, a nested model, two takers of one tensor, outputs in the middle."""
    layers = k.layers
    inner = k.Sequential(
        [k.Input((6,)), layers.Dense(8, "relu", name="wide"), layers.Dense(4, name="thin")],
        name="inner",
    )
    zebra, ant = k.Input((6,), name="zebra"), k.Input((5,), dtype="int32", name="ant")
    x = layers.Conv1D(8, 3, activation="relu", name="a")(layers.Embedding(9, 6, name="e")(ant))
    x = layers.LayerNormalization(name="n")(layers.GlobalMaxPooling1D()(x))
    joined = layers.Concatenate()([layers.Dense(3, name="p")(x), layers.Dense(4, name="q")(x)])
    thin = inner(zebra)
    both = layers.Dense(2, name="last")(layers.Concatenate()([joined, thin]))
    return k.Model([zebra, ant], [both, thin])


NAMES = {
    mlp: ["a", "b"],
    convolutions: ["a", "b", "c", "d", "e"],
    mobile: ["stem", "project1", "project2", "expand1", "depthwise1", "expand2", "depthwise2"],
    two_inputs: ["inner/wide", "e", "n"],
}


def settled(model):
    """Biases and statistics unlike the zeros and ones that hide mistakes."""
    random = np.random.default_rng(2)
    for variable in model.variables:
        name = variable.name.rpartition("/")[2].partition(":")[0]
        if name in ("bias", "beta", "moving_mean", "alpha"):
            variable.assign(random.normal(0, 0.2, variable.shape))
        if name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def built(build, k=keras):
    k.utils.set_random_seed(1)
    return settled(build(k))


def make_uneven(model, largest=1000.0):
    """Spread the channels of every group by 1 to `largest`, so that there is something to do."""
    found, graph, rows = of_keras(model), layer_graph(model), rows_of(model, 2)
    numbers = zip(graph.inputs, found.inputs, strict=True)
    values = {n: keras.ops.convert_to_tensor(rows[spec.name]) for n, spec in numbers}
    for call in graph.calls:
        values.update(zip(call.outputs, call.compute(values), strict=True))
    random = np.random.default_rng(6)
    for group in channel_groups(graph, {n: tuple(v.shape) for n, v in values.items()}):
        group.rescale(largest ** random.permutation(np.linspace(0, -1, group.period)))


def rows_of(model, count=24):
    random = np.random.default_rng(3)
    return {
        s.name: (
            random.integers(0, 9, (count, *s.shape[1:]))
            if s.dtype == "int32"
            else random.standard_normal((count, *s.shape[1:]))
        ).astype(s.dtype)
        for s in of_keras(model).inputs
    }


def opened(model, rows):
    return equalized(of_keras(model), layer_graph(model), rows)


def outputs(model, rows):
    return {name: np.asarray(value) for name, value in of_keras(model).call(rows).items()}


def weights(model):
    return [np.array(w) for w in model.get_weights()]


def same_bits(model, before):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@FAMILIES
@pytest.mark.parametrize("build", NAMES)
def test_the_model_computes_the_same_with_other_weights(build, k):
    model = built(build, k)
    rows, unseen = rows_of(model), rows_of(model, 40)
    wanted = outputs(model, unseen)
    make_uneven(model)
    before = weights(model)
    with opened(model, rows) as names:
        assert names
        assert set(names) <= set(NAMES[build])
        assert not same_bits(model, before)
        for name, found in outputs(model, unseen).items():
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(found, wanted[name], rtol=0, atol=1e-5 * scale)
    assert same_bits(model, before)


@FAMILIES
def test_weights_come_back_after_an_error(k):
    model = built(convolutions, k)
    make_uneven(model)
    before = weights(model)
    seen = []

    def convert():
        seen.append(same_bits(model, before))
        raise RuntimeError("the converter failed")

    with pytest.raises(RuntimeError, match="converter"), opened(model, rows_of(model)):
        convert()
    assert seen == [False]
    assert same_bits(model, before)


def test_the_order_of_the_rows_and_a_fixed_batch_do_not_matter():
    model = built(mlp)
    make_uneven(model)
    rows = rows_of(model, 10)
    with opened(model, rows):
        wanted = weights(model)
    assert not same_bits(model, wanted)
    with opened(model, {"x": rows["x"][::-1]}):
        assert same_bits(model, wanted)
    fixed = keras.models.clone_model(model, input_tensors=keras.Input(batch_shape=(4, 8), name="x"))
    fixed.set_weights(model.get_weights())
    with opened(fixed, rows):
        for found, value in zip(weights(fixed), wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-5)


class Doubled(keras.layers.Dense):
    """The user's own: nobody knows what it does with its kernel."""

    def call(self, inputs):
        return keras.ops.tanh(super().call(inputs))


def behind_a_dense(layer):
    """A model that gives what `layer` makes of a Dense to another Dense."""

    def build():
        x = keras.Input((4, 4, 6), name="x")
        h = layer(keras.layers.Dense(6)(x))
        return keras.Model(x, keras.layers.Dense(2)(h))

    return build


def called_twice():
    x = keras.Input((6,), name="x")
    hidden, last = keras.layers.Dense(6), keras.layers.Dense(2)
    return keras.Model(x, last(hidden(hidden(x))))


def given_out():
    x = keras.Input((6,), name="x")
    h = keras.layers.Dense(6)(x)
    return keras.Model(x, [h, keras.layers.Dense(2)(h)])


def pairwise(merge):
    def build():
        x = keras.Input((6,), name="x")
        h = merge(keras.layers.Dense(6)(x), keras.layers.Dense(6)(x))
        return keras.Model(x, keras.layers.Dense(2)(h))

    return build


UNCERTAIN = {
    "relu6": behind_a_dense(keras.layers.ReLU(6.0)),
    "threshold": behind_a_dense(keras.layers.ReLU(threshold=0.5)),
    "tanh": behind_a_dense(keras.layers.Activation("tanh")),
    "constant": behind_a_dense(lambda x: x + 1.0),
    "grouped": behind_a_dense(
        lambda x: keras.layers.Activation("tanh")(keras.layers.Conv2D(6, 1, groups=2)(x))
    ),
    "normalized": behind_a_dense(keras.layers.BatchNormalization(scale=False)),
    "transposed": behind_a_dense(keras.layers.Permute((3, 1, 2))),
    "of the user": behind_a_dense(Doubled(6)),
    "product": pairwise(lambda a, b: a * b),
    "concatenated": pairwise(lambda a, b: keras.layers.Concatenate()([a, b])),
    "called twice": called_twice,
    "given out": given_out,
}


def names_where_uneven(build):
    """The names, of a model whose small channels have the large weights."""
    keras.utils.set_random_seed(1)
    model = settled(build())
    *_, last = (layer for layer in model.layers if layer.name.startswith("dense"))
    factors = np.logspace(0, 3, 6)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense) and layer is not last:
            layer.kernel.assign(layer.kernel * factors)
            layer.bias.assign(layer.bias * factors)
    rows = np.resize(1 / factors, last.kernel.shape[0])
    last.kernel.assign(last.kernel * rows[:, np.newaxis])
    before = weights(model)
    with opened(model, rows_of(model)) as names:
        assert same_bits(model, before) == (not names)
        return names


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_what_is_not_certain_is_left_alone(kind):
    assert names_where_uneven(UNCERTAIN[kind]) == []


CERTAIN = {
    "relu": behind_a_dense(keras.layers.ReLU(negative_slope=0.1)),
    "maximum": pairwise(lambda a, b: keras.layers.Maximum()([a, b])),
    "sum": pairwise(lambda a, b: a + b),
    "relu of a difference": pairwise(lambda a, b: keras.ops.relu(a - b)),
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_what_is_certain_is_evened_out(kind):
    assert names_where_uneven(CERTAIN[kind])


def test_what_is_even_is_left_alone():
    for build in NAMES:
        model = built(build)
        before = weights(model)
        with opened(model, rows_of(model)) as names:
            assert names == [], build.__name__
            assert same_bits(model, before)


def test_nothing_is_changed_where_the_function_would_be():
    """One layer reads the kernel of another, and Keras does not know."""
    model = built(mlp)
    make_uneven(model)
    secret = model.get_layer("a").kernel
    x = keras.Input((8,), name="x")

    class Reading(keras.layers.Layer):
        def call(self, inputs):
            return inputs * keras.ops.sum(secret)

    reading = keras.Model(x, Reading()(model(x)))
    before = weights(model)
    with opened(reading, rows_of(reading)) as names:
        assert names == []
        assert same_bits(model, before)

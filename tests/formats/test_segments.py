"""Which operators of a file compute which Keras layer."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tf_keras

from edgekit.errors import ConversionError
from edgekit.formats import describe
from edgekit.toolchain import layers as keras_layers
from edgekit.toolchain import onnx, onnx_quantize, tflite, tflite_quantize
from edgekit.toolchain.calibration import calibrate
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.layer_graph import layer_graph
from edgekit.toolchain.matching import match
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.operators import open_onnx, open_tflite
from edgekit.toolchain.segments import kept, segments


def float_file(model, form, tmp_path):
    found = of_keras(model)
    keras_layers.keep_no_state(found.layers)
    if form == "onnx":
        path = tmp_path / "float.onnx"
        return open_onnx(path, onnx.convert(trace(found, None), path))
    with keras_layers.unrolled(found.layers):
        return open_tflite(*tflite.floats(trace(found, 1)))


def feed_of(signature, rows=32):
    random = np.random.default_rng(0)
    return {
        s.name: random.integers(0, 9, (rows, *s.shape[1:])).astype(s.dtype)
        if s.dtype.startswith("int")
        else random.standard_normal((rows, *s.shape[1:])).astype(s.dtype)
        for s in signature.inputs
    }


def segments_of(model, form, tmp_path):
    graph, file = layer_graph(model), float_file(model, form, tmp_path)
    return segments(graph, file, match(graph, file, feed_of(file.signature))), file


def nested(k):
    inner = k.Sequential(
        [k.Input((6,)), k.layers.Dense(8, "relu", name="wide"), k.layers.Dense(4, name="thin")],
        name="inner",
    )
    x = k.Input((6,))
    skip = k.layers.Dense(4, name="skip")(x)
    block = k.Model(x, k.layers.Add(name="sum")([inner(x), skip]), name="block")
    x, y = k.Input((6,), name="x"), k.Input((6,), name="y")
    joined = k.layers.Concatenate(name="join")([block(x), inner(y)])
    return k.Model([x, y], k.layers.Dense(2, name="out")(joined))


def shared(k):
    a, b = k.Input((5,), name="a"), k.Input((5,), name="b")
    tower = k.layers.Dense(7, "tanh", name="tower")
    difference = k.layers.Subtract(name="difference")([tower(a), tower(b)])
    return k.Model([a, b], k.layers.Dense(3, name="out")(difference))


def recurrent(k):
    return k.Sequential(
        [
            k.Input((5, 4), name="steps"),
            k.layers.Bidirectional(k.layers.LSTM(6, return_sequences=True), name="both"),
            k.layers.GRU(5, name="gru"),
            k.layers.Dense(3, name="out"),
        ]
    )


def masked(k):
    tokens = k.Input((6,), dtype="int32", name="tokens")
    x = k.layers.Embedding(30, 8, mask_zero=True, name="embedding")(tokens)
    return k.Model(tokens, k.layers.Dense(3, name="out")(k.layers.LSTM(7, name="lstm")(x)))


def transformer(k):
    tokens = k.Input((12,), dtype="int32", name="tokens")
    x = k.layers.Embedding(50, 16, name="embedding")(tokens)
    y = k.layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = k.layers.LayerNormalization(name="first_norm")(k.layers.Add(name="first_sum")([x, y]))
    y = k.layers.Dense(16, name="down")(k.layers.Dense(32, "relu", name="up")(x))
    x = k.layers.LayerNormalization(name="second_norm")(k.layers.Add(name="second_sum")([x, y]))
    x = k.layers.GlobalAveragePooling1D(name="pool")(x)
    return k.Model(tokens, k.layers.Dense(4, "softmax", name="out")(x))


def images(k):
    image = k.Input((12, 12, 4), name="image")
    x = k.layers.SeparableConv2D(8, 3, activation="relu", name="separable")(image)
    x = k.layers.MaxPooling2D(name="max")(k.layers.ZeroPadding2D(name="pad")(x))
    x = k.layers.Conv2DTranspose(6, 3, strides=2, name="up")(x)
    gate = k.layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = k.layers.Conv2D(6, 1, activation="sigmoid", name="gate")(gate)
    x = k.layers.Multiply(name="gated")([x, gate])
    x = k.layers.PReLU(shared_axes=[1, 2], name="prelu")(k.layers.UpSampling2D(name="twice")(x))
    x = k.layers.Conv2D(5, 3, activation="swish", name="conv")(x)
    x = k.layers.Flatten(name="flat")(k.layers.AveragePooling2D(2, name="average")(x))
    score = k.layers.Dense(3, activation="sigmoid", name="score")(x)
    return k.Model(image, [score, k.layers.Dense(2, name="box")(x)])


def signals(k):
    return k.Sequential(
        [
            k.Input((16, 3), name="signal"),
            k.layers.Conv1D(8, 3, activation="relu", name="near"),
            k.layers.MaxPooling1D(name="max"),
            k.layers.Conv1D(6, 3, dilation_rate=2, padding="causal", name="far"),
            k.layers.TimeDistributed(k.layers.Dense(4), name="each"),
            k.layers.Permute((2, 1), name="turn"),
            k.layers.GlobalMaxPooling1D(name="best"),
            k.layers.Dense(2, name="out"),
        ]
    )


MODELS = (nested, shared, recurrent, masked, transformer, images, signals)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("family", [keras, tf_keras], ids=["keras", "tf-keras"])
@pytest.mark.parametrize("build", MODELS)
def test_every_layer_is_found_by_its_values(build, family, form, tmp_path):
    family.backend.clear_session()  # layers are numbered from the start
    family.utils.set_random_seed(1)
    model = build(family)
    found, file = segments_of(model, form, tmp_path)
    names = [name for segment in found for name in segment.layers]
    assert names == [call.name for call in layer_graph(model).calls]
    fused = {"+".join(s.layers).replace("_1", "") for s in found if len(s.layers) > 1}
    # Keras 3's own operation that makes a mask; two transpositions that ONNX makes one of.
    assert fused <= {"not_equal+lstm", "each+turn"}
    assert all(segment.operators for segment in found)
    claimed = [operator for segment in found for operator in segment.operators]
    assert len(set(claimed)) == len(claimed)
    # What is left over belongs to no layer: the shape of a loop's first state, the mask.
    assert len(claimed) >= 0.8 * len(file.operators)


def test_what_the_file_computes_as_one_is_one_segment(cnn, tmp_path):
    found, _ = segments_of(cnn, "tflite", tmp_path)
    kinds = [tuple(type(call.layer).__name__ for call in s.calls) for s in found]
    assert kinds == [
        ("Conv2D", "BatchNormalization", "ReLU"),
        ("DepthwiseConv2D", "BatchNormalization", "ReLU"),
        ("GlobalAveragePooling2D",),
        ("Dense",),
    ]
    assert [len(s.operators) for s in found] == [1, 1, 1, 2]
    assert [s.inputs for s in found[1:]] == [s.outputs for s in found[:-1]]


def test_channels_first_in_onnx_are_found(cnn, tmp_path):
    found, file = segments_of(cnn, "onnx", tmp_path)
    conv = found[0]
    assert [type(call.layer).__name__ for call in conv.calls] == ["Conv2D", "BatchNormalization"]
    assert file.producers[conv.outputs[0]].kind == "Conv"
    assert sum(len(s.layers) for s in found) == len(cnn.layers)


def test_names_of_nested_layers_and_calls_of_a_shared_one(tmp_path):
    found, _ = segments_of(nested(keras), "tflite", tmp_path)
    names = [s.layers for s in found]
    assert {("block/inner/wide",), ("block/sum",), ("inner/wide",), ("out",)} < set(names)
    assert kept(found, ["inner"]) == kept(found, ["inner/*"]) != []
    found, _ = segments_of(shared(keras), "tflite", tmp_path)
    first, second = (s for s in found if s.layers == ("tower",))
    assert not set(first.operators) & set(second.operators)
    assert set(kept(found, ["tower"])) == {*first.operators, *second.operators}


def test_the_layer_behind_a_mask_is_computed_with_it(tmp_path):
    """The mask is no tensor of the graph of layers; Keras hands it on beside the values."""
    model = masked(keras)
    tokens = np.array([[3, 4, 0, 0, 0, 0], [5, 6, 7, 8, 1, 2]], np.int32)
    graph, file = layer_graph(model), float_file(model, "tflite", tmp_path)
    found = match(graph, file, {"tokens": np.repeat(tokens, 8, axis=0)})
    assert set(graph.outputs) <= set(found)
    [lstm] = [c for c in graph.calls if c.name == "lstm"]
    assert found[lstm.outputs[0]].distance == 0


def test_kept_takes_the_layers_that_a_pattern_names(cnn, tmp_path):
    found, _ = segments_of(cnn, "tflite", tmp_path)
    conv, depthwise, _, dense = found
    assert kept(found, ["first"]) == list(conv.operators)
    # One of the layers that are computed as one keeps them all.
    assert kept(found, ["re_lu*"]) == [*conv.operators, *depthwise.operators]
    assert kept(found, ["kind", "first"]) == [*conv.operators, *dense.operators]
    with pytest.raises(ConversionError, match="no layer of the model matches 'frist'") as error:
        kept(found, ["kind", "frist"])
    assert "first" in error.value.hint


@pytest.mark.parametrize("rows", [3, 10])
def test_a_fixed_batch(cnn, rows):
    file = open_tflite(*tflite.floats(trace(of_keras(cnn), 4)))
    graph, feed = layer_graph(cnn), feed_of(file.signature, rows)
    found = segments(graph, file, match(graph, file, feed))
    assert [len(s.layers) for s in found] == [3, 3, 1, 1]


@functools.cache
def stages():
    keras.utils.set_random_seed(3)
    dense = [keras.layers.Dense(32, "relu", name=f"stage_{i}") for i in range(4)]
    return keras.Sequential([keras.Input((16,), name="x"), *dense], name="stages")


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_layers_that_are_kept_compute_in_float(form, tmp_path):
    model = stages()
    graph, file = layer_graph(model), float_file(model, form, tmp_path)
    feed = feed_of(file.signature)
    operators = kept(segments(graph, file, match(graph, file, feed)), ["stage_2"])
    paths = []
    for keep in ((), operators):
        path = tmp_path / f"{len(keep)}.{form}"
        paths.append(path)
        if form == "onnx":
            source = onnx_quantize.FloatFile(tmp_path / "float.onnx", file.signature, feed)
            onnx_quantize.quantize(source, path, "int8", keep=keep)
        else:
            content, signature = tflite.floats(trace(of_keras(model), 1))
            ranges = calibrate(file.taps, feed)
            path.write_bytes(
                tflite_quantize.quantize(content, signature, ranges, precision="int8", keep=keep)
            )
    assert describe(paths[0]).float_tensors == ()
    assert describe(paths[1]).float_tensors != ()
    assert paths[1].stat().st_size > paths[0].stat().st_size + 16 * 32


def test_models_without_a_graph_of_layers_are_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    for model, name in ((Own(name="mine"), r"'mine' \(Own\)"), (None, "a SavedModel")):
        with pytest.raises(ConversionError, match=f"{name} has no graph of layers"):
            layer_graph(model)

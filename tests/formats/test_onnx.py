import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from keras import layers

from edgekit.errors import ConversionError, SourceError
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.onnx import convert
from edgekit.toolchain.onnx_int8 import float_layers, quantize


def mlp():
    x = keras.Input((64,), name="features")
    h = layers.Dense(128, "relu")(x)
    return keras.Model(x, layers.Dense(10, "softmax", name="classes")(h))


def cnn():
    x = keras.Input((16, 16, 3), name="image")
    h = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    h = r = layers.ReLU(6.0)(layers.BatchNormalization()(h))
    h = layers.DepthwiseConv2D(3, padding="same")(h)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.Conv2D(32, 1, activation="swish")(h)
    h = layers.MaxPooling2D()(layers.Add()([h, r]))
    h = layers.Conv2D(128, 3, activation="relu")(h)
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(x, layers.Dense(10, name="logits")(h))


def two_inputs_two_outputs():
    zeta, alpha = keras.Input((3,), name="zeta"), keras.Input((4,), name="alpha")
    h = layers.Dense(8, "relu")(layers.Concatenate()([zeta, alpha]))
    return keras.Model(
        [zeta, alpha], [layers.Dense(2, name="second")(h), layers.Dense(3, name="first")(h)]
    )


def dict_with_equal_names():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    h = layers.Concatenate()([left, right])
    return keras.Model(
        {"right": right, "left": left}, {"left": layers.Dense(3)(h), "sum": layers.Dense(2)(h)}
    )


def embedding():
    x = keras.Input((7,), dtype="int32", name="tokens")
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Embedding(50, 8)(x))))


def layer_normalization():
    x = keras.Input((6, 5), name="x")
    return keras.Model(x, layers.Dense(3)(layers.LayerNormalization()(x)))


def exact_gelu():
    x = keras.Input((6,), name="x")
    h = layers.Dense(8)(x)
    return keras.Model(x, layers.Dense(3)(keras.activations.gelu(h, approximate=False)))


def adapted_normalization():
    scale = layers.Normalization()
    scale.adapt(np.random.default_rng(0).normal(3, 2, (100, 4)).astype("float32"))
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2)(scale(x)))


def grouped_convolution():
    x = keras.Input((8, 8, 4), name="x")
    h = layers.BatchNormalization()(layers.Conv2D(8, 3, groups=2)(x))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(h)))


def lstm():
    x = keras.Input((5, 4), name="x")
    return keras.Model(x, layers.Dense(3)(layers.LSTM(6)(x)))


def gru():
    x = keras.Input((5, 4), name="x")
    return keras.Model(x, layers.Dense(3)(layers.GRU(6)(x)))


def attention():
    x = keras.Input((6, 8), name="x")
    h = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(x, layers.Dense(4)(h))


def free_height_and_width():
    x = keras.Input((None, None, 3), name="x")
    return keras.Model(x, layers.Conv2D(4, 3, strides=2, name="y")(x))


MODELS = {
    build.__name__: build
    for build in (
        mlp,
        cnn,
        two_inputs_two_outputs,
        dict_with_equal_names,
        embedding,
        layer_normalization,
        exact_gelu,
        adapted_normalization,
        grouped_convolution,
        lstm,
        gru,
        attention,
        free_height_and_width,
    )
}


def build_model(name):
    """A model whose biases and statistics are not the zeros and ones that hide mistakes."""
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def rows_for(signature, rows, seed=3):
    rng = np.random.default_rng(seed)
    feed = {}
    for spec in signature.inputs:
        shape = [rows, *(9 if size is None else size for size in spec.shape[1:])]
        values = rng.integers(0, 50, shape) if spec.dtype == "int32" else rng.normal(size=shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


def run(path, signature, feed):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = session.run(
        [spec.native for spec in signature.outputs],
        {spec.native: feed[spec.name] for spec in signature.inputs},
    )
    return {spec.name: value for spec, value in zip(signature.outputs, values, strict=True)}


def reference(model, feed):
    outputs = model(feed if len(feed) > 1 else next(iter(feed.values())), training=False)
    if isinstance(outputs, dict):
        return {name: np.asarray(value) for name, value in outputs.items()}
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return {n: np.asarray(v) for n, v in zip(model.output_names, outputs, strict=True)}


def nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """By model name: the Keras model, its fp32 file and signature; each made once."""
    folder, made = tmp_path_factory.mktemp("fp32"), {}

    def get(name):
        if name not in made:
            model = build_model(name)
            path = folder / f"{name}.onnx"
            made[name] = model, path, convert(trace(model, None), path)
        return made[name]

    return get


@pytest.fixture(scope="module")
def quantized(converted, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("int8"), {}

    def get(name):
        if name not in made:
            _, fp32, signature = converted(name)
            path = folder / f"{name}.onnx"
            made[name] = path, quantize(fp32, path, signature, rows_for(signature, 64))
        return made[name]

    return get


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_fp32_equals_keras(converted, name, rows):
    model, path, signature = converted(name)
    feed = rows_for(signature, rows)
    got, expected = run(path, signature, feed), reference(model, feed)
    assert got.keys() == expected.keys()
    for output, value in expected.items():
        assert got[output].shape == value.shape
        assert np.abs(got[output] - value).max() <= 1e-5 * np.abs(value).max()


def described(values):
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
        for v in values
        for dims in [v.type.tensor_type.shape.dim]
    ]


def test_inputs_and_outputs_have_keras_names_order_shapes_and_dtypes(converted):
    _, path, signature = converted("two_inputs_two_outputs")
    graph, f32 = onnx.load(path).graph, onnx.TensorProto.FLOAT
    assert described(graph.input) == [("zeta", f32, ["batch", 3]), ("alpha", f32, ["batch", 4])]
    assert described(graph.output) == [("second", f32, ["batch", 2]), ("first", f32, ["batch", 3])]
    assert [s.name for s in signature.inputs] == ["zeta", "alpha"]
    assert [(s.name, s.native, s.shape) for s in signature.outputs] == [
        ("second", "second", (None, 2)),
        ("first", "first", (None, 3)),
    ]


def test_other_free_dimensions_have_stable_names(converted):
    _, path, _ = converted("free_height_and_width")
    graph, f32 = onnx.load(path).graph, onnx.TensorProto.FLOAT
    assert described(graph.input) == [("x", f32, ["batch", "x_1", "x_2", 3])]
    assert described(graph.output) == [("y", f32, ["batch", "y_1", "y_2", 4])]


def test_integer_input_keeps_its_dtype(converted):
    _, path, _ = converted("embedding")
    (value,) = described(onnx.load(path).graph.input)
    assert value == ("tokens", onnx.TensorProto.INT32, ["batch", 7])


def test_output_named_like_an_input_gets_another_native_name(converted):
    _, _, signature = converted("dict_with_equal_names")
    assert [(s.name, s.native) for s in signature.outputs] == [("left", "left:out"), ("sum", "sum")]


def test_fixed_batch_is_a_fixed_dimension(tmp_path):
    path = tmp_path / "one.onnx"
    signature = convert(trace(build_model("mlp"), 1), path)
    assert described(onnx.load(path).graph.input)[0][2] == [1, 64]
    assert signature.inputs[0].shape == (1, 64)


@pytest.mark.parametrize("opset", [13, 18])
def test_opset_is_the_one_asked_for(converted, tmp_path, opset):
    model, _, _ = converted("cnn")
    signature = convert(trace(model, None), tmp_path / "a.onnx", opset=opset)
    quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", signature, rows_for(signature, 4))
    feed = rows_for(signature, 3)
    for name, cosine in (("a.onnx", 0.99999), ("b.onnx", 0.98)):
        path = tmp_path / name
        assert [(o.domain, o.version) for o in onnx.load(path).opset_import] == [("", opset)]
        got, expected = run(path, signature, feed)["logits"], reference(model, feed)["logits"]
        similar = (got * expected).sum() / np.linalg.norm(got) / np.linalg.norm(expected)
        assert similar > cosine


@pytest.mark.parametrize("opset", [12, 19])
def test_unknown_opset_is_refused(converted, tmp_path, opset):
    with pytest.raises(ConversionError, match=f"opset {opset}") as raised:
        convert(trace(converted("mlp")[0], None), tmp_path / "a.onnx", opset=opset)
    assert "13 to 18" in raised.value.hint


def test_batch_norm_is_folded_and_pooling_is_one_node(converted):
    assert nodes(converted("cnn")[1]).count("GlobalAveragePool") == 1
    assert not {"BatchNormalization", "ReduceMean"} & set(nodes(converted("cnn")[1]))
    found = nodes(converted("grouped_convolution")[1])
    assert found.count("Conv") == 1
    assert "Mul" not in found


def test_grouped_convolution_is_one_convolution_with_groups(converted):
    graph = onnx.load(converted("grouped_convolution")[1]).graph
    (conv,) = [node for node in graph.node if node.op_type == "Conv"]
    assert next(a.i for a in conv.attribute if a.name == "group") == 2


def test_file_holds_nothing_of_the_process_that_made_it(converted):
    model = onnx.load(converted("cnn")[1])
    assert (model.producer_name, model.doc_string, model.graph.doc_string) == ("edgekit", "", "")
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert not any("__" in name for node in model.graph.node for name in (node.name, *node.output))


@pytest.mark.parametrize("name", ["cnn", "lstm", "gru", "attention"])
def test_same_model_twice_gives_same_bytes(converted, tmp_path, name):
    model, path, _ = converted(name)
    convert(trace(model, None), tmp_path / "again.onnx")
    assert digest(tmp_path / "again.onnx") == digest(path)


IN_ANOTHER_PROCESS = """
import sys, keras, numpy as np
from pathlib import Path
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.onnx import convert
from edgekit.toolchain.onnx_int8 import quantize
keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])  # moves Keras' name counters
for file in map(Path, sys.argv[1:]):
    fp32 = file.with_suffix(".other.onnx")
    signature = convert(trace(keras.models.load_model(file), None), fp32)
    rows = np.load(file.with_suffix(".npy"))
    quantize(fp32, file.with_suffix(".other8.onnx"), signature, {signature.inputs[0].name: rows})
"""


# Keras saves variables by numpy's old protocol.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
def test_another_process_with_another_hash_seed_gives_same_bytes(tmp_path):
    files = []
    for name in ("cnn", "gru"):
        file = tmp_path / f"{name}.keras"
        build_model(name).save(file)
        fp32 = file.with_suffix(".onnx")
        signature = convert(trace(keras.models.load_model(file), None), fp32)
        rows = rows_for(signature, 8)
        np.save(file.with_suffix(".npy"), rows[signature.inputs[0].name])
        quantize(fp32, file.with_suffix(".8.onnx"), signature, rows)
        files.append(file)
    seed = "7" if os.environ.get("PYTHONHASHSEED") != "7" else "8"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *files],
        env=environment,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    for file in files:
        assert digest(file.with_suffix(".other.onnx")) == digest(file.with_suffix(".onnx"))
        assert digest(file.with_suffix(".other8.onnx")) == digest(file.with_suffix(".8.onnx"))


def test_unsupported_operation_is_named(tmp_path):
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Discretization([0.0, 1.0], name="bins")(x))
    with pytest.raises(ConversionError, match=r"Bucketize.*bins") as raised:
        convert(trace(model, None), tmp_path / "x.onnx")
    assert "tflite" in raised.value.hint
    assert not (tmp_path / "x.onnx").exists()


def test_more_than_two_gib_is_refused_before_anything_is_frozen(tmp_path):
    model = trace(build_model("mlp"), None)
    holder = tf.Module()
    holder.variables_ = [tf.TensorSpec([30_000, 20_000], tf.float32)]  # stands for 2.2 GiB
    with pytest.raises(ConversionError, match=r"2\.2 GiB"):
        convert(dataclasses.replace(model, holder=holder), tmp_path / "x.onnx")


def test_conversion_prints_nothing(tmp_path, capfd):
    model = trace(build_model("exact_gelu"), None)
    capfd.readouterr()
    convert(model, tmp_path / "x.onnx")
    assert "tf2onnx" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["mlp", "cnn", "two_inputs_two_outputs", "embedding", "attention"])
def test_int8_is_close_and_int8_throughout(converted, quantized, name):
    _, fp32, signature = converted(name)
    path, same = quantized(name)
    assert same == signature
    feed = rows_for(signature, 32, seed=4)
    got, expected = run(path, signature, feed), run(fp32, signature, feed)
    for output, value in expected.items():
        assert got[output].dtype == np.float32
        a, b = got[output].ravel(), value.ravel()
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.99
    assert float_layers(path) == []
    assert len(float_layers(fp32)) >= 1


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_int8_file_is_small(converted, quantized, name):
    fp32, int8 = converted(name)[1].stat().st_size, quantized(name)[0].stat().st_size
    assert int8 < 0.45 * fp32


def test_int8_keeps_names_order_and_shapes(converted, quantized):
    fp32 = onnx.load(converted("two_inputs_two_outputs")[1]).graph
    int8 = onnx.load(quantized("two_inputs_two_outputs")[0]).graph
    assert described(int8.input) == described(fp32.input)
    assert described(int8.output) == described(fp32.output)


def test_float_layers_are_named_after_their_keras_layers(converted):
    names = float_layers(converted("cnn")[1])
    assert [name.rpartition("/")[2].partition("_")[0] for name in names] == [
        *["Conv"] * 4,
        "MatMul",
    ]
    assert "logits" in names[-1]


def test_order_of_calibration_rows_does_not_matter(converted, tmp_path):
    _, fp32, signature = converted("cnn")
    rows = rows_for(signature, 24)
    order = np.random.default_rng(5).permutation(24)
    quantize(fp32, tmp_path / "a.onnx", signature, rows)
    quantize(fp32, tmp_path / "b.onnx", signature, {k: v[order] for k, v in rows.items()})
    assert digest(tmp_path / "a.onnx") == digest(tmp_path / "b.onnx")


def test_every_calibration_row_counts(converted, tmp_path):
    _, fp32, signature = converted("cnn")
    rows = rows_for(signature, 8)
    quantize(fp32, tmp_path / "a.onnx", signature, rows)
    rows["image"][-1] *= 5
    quantize(fp32, tmp_path / "b.onnx", signature, rows)
    assert digest(tmp_path / "a.onnx") != digest(tmp_path / "b.onnx")


def test_fixed_batch_can_be_calibrated(tmp_path):
    model = build_model("mlp")
    signature = convert(trace(model, 4), tmp_path / "a.onnx")
    quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", signature, rows_for(signature, 6))
    feed = rows_for(signature, 4, seed=6)
    got = run(tmp_path / "b.onnx", signature, feed)["classes"]
    np.testing.assert_allclose(got, reference(model, feed)["classes"], atol=0.05)


def changed(name, change):
    def apply(rows):
        return {**rows, name: change(rows[name])}

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed("alpha", lambda a: np.where(a > 1, np.nan, a)), "'alpha' holds NaN"),
        (changed("zeta", lambda a: np.where(a > 1, np.inf, a)), "'zeta' holds NaN or infinity"),
        (changed("zeta", lambda a: a[:, :2]), r"'zeta' has shape \(9, 2\)"),
        (changed("zeta", lambda a: a[:0]), r"'zeta' has shape \(0, 3\)"),
        (changed("zeta", lambda a: a[:4]), "different numbers of rows: 'zeta' has 4, 'alpha'"),
        (lambda rows: {"zeta": rows["zeta"]}, "no array for the input 'alpha'"),
    ],
)
def test_unusable_calibration_data_is_refused(converted, tmp_path, spoil, message):
    _, fp32, signature = converted("two_inputs_two_outputs")
    with pytest.raises(SourceError, match=message):
        quantize(fp32, tmp_path / "x.onnx", signature, spoil(rows_for(signature, 9)))
    assert not (tmp_path / "x.onnx").exists()


def test_nothing_to_quantize_is_an_error(tmp_path):
    x = keras.Input((4, 4, 2), name="x")
    model = keras.Model(x, layers.MaxPooling2D()(x))
    signature = convert(trace(model, None), tmp_path / "a.onnx")
    with pytest.raises(ConversionError, match="no convolution, dense layer or embedding"):
        quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", signature, rows_for(signature, 3))

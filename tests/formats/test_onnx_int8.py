import keras
import numpy as np
import onnx
import pytest
from keras import layers

from edgekit.errors import ConversionError
from edgekit.formats import describe
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.onnx import convert
from edgekit.toolchain.onnx_int8 import quantize
from tests.formats.onnx_models import build_model, described, digest, reference, rows_for, run


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
    assert describe(path).float_tensors == ()
    assert describe(fp32).float_tensors


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_int8_file_is_small(converted, quantized, name):
    fp32, int8 = converted(name)[1].stat().st_size, quantized(name)[0].stat().st_size
    assert int8 < 0.45 * fp32


def test_int8_keeps_names_order_and_shapes(converted, quantized):
    fp32 = onnx.load(converted("two_inputs_two_outputs")[1]).graph
    int8 = onnx.load(quantized("two_inputs_two_outputs")[0]).graph
    assert described(int8.input) == described(fp32.input)
    assert described(int8.output) == described(fp32.output)


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
    signature = convert(trace(of_keras(model), 4), tmp_path / "a.onnx")
    quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", signature, rows_for(signature, 6))
    feed = rows_for(signature, 4, seed=6)
    got = run(tmp_path / "b.onnx", signature, feed)["classes"]
    np.testing.assert_allclose(got, reference(model, feed)["classes"], atol=0.05)


def test_nothing_to_quantize_is_an_error(tmp_path):
    x = keras.Input((4, 4, 2), name="x")
    model = keras.Model(x, layers.MaxPooling2D()(x))
    signature = convert(trace(of_keras(model), None), tmp_path / "a.onnx")
    with pytest.raises(ConversionError, match="no convolution, dense layer or embedding"):
        quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", signature, rows_for(signature, 3))


def test_zero_points_stay_where_a_kernel_needs_them(quantized):
    graph = onnx.load(quantized("cnn")[0]).graph
    readers = {name: node.op_type for node in graph.node for name in node.input}
    stored = {t.name: t.data_type for t in graph.initializer}
    of_weights = [
        (readers[node.output[0]], stored[node.input[0]] == onnx.TensorProto.INT32, len(node.input))
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]
    assert {n for op, is_bias, n in of_weights if op == "Conv" or is_bias} == {2}
    assert {n for op, is_bias, n in of_weights if op in ("Gemm", "MatMul") and not is_bias} == {3}

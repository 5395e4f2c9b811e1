import json
import subprocess
import sys

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import encode
from edgekit.errors import ConversionError
from edgekit.formats import describe
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.onnx import convert
from edgekit.toolchain.onnx_quantize import FloatFile, quantize
from edgekit.toolchain.quantizer import Session
from edgekit.toolchain.taps import OnnxTaps
from edgekit.types import Quantization
from tests.formats.onnx_models import (
    build_model,
    described,
    digest,
    reference,
    rows_for,
    run,
    snr_db,
)

QUANTIZED = [
    "mlp", "cnn", "two_inputs_two_outputs", "embedding", "attention", "grouped_convolution",
    "layer_normalization", "masks",
]  # fmt: skip


@pytest.fixture(scope="module")
def source(converted):
    made = {}

    def get(name):
        if name not in made:
            _, fp32, signature = converted(name)
            made[name] = FloatFile(fp32, signature, rows_for(signature, 64))
        return made[name]

    return get


@pytest.fixture(scope="module")
def quantized(source, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("quantized"), {}

    def get(name, precision="int8"):
        if (name, precision) not in made:
            path = made[name, precision] = folder / f"{name}-{precision}.onnx"
            quantize(source(name), path, precision)
        return made[name, precision]

    return get


@pytest.fixture(scope="module")
def quality(converted):
    """How near a file of a model comes to the float file, in dB."""

    def get(name, path):
        _, fp32, signature = converted(name)
        feed = rows_for(signature, 64, seed=4)
        got = run(path, signature, feed)
        assert all(value.dtype == np.float32 for value in got.values())
        return snr_db(got, run(fp32, signature, feed))

    return get


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_close_and_integer_throughout(converted, quantized, quality, name, precision):
    path = quantized(name, precision)
    assert quality(name, path) > 17
    assert describe(path).float_tensors == ()
    assert describe(converted(name)[1]).float_tensors


def test_activations_of_16_bits_hold_a_wide_range(tmp_path):
    """One feature is 1,000 times larger than the others, and its weights smaller."""
    model = build_model("mlp")
    kernel = model.layers[1].kernel
    kernel.assign(kernel * np.where(np.arange(64)[:, None] == 5, 1e-3, 1.0))
    signature = convert(trace(of_keras(model), None), tmp_path / "fp32.onnx")

    def rows(count, seed):
        found = rows_for(signature, count, seed)
        found["features"][:, 5] *= 1000
        return found

    source = FloatFile(tmp_path / "fp32.onnx", signature, rows(64, 1))
    feed = rows(64, 2)
    expected = run(tmp_path / "fp32.onnx", signature, feed)
    reached = []
    for precision in ("int8", "int16x8"):
        quantize(source, tmp_path / f"{precision}.onnx", precision)
        reached.append(snr_db(run(tmp_path / f"{precision}.onnx", signature, feed), expected))
    assert reached[1] > reached[0] + 15
    graph = onnx.load(tmp_path / "int16x8.onnx").graph
    types = {t.name: t.data_type for t in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {types[node.input[2]] for node in pairs} == {onnx.TensorProto.UINT16}


class Rows(CalibrationDataReader):
    def __init__(self, rows, signature):
        count = len(rows[signature.inputs[0].name])
        self.feeds = (
            {s.native: rows[s.name][i : i + 1] for s in signature.inputs} for i in range(count)
        )

    def get_next(self):
        return next(self.feeds, None)


@pytest.mark.parametrize("name", QUANTIZED)
def test_never_worse_than_the_quantizer_of_onnxruntime(
    converted, quantized, quality, tmp_path, name
):
    _, fp32, signature = converted(name)
    official = tmp_path / "official.onnx"
    rows = Rows(rows_for(signature, 64), signature)
    quantize_static(str(fp32), str(official), rows, per_channel=True)
    assert quality(name, quantized(name)) >= quality(name, official)
    assert quantized(name).stat().st_size < official.stat().st_size


@pytest.mark.parametrize(("name", "share"), [("mlp", 0.32), ("cnn", 0.29)])
def test_file_is_small(converted, quantized, name, share):
    fp32, int8 = converted(name)[1].stat().st_size, quantized(name).stat().st_size
    assert int8 < share * fp32


def test_names_order_and_shapes_stay(converted, quantized):
    fp32 = onnx.load(converted("two_inputs_two_outputs")[1]).graph
    int8 = onnx.load(quantized("two_inputs_two_outputs")).graph
    assert described(int8.input) == described(fp32.input)
    assert described(int8.output) == described(fp32.output)


def test_tensors_that_are_left_have_their_float_names_and_values(converted, quantized):
    _, fp32, signature = converted("cnn")
    feed = rows_for(signature, 1, seed=6)
    floats = OnnxTaps(fp32, signature).run(feed)
    integers = OnnxTaps(quantized("cnn"), signature).run(feed)
    common = [n for n in floats if n in integers and floats[n].dtype == np.float32]
    assert len(common) >= 10
    for name in common:
        error = np.abs(integers[name] - floats[name]).mean()
        assert error < 0.05 * np.abs(floats[name]).max(), name


@pytest.mark.parametrize(
    "how",
    [
        Quantization(),
        Quantization(calibration="percentile", percentile=99.0),
        Quantization(calibration="entropy"),
    ],
    ids=["minmax", "percentile", "entropy"],
)
def test_order_of_calibration_rows_does_not_matter(converted, tmp_path, how):
    _, fp32, signature = converted("cnn")
    rows = rows_for(signature, 40)
    order = np.random.default_rng(5).permutation(40)
    shuffled = {name: values[order] for name, values in rows.items()}
    quantize(FloatFile(fp32, signature, rows), tmp_path / "a.onnx", "int8", how)
    quantize(FloatFile(fp32, signature, shuffled), tmp_path / "b.onnx", "int8", how)
    assert digest(tmp_path / "a.onnx") == digest(tmp_path / "b.onnx")


def test_each_calibration_gives_another_file(source, tmp_path):
    for method in ("minmax", "percentile", "entropy"):
        how = Quantization(calibration=method, percentile=99.0)
        quantize(source("cnn"), tmp_path / f"{method}.onnx", "int8", how)
    assert len({digest(path) for path in tmp_path.iterdir()}) == 3


def test_every_calibration_row_counts(converted, tmp_path):
    _, fp32, signature = converted("cnn")
    rows = rows_for(signature, 8)
    quantize(FloatFile(fp32, signature, rows), tmp_path / "a.onnx", "int8")
    rows["image"][-1] *= 5
    quantize(FloatFile(fp32, signature, rows), tmp_path / "b.onnx", "int8")
    assert digest(tmp_path / "a.onnx") != digest(tmp_path / "b.onnx")


def test_fixed_batch_can_be_calibrated(tmp_path):
    model = build_model("mlp")
    signature = convert(trace(of_keras(model), 4), tmp_path / "a.onnx")
    source = FloatFile(tmp_path / "a.onnx", signature, rows_for(signature, 6))
    quantize(source, tmp_path / "b.onnx", "int8")
    feed = rows_for(signature, 4, seed=6)
    got = run(tmp_path / "b.onnx", signature, feed)["classes"]
    np.testing.assert_allclose(got, reference(model, feed)["classes"], atol=0.05)


def test_nothing_to_quantize_is_an_error(tmp_path):
    x = keras.Input((4, 4, 2), name="x")
    model = keras.Model(x, layers.MaxPooling2D()(x))
    signature = convert(trace(of_keras(model), None), tmp_path / "a.onnx")
    source = FloatFile(tmp_path / "a.onnx", signature, rows_for(signature, 3))
    with pytest.raises(ConversionError, match="no convolution, dense layer or embedding"):
        quantize(source, tmp_path / "b.onnx", "int8")


def test_without_rows_is_an_error(converted, tmp_path):
    _, fp32, signature = converted("mlp")
    with pytest.raises(ConversionError, match="no rows"):
        quantize(FloatFile(fp32, signature), tmp_path / "a.onnx", "int8")


def constants_of(graph, op_types, i):
    """Stored types and numbers of scales of what the nodes read as input `i`."""
    stored = {t.name: t for t in graph.initializer}
    given = {name: node for node in graph.node for name in node.output}
    found = set()
    for node in graph.node:
        if node.op_type in op_types:
            source = given[node.input[i]]
            dims = stored[source.input[1]].dims
            found.add(
                (stored[source.input[0]].data_type, dims[0] if dims else 1, len(source.input))
            )
    return found


def test_weights_per_channel_and_zero_points_where_a_kernel_needs_them(quantized):
    graph = onnx.load(quantized("cnn")).graph
    int8, int32 = onnx.TensorProto.INT8, onnx.TensorProto.INT32
    assert constants_of(graph, ("Conv",), 1) == {(int8, 32, 2), (int8, 128, 2)}
    assert constants_of(graph, ("Conv",), 2) == {(int32, 32, 2), (int32, 128, 2)}
    assert constants_of(graph, ("Gemm",), 1) == {(int8, 10, 3)}


def output_of(path, op_type, place):
    return [n for n in onnx.load(path).graph.node if n.op_type == op_type][place].output[0]


@pytest.mark.parametrize(
    ("name", "op_type", "place"),
    [("cnn", "Conv", 0), ("cnn", "MatMul", 0), ("cnn", "Conv", 3), ("mlp", "MatMul", 0)],
)
def test_kept_nodes_stay_float(converted, source, quantized, tmp_path, name, op_type, place):
    fp32 = converted(name)[1]
    kept = output_of(fp32, op_type, place)  # of a MatMul, a tensor that is folded into a Gemm
    quantize(source(name), tmp_path / "a.onnx", "int8", keep=[kept])
    found, other = describe(tmp_path / "a.onnx"), describe(quantized(name))
    assert len(found.float_tensors) == 1
    assert "float16" in {g.dtype for g in found.groups if g.role == "weights"}
    assert "float16" not in {g.dtype for g in other.groups if g.role == "weights"}


def test_keeping_what_hurts_helps(source, quality, tmp_path):
    """Weights of which a few are far larger than the others in their channel."""
    x = keras.Input((16,), name="x")
    h = layers.Dense(32, "relu", name="wide")(x)
    model = keras.Model(x, layers.Dense(8, name="y")(h))
    kernel = model.get_layer("wide").kernel
    kernel.assign(kernel * np.where(np.arange(16)[:, None] == 3, 300.0, 1.0))
    signature = convert(trace(of_keras(model), None), tmp_path / "fp32.onnx")

    def rows(count, seed):
        found = rows_for(signature, count, seed)
        found["x"][:, 3] /= 300
        return found

    source = FloatFile(tmp_path / "fp32.onnx", signature, rows(64, 1))
    wide = output_of(tmp_path / "fp32.onnx", "MatMul", 0)
    quantize(source, tmp_path / "a.onnx", "int8")
    quantize(source, tmp_path / "b.onnx", "int8", keep=[wide])
    feed = rows(64, 2)
    expected = run(tmp_path / "fp32.onnx", signature, feed)
    before, after = (
        snr_db(run(tmp_path / f, signature, feed), expected) for f in ("a.onnx", "b.onnx")
    )
    assert after > before + 15


def test_keeping_an_unknown_tensor_is_an_error(source, tmp_path):
    with pytest.raises(ConversionError, match="'nowhere:0'"):
        quantize(source("mlp"), tmp_path / "a.onnx", "int8", keep=["nowhere:0"])


def test_bias_that_int32_could_not_hold(tmp_path):
    """A channel with next to no weights, and a bias: in units of its scale it would overflow."""
    x = keras.Input((8, 8, 3), name="x")
    layer = layers.Conv2D(4, 3, name="y")
    model = keras.Model(x, layer(x))
    kernel = np.asarray(layer.kernel).copy()
    kernel[..., 0] = 0
    kernel[..., 1] *= 1e-12
    layer.kernel.assign(kernel)
    layer.bias.assign([50.0, -50.0, 0.0, 1.0])
    signature = convert(trace(of_keras(model), None), tmp_path / "a.onnx")
    source = FloatFile(tmp_path / "a.onnx", signature, rows_for(signature, 16))
    quantize(source, tmp_path / "b.onnx", "int8")
    got = run(tmp_path / "b.onnx", signature, rows_for(signature, 4))["y"]
    np.testing.assert_allclose(got[..., 0], 50.0, atol=0.3)
    np.testing.assert_allclose(got[..., 1], -50.0, atol=0.3)


def test_token_without_a_row_is_not_cut_off(converted, quantized, tmp_path):
    """The range of what is gathered is that of the table."""
    _, fp32, signature = converted("embedding")
    rows = {"tokens": np.zeros((8, 7), np.int32)}
    quantize(FloatFile(fp32, signature, rows), tmp_path / "a.onnx", "int8")
    feed = {"tokens": np.random.default_rng(1).integers(0, 50, (64, 7)).astype(np.int32)}
    assert snr_db(run(tmp_path / "a.onnx", signature, feed), run(fp32, signature, feed)) > 25


def test_worker_makes_all_precisions_and_warns_of_narrow_ranges(converted, tmp_path):
    _, fp32, signature = converted("cnn")
    rows = rows_for(signature, 16)
    wide = {name: values * 4 for name, values in rows.items()}
    session = Session()
    for precision in ("fp16", "dynamic", "int8", "int16x8"):
        answer = session.quantize(
            fp32=str(fp32),
            path=str(tmp_path / f"{precision}.onnx"),
            signature=encode(signature),
            precision=precision,
            quantization=encode(Quantization()),
            keep=[],
            calibration=save_arrays(rows, tmp_path / "rows") if "int" in precision else None,
            unseen=save_arrays(wide, tmp_path / "wide") if "int" in precision else None,
            progress=print,
        )
        json.dumps(answer)
        assert answer["signature"] == encode(signature)
        assert bool(answer["warnings"]) == ("int" in precision)
        assert run(tmp_path / f"{precision}.onnx", signature, rows)["logits"].shape == (16, 10)


def test_worker_calibrates_again_when_the_rows_change(converted, tmp_path):
    _, fp32, signature = converted("mlp")
    session = Session()
    for i, rows in enumerate((rows_for(signature, 8, seed=1), rows_for(signature, 9, seed=2))):
        session.quantize(
            fp32=str(fp32),
            path=str(tmp_path / f"{i}.onnx"),
            signature=encode(signature),
            precision="int8",
            quantization=encode(Quantization()),
            keep=[],
            calibration=save_arrays(rows, tmp_path / "rows"),
            unseen=None,
            progress=print,
        )
    assert digest(tmp_path / "0.onnx") != digest(tmp_path / "1.onnx")


def test_needs_no_tensorflow():
    code = "import sys, edgekit.toolchain.quantizer; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

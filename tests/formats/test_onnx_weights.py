"""float16 and dynamic ONNX files: what is stored, what is computed, what is refused."""

import numpy as np
import onnx
import pytest

from edgekit.errors import ConversionError
from edgekit.formats import describe
from edgekit.toolchain import onnx_dynamic, onnx_fp16
from edgekit.toolchain.onnx_weights import fits_half
from tests.formats.onnx_models import MODELS, described, digest, nodes, rows_for, run, snr_db

CONVERT = {"fp16": onnx_fp16.convert, "dynamic": onnx_dynamic.convert}
TINY = {"adapted_normalization", "equal_outputs", "layer_normalization"}
REFUSED = {
    "fp16": TINY,
    "dynamic": TINY
    | {"dict_with_equal_names", "exact_gelu", "lowered_images", "lowered_rows"}
    | {"two_inputs_two_outputs"},
}
"""Models of which no weight is large enough."""

LEAST_DB = {"fp16": 40, "dynamic": 18}


@pytest.mark.parametrize("precision", CONVERT)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_smaller_and_close_or_refused(converted, tmp_path, name, precision):
    _, fp32, signature = converted(name)
    path = tmp_path / "a.onnx"
    if name in REFUSED[precision]:
        with pytest.raises(ConversionError, match="no weights of a size"):
            CONVERT[precision](fp32, path)
        assert not path.exists()
        return
    CONVERT[precision](fp32, path)
    assert path.stat().st_size < fp32.stat().st_size
    feed = rows_for(signature, 16, seed=4)
    got, expected = run(path, signature, feed), run(fp32, signature, feed)
    assert all(value.dtype == expected[n].dtype for n, value in got.items())
    assert all(np.isfinite(value).all() for value in got.values())
    if not name.startswith("lowered"):
        assert snr_db(got, expected) > LEAST_DB[precision]


@pytest.mark.parametrize("precision", CONVERT)
def test_names_and_bytes_are_stable(converted, tmp_path, precision):
    _, fp32, _ = converted("masks")
    for file in ("a.onnx", "b.onnx"):
        CONVERT[precision](fp32, tmp_path / file)
    assert digest(tmp_path / "a.onnx") == digest(tmp_path / "b.onnx")
    before, after = onnx.load(fp32).graph, onnx.load(tmp_path / "a.onnx").graph
    assert described(after.input) == described(before.input)
    assert described(after.output) == described(before.output)


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.53), ("dynamic", 0.29)])
def test_file_is_small_and_says_what_is_stored(converted, tmp_path, precision, share):
    _, fp32, _ = converted("cnn")
    CONVERT[precision](fp32, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_size < share * fp32.stat().st_size
    found, before = describe(tmp_path / "a.onnx"), describe(fp32)
    stored = {g.dtype for g in found.groups if g.role == "weights"}
    assert {"fp16": "float16", "dynamic": "int8"}[precision] in stored
    assert found.parameters == before.parameters


def test_float16_leaves_alone_what_it_cannot_hold(converted, tmp_path):
    _, fp32, _ = converted("masks")
    onnx_fp16.convert(fp32, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert any(v.ndim == 2 and v.dtype == np.float32 and v.min() == -1e9 for v in values.values())
    assert all(np.isfinite(v).all() for v in values.values())
    assert any(v.dtype == np.float16 for v in values.values())


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ([65504.0, 1e-9], True),
        ([65520.0, 1.0], False),
        ([-1e9, 0.0], False),
        ([0.0, 0.0], True),
        ([1e-5, 1e-6], False),
    ],
)
def test_what_float16_can_hold(values, fits):
    assert fits_half(np.array(values, np.float32)) is fits


def test_dynamic_computes_in_integers_where_that_is_faster(converted, tmp_path):
    onnx_dynamic.convert(converted("masks")[1], tmp_path / "a.onnx")
    found = nodes(tmp_path / "a.onnx")
    assert found.count("MatMulInteger") == 1  # 256 x 256; 96 x 256 is too small
    assert found.count("DynamicQuantizeLinear") == 1
    scales = {t.name: t.channels for t in describe(tmp_path / "a.onnx").quantization.tensors}
    assert sorted(scales.values())[-2:] == [256, 256]


def test_dynamic_never_quantizes_a_convolution_at_run_time(converted, tmp_path):
    onnx_dynamic.convert(converted("cnn")[1], tmp_path / "a.onnx")
    found = nodes(tmp_path / "a.onnx")
    assert found.count("Conv") == 4
    assert not {"ConvInteger", "DequantizeLinear"} & set(found)


@pytest.mark.parametrize("precision", CONVERT)
def test_kept_nodes_have_float_weights(converted, tmp_path, precision):
    _, fp32, _ = converted("mlp")
    first = next(n for n in onnx.load(fp32).graph.node if n.op_type == "MatMul")
    CONVERT[precision](fp32, tmp_path / "a.onnx", [first.output[0]])
    stored = {tuple(t.dims): t.data_type for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert stored[64, 128] == onnx.TensorProto.FLOAT
    assert stored[128, 10] != onnx.TensorProto.FLOAT


@pytest.mark.parametrize("precision", CONVERT)
def test_recurrent_weights_inside_loops_are_stored_narrow(converted, tmp_path, precision):
    _, fp32, _ = converted("gru")
    CONVERT[precision](fp32, tmp_path / "a.onnx")
    stored = {
        g.dtype: g.tensors for g in describe(tmp_path / "a.onnx").groups if g.role == "weights"
    }
    assert stored[{"fp16": "float16", "dynamic": "int8"}[precision]] >= 2

"""What edgekit.formats reads from TFLite files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.errors import SourceError
from edgekit.formats import describe
from edgekit.types import TensorSpec
from tests.model_files import DATA, group

TFLITE = ("fp32", "fp16", "dynamic", "int8", "int8_io", "int16x8", "lstm")


@pytest.mark.parametrize("name", TFLITE)
def test_tflite_is_float_inside_unless_fully_quantized(name: str) -> None:
    floats = describe(DATA / f"{name}.tflite").float_tensors
    assert (floats == ()) == (name in ("int8", "int8_io", "int16x8"))


def test_tflite_fp32() -> None:
    found = describe(DATA / "fp32.tflite")
    image = TensorSpec("image", "image", (None, 8, 8, 1), "float32")
    assert found.format == "tflite"
    assert found.signature.inputs == (image,)
    assert found.signature.outputs == (TensorSpec("probs", "probs", (None, 4), "float32"),)
    assert found.size_bytes == (DATA / "fp32.tflite").stat().st_size
    assert found.ops["CONV_2D"] == found.ops["FULLY_CONNECTED"] == 1
    assert found.parameters == 8 * 9 + 8 + 288 * 4
    assert group(found, "weights", "float32") == (2, 72 + 1152, 4 * (72 + 1152))
    assert group(found, "biases", "float32") == (1, 8, 32)
    assert found.quantization.tensors == ()
    assert found.sparsity.share == pytest.approx(576 / 1224)
    assert [(t.elements, t.share) for t in found.sparsity.tensors] == [(1152, 0.5), (72, 0.0)]
    assert found.producer is not None
    assert found.producer.startswith("TensorFlow 2.")
    assert found.metadata["min_runtime_version"]
    assert "cnn_1/conv_1/convolution" in found.float_tensors


def test_tflite_fp16_bias_is_found_behind_its_dequantize() -> None:
    found = describe(DATA / "fp16.tflite")
    assert group(found, "weights", "float16") == (2, 1224, 2448)
    assert group(found, "biases", "float16") == (1, 8, 16)


def test_tflite_int8() -> None:
    found = describe(DATA / "int8.tflite")
    assert group(found, "weights", "int8") == (2, 1224, 1224)
    assert group(found, "biases", "int32") == (1, 8, 32)
    assert (found.quantization.per_channel, found.quantization.per_tensor) == (3, 5)
    dense = next(t for t in found.quantization.tensors if t.channels == 4)
    assert (dense.role, dense.zero_point_min, dense.zero_point_max) == ("weights", 0, 0)
    assert 0 < dense.scale_min < dense.scale_max < 0.01
    assert found.signature.inputs[0].scale is None
    # A few small weights round to 0 beside the 576 pruned ones.
    assert found.sparsity.share == pytest.approx(576 / 1224, abs=0.01)


def test_tflite_quantized_inputs_have_scale_and_zero_point() -> None:
    signature = describe(DATA / "int8_io.tflite").signature
    assert signature.inputs[0].dtype == "int8"
    assert signature.inputs[0].scale == pytest.approx(1 / 255, rel=0.01)
    assert signature.outputs[0].scale == 1 / 256
    assert signature.outputs[0].zero_point == -128


def test_tflite_subgraphs_and_shared_constants() -> None:
    found = describe(DATA / "lstm.tflite")
    assert found.subgraphs == 3
    assert found.ops["WHILE"] == 1
    # Kernels 2x8 and 2x8, bias 8, and one buffer of two zeros under two names.
    assert found.parameters == 16 + 16 + 8 + 2


def edited(name: str, into: Path, edit: Callable[[Any], None]) -> Path:
    """A fixture with its flatbuffers object changed by `edit`."""
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf((DATA / f"{name}.tflite").read_bytes())
    edit(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    into.write_bytes(builder.Output())
    return into


def operator(model: Any, builtin: int) -> tuple[Any, Any]:
    """The first operator of that kind and its code."""
    graph = model.subgraphs[0]
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        if code.builtinCode == builtin:
            return op, code
    raise AssertionError(builtin)


@pytest.mark.parametrize(
    ("becomes", "is_float"),
    [("SOFTMAX", True), ("TANH", True), ("ELU", False), ("NEG", False), ("CAST", False)],
)
def test_tflite_one_float_operator_is_found(tmp_path: Path, becomes: str, is_float: bool) -> None:
    def edit(model: Any) -> None:
        op, code = operator(model, schema.BuiltinOperator.SOFTMAX)
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, becomes)
        for index in (*op.inputs, *op.outputs):
            model.subgraphs[0].tensors[index].type = schema.TensorType.FLOAT32
            model.subgraphs[0].tensors[index].quantization = None

    found = describe(edited("int8", tmp_path / "x.tflite", edit))
    expected = ("cnn_1/probs_1/MatMul2", "StatefulPartitionedCall:01")
    # FULLY_CONNECTED writes the first of the two.
    assert found.float_tensors == (expected if is_float else expected[:1])


def test_tflite_flex_and_custom_operators(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        for builtin, name in (("SOFTMAX", b"FlexErf"), ("CONV_2D", b"MyConv")):
            _, code = operator(model, getattr(schema.BuiltinOperator, builtin))
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = name

    found = describe(edited("fp32", tmp_path / "x.tflite", edit))
    assert (found.custom_ops, found.flex_ops) == (("MyConv",), ("FlexErf",))
    assert found.ops["FlexErf"] == 1


def test_tflite_packed_weights(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        (dense,) = (t for t in model.subgraphs[0].tensors if list(t.shape) == [4, 288])
        dense.type, dense.shape = schema.TensorType.INT4, [4, 576]
        dense.quantization.zeroPoint = [-1]
        dense.quantization.scale = [0.5]
        data = np.zeros(1152, np.uint8)
        data[:3] = [0xFF, 0xF0, 0x0F]  # four elements of -1, which stands for 0.0
        model.buffers[dense.buffer].data = data

    found = describe(edited("int8", tmp_path / "x.tflite", edit))
    assert group(found, "weights", "int4") == (1, 2304, 1152)
    assert found.sparsity.tensors[0].share == pytest.approx(4 / 2304)


def test_tflite_without_signature_goes_by_tensor_name(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        model.signatureDefs = None

    found = describe(edited("fp32", tmp_path / "x.tflite", edit))
    assert found.signature.inputs[0].name == "serving_default_image:0"


def test_tflite_vector_longer_than_the_file(tmp_path: Path) -> None:
    data = bytearray((DATA / "fp32.tflite").read_bytes())
    model = schema.Model.GetRootAs(data)
    at = model._tab.Vector(model._tab.Offset(8)) - 4  # length of the vector of subgraphs
    data[at : at + 4] = (2**30).to_bytes(4, "little")
    path = tmp_path / "x.tflite"
    path.write_bytes(data)
    with pytest.raises(SourceError, match="overlap"):
        describe(path)

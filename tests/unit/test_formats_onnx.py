"""What edgekit.formats reads from ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.agent.protocol import encode
from edgekit.errors import SourceError
from edgekit.formats import describe
from edgekit.types import TensorSpec
from tests.model_files import FOUR, HALF, QUANTIZED, group, kernel, qdq, save_onnx, weight_dq


def test_onnx_fp32(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    constants = {"w": kernel(), "b": np.ones(2, np.float32), "axes": np.array([1], np.int64)}
    found = describe(save_onnx(tmp_path / "m.onnx", nodes, constants))
    assert found.signature.inputs == (TensorSpec("x", "x", (None, 3), "float32"),)
    assert found.ops == {"Gemm": 1}
    assert found.parameters == 8
    assert group(found, "weights", "float32") == (1, 6, 24)
    assert group(found, "biases", "float32") == (1, 2, 8)
    assert group(found, "other", "int64") == (1, 1, 8)
    assert found.float_tensors == ("w",)
    assert found.sparsity.share == pytest.approx(2 / 6)
    assert (found.producer, found.opsets) == ("test", {"ai.onnx": 17})


def test_onnx_int8(tmp_path: Path) -> None:
    nodes = [
        *qdq("x"),
        weight_dq(),
        helper.make_node("Transpose", ["w_dq"], ["w_t"]),
        helper.make_node("Gemm", ["x_dq", "w_t"], ["y"], transB=1),
    ]
    constants = {**QUANTIZED, "half": HALF, "four": FOUR}
    found = describe(save_onnx(tmp_path / "m.onnx", nodes, constants))
    assert found.float_tensors == ()
    assert group(found, "weights", "int8") == (1, 6, 6)
    (weights,) = found.quantization.tensors
    assert (weights.name, weights.channels, weights.scale_min, weights.scale_max) == (
        "w", 2, 0.25, 0.5,
    )  # fmt: skip
    assert found.sparsity.share == pytest.approx(2 / 6)
    assert found.parameters == 6


def test_onnx_integer_weights_with_float_data_are_float_inside(tmp_path: Path) -> None:
    nodes = [weight_dq(), helper.make_node("MatMul", ["x", "w_dq"], ["y"])]
    assert describe(save_onnx(tmp_path / "m.onnx", nodes, QUANTIZED)).float_tensors == ("x",)


def test_onnx_weights_of_a_loop_body_are_found(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner_w"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Identity", ["inner_w"], ["same_w"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("i", "going", "state")]
        + [helper.make_tensor_value_info("inner_w", TensorProto.FLOAT, None)],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in ("still", "next", "same_w")
        ],
    )
    nodes = [helper.make_node("Loop", ["n", "", "x", "w"], ["y", "w_out"], body=body)]
    constants = {"w": np.eye(3, dtype=np.float32), "n": np.array(2, np.int64)}
    found = describe(save_onnx(tmp_path / "m.onnx", nodes, constants))
    assert found.float_tensors == ("w",)
    assert found.ops == {"Loop": 1, "MatMul": 1, "Identity": 2}


def test_onnx_constant_nodes_hold_weights_and_attention_does_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(kernel())),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["x", "x"], ["z"]),
    ]
    found = describe(save_onnx(tmp_path / "m.onnx", nodes, {}))
    assert found.parameters == 6
    assert found.ops == {"MatMul": 2}
    assert found.float_tensors == ("w",)


def test_onnx_integer_input_has_its_scale(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "half", "four"], ["x_dq"]),
        helper.make_node("MatMul", ["x_dq", "w"], ["y"]),
    ]
    constants = {"w": kernel(), "half": HALF, "four": FOUR}
    path = save_onnx(tmp_path / "m.onnx", nodes, constants, x=TensorProto.UINT8)
    expected = TensorSpec("x", "x", (None, 3), "uint8", scale=0.5, zero_point=4)
    assert describe(path).signature.inputs == (expected,)


def test_onnx_custom_operators(tmp_path: Path) -> None:
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="acme")]
    path = save_onnx(tmp_path / "m.onnx", nodes, {}, opsets={"": 17, "acme": 1})
    assert describe(path).custom_ops == ("acme.Magic",)


def external(location: str) -> Any:
    tensor = numpy_helper.from_array(kernel(), "w")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def test_onnx_external_weights_are_measured_not_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(kernel().tobytes())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save_onnx(tmp_path / "m.onnx", nodes, {"w": external("w.bin")})
    found = describe(path)
    assert found.size_bytes == path.stat().st_size + 24
    assert found.parameters == 6
    assert found.sparsity.share is None


@pytest.mark.parametrize("location", ["missing.bin", "../w.bin", "/etc/passwd"])
def test_onnx_external_weights_must_be_beside_it(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(kernel().tobytes())
    (tmp_path / "sub").mkdir()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save_onnx(tmp_path / "sub" / "m.onnx", nodes, {"w": external(location)})
    with pytest.raises(SourceError, match="not beside it"):
        describe(path)


def test_onnx_data_of_another_size_than_its_shape(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(kernel(), "w")
    tensor.dims[0] = 2**40
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save_onnx(tmp_path / "m.onnx", nodes, {"w": tensor})
    with pytest.raises(SourceError, match="has 24 bytes where"):
        describe(path)


def test_onnx_name_that_is_not_text(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {})
    path.write_bytes(path.read_bytes().replace(b"Relu", b"R\xff\xfeu"))
    assert json.dumps(encode(describe(path)))

"""Small model files for the tests of edgekit.formats, and where the made ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgekit.formats.description import FileDescription

DATA = Path(__file__).parent / "data"


def group(description: FileDescription, role: str, dtype: str) -> tuple[int, int, int]:
    (found,) = (g for g in description.groups if (g.role, g.dtype) == (role, dtype))
    return found.tensors, found.elements, found.size_bytes


def save_onnx(path: Path, nodes: list[Any], constants: dict[str, Any], **model: Any) -> Path:
    values = {
        name: value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
        for name, value in constants.items()
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", model.pop("x", TensorProto.FLOAT), ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        list(values.values()),
    )
    opsets = [helper.make_opsetid(d, v) for d, v in model.pop("opsets", {"": 17}).items()]
    proto = helper.make_model(graph, producer_name="test", opset_imports=opsets, **model)
    path.write_bytes(proto.SerializeToString())
    return path


def kernel(dtype: str = "float32") -> Any:
    return np.array([[0, 1], [2, 0], [3, 4]], dtype)


SCALES = np.array([0.5, 0.25], np.float32)
HALF, FOUR = np.array(0.5, np.float32), np.array(4, np.uint8)


def qdq(name: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [name, "half", "four"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "half", "four"], [f"{name}_dq"]),
    ]


def weight_dq() -> Any:
    return helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["w_dq"], axis=1)


QUANTIZED = {"w": kernel("int8"), "scales": SCALES, "zeros": np.zeros(2, np.int8)}


def save_tfjs(folder: Path, weights: list[dict[str, Any]], data: bytes, **model: Any) -> Path:
    folder.mkdir()
    (folder / "a.bin").write_bytes(data[:5])
    (folder / "b.bin").write_bytes(data[5:])
    node = [
        {"name": "x", "op": "Placeholder", "attr": {
            "dtype": {"type": "DT_FLOAT"},
            "shape": {"shape": {"dim": [{"size": "-1"}, {"size": "3"}]}}}},
        {"name": "w", "op": "Const"},
        {"name": "b", "op": "Const"},
        {"name": "y", "op": "_FusedMatMul", "input": ["x", "w", "b"],
         "attr": {"T": {"type": "DT_FLOAT"}}},
    ]  # fmt: skip
    document = {
        "format": "graph-model",
        "convertedBy": "edgekit",
        "modelTopology": {"node": node},
        "weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": weights}],
        **model,
    }
    (folder / "model.json").write_text(json.dumps(document))
    return folder


FLOATS = [
    {"name": "w", "shape": [3, 2], "dtype": "float32"},
    {"name": "b", "shape": [2], "dtype": "float32"},
]
FLOAT_DATA = kernel().tobytes() + np.ones(2, np.float32).tobytes()

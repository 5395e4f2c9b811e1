"""Reads TensorFlow.js folders: model.json and the weight files that it names."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import SourceError
from edgekit.formats.description import (
    FileDescription,
    Role,
    Tensor,
    finite,
    groups_of,
    parameters_of,
    quantization_of,
    sparsity_of,
)
from edgekit.types import Signature, TensorSpec

STORED = {"float32", "float16", "int32", "uint8", "uint16", "bool", "complex64", "string"}
DTYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_BOOL": "bool", "DT_STRING": "string"}
NOT_OPERATORS = {"Const", "Placeholder", "NoOp"}
BIAS_OPERAND = {
    "BiasAdd": 1,
    "FusedConv2D": 2,
    "FusedMatMul": 2,
    "FusedDepthwiseConv2dNative": 2,
}


def read(path: Path) -> FileDescription:
    """Describe a TensorFlow.js graph model or layers model.

    Raises:
        SourceError: the JSON is no model, or a weight file is missing or has the wrong size.
    """
    file = path / "model.json" if path.is_dir() else path
    model = json.loads(file.read_text("utf-8"))
    if "modelTopology" not in model or "weightsManifest" not in model:
        raise SourceError(
            f"{file} is JSON, but not a TensorFlow.js model",
            hint="inspect the model.json that has the fields modelTopology and weightsManifest",
        )
    topology = model["modelTopology"]
    main = topology.get("node", [])
    functions = topology.get("library", {}).get("function", [])
    nodes = [*main, *(node for function in functions for node in function.get("nodeDef", []))]
    biases = {
        node["input"][BIAS_OPERAND[op]].partition(":")[0]
        for node in nodes
        if len(node.get("input", [])) > BIAS_OPERAND.get(op := node["op"].lstrip("_"), math.inf)
    }
    shards = [file.parent / name for group in model["weightsManifest"] for name in _paths(group)]
    tensors = [
        tensor
        for group in model["weightsManifest"]
        for tensor in _weights(file.parent, group, biases)
    ]
    if main:
        ops = Counter(node["op"] for node in nodes if node["op"] not in NOT_OPERATORS)
        signature = _signature(model, main)
    else:
        from edgekit.formats import keras

        config = topology.get("model_config", topology)
        ops, signature = keras.layers_of(config), keras.signature_of(config)
    return FileDescription(
        format="tfjs",
        path=str(path),
        size_bytes=file.stat().st_size + sum(s.stat().st_size for s in shards),
        signature=signature,
        ops=dict(ops.most_common()),
        parameters=parameters_of(tensors),
        groups=groups_of(tensors),
        quantization=quantization_of(tensors),
        sparsity=sparsity_of(tensors),
        float_tensors=tuple(t.name for t in tensors if t.role in ("weights", "biases")),
        producer=_text(model.get("convertedBy")) or _text(model.get("generatedBy")),
        version=_text(model.get("format")) or ("graph-model" if main else "layers-model"),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _paths(group: Any) -> list[str]:
    """Names of a group's weight files; a path that leaves the folder is refused."""
    for name in group["paths"]:
        if Path(name).name != name:
            raise ValueError(f"the weight file {name!r} is not in the model's folder")
    return list(group["paths"])


def _weights(folder: Path, group: Any, biases: set[str]) -> Iterator[Tensor]:
    missing = [name for name in _paths(group) if not (folder / name).is_file()]
    if missing:
        raise SourceError(
            f"the weight file {folder / missing[0]} is missing",
            hint="copy the whole folder: model.json together with its .bin files",
        )
    data = b"".join((folder / name).read_bytes() for name in _paths(group))
    offset = 0
    for spec in group["weights"]:
        tensor, size = _weight(spec, data, offset, spec["name"] in biases)
        offset += size
        yield tensor
    if offset != len(data):
        raise ValueError(f"its weight files hold {len(data)} bytes, its weights take {offset}")


def _weight(spec: Any, data: bytes, offset: int, is_bias: bool) -> tuple[Tensor, int]:
    name, shape = spec["name"], spec["shape"]
    affine = spec.get("quantization", {})
    dtype = affine.get("dtype", spec["dtype"])
    if dtype not in STORED or not all(isinstance(d, int) and d >= 0 for d in shape):
        raise ValueError(f"weight {name!r} is {dtype!r} of shape {shape}")
    elements = math.prod(shape)
    if dtype == "string":
        size = _string_bytes(data, offset, elements)
        return Tensor(name, "other", dtype, elements, size), size
    size = elements * np.dtype(dtype).itemsize
    if offset + size > len(data):
        raise ValueError(f"its weight files end before weight {name!r}")
    role: Role = "weights" if spec["dtype"] not in ("int32", "bool") and shape else "other"
    if role == "weights" and (is_bias or name.endswith("/bias")):
        role = "biases"
    scales, zero_points = _quantization(affine)
    zeros = None
    if role == "weights":
        values = np.frombuffer(data, dtype, elements, offset)
        zeros = int(np.count_nonzero(values == (zero_points[0] if zero_points else 0)))
    return Tensor(name, role, dtype, elements, size, zeros, scales, zero_points), size


def _quantization(affine: Any) -> tuple[list[float], list[int]]:
    """Scale and zero point of real = integer * scale + min; empty for float16."""
    if "scale" not in affine:
        return [], []
    scale, minimum = finite([affine["scale"], affine["min"]])
    return [scale], [round(-minimum / scale)] if scale else [0]


def _string_bytes(data: bytes, offset: int, elements: int) -> int:
    """Bytes of a string tensor: each element is a little-endian uint32 length and the text."""
    end = offset
    for _ in range(elements):
        if end + 4 > len(data):
            raise ValueError("its weight files end inside a string")
        end += 4 + int.from_bytes(data[end : end + 4], "little")
    return end - offset


def _signature(model: Any, nodes: Any) -> Signature:
    signature = model.get("signature") or model.get("userDefinedMetadata", {}).get("signature")
    if signature:
        return Signature(
            inputs=tuple(_spec(key, info) for key, info in signature["inputs"].items()),
            outputs=tuple(_spec(key, info) for key, info in signature["outputs"].items()),
        )
    used = {name.partition(":")[0].lstrip("^") for n in nodes for name in n.get("input", [])}
    return Signature(
        inputs=tuple(_node_spec(n) for n in nodes if n["op"] == "Placeholder"),
        outputs=tuple(_node_spec(n) for n in nodes if n["name"] not in used),
    )


def _spec(key: str, info: Any) -> TensorSpec:
    return TensorSpec(
        name=key,
        native=str(info.get("name", key)),
        shape=_shape(info.get("tensorShape", {})),
        dtype=_dtype(info.get("dtype")),
    )


def _node_spec(node: Any) -> TensorSpec:
    """From the node's attributes; only a Placeholder declares its shape."""
    attributes = node.get("attr", {})
    kind = attributes.get("dtype") or attributes.get("T") or {}
    return TensorSpec(
        name=node["name"],
        native=node["name"],
        shape=_shape(attributes.get("shape", {}).get("shape", {})),
        dtype=_dtype(kind.get("type")),
    )


def _dtype(declared: Any) -> str:
    return DTYPES.get(str(declared), str(declared or "unknown"))


def _shape(declared: Any) -> tuple[int | None, ...]:
    sizes = [int(d.get("size", -1)) for d in declared.get("dim", [])]
    return tuple(None if size < 0 else size for size in sizes)

"""The TensorFlow.js graph-model format, written without the tensorflowjs package.

A folder with model.json (the GraphDef as JSON, its signature, a table of weights) and the weights
as raw bytes in group1-shardXofY.bin. tfjs-core's io/types.ts describes the table, its
io/io_utils.ts how weights are read back.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict

from edgekit import __version__
from edgekit.errors import ConversionError
from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.graph import folded
from edgekit.toolchain.graph_edit import become, constants, node_of, users
from edgekit.toolchain.graph_weights import FrozenGraph
from edgekit.toolchain.tfjs_lowering import lower_for_tfjs
from edgekit.types import Signature, TensorSpec

OPERATIONS = Path(__file__).parents[1] / "agent" / "js" / "ops.json"
"""What the converter package of TensorFlow.js runs; the file says how it was made."""

_FUSED = {
    "Conv2D": "_FusedConv2D",
    "DepthwiseConv2dNative": "FusedDepthwiseConv2dNative",
    "MatMul": "_FusedMatMul",
}
_CALLING = {"If", "StatelessIf", "While", "StatelessWhile"}
_FUSED_ACTIVATIONS = ("Relu", "Relu6", "Elu", "LeakyRelu", "Sigmoid")
_DEPTHWISE = ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")


def convert(
    model: Canonical, precision: str, folder: Path, *, shard_bytes: int = 4 << 20
) -> Signature:
    """Write `model` into `folder` as a TensorFlow.js graph model.

    Args:
        model: The traced model.
        precision: "fp32", or how kernels and embeddings are stored: "fp16", "uint8". They become
            float32 again when the model is loaded, so this saves download size, not time.
        folder: Made where it is missing; model and shards already there are replaced.
        shard_bytes: Largest size of one weight file; browsers cache files of 4 MiB.

    Returns:
        The signature of the file: `native` names tensors of the graph ("x:0"); integers are int32
        and floating point numbers float32, the only ones that TensorFlow.js has.

    Raises:
        ConversionError: an operation, element type or weight that TensorFlow.js does not have.
    """
    if precision not in ("fp32", "fp16", "uint8"):
        raise ConversionError(
            f"TF.js cannot be written in precision {precision!r}", hint="use fp32, fp16 or uint8"
        )
    signature = Signature(
        inputs=tuple(_stored_spec(spec) for spec in model.signature.inputs),
        outputs=tuple(_stored_spec(spec) for spec in model.signature.outputs),
    )
    frozen = folded(model, lower_loops=True)
    graph = frozen.graph_def
    _keep_data_flow(graph)
    lower_for_tfjs(frozen)
    _fuse(graph, {node_of(spec.native) for spec in signature.outputs})
    _check_operations(
        graph, {node_of(spec.native) for spec in signature.inputs} | set(frozen.weights)
    )
    frozen.drop_unread()
    table, data = _take_out_weights(frozen, precision)
    _write(folder, graph, signature, table, data, shard_bytes)
    return signature


def _stored_spec(spec: TensorSpec) -> TensorSpec:
    dtype = _stored_type(spec.dtype, f"{spec.name!r}")
    return dataclasses.replace(spec, dtype=np.dtype(dtype).name)


def _stored_type(dtype: Any, what: str) -> Any:
    """The one of TensorFlow.js' three element types that stands for `dtype`."""
    element = tf.as_dtype(dtype)
    if element.is_floating:
        return np.float32
    if element.is_integer:
        return np.int32
    if element.is_bool:
        return np.bool_
    raise ConversionError(
        f"TF.js: {what} is of type {element.name}, which TensorFlow.js cannot take",
        hint="keep the layers that read text or complex numbers out of the exported model",
    )


def _keep_data_flow(graph: Any) -> None:
    """Drop control edges: inference has no side effects to order, and loops wait for them."""
    for node in graph.node:
        node.input[:] = [i for i in node.input if not i.startswith("^")]
    read = {node_of(i) for n in graph.node for i in n.input}
    kept = [
        n
        for n in graph.node
        if n.op != "NoOp"
        # Lowering a loop leaves these behind.
        and not (n.name.startswith("unused_control_flow_input") and n.name not in read)
    ]
    del graph.node[:]
    graph.node.extend(kept)


def _fuse(graph: Any, outputs: set[str]) -> None:
    """Linear operation, BiasAdd and activation as one kernel.

    Grappler's remapper does the same, but what it fuses depends on the processor, and some of it
    (Tanh, Gelu) TensorFlow.js does not have.
    """
    values, readers = constants(graph), users(graph)

    def sole_reader(node: Any, operations: tuple[str, ...]) -> Any:
        found = readers.get(node.name, [])
        alone = len(found) == 1 and node.name not in outputs and found[0].op in operations
        return found[0] if alone and node_of(found[0].input[0]) == node.name else None

    replaced = set()
    for node in [n for n in graph.node if n.op in _FUSED]:
        bias = sole_reader(node, ("BiasAdd",))
        if bias is None or bias.input[1] not in values:
            continue
        activation = sole_reader(bias, _FUSED_ACTIVATIONS)
        last = bias if activation is None else activation
        names = [b"BiasAdd"] if activation is None else [b"BiasAdd", activation.op.encode()]
        alpha = activation.attr["alpha"].f if last.op == "LeakyRelu" else 0.0
        inputs = [*node.input[:2], bias.input[1], *node.input[2:]]
        become(last, _FUSED[node.op], inputs)
        for key, value in node.attr.items():
            last.attr[key].CopyFrom(value)
        last.attr["fused_ops"].list.s.extend(names)
        last.attr["num_args"].i = 1
        last.attr["leakyrelu_alpha"].f = alpha
        replaced |= {n.name for n in (node, bias) if n is not last}
    kept = [n for n in graph.node if n.name not in replaced]
    del graph.node[:]
    graph.node.extend(kept)


def _check_operations(graph: Any, given: set[str]) -> None:
    """Refuse operations that TensorFlow.js lacks, and inputs not `given`: tables to look up in."""
    for node in graph.node:
        if node.op == "Placeholder" and node.name not in given:
            (reader, *_) = users(graph)[node.name]
            raise ConversionError(
                f"TF.js has no table for {reader.op} (in {reader.name}) to look up in",
                hint="keep lookups out of the exported model, as --from LAYER does",
            )
    # Loops and branches were lowered; one that still calls functions would lose them.
    known = set(json.loads(OPERATIONS.read_text())["operations"]) - _CALLING
    unknown: dict[str, str] = {}
    for node in graph.node:
        if node.op not in known:
            unknown.setdefault(node.op, node.name)
    if unknown:
        listed = ", ".join(f"{op} (in {name})" for op, name in sorted(unknown.items()))
        raise ConversionError(
            f"TF.js has no operation {listed}",
            hint="replace that layer, keep it out of the exported model, or export to onnx",
        )


def _take_out_weights(
    frozen: FrozenGraph, precision: str
) -> tuple[list[dict[str, Any]], bytearray]:
    """Move every constant from the graph into a weight table and the bytes it describes."""
    graph = frozen.graph_def
    kernels = {n.input[1] for n in graph.node if n.op in _DEPTHWISE}
    table, data = [], bytearray()
    for node in [n for n in graph.node if n.op == "Const" or n.name in frozen.weights]:
        weight = frozen.weights.get(node.name)
        value = _stored(node) if weight is None else weight.read()
        # One scale fits a depthwise kernel badly: its channels differ, and it is small anyway.
        as_is = node.name in kernels and precision == "uint8"
        entry, raw = _encode(value, "fp32" if as_is else precision)
        table.append({"name": node.name, "shape": list(value.shape), **entry})
        data += raw
        element = tf.as_dtype(value.dtype).as_datatype_enum
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = element
        tensor = node.attr["value"].tensor
        tensor.dtype = element
        for size in value.shape:
            tensor.tensor_shape.dim.add(size=size)
    return table, data


def _stored(node: Any) -> np.ndarray:
    """Value of a Const node in an element type of TensorFlow.js."""
    value = tf.make_ndarray(node.attr["value"].tensor)
    dtype = _stored_type(value.dtype, f"constant {node.name}")
    if dtype is np.int32:
        limits, given = np.iinfo(np.int32), np.iinfo(value.dtype)
        if given.bits == 64:  # whose extremes mean "to the end", as the 32-bit ones do
            value = np.where(value == given.max, limits.max, value)
            value = np.where(value == given.min, max(given.min, limits.min), value)
        if np.any(value > limits.max) or np.any(value < limits.min):
            raise ConversionError(
                f"TF.js: constant {node.name} needs 64-bit integers, which TensorFlow.js lacks",
                hint="keep hashing and other 64-bit arithmetic out of the exported model",
            )
    return np.asarray(value, dtype)


def _encode(value: np.ndarray, precision: str) -> tuple[dict[str, Any], bytes]:
    """Table entry and bytes of one weight; biases and other vectors stay as they are."""
    entry: dict[str, Any] = {"dtype": value.dtype.name}
    is_kernel = value.dtype == np.float32 and sum(d > 1 for d in value.shape) > 1
    if not is_kernel or precision == "fp32":
        return entry, value.tobytes()
    if precision == "fp16":
        if np.abs(value).max() > np.finfo(np.float16).max:
            return entry, value.tobytes()
        entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        return entry, value.astype(np.float16).tobytes()
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = round(-low / scale)  # so that 0.0 is exact, as padding and pruning need
    entry["quantization"] = {
        "dtype": "uint8",
        "min": -zero * scale,
        "scale": scale,
        "original_dtype": "float32",
    }
    return entry, np.clip(np.rint(value / scale) + zero, 0, 255).astype(np.uint8).tobytes()


def _write(
    folder: Path,
    graph: Any,
    signature: Signature,
    table: list[dict[str, Any]],
    data: bytearray,
    shard_bytes: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("group1-shard*of*.bin"):
        stale.unlink()
    count = max(1, -(-len(data) // shard_bytes))
    names = [f"group1-shard{i + 1}of{count}.bin" for i in range(count)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(memoryview(data)[i * shard_bytes : (i + 1) * shard_bytes])
    model = {
        "format": "graph-model",
        "generatedBy": f"tensorflow {tf.__version__}",
        "convertedBy": f"edgekit {__version__}",
        "signature": {
            "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
        },
        "modelTopology": _topology(graph),
        "weightsManifest": [{"paths": names, "weights": table}],
    }
    (folder / "model.json").write_text(json.dumps(model, separators=(",", ":")))


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.native,
        "dtype": {"float32": "DT_FLOAT", "int32": "DT_INT32", "bool": "DT_BOOL"}[spec.dtype],
        "tensorShape": {"dim": [{"size": str(-1 if d is None else d)} for d in spec.shape]},
    }


def _topology(graph: Any) -> Any:
    """The GraphDef as JSON, without notes for TensorFlow's own executor."""
    graph.ClearField("library")
    for node in graph.node:
        node.device = ""
        node.ClearField("experimental_debug_info")
    # Protobuf maps have no order of their own.
    return json.loads(json.dumps(MessageToDict(graph), sort_keys=True))

"""The canonical function as a frozen, folded GraphDef: what ONNX and TF.js are made from.

The passes edit GraphDefs of their own making, never the model. They leave standard TensorFlow
operations only, and are deterministic: the same model gives the same bytes in every process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.training.saver import export_meta_graph

from edgekit.toolchain.canonical import Canonical

LINEAR = ("Conv2D", "DepthwiseConv2dNative", "Conv3D", "Conv2DBackpropInput", "MatMul")
"""Operations y = w x whose result may be scaled per channel by scaling w."""

_CONTROL_FLOW = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}
_SWEEP = ["constfold", "dependency", "pruning"]
_RANKS = {"Conv3D": 5, "MatMul": 2}


def freeze(model: Canonical, *, lower_loops: bool = False) -> Any:
    """GraphDef with every variable as a constant; tensor names as in `model.signature`.

    A loop is a While operation that calls functions, or with `lower_loops` the older Switch,
    Merge, Enter, Exit and NextIteration.
    """
    frozen = convert_variables_to_constants_v2(model.concrete, lower_control_flow=lower_loops)
    return frozen.graph.as_graph_def()


def folded(model: Canonical, *, lower_loops: bool = False) -> Any:
    """GraphDef without variables, calls, batch normalization after convolutions, or Erfc.

    Constants are folded; scale and shift after a convolution or MatMul are in its weights and one
    BiasAdd. The placeholders and tensors named by `model.signature` keep their names.
    """
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(_folded(model, lower_loops and _has_loops(model)))
    return graph


@functools.lru_cache(maxsize=1)
def _folded(model: Canonical, lower_loops: bool) -> Any:
    """Kept until the next model: ONNX and TF.js in several precisions start from one graph."""
    specs = (*model.signature.inputs, *model.signature.outputs)
    return fold(freeze(model, lower_loops=lower_loops), [node_of(spec.native) for spec in specs])


def _has_loops(model: Canonical) -> bool:
    graph = model.concrete.graph.as_graph_def()
    holders = [graph.node, *(f.node_def for f in graph.library.function)]
    return any(node.op in _CONTROL_FLOW for nodes in holders for node in nodes)


def fold(graph_def: Any, keep: list[str]) -> Any:
    """Fold a frozen GraphDef as `folded` says; nodes named in `keep` survive under their names."""
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(graph_def)
    _allow_inlining(graph)
    graph = _optimize(graph, keep, ["function", "debug_stripper", "pruning"])
    graph = _optimize(graph, keep, _SWEEP)
    _lower_batch_norm(graph)
    _rewrite_erfc(graph)
    _fold_reshapes(graph)
    graph = _optimize(graph, keep, _SWEEP)
    _fold_affine(graph, frozenset(keep))
    # Not before: it regroups the sums that follow a convolution.
    graph = _optimize(graph, keep, ["arithmetic", *_SWEEP])
    _merge_twins(graph, frozenset(keep))
    _rename_functions(graph)
    _order(graph)
    return graph


def node_of(tensor: str) -> str:
    """Name of the node that gives `tensor` ("^x", "x:0" and "x" are all of node "x")."""
    return tensor.lstrip("^").partition(":")[0]


def constants(graph_def: Any) -> dict[str, np.ndarray]:
    """Values of all Const nodes by node name."""
    return {
        n.name: tf.make_ndarray(n.attr["value"].tensor) for n in graph_def.node if n.op == "Const"
    }


def users(graph_def: Any) -> dict[str, list[Any]]:
    """The nodes that read each node, once per edge, control edges included."""
    found: dict[str, list[Any]] = {}
    for node in graph_def.node:
        for tensor in node.input:
            found.setdefault(node_of(tensor), []).append(node)
    return found


def add_node(graph_def: Any, op: str, name: str, inputs: list[str], like: Any) -> Any:
    """Append a node of element type T like that of node `like`, under a name not yet taken."""
    node = graph_def.node.add(op=op, name=_free_name(graph_def, name), input=inputs)
    node.attr["T"].type = like.attr["T"].type
    return node


def add_constant(graph_def: Any, name: str, value: np.ndarray) -> str:
    """Append a Const node under a name not yet taken, and give that name."""
    node = graph_def.node.add(op="Const", name=_free_name(graph_def, name))
    node.attr["dtype"].type = tf.as_dtype(value.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return str(node.name)


def _free_name(graph_def: Any, name: str) -> str:
    taken = {n.name for n in graph_def.node}
    return next(free for free in _numbered(name) if free not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1


def _optimize(graph_def: Any, keep: list[str], passes: list[str]) -> Any:
    """Run grappler's `passes`."""
    _merge_twins(graph_def, frozenset(keep))
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    meta = export_meta_graph(graph_def=graph_def, graph=graph)
    meta.collection_def["train_op"].node_list.value.extend(keep)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.optimizers[:] = passes
    options.min_graph_nodes = -1  # small graphs too
    options.meta_optimizer_iterations = 2
    return tf_optimizer.OptimizeGraph(config, meta)


_LOOP_OPS = {"Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"}
_SMALL_BYTES = 1024


def _merge_twins(graph_def: Any, keep: frozenset[str]) -> None:
    """Let one of several nodes that compute the same serve all (a layer called twice on a tensor).

    Grappler does it too, but lets chance decide which one's name survives.
    """
    while replaced := _twins(graph_def, keep):
        for i in reversed(range(len(graph_def.node))):
            if graph_def.node[i].name in replaced:
                del graph_def.node[i]
        for node in graph_def.node:
            for i, tensor in enumerate(node.input):
                name = node_of(tensor)
                if name in replaced:
                    node.input[i] = tensor.replace(name, replaced[name], 1)


def _twins(graph_def: Any, keep: frozenset[str]) -> dict[str, str]:
    """The nodes that compute what another does, each with the one that stays."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for node in graph_def.node:
        definition = op_def_registry.get(node.op)
        # A TensorList is a value in TensorFlow, but one that changes in TF.js.
        is_pure = definition and not definition.is_stateful and "TensorList" not in node.op
        is_large = node.op == "Const" and node.ByteSize() > _SMALL_BYTES
        if is_pure and not is_large and node.op not in _LOOP_OPS and node.name not in keep:
            groups.setdefault((node.op, *node.input, *_attributes(node)), []).append(node.name)
    first = {min(names, key=lambda n: (len(n), n)): names for names in groups.values()}
    return {name: stays for stays, names in first.items() for name in names if name != stays}


def _attributes(node: Any) -> list[tuple[str, bytes]]:
    """What a node is told, without the notes (_class, _output_shapes) that passes leave."""
    told = ((k, v.SerializeToString(deterministic=True)) for k, v in node.attr.items())
    return sorted((k, v) for k, v in told if not k.startswith("_"))


def _allow_inlining(graph_def: Any) -> None:
    """Keras compiles some layers (grouped convolutions) with XLA; grappler inlines no such call."""
    holders = [*graph_def.node, *graph_def.library.function]
    for function in graph_def.library.function:
        holders.extend(function.node_def)
    for holder in holders:
        for mark in ("_XlaMustCompile", "_noinline"):
            holder.attr.pop(mark, None)


def _lower_batch_norm(graph_def: Any) -> None:
    """FusedBatchNorm in inference mode as x * s + t with constants s and t."""
    values = constants(graph_def)
    for node in list(graph_def.node):
        if not node.op.startswith("FusedBatchNorm") or node.attr["is_training"].b:
            continue
        parameters = [values.get(name) for name in node.input[1:5]]
        if any(p is None for p in parameters) or node.attr["data_format"].s != b"NHWC":
            continue
        gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters)  # type: ignore[union-attr]
        scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
        shift = beta - mean * scale
        s, t = (
            add_constant(graph_def, f"{node.name}/{name}", value.astype(np.float32))
            for name, value in (("scale", scale), ("shift", shift))
        )
        product = add_node(graph_def, "Mul", f"{node.name}/mul", [node.input[0], s], like=node)
        become(node, "AddV2", [product.name, t])


def _rewrite_erfc(graph_def: Any) -> None:
    """erfc(x) = 1 - erf(x): neither ONNX nor TF.js has erfc, which Keras' exact GELU uses."""
    for node in [n for n in graph_def.node if n.op == "Erfc"]:
        dtype = tf.as_dtype(node.attr["T"].type).as_numpy_dtype
        one = add_constant(graph_def, f"{node.name}/one", np.array(1, dtype))
        erf = add_node(graph_def, "Erf", f"{node.name}/erf", list(node.input), like=node)
        become(node, "Sub", [one, erf.name])


def _fold_reshapes(graph_def: Any) -> None:
    """A target shape [d, 2, 3] with one computed d (the batch) is the constant [-1, 2, 3]."""
    values, by_name = constants(graph_def), {n.name: n for n in graph_def.node}
    for node in [n for n in graph_def.node if n.op == "Reshape"]:
        shape = by_name.get(node.input[1])
        if shape is None or shape.op != "Pack" or shape.attr["axis"].i != 0:
            continue
        dims = [values.get(name) for name in shape.input if name[0] != "^"]
        if dims.count(None) == 1 and all(d is None or d > 0 for d in dims):
            dtype = tf.as_dtype(shape.attr["T"].type).as_numpy_dtype
            free = np.array([-1 if d is None else d for d in dims], dtype)
            node.input[1] = add_constant(graph_def, f"{node.name}/shape", free)


def _fold_affine(graph_def: Any, keep: frozenset[str]) -> None:
    """Put per-channel scales and shifts that follow a linear operation into w and one BiasAdd."""
    values, readers = constants(graph_def), users(graph_def)
    for node in [n for n in graph_def.node if n.op in LINEAR]:
        weights = values.get(node.input[1])
        if weights is not None and weights.dtype == np.float32 and _channels_last(node):
            _fold_chain(graph_def, node, weights, values, readers, keep)


def _fold_chain(
    graph_def: Any,
    node: Any,
    weights: np.ndarray,
    values: dict[str, np.ndarray],
    readers: dict[str, list[Any]],
    keep: frozenset[str],
) -> None:
    """Read the chain after y = w x as y * scale + shift, then rewrite it so.

    (x w + b) s + t = x (w s) + (b s + t), step by step in float64, rounded once at the end.
    """
    axes = _channel_axes(node)
    sizes = [weights.shape[a] for a in axes]
    scale, shift = np.ones(np.prod(sizes)), np.zeros(np.prod(sizes))
    rank, last, affine = _RANKS.get(node.op, 4), node, []
    while last.name not in keep and len(readers.get(last.name, ())) == 1:
        (following,) = readers[last.name]
        if _only_moves_rows(following, rank, values):
            rank -= len(following.attr["squeeze_dims"].list.i)
        elif step := _affine_step(following, last, rank, len(scale), values):
            factor, term = step
            scale, shift = scale * factor, shift * factor + term
            affine.append(following)
        else:
            break
        last = following
    if not affine or [n.op for n in affine] == ["BiasAdd"]:
        return

    for done in affine:
        become(done, "Identity", [next(i for i in done.input if node_of(i) not in values)])
    if np.any(scale != 1):
        shape = [weights.shape[a] if a in axes else 1 for a in range(weights.ndim)]
        scaled = (weights * scale.reshape(shape)).astype(np.float32)
        node.input[1] = add_constant(graph_def, f"{node.name}/weights", scaled)
    if np.any(shift != 0):
        value = add_constant(graph_def, f"{node.name}/shift", shift.astype(np.float32))
        bias = add_node(graph_def, "BiasAdd", f"{node.name}/bias", [node.name, value], like=node)
        bias.attr["data_format"].s = b"NHWC"
        (reader,) = readers[node.name]
        reader.input[:] = [bias.name if node_of(i) == node.name else i for i in reader.input]


def _channel_axes(node: Any) -> tuple[int, ...]:
    """Axes of the weights that the output channels run along."""
    if node.op == "DepthwiseConv2dNative":
        return (2, 3)  # (H, W, in, multiplier)
    if node.op == "Conv2DBackpropInput":
        return (2,)  # (H, W, out, in)
    if node.op == "MatMul":
        return (0,) if node.attr["transpose_b"].b else (1,)
    return (_RANKS.get(node.op, 4) - 1,)


def _channels_last(node: Any) -> bool:
    layout = node.attr["data_format"].s if "data_format" in node.attr else b""
    return layout in (b"NHWC", b"NDHWC", b"")


def _only_moves_rows(node: Any, rank: int, values: dict[str, np.ndarray]) -> bool:
    """Conv1D and dilated convolutions reshape before their bias; the channels stay last."""
    if node.op == "BatchToSpaceND":
        block = values.get(node.input[1])
        return block is not None and block.size <= rank - 2
    dims = node.attr["squeeze_dims"].list.i if node.op == "Squeeze" else ()
    return len(dims) > 0 and all(d % rank != rank - 1 for d in dims)


def _affine_step(
    node: Any, data: Any, rank: int, channels: int, values: dict[str, np.ndarray]
) -> tuple[Any, Any] | None:
    """(factor, term) of `node` as data * factor + term per channel, or None where it is not."""
    if node.op not in ("BiasAdd", "Add", "AddV2", "Sub", "Mul", "RealDiv"):
        return None
    data_first = node_of(node.input[0]) == data.name
    c = values.get(node.input[1 if data_first else 0])
    if c is None or c.ndim > rank or not _channels_last(node):
        return None
    if c.size not in (1, channels) or c.size != (c.shape[-1] if c.ndim else 1):
        return None
    c = c.reshape(-1).astype(np.float64)
    if node.op == "Mul":
        return c, 0.0
    if node.op == "RealDiv":
        return (1 / c, 0.0) if data_first and np.all(c != 0) else None
    if node.op == "Sub":
        return (1.0, -c) if data_first else (-1.0, c)
    return 1.0, c


def become(node: Any, op: str, inputs: list[str]) -> None:
    """Turn `node` into another operation of the same element type and name."""
    element = node.attr["T"].type
    node.op = op
    node.input[:] = inputs
    node.attr.clear()
    node.attr["T"].type = element


def _rename_functions(graph_def: Any) -> None:
    """Loop bodies carry process-wide counters in their names and arguments: number them from 0."""
    functions = {f.signature.name: f for f in graph_def.library.function}
    names: dict[str, str] = {}

    def rename_calls(nodes: Any) -> None:
        for node in nodes:
            for key in sorted(node.attr):
                called = [node.attr[key].func] if node.attr[key].HasField("func") else []
                for function in (*called, *node.attr[key].list.func):
                    function.name = rename(function.name)

    def rename(name: str) -> str:
        if name not in names:
            names[name] = f"function_{len(names)}"
            _rename_arguments(functions[name])
            rename_calls(functions[name].node_def)
        return names[name]

    rename_calls(graph_def.node)
    graph_def.ClearField("library")
    for old, new in names.items():
        functions[old].signature.name = new
        graph_def.library.function.append(functions[old])


def _order(graph_def: Any) -> None:
    """Lowering a loop leaves nodes, control edges and notes in an order of its own each time."""
    for node in graph_def.node:
        for key in [k for k in node.attr if k.startswith("_")]:
            del node.attr[key]
        data = [i for i in node.input if not i.startswith("^")]
        node.input[:] = data + sorted(i for i in node.input if i.startswith("^"))
    nodes = sorted(graph_def.node, key=lambda node: node.name)
    del graph_def.node[:]
    graph_def.node.extend(nodes)


def _rename_arguments(function: Any) -> None:
    arguments = {a.name: f"argument_{i}" for i, a in enumerate(function.signature.input_arg)}
    results = {a.name: f"result_{i}" for i, a in enumerate(function.signature.output_arg)}

    def renamed(tensor: str) -> str:
        name, colon, rest = tensor.partition(":")
        return arguments.get(name, name) + colon + rest

    for argument in function.signature.input_arg:
        argument.name = arguments[argument.name]
    for result in function.signature.output_arg:
        result.name = results[result.name]
    for node in function.node_def:
        node.input[:] = [renamed(tensor) for tensor in node.input]
    given = {results[name]: renamed(tensor) for name, tensor in function.ret.items()}
    function.ret.clear()
    function.ret.update(given)

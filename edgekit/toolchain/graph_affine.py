"""Scale and shift after a convolution or MatMul become part of its weights and one bias."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.toolchain.graph_edit import add_constant, add_node, become, constants, node_of, users
from edgekit.toolchain.graph_weights import FrozenGraph, Weight

LINEAR = ("Conv2D", "DepthwiseConv2dNative", "Conv3D", "Conv2DBackpropInput", "MatMul")
"""Operations y = w x whose result may be scaled per channel by scaling w."""

_RANKS = {"Conv3D": 5, "MatMul": 2}


def lower_batch_norm(graph_def: Any) -> None:
    """FusedBatchNorm as x * s + t: with constants, or with the statistics of x itself.

    The latter is how Keras 2 computes LayerNormalization, and TF.js takes it for the former.
    """
    values = constants(graph_def)
    for node in [n for n in graph_def.node if n.op.startswith("FusedBatchNorm")]:
        channels_first = node.attr["data_format"].s == b"NCHW"
        if node.attr["data_format"].s not in (b"", b"NHWC", b"NCHW"):
            continue
        parameters = [values[name] for name in node.input[1:5] if name in values]
        if node.attr["is_training"].b:
            _normalize(graph_def, node, channels_first)
        elif len(parameters) == 4:
            _scale_and_shift(graph_def, node, parameters, channels_first)


def _scale_and_shift(
    graph_def: Any, node: Any, parameters: list[np.ndarray], channels_first: bool
) -> None:
    gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters)
    scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
    shift = beta - mean * scale
    shape = (-1, 1, 1) if channels_first else (-1,)
    s, t = (
        add_constant(graph_def, f"{node.name}/{name}", value.astype(np.float32).reshape(shape))
        for name, value in (("scale", scale), ("shift", shift))
    )
    product = add_node(graph_def, "Mul", f"{node.name}/mul", [node.input[0], s], like=node)
    become(node, "AddV2", [product.name, t])


def _normalize(graph_def: Any, node: Any, channels_first: bool) -> None:
    """By mean and variance of each channel over all rows and pixels."""
    x, scale, shift = node.input[:3]

    def add(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{node.name}/{op}"
        return str(add_node(graph_def, op, name, list(inputs), node, **attributes).name)

    def constant(name: str, value: Any, dtype: Any = np.int32) -> str:
        return add_constant(graph_def, f"{node.name}/{name}", np.array(value, dtype))

    over = constant("over", [0, 2, 3] if channels_first else [0, 1, 2])
    epsilon = constant("epsilon", node.attr["epsilon"].f, np.float32)
    if channels_first:
        column = constant("column", [-1, 1, 1])
        scale, shift = add("Reshape", scale, column), add("Reshape", shift, column)
    centered = add("Sub", x, add("Mean", x, over, keep_dims=True))
    variance = add("Mean", add("Mul", centered, centered), over, keep_dims=True)
    deviation = add("Rsqrt", add("AddV2", variance, epsilon))
    become(node, "AddV2", [add("Mul", add("Mul", centered, deviation), scale), shift])


def fold_affine(graph: FrozenGraph, keep: frozenset[str]) -> None:
    """Put per-channel scales and shifts that follow a linear operation into w and one BiasAdd."""
    kernels, values, readers = graph.kernels(), constants(graph.graph_def), users(graph.graph_def)
    for node in [n for n in graph.graph_def.node if n.op in LINEAR]:
        weight = kernels.get(node.input[1])
        if weight is not None and _channels_last(node):
            _fold_chain(graph, node, weight, values, readers, keep)


def _fold_chain(
    graph: FrozenGraph,
    node: Any,
    weight: Weight,
    values: dict[str, np.ndarray],
    readers: dict[str, list[Any]],
    keep: frozenset[str],
) -> None:
    """Read the chain after y = w x as y * scale + shift, then rewrite it so.

    (x w + b) s + t = x (w s) + (b s + t), step by step in float64, rounded once at the end.
    """
    axes = _channel_axes(node)
    sizes = [weight.shape[a] for a in axes]
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
        shape = [d if a in axes else 1 for a, d in enumerate(weight.shape)]
        scaled = weight.map(lambda w: w * scale.reshape(shape), weight.shape)
        node.input[1] = graph.add(f"{node.name}/weights", scaled)
    if np.any(shift != 0):
        value = add_constant(graph.graph_def, f"{node.name}/shift", shift.astype(np.float32))
        bias = add_node(
            graph.graph_def, "BiasAdd", f"{node.name}/bias", [node.name, value],
            like=node, data_format=b"NHWC",
        )  # fmt: skip
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

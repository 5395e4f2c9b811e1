"""Operations that ONNX or TF.js have no kernel for, made of ones that both have."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.graph_edit import (
    add_constant,
    add_node,
    become,
    constants,
    inferred_shapes,
    node_of,
)
from edgekit.toolchain.graph_einsum import lower_einsum
from edgekit.toolchain.graph_resize import lower_inexact_scales, lower_resizing
from edgekit.toolchain.graph_weights import FrozenGraph


def lower_operations(graph: FrozenGraph) -> None:
    """Rewrite what the formats lack, where its parameters are constant."""
    graph_def = graph.graph_def
    simple = {
        "BitwiseAnd": _lower_sign_bit,
        "Bucketize": _lower_bucketize,
        "Erfc": _lower_erfc,
        "LowerBound": _lower_search,
        "MatrixBandPart": _lower_band,
        "UpperBound": _lower_search,
    }
    for node in [n for n in graph_def.node if n.op in simple]:
        simple[node.op](graph_def, node)
    _lower_bincounts(graph_def)
    _lower_rolls(graph_def)
    lower_einsum(graph)
    lower_resizing(graph_def)


def lower_for_onnx(graph_def: Any) -> None:
    """Rewrite what only ONNX, or tf2onnx, lacks."""
    lower_inexact_scales(graph_def)
    for node in [n for n in graph_def.node if n.op in ("Expm1", "Log1p")]:
        (x,) = node.input
        one = _constant(graph_def, node, "one", np.array(1, _dtype(node)))
        if node.op == "Log1p":
            total = add_node(graph_def, "AddV2", f"{node.name}/add", [x, one], like=node)
            become(node, "Log", [total.name])
        else:  # exp(x) - 1 = tanh(x/2) (exp(x) + 1), exact near 0
            half = _constant(graph_def, node, "half", np.array(0.5, _dtype(node)))
            part = add_node(graph_def, "Mul", f"{node.name}/part", [x, half], like=node)
            tanh = add_node(graph_def, "Tanh", f"{node.name}/tanh", [part.name], like=node)
            exp = add_node(graph_def, "Exp", f"{node.name}/exp", [x], like=node)
            total = add_node(graph_def, "AddV2", f"{node.name}/add", [exp.name, one], like=node)
            become(node, "Mul", [tanh.name, total.name])


def _lower_erfc(graph_def: Any, node: Any) -> None:
    """erfc(x) = 1 - erf(x), as in Keras' exact GELU."""
    one = _constant(graph_def, node, "one", np.array(1, _dtype(node)))
    erf = add_node(graph_def, "Erf", f"{node.name}/erf", list(node.input), like=node)
    become(node, "Sub", [one, erf.name])


def _lower_sign_bit(graph_def: Any, node: Any) -> None:
    """The sign bit of floats read as integers, by which keras.ops.argmax tells -0.0 from 0.0."""
    bits = next((n for n in graph_def.node if n.name == node_of(node.input[0])), None)
    lowest = np.array(np.iinfo(np.int32).min, np.int32)
    mask = constants(graph_def).get(node.input[1])
    is_float = bits is not None and bits.op == "Bitcast"
    if not is_float or _dtype(bits) != np.float32 or mask is None or np.any(mask != lowest):
        return
    x, float32 = bits.input[0], tf.float32  # type: ignore[union-attr]
    zero = _constant(graph_def, node, "zero", np.array(0, np.float32))
    one = _constant(graph_def, node, "one", np.array(1, np.float32))
    inverse = add_node(graph_def, "RealDiv", f"{node.name}/inverse", [one, x], T=float32)
    signs = [
        add_node(graph_def, "Less", f"{node.name}/less", [value, zero], T=float32).name
        for value in (x, inverse.name)
    ]
    negative = add_node(graph_def, "LogicalOr", f"{node.name}/negative", signs)
    choices = [_constant(graph_def, node, "bit", v) for v in (lowest, np.array(0, np.int32))]
    become(node, "SelectV2", [negative.name, *choices])


def _lower_bucketize(graph_def: Any, node: Any) -> None:
    """The number of boundaries that x is not below."""
    limits = np.array(node.attr["boundaries"].list.f, np.float32)
    given, x = tf.as_dtype(node.attr["T"].type), node.input[0]
    if given != tf.float32:
        as_float = add_node(
            graph_def, "Cast", f"{node.name}/float", [x], SrcT=given, DstT=tf.float32
        )
        x = as_float.name
    last = _constant(graph_def, node, "last", np.array(-1, np.int32))
    boundaries = _constant(graph_def, node, "boundaries", limits)
    column = add_node(graph_def, "ExpandDims", f"{node.name}/column", [x, last], T=tf.float32)
    below = add_node(
        graph_def, "Less", f"{node.name}/below", [column.name, boundaries], T=tf.float32
    )
    reached = add_node(graph_def, "LogicalNot", f"{node.name}/reached", [below.name])
    _become_count(graph_def, node, reached.name, tf.int32)


def _lower_search(graph_def: Any, node: Any) -> None:
    """The number of the sorted values that are below v, or with UpperBound not above it."""
    ordered, v = node.input
    row = _constant(graph_def, node, "row", np.array(-2, np.int32))
    last = _constant(graph_def, node, "last", np.array(-1, np.int32))
    rows = add_node(graph_def, "ExpandDims", f"{node.name}/rows", [ordered, row], like=node)
    columns = add_node(graph_def, "ExpandDims", f"{node.name}/columns", [v, last], like=node)
    test = "Less" if node.op == "LowerBound" else "LessEqual"
    passed = add_node(graph_def, test, f"{node.name}/passed", [rows.name, columns.name], like=node)
    result = tf.as_dtype(node.attr["out_type"].type or tf.int32.as_datatype_enum)
    _become_count(graph_def, node, passed.name, result)


def _become_count(graph_def: Any, node: Any, flags: str, result: tf.DType) -> None:
    """How many of the booleans are true, over the last axis."""
    ones = add_node(graph_def, "Cast", f"{node.name}/ones", [flags], SrcT=tf.bool, DstT=result)
    last = _constant(graph_def, node, "last", np.array(-1, np.int32))
    node.attr["T"].type = result.as_datatype_enum
    become(node, "Sum", [ones.name, last])


def _lower_band(graph_def: Any, node: Any) -> None:
    """Of each matrix the diagonals from `lower` below to `upper` above the main one, or all."""
    x, *limits = node.input
    values, shape = constants(graph_def), inferred_shapes(graph_def, [x])[x]
    lower, upper = (values.get(name) for name in limits)
    if lower is None or upper is None or shape is None:
        return
    rows, columns = (_range(graph_def, node, x, len(shape) + axis) for axis in (-2, -1))
    last = _constant(graph_def, node, "last", np.array(-1, np.int32))
    column = add_node(graph_def, "ExpandDims", f"{node.name}/column", [rows, last], T=tf.int32)
    below = add_node(
        graph_def, "Sub", f"{node.name}/diagonal", [column.name, columns], T=tf.int32
    ).name
    inside = []
    for test, limit in (("LessEqual", int(lower)), ("GreaterEqual", -int(upper))):
        if (lower if test == "LessEqual" else upper) >= 0:
            bound = _constant(graph_def, node, "limit", np.array(limit, np.int32))
            inside.append(
                add_node(graph_def, test, f"{node.name}/inside", [below, bound], T=tf.int32).name
            )
    is_bool = node.attr["T"].type == tf.bool.as_datatype_enum
    if not inside:
        become(node, "Identity", [x])
        return
    band = inside[0]
    if len(inside) > 1:
        band = add_node(graph_def, "LogicalAnd", f"{node.name}/band", inside).name
    if is_bool:
        become(node, "LogicalAnd", [band, x])
        del node.attr["T"]
    else:
        zero = _constant(graph_def, node, "zero", np.array(0, _dtype(node)))
        become(node, "SelectV2", [band, x, zero])


def _range(graph_def: Any, node: Any, tensor: str, axis: int) -> str:
    """0, 1, 2 ... up to the size of `tensor` along `axis`."""
    zero, one = (_constant(graph_def, node, n, np.array(v, np.int32)) for n, v in _ZERO_ONE)
    shape = add_node(graph_def, "Shape", f"{node.name}/shape", [tensor], like=node)
    begin, end = (
        _constant(graph_def, node, "axis", np.array([i], np.int32)) for i in (axis, axis + 1)
    )
    step = _constant(graph_def, node, "step", np.array([1], np.int32))
    size = add_node(
        graph_def, "StridedSlice", f"{node.name}/size", [shape.name, begin, end, step],
        T=tf.int32, Index=tf.int32, shrink_axis_mask=1,
    )  # fmt: skip
    numbers = add_node(
        graph_def, "Range", f"{node.name}/range", [zero, size.name, one], Tidx=tf.int32
    )
    return str(numbers.name)


_ZERO_ONE = (("zero", 0), ("one", 1))


def _lower_bincounts(graph_def: Any) -> None:
    """Occurrences (or, with weights, their sum; or whether any) of each integer below `size`."""
    nodes = [n for n in graph_def.node if n.op == "DenseBincount"]
    shapes = inferred_shapes(graph_def, [i for n in nodes for i in (n.input[0], n.input[2])])
    for node in nodes:
        x, size, weights = node.input[:3]
        depth = _constant_size(graph_def, size)
        if depth is None or shapes[x] is None:
            continue
        result, binary = tf.as_dtype(node.attr["T"].type), node.attr["binary_output"].b
        depths = _constant(graph_def, node, "depth", np.array(depth, np.int32))
        flags = [_constant(graph_def, node, "flag", np.array(v, _dtype(node))) for v in (1, 0)]
        hot = add_node(
            graph_def, "OneHot", f"{node.name}/one_hot", [x, depths, *flags],
            T=result, TI=tf.as_dtype(node.attr["Tidx"].type), axis=-1,
        )  # fmt: skip
        if shapes[weights] != [0] and not binary:
            last = _constant(graph_def, node, "last", np.array(-1, np.int32))
            column = add_node(graph_def, "ExpandDims", f"{node.name}/column", [weights, last], node)
            hot = add_node(graph_def, "Mul", f"{node.name}/mul", [hot.name, column.name], node)
        over = _constant(graph_def, node, "over", np.array(-2, np.int32))
        become(node, "Max" if binary else "Sum", [hot.name, over])


def _constant_size(graph_def: Any, tensor: str) -> int | None:
    """The value of a scalar; also of min(c, max(c, y)) = c, as Keras limits the size of counts."""
    values, by_name = constants(graph_def), {n.name: n for n in graph_def.node}
    if tensor in values:
        return int(values[tensor])
    outer = by_name[node_of(tensor)]
    if outer.op != "Minimum":
        return None
    limits = {int(values[i]) for i in outer.input if i in values}
    inner = [by_name[node_of(i)] for i in outer.input if i not in values]
    if len(inner) == 1 and inner[0].op == "Maximum":
        limits &= {int(values[i]) for i in inner[0].input if i in values}
        return next(iter(limits), None)
    return None


def _lower_rolls(graph_def: Any) -> None:
    """The end before the beginning, along axes of known size."""
    nodes = [n for n in graph_def.node if n.op == "Roll"]
    values, shapes = constants(graph_def), inferred_shapes(graph_def, [n.input[0] for n in nodes])
    for node in nodes:
        x, shift, axis = node.input
        shape = shapes[x]
        if shape is None or shift not in values or axis not in values:
            continue
        pairs = [
            (int(a) % len(shape), int(s))
            for a, s in zip(np.ravel(values[axis]), np.ravel(values[shift]), strict=True)
        ]
        if any(shape[a] is None for a, _ in pairs):
            continue
        for along, by in pairs:
            cut = (shape[along] or 1) - by % (shape[along] or 1)
            parts = [
                _part(graph_def, node, x, len(shape), along, at) for at in ((cut, 0), (0, cut))
            ]
            place = _constant(graph_def, node, "place", np.array(along, np.int32))
            x = add_node(
                graph_def, "ConcatV2", f"{node.name}/concat", [*parts, place], like=node, N=2
            ).name
        become(node, "Identity", [x])


def _part(graph_def: Any, node: Any, x: str, rank: int, axis: int, at: tuple[int, int]) -> str:
    """x[begin:end] along one axis, where end 0 means to the end."""
    limits = [_constant(graph_def, node, "at", _along(rank, axis, v)) for v in at]
    ones = _constant(graph_def, node, "ones", np.ones(rank, np.int32))
    whole = (1 << rank) - 1 - (1 << axis)
    part = add_node(
        graph_def, "StridedSlice", f"{node.name}/part", [x, *limits, ones],
        like=node, Index=tf.int32, begin_mask=whole,
        end_mask=whole if at[1] else whole | 1 << axis,
    )  # fmt: skip
    return str(part.name)


def _along(rank: int, axis: int, value: int) -> np.ndarray:
    return np.where(np.arange(rank) == axis, value, 0).astype(np.int32)


def _constant(graph_def: Any, node: Any, name: str, value: np.ndarray) -> str:
    return add_constant(graph_def, f"{node.name}/{name}", value)


def _dtype(node: Any) -> Any:
    return tf.as_dtype(node.attr["T"].type).as_numpy_dtype

"""Resizing by cubic, Lanczos and area filters as one matrix per axis.

TF.js knows nearest and linear only, ONNX lacks Lanczos and area, and its cubic differs. Between
known sizes each of them is a linear map of the rows followed by one of the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.graph_edit import (
    add_constant,
    add_node,
    become,
    constants,
    inferred_shapes,
)

_RARE = ("ResizeBicubic", "ResizeArea", "ScaleAndTranslate")
_COMMON = ("ResizeBilinear", "ResizeNearestNeighbor")


def lower_resizing(graph_def: Any) -> None:
    """Rewrite the rare filters that resize (batch, height, width, channels)."""
    _lower_where(graph_def, _RARE, lambda size, new_size: True)


def lower_inexact_scales(graph_def: Any) -> None:
    """Rewrite the common filters, too, between sizes that tf2onnx gets wrong.

    It writes the ratio of the sizes in float32; from 3 to 5 that makes a picture of 4 pixels.
    """
    _lower_where(
        graph_def,
        _COMMON,
        lambda size, new_size: int(size * float(np.float32(new_size / size))) != new_size,
    )


def _lower_where(
    graph_def: Any, operations: tuple[str, ...], wanted: Callable[[int, int], bool]
) -> None:
    nodes = [n for n in graph_def.node if n.op in operations]
    values = constants(graph_def)
    shapes = inferred_shapes(graph_def, [n.input[0] for n in nodes])
    for node in nodes:
        shape = shapes[node.input[0]]
        parameters = [values[name] for name in node.input[1:] if name in values]
        if shape is None or None in shape[1:] or len(parameters) < len(node.input) - 1:
            continue
        known = shape[1:]
        new_sizes = np.ravel(parameters[0]).tolist()
        if any(wanted(size, new) for size, new in zip(known, new_sizes, strict=False)):
            _lower(graph_def, node, known, parameters)


def _lower(graph_def: Any, node: Any, shape: list[int], parameters: list[Any]) -> None:
    height, width, channels = shape
    new_height, new_width = (int(d) for d in parameters[0])
    given, x = tf.as_dtype(node.attr["T"].type), node.input[0]
    if given != tf.float32:
        x = add_node(graph_def, "Cast", f"{node.name}/float", [x], SrcT=given, DstT=tf.float32).name

    def add(op: str, *inputs: str) -> str:
        return str(add_node(graph_def, op, f"{node.name}/{op}", list(inputs), T=tf.float32).name)

    def constant(name: str, value: Any, dtype: Any) -> str:
        return add_constant(graph_def, f"{node.name}/{name}", np.array(value, dtype))

    rows = constant("rows", _matrix(node, 0, height, parameters), np.float32)
    columns = constant("columns", _matrix(node, 1, width, parameters), np.float32)
    lines = constant("shape", [-1, height, width * channels], np.int32)
    pixels = constant("shape", [-1, width, channels], np.int32)
    result = constant("shape", [-1, new_height, new_width, channels], np.int32)
    taller = add("BatchMatMulV2", rows, add("Reshape", x, lines))
    wider = add("BatchMatMulV2", columns, add("Reshape", taller, pixels))
    node.attr["T"].type = tf.float32.as_datatype_enum
    become(node, "Reshape", [wider, result])


def _matrix(node: Any, axis: int, size: int, parameters: list[Any]) -> np.ndarray:
    """(new size, size): what TensorFlow's own kernel makes of each unit vector along `axis`."""
    # A column (or row) of pixels, in which each vector is a channel.
    image = np.expand_dims(np.eye(size, dtype=np.float32), (0, 2 - axis))
    new_size = np.array([1, 1], np.int32)
    new_size[axis] = parameters[0][axis]
    if node.op == "ScaleAndTranslate":
        scale, shift = np.ones(2, np.float32), np.zeros(2, np.float32)
        scale[axis], shift[axis] = parameters[1][axis], parameters[2][axis]
        resized = tf.raw_ops.ScaleAndTranslate(
            images=image, size=new_size, scale=scale, translation=shift,
            kernel_type=node.attr["kernel_type"].s, antialias=node.attr["antialias"].b,
        )  # fmt: skip
    else:
        resize = getattr(tf.raw_ops, node.op)
        corners = {
            key: node.attr[key].b
            for key in ("align_corners", "half_pixel_centers")
            if key in node.attr
        }
        resized = resize(images=image, size=new_size, **corners)
    return np.asarray(resized).reshape(-1, size)

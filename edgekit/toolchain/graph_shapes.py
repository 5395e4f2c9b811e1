"""Arithmetic on shapes that is known before the model runs, though the batch is free."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.graph_edit import (
    add_constant,
    become,
    constants,
    inferred_shapes,
    node_of,
)

_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
_ARITHMETIC = ("StridedSlice", "GatherV2", "Pack", "ConcatV2", "Prod")


def fold_sizes(graph_def: Any) -> None:
    """Sizes that are computed from a Shape, and do not depend on its free ones, as constants."""
    _slice_shapes(graph_def)
    sizes = _Sizes(graph_def)
    for node in [n for n in graph_def.node if n.op in _ARITHMETIC and sizes.from_shape(n.name)]:
        value = sizes.of(node.name)
        if value is not None and None not in value.ravel().tolist():
            dtype = sizes.dtype(node)
            known = add_constant(graph_def, f"{node.name}/known", value.astype(dtype))
            node.attr["T"].type = tf.as_dtype(dtype).as_datatype_enum
            become(node, "Identity", [known])


def fold_reshapes(graph_def: Any) -> None:
    """A target shape [d, 2, 3] with one computed d (the batch) is the constant [-1, 2, 3]."""
    sizes = _Sizes(graph_def)
    for node in [n for n in graph_def.node if n.op == "Reshape"]:
        target = sizes.of(node.input[1])
        if target is None or target.ndim != 1 or not sizes.from_shape(node.input[1]):
            continue
        dims = target.tolist()
        if dims.count(None) == 1 and all(d is None or d > 0 for d in dims):
            free = np.array([-1 if d is None else d for d in dims], sizes.index_dtype(node))
            node.input[1] = add_constant(graph_def, f"{node.name}/shape", free)


def _slice_shapes(graph_def: Any) -> None:
    """Neighbouring sizes gathered from a Shape as a slice of it.

    TensorFlow's inference sees through a slice, and so knows the shapes of all that follows.
    """
    values = constants(graph_def)
    whole = {n.name for n in graph_def.node if n.op == "Shape"}
    gathers = [n for n in graph_def.node if n.op == "GatherV2" and n.input[0] in whole]
    for node in gathers:
        picked = values.get(node.input[1])
        if picked is None or picked.ndim != 1 or not picked.size:
            continue
        if picked[0] < 0 or np.any(np.diff(picked) != 1):
            continue
        limits = [
            add_constant(graph_def, f"{node.name}/{name}", np.array([value], np.int32))
            for name, value in (("begin", picked[0]), ("end", picked[-1] + 1), ("step", 1))
        ]
        node.attr["T"].type = node.attr["Tparams"].type
        become(node, "StridedSlice", [node.input[0], *limits], Index=tf.int32)


class _Sizes:
    """Integers of a graph as arrays of int, with None for what only a run tells."""

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {n.name: n for n in graph_def.node}
        self._values = constants(graph_def)
        sources = [n.input[0] for n in graph_def.node if n.op == "Shape"]
        self._shapes = inferred_shapes(graph_def, sources)
        self._found: dict[str, np.ndarray | None] = {}

    def of(self, tensor: str) -> np.ndarray | None:
        """The value of `tensor`; None where not even its length is known."""
        if tensor not in self._found:
            self._found[tensor] = None  # for loops
            self._found[tensor] = self._computed(tensor)
        return self._found[tensor]

    def from_shape(self, tensor: str) -> bool:
        """Whether a Shape, or a part of one, is what `tensor` is computed from."""
        node = self._nodes.get(node_of(tensor))
        if node is None or tensor.startswith("^"):
            return False
        if node.op == "Shape":
            return True
        return node.op in (*_ARITHMETIC, "Identity") and any(map(self.from_shape, node.input))

    def dtype(self, node: Any) -> Any:
        """The integer type that `node` gives."""
        key = "Tparams" if node.op == "GatherV2" else "T"
        return tf.as_dtype(node.attr[key].type).as_numpy_dtype

    def index_dtype(self, reshape: Any) -> Any:
        """The integer type of a Reshape's target."""
        kind = reshape.attr["Tshape"].type or tf.int32.as_datatype_enum
        return tf.as_dtype(kind).as_numpy_dtype

    def _computed(self, tensor: str) -> np.ndarray | None:
        value, node = self._values.get(tensor), self._nodes.get(tensor)
        if value is not None:
            return value.astype(object) if value.dtype.kind == "i" else None
        if node is None:
            return None
        if node.op == "Shape":
            shape = self._shapes[node.input[0]]
            return None if shape is None else np.array(shape, object)
        inputs = [self.of(i) for i in node.input if not i.startswith("^")]
        if node.op == "Pack" and node.attr["axis"].i == 0:
            # One that nothing is known of is a scalar, as the others are.
            parts = [np.array(None, object) if i is None else i for i in inputs]
            return np.stack(parts) if all(p.ndim == 0 for p in parts) else None
        if not inputs or any(i is None for i in inputs):
            return None
        first, *others = [i for i in inputs if i is not None]
        if node.op == "Identity":
            return first
        if node.op == "ConcatV2" and others[-1] == 0:
            return np.concatenate([first, *others[:-1]])
        if node.op == "GatherV2" and others[1] == 0 and None not in others[0].ravel().tolist():
            return first[others[0].astype(int)] if node.attr["batch_dims"].i == 0 else None
        if node.op == "StridedSlice" and first.ndim == 1:
            return self._sliced(node, first, others)
        if node.op == "Prod" and first.ndim == 1 and not node.attr["keep_dims"].b:
            factors = first.tolist()
            return np.array(None if None in factors else int(np.prod(factors)), object)
        return None

    def _sliced(self, node: Any, value: np.ndarray, limits: list[np.ndarray]) -> np.ndarray | None:
        if any(None in limit.ravel().tolist() for limit in limits):
            return None
        masks = {f"{m}_mask": node.attr[f"{m}_mask"].i for m in _MASKS}
        places = np.arange(len(value))
        picked = tf.strided_slice(places, *(n.astype(np.int64) for n in limits), **masks).numpy()
        return np.asarray(value[picked], object)

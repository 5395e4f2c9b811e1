"""The weights that pruning and clustering take: the large ones, of two dimensions and more.

They are those that TFMOT takes: kernels of Dense and Conv layers, the pointwise half of separable
ones, kernels and recurrent kernels, tables of embeddings. Biases and normalization are few, and so
are depthwise kernels: nine weights for a channel, each of which counts. In layers that hold
others (attention, wrappers, those of the user's) it is what is inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.translation import keras_of

_SLOPES = "PReLU"
"""The layer whose weights of several dimensions are no kernel."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A weight as (places, inputs, outputs): a place is a tap of a convolution, else there is one.

    `axes` are those of the variable, in this order; `dims` says how many elements each of the three
    has.
    """

    variable: Any
    axes: tuple[int, ...]
    dims: tuple[int, int, int]

    def values(self) -> np.ndarray:
        """The weights as (places, inputs, outputs)."""
        return np.asarray(self.variable).transpose(self.axes).reshape(self.dims)

    def as_stored(self, values: np.ndarray) -> np.ndarray:
        """An array of the shape of `values()` in that of the variable."""
        shape = [int(self.variable.shape[axis]) for axis in self.axes]
        return values.reshape(shape).transpose(np.argsort(self.axes))


def kernels(model: Any) -> dict[str, list[Kernel]]:
    """The kernels of each layer that has some, by name: "conv", in a nested model "encoder/conv".

    In the order of the model's layers, which in a graph is that of the computation.
    """
    found = {name: _of_layer(layer) for name, layer in layers(model).items()}
    return {name: some for name, some in found.items() if some}


def depthwise(model: Any) -> list[str]:
    """The layers whose depthwise kernels are left alone."""
    return [
        name
        for name, layer in layers(model).items()
        if any(
            _is_depthwise(owner, name_of(w))
            for owner in layer._flatten_layers()
            for w in _trained(owner)
            if len(w.shape) > 2
        )
    ]


def layers(model: Any) -> dict[str, Any]:
    """The layers by name, each once; a nested model is entered, any other layer is one."""
    found = {id(layer): (name, layer) for name, layer in reversed(list(_walk(model, "")))}
    return dict(reversed(found.values()))


def _walk(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if isinstance(layer, keras_of(layer).Model):
            yield from _walk(layer, f"{prefix}{layer.name}/")
        else:
            yield f"{prefix}{layer.name}", layer


def is_kernel(variable: Any) -> bool:
    """Whether a trained variable is a matrix or more; biases of recurrent layers are matrices."""
    return (
        len(variable.shape) > 1
        and "bias" not in name_of(variable)
        and bool(tf.as_dtype(variable.dtype).is_floating)
    )


def name_of(variable: Any) -> str:
    """The variable's name without its layer's: "kernel"."""
    return str(variable.name).rpartition("/")[2].removesuffix(":0")


def output_axes(owner: Any, name: str) -> set[int]:
    """The axes of a kernel that count output channels; a table of vectors has none."""
    kind = type(owner).__name__
    if "embedding" in name:
        return set()
    if kind == "EinsumDense":
        _, kernel, output = owner.equation.replace("->", ",").replace("...", "").split(",")
        return {axis for axis, label in enumerate(kernel) if label in output}
    if _is_depthwise(owner, name):
        return {-2, -1}
    return {-2} if kind.endswith("Transpose") else {-1}


def _of_layer(layer: Any) -> list[Kernel]:
    return [
        _kernel(owner, weight)
        for owner in layer._flatten_layers()
        for weight in _trained(owner)
        if is_kernel(weight)
        and not _is_depthwise(owner, name_of(weight))
        and not type(owner).__name__.endswith(("Normalization", _SLOPES))
    ]


def _kernel(owner: Any, weight: Any) -> Kernel:
    rank = len(weight.shape)
    outputs = {axis % rank for axis in output_axes(owner, name_of(weight))} or {rank - 1}
    others = [axis for axis in range(rank) if axis not in outputs]
    # All of an einsum's others are inputs; elsewhere the last of them is, behind the taps.
    inputs = others if type(owner).__name__ == "EinsumDense" else others[-1:]
    parts = ([a for a in others if a not in inputs], inputs, sorted(outputs))
    places, taken, given = (math.prod(int(weight.shape[a]) for a in part) for part in parts)
    return Kernel(weight, tuple(a for part in parts for a in part), (places, taken, given))


def _trained(owner: Any) -> list[Any]:
    """The layer's own trained variables, also where it is frozen."""
    keras_3 = getattr(owner, "_trainable_variables", None)
    return list(owner._trainable_weights if keras_3 is None else keras_3)


def _is_depthwise(owner: Any, name: str) -> bool:
    return type(owner).__name__.startswith("Depthwise") or "depthwise" in name

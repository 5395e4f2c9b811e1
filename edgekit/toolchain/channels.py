"""Tensors of a model whose channels can be rescaled, with no change to what the model computes.

A layer that gives a tensor can give each channel smaller by a positive factor, if all layers that
take it multiply that channel by the same: across a ReLU, a pooling or a residual addition too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.toolchain.calls import of_keras_itself
from edgekit.toolchain.layer_graph import LayerCall, LayerGraph

Shapes = Mapping[int, tuple[int, ...]]
"""Of the tensors of a LayerGraph by their number, with the rows."""

HOMOGENEOUS = ("linear", "relu", "leaky_relu")
"""Activations f with f(s x) = s f(x) for every s > 0."""

COMMUTING = (
    "ActivityRegularization",
    "AlphaDropout",
    *(f"AveragePooling{n}D" for n in (1, 2, 3)),
    *(f"Cropping{n}D" for n in (1, 2, 3)),
    "Dropout",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    *(f"GlobalAveragePooling{n}D" for n in (1, 2, 3)),
    *(f"GlobalMaxPooling{n}D" for n in (1, 2, 3)),
    "Identity",
    "LeakyReLU",
    "LeakyRelu",
    *(f"MaxPooling{n}D" for n in (1, 2, 3)),
    "PReLU",
    "Relu",
    "RepeatVector",
    "Reshape",
    *(f"SpatialDropout{n}D" for n in (1, 2, 3)),
    *(f"UpSampling{n}D" for n in (1, 2, 3)),
    *(f"ZeroPadding{n}D" for n in (1, 2, 3)),
)
"""Layers, and operations of Keras 3, that give a channel scaled if they take it so."""

MERGING = ("Add", "Maximum", "Minimum", "Subtract")
"""Those that do if they take all of their tensors so."""

NORMALIZING = ("BatchNormalization", "GroupNormalization", "LayerNormalization")

CONVOLUTIONS = tuple(f"Conv{n}D" for n in (1, 2, 3))
TRANSPOSED = tuple(f"Conv{n}DTranspose" for n in (1, 2, 3))
DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
SEPARABLE = ("SeparableConv1D", "SeparableConv2D")


@dataclass(frozen=True, eq=False)
class Weight:
    """A variable that holds `inner` values, side by side, for each channel in turn."""

    variable: Any
    inner: int = 1

    def sizes(self, period: int) -> np.ndarray:
        """(period,) the largest absolute value of each channel."""
        return np.abs(self._channels(period)).max(axis=(0, 2))

    def scale(self, factors: np.ndarray) -> None:
        """Multiply the channels by (period,) `factors`."""
        scaled = self._channels(len(factors)) * factors[:, np.newaxis]
        self.variable.assign(scaled.reshape(self.variable.shape).astype(np.float32))

    def _channels(self, period: int) -> np.ndarray:
        return np.asarray(self.variable).reshape(-1, period, self.inner)


@dataclass(frozen=True)
class ChannelGroup:
    """Tensors whose channels are rescaled alike.

    The channel of a value is its place in its row, modulo `period`: a Flatten repeats channels.
    `tensors` are those that a file holds, as it computes what a ReLU takes together with it.
    `names` are of the layers that give them, from the weights `givers`.
    """

    period: int
    tensors: tuple[int, ...]
    names: tuple[str, ...]
    givers: tuple[Weight, ...]
    takers: tuple[Weight, ...]

    def rescale(self, factors: np.ndarray) -> None:
        """Divide the channels by (period,) positive `factors`, and let the takers undo it."""
        for weight in self.givers:
            weight.scale(1 / factors)
        for weight in self.takers:
            weight.scale(factors)


def channel_groups(graph: LayerGraph, shapes: Shapes) -> list[ChannelGroup]:
    """The groups of tensors that can be rescaled, in the order of their computation.

    Left out is what is not certain: inputs and outputs of the model, layers that are called twice
    or share weights, and tensors that any layer gives or takes in another way.
    """
    found = _Grouping()
    found.closed.update(graph.inputs, graph.outputs)
    users = Counter(v for call in graph.calls for v in _variables(call.layer))
    for call in graph.calls:
        if _commutes(call, shapes):
            found.unite(*call.inputs, *call.outputs)
            continue
        is_own = all(users[v] == 1 for v in _variables(call.layer)) and of_keras_itself(call.layer)
        given = _given(call, shapes) if is_own else ()
        taken = _taken(call) if is_own else ()
        if given:
            found.givers[call.outputs[0]] = call.name, given
        else:
            found.closed.update(call.outputs)
        if taken:
            found.takers.append((call.inputs[0], taken))
        else:
            found.closed.update(call.inputs)
    return found.groups(shapes, _computed_with_relu(graph))


@dataclass
class _Grouping:
    """Tensors by number: which are rescaled alike, and which must stay as they are."""

    parents: dict[int, int] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    givers: dict[int, tuple[str, tuple[Weight, ...]]] = field(default_factory=dict)
    takers: list[tuple[int, tuple[Weight, ...]]] = field(default_factory=list)

    def root(self, number: int) -> int:
        while number in self.parents:
            number = self.parents[number]
        return number

    def unite(self, *numbers: int) -> None:
        first = self.root(numbers[0])
        for other in {self.root(n) for n in numbers} - {first}:
            self.parents[other] = first

    def groups(self, shapes: Shapes, hidden: set[int]) -> list[ChannelGroup]:
        members: dict[int, list[int]] = {}
        for number in sorted(shapes):
            members.setdefault(self.root(number), []).append(number)
        found = []
        for root, numbers in members.items():
            givers = [self.givers[n] for n in numbers if n in self.givers]
            takers = [w for n, weights in self.takers if self.root(n) == root for w in weights]
            if not (givers and takers and self.closed.isdisjoint(numbers)):
                continue
            # A reshape may change the size of the last axis, but not the place of a value.
            period = math.gcd(*(shapes[n][-1] for n in numbers))
            if period > 1:
                found.append(
                    ChannelGroup(
                        period=period,
                        tensors=tuple(n for n in numbers if n not in hidden),
                        names=tuple(name for name, _ in givers),
                        givers=tuple(w for _, weights in givers for w in weights),
                        takers=tuple(takers),
                    )
                )
        return found


def _commutes(call: LayerCall, shapes: Shapes) -> bool:
    """Whether the layer gives a channel scaled if it takes it so."""
    layer, kind = call.layer, type(call.layer).__name__
    ends = [shapes[n] for n in (*call.inputs, *call.outputs)]
    if not of_keras_itself(layer) or not call.inputs or min(map(len, ends)) < 2:
        return False
    if kind in MERGING:  # of an operation, the other operand may be a constant
        return len(call.inputs) > 1 and len({(len(s), s[-1]) for s in ends}) == 1
    if len(call.inputs) > 1 or _is_channels_first(layer):
        return False
    if kind == "ReLU":
        return layer.max_value is None and not layer.threshold
    if kind == "Activation":
        return _is_homogeneous(layer.activation)
    return kind in COMMUTING


def _given(call: LayerCall, shapes: Shapes) -> tuple[Weight, ...]:
    """The weights that scale each channel of what the layer gives; none if others do too."""
    layer, kind = call.layer, type(call.layer).__name__
    rank = len(shapes[call.outputs[0]])
    if kind == "Embedding":
        return _weights((layer.embeddings, 1))
    if kind in NORMALIZING:
        is_last = np.atleast_1d(layer.axis).tolist() in ([-1], [rank - 1])
        return _weights((layer.gamma, 1), (layer.beta, 1)) if is_last else ()
    if _is_channels_first(layer) or not _is_homogeneous(getattr(layer, "activation", None)):
        return ()
    if kind in TRANSPOSED:
        kernel = layer.kernel, layer.kernel.shape[-1]
    elif kind in SEPARABLE:
        kernel = layer.pointwise_kernel, 1
    elif kind in DEPTHWISE:
        kernel = depthwise_kernel(layer), 1
    elif kind in (*CONVOLUTIONS, "Dense"):
        kernel = layer.kernel, 1
    else:
        return ()
    return _weights(kernel, (layer.bias, 1))


def _taken(call: LayerCall) -> tuple[Weight, ...]:
    """The weights that multiply each channel of what the layer takes, if it does no more."""
    layer, kind = call.layer, type(call.layer).__name__
    if len(call.inputs) != 1 or _is_channels_first(layer):
        return ()
    if kind in TRANSPOSED:
        return _weights((layer.kernel, 1))
    if kind in (*DEPTHWISE, *SEPARABLE):
        kernel = depthwise_kernel(layer)
    elif kind == "Dense" or (kind in CONVOLUTIONS and layer.groups == 1):
        kernel = layer.kernel
    else:
        return ()
    return _weights((kernel, kernel.shape[-1]))


def _weights(*found: tuple[Any, int]) -> tuple[Weight, ...]:
    """The variables that there are; none if the first is missing, or one is not plain float32."""
    there = [(variable, int(inner)) for variable, inner in found if variable is not None]
    are_plain = all(hasattr(v, "assign") and _dtype(v) == "float32" for v, _ in there)
    if found[0][0] is None or not are_plain:
        return ()
    return tuple(Weight(variable, inner) for variable, inner in there)


def _dtype(variable: Any) -> str:
    return getattr(variable.dtype, "name", str(variable.dtype))


def depthwise_kernel(layer: Any) -> Any:
    """Keras 3 calls it otherwise, but in separable convolutions."""
    return layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel


def _is_channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _is_homogeneous(activation: Any) -> bool:
    package = str(getattr(activation, "__module__", "")).partition(".")[0]
    is_known = getattr(activation, "__name__", None) in HOMOGENEOUS
    return activation is None or (is_known and package in ("keras", "tf_keras", "tensorflow"))


def _variables(layer: Any) -> set[int]:
    return {id(v) for v in getattr(layer, "variables", ())}


def _computed_with_relu(graph: LayerGraph) -> set[int]:
    """Tensors that a ReLU takes, and nothing else: files hold what it gives."""
    return {
        number
        for number, calls in graph.readers.items()
        if len(calls) == 1 and _is_relu(calls[0].layer)
    }


def _is_relu(layer: Any) -> bool:
    kind = type(layer).__name__
    if kind == "Activation":
        return getattr(layer.activation, "__name__", None) == "relu"
    return kind == "Relu" or (kind == "ReLU" and not layer.negative_slope)

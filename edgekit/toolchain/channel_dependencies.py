"""Which channels of a model must go together, and which cannot go.

Each tensor has an identity for each place of its last axis. Layers with a kernel give new ones;
depthwise convolutions, batch normalization and activations hand them on; an addition makes two of
them one; a concatenation puts them side by side. After Fang et al., DepGraph: Towards Any
Structural Pruning (CVPR 2023), with channels in place of layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgekit.errors import ConversionError
from edgekit.toolchain.calls import of_keras_itself
from edgekit.toolchain.channel_ids import Axis, Identities, Ids
from edgekit.toolchain.channel_kinds import (
    ELEMENTWISE_MERGING,
    HANDING_ON,
    RECURRENT,
    has_constants,
    is_elementwise,
    is_scalar,
    kind_of,
    name_of,
)
from edgekit.toolchain.channels import (
    CONVOLUTIONS,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
    Shapes,
    depthwise_kernel,
)
from edgekit.toolchain.layer_graph import LayerCall, LayerGraph

OF_OUTPUT = "its channels are an output of the model"


@dataclass(frozen=True)
class Channels:
    """The channels of a model. All identities are those that stand for what goes together.

    `givers` are the channels of the layers that could give fewer, by name, in the order of their
    computation; `sizes` those that a layer's configuration counts, by the layer's id;
    `closed` says why a channel cannot go, `uncut` why a layer with weights gives none that could.
    """

    givers: Mapping[str, Ids]
    axes: tuple[Axis, ...]
    sizes: Mapping[int, tuple[str, Ids]]
    closed: Mapping[int, str]
    uncut: Mapping[str, str]


def channels_of(graph: LayerGraph, shapes: Shapes, closed: Collection[str] = ()) -> Channels:
    """The channels of a graph of layers.

    Args:
        graph: the layers.
        shapes: of all tensors, by number.
        closed: names of layers, or of nested models, whose outputs keep all of their channels.

    Raises:
        ConversionError: `closed` names a layer that is not there.
    """
    found = _Finding(shapes, _users(graph))
    for number in graph.inputs:
        found.ids.close(found.given(number), "an input of the model meets its channels")
    for call in graph.calls:
        found.add(call)
    for number in graph.outputs:
        ids = found.tensors[number].tolist()
        found.ids.reasons |= dict.fromkeys(ids, OF_OUTPUT)
    names = {name for call in graph.calls for name in _paths(call.name)} | {*graph.input_names}
    for name in closed:
        if name not in names:
            raise ConversionError(f"{graph.name!r} has no layer {name!r}")
    for call in graph.calls:
        for name in {*_paths(call.name)} & {*closed}:
            for number in _leaving(graph, call, name):
                found.ids.close(found.tensors[number], f"{name!r} is an end of the part to export")
    return found.channels()


def _paths(name: str) -> list[str]:
    """The name and those of the models around it: a/b/c, a/b, a."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _leaving(graph: LayerGraph, call: LayerCall, name: str) -> list[int]:
    """What the call gives to others than the layers of `name`."""
    readers = graph.readers
    return [
        n
        for n in call.outputs
        if n in graph.outputs or any(name not in _paths(r.name) for r in readers.get(n, ()))
    ]


def _by_argument(call: LayerCall) -> tuple[int | None, list[int]]:
    """The one tensor that the call takes, if it is one, and the masks for its rows and steps."""
    if len(call.inputs) == 1:
        return call.inputs[0], []
    taken = getattr(call.args[0], "number", None) if call.args else None
    mask = getattr(call.kwargs.get("mask"), "number", None)
    if mask is None or {taken, mask} != {*call.inputs}:
        return None, []
    return taken, [mask]


def _users(graph: LayerGraph) -> Counter[int]:
    """How many layers have each variable, by its id."""
    layers = {id(call.layer): call.layer for call in graph.calls}
    return Counter(v for layer in layers.values() for v in _variables(layer))


def _variables(layer: Any) -> set[int]:
    return {id(v) for v in getattr(layer, "variables", ())}


class _Closed(Exception):
    """Why a layer cannot be cut, and needs all channels of what it takes."""


@dataclass
class _Finding:
    """Identities while they are found."""

    shapes: Shapes
    users: Counter[int]
    ids: Identities = field(default_factory=Identities)
    tensors: dict[int, Ids] = field(default_factory=dict)
    givers: dict[str, Ids] = field(default_factory=dict)
    axes: dict[tuple[int, int], Axis] = field(default_factory=dict)
    sizes: dict[int, tuple[str, Ids]] = field(default_factory=dict)
    uncut: dict[str, str] = field(default_factory=dict)
    closed_layers: dict[int, str] = field(default_factory=dict)

    def given(self, number: int) -> Ids:
        """New channels for a tensor."""
        shape = self.shapes[number]
        self.tensors[number] = self.ids.new(shape[-1] if len(shape) > 1 else 1)
        return self.tensors[number]

    def add(self, call: LayerCall) -> None:
        """Find what the channels of a call have to do with each other."""
        try:
            if id(call.layer) in self.closed_layers:
                raise _Closed(self.closed_layers[id(call.layer)])
            outputs = self._outputs(call)
        except _Closed as e:
            self._close_layer(call.layer, str(e))
            for number in call.inputs:
                self.ids.close(self.tensors[number], f"{_shown(call)} takes all of its channels")
            for number in call.outputs:
                self.ids.close(
                    self.given(number), f"its channels meet those that {_shown(call)} gives"
                )
            if any(len(w.shape) > 1 for w in getattr(call.layer, "weights", ())):
                self.uncut.setdefault(call.name, str(e))
            return
        [number] = call.outputs
        self.tensors[number] = outputs

    def _close_layer(self, layer: Any, reason: str) -> None:
        """Keep what other calls of the same layer give and take."""
        if getattr(layer, "variables", ()):
            self.closed_layers[id(layer)] = reason
        own = _variables(layer)
        for (variable, _), axis in self.axes.items():
            if variable in own:
                self.ids.close(axis.ids, reason)

    def _outputs(self, call: LayerCall) -> Ids:
        """The channels that the call gives.

        Raises:
            _Closed: all channels of its ends must stay.
        """
        layer, kind = call.layer, kind_of(call.layer)
        if not of_keras_itself(layer):
            raise _Closed(f"{kind} is no layer of Keras's own")
        ranks = [len(self.shapes[n]) for n in (*call.inputs, *call.outputs)]
        if len(call.outputs) != 1 or not call.inputs or min(ranks) < 2:
            raise _Closed(_unknown(kind))
        if getattr(layer, "data_format", None) == "channels_first":
            raise _Closed("its channels come first")
        if any(self.users[v] > 1 for v in _variables(layer)):
            raise _Closed("it shares its weights with another layer")
        if kind in ELEMENTWISE_MERGING:
            return self._merged(call)
        if kind == "Concatenate":
            return self._concatenated(call)
        taken, masks = _by_argument(call)
        if taken is None:
            raise _Closed(_unknown(kind))
        for number in masks:
            self.ids.close(self.tensors[number], f"{_shown(call)} takes it for all channels")
        return self._of_one_tensor(call, self.tensors[taken])

    def _merged(self, call: LayerCall) -> Ids:
        if has_constants(call):
            raise _Closed("it computes with a constant for each channel")
        width = self.shapes[call.outputs[0]][-1]
        taken = [self.tensors[n] for n in call.inputs]
        full = [ids for ids in taken if len(ids) == width]
        if not full:
            raise _Closed("it makes channels of a constant")
        for ids in taken:
            if len(ids) == width:
                self.ids.unite(full[0], ids)
            else:  # one for all channels
                self.ids.close(ids, f"{_shown(call)} takes it for all channels")
        return full[0]

    def _concatenated(self, call: LayerCall) -> Ids:
        taken = [self.tensors[n] for n in call.inputs]
        shape = self.shapes[call.outputs[0]]
        if call.layer.axis in (-1, len(shape) - 1):
            ids = np.concatenate(taken)
            if len(ids) != shape[-1]:
                raise _Closed("it puts in a constant")
            return ids
        for ids in taken[1:]:
            self.ids.unite(taken[0], ids)
        return taken[0]

    def _of_one_tensor(self, call: LayerCall, ids: Ids) -> Ids:
        layer, kind = call.layer, kind_of(call.layer)
        if kind in HANDING_ON or (kind == "Permute" and layer.dims[-1] == len(layer.dims)):
            noise = (getattr(layer, "noise_shape", None) or (None,))[-1]  # of Dropout
            settings = [getattr(layer, name, None) for name in ("scale", "offset")]  # of Rescaling
            is_even = noise in (None, 1) and all(map(is_scalar, settings))
            if not is_even or has_constants(call):
                raise _Closed("it has a setting for each channel")
            return ids
        if kind == "Activation":
            _check_elementwise(layer.activation)
            return ids
        if kind == "Flatten" or hasattr(layer, "target_shape"):
            return self._reshaped(call, ids)
        if kind == "BatchNormalization":
            return self._normalized(call, ids)
        if kind == "PReLU":
            is_shared = layer.alpha.shape[-1] == 1
            return self._kept(call, ids, *([] if is_shared else [(layer.alpha, -1)]))
        if kind in DEPTHWISE:
            return self._depthwise(call, ids)
        return self._given_anew(call, ids)

    def _reshaped(self, call: LayerCall, ids: Ids) -> Ids:
        before, after = (self.shapes[n][1:] for n in (*call.inputs, *call.outputs))
        places = np.broadcast_to(ids, before).reshape(-1, after[-1])
        for row in places[1:]:
            self.ids.unite(places[0], row)
        if kind_of(call.layer) == "Reshape" and call.layer.target_shape[-1] != -1:
            self._count(call.layer, "target_shape", places[0])
        return places[0]

    def _normalized(self, call: LayerCall, ids: Ids) -> Ids:
        layer = call.layer
        rank = len(self.shapes[call.inputs[0]])
        if np.atleast_1d(layer.axis).tolist() not in ([-1], [rank - 1]):
            raise _Closed("it normalizes along another axis")
        weights = layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
        return self._kept(call, ids, *((w, 0) for w in weights if w is not None))

    def _depthwise(self, call: LayerCall, ids: Ids) -> Ids:
        layer = call.layer
        _check_elementwise(layer.activation)
        given = np.repeat(ids, layer.depth_multiplier)
        kernel = depthwise_kernel(layer)
        self._annotate(layer, (kernel, -2, ids, "keeps"), *_bias(layer, given))
        return given

    def _given_anew(self, call: LayerCall, ids: Ids) -> Ids:
        """The new channels of a layer with a kernel."""
        layer, kind = call.layer, kind_of(call.layer)
        if getattr(layer, "groups", 1) != 1:
            raise _Closed("it convolves in groups of channels")
        if kind not in (*RECURRENT, *CONVOLUTIONS, *TRANSPOSED, *SEPARABLE, "Dense", "Embedding"):
            raise _Closed(_unknown(kind))
        width = self.shapes[call.outputs[0]][-1]
        given = self.sizes[id(layer)][1] if id(layer) in self.sizes else self.ids.new(width)
        if kind in RECURRENT:
            self._recurrent(call, ids, given)
        elif kind == "Embedding":
            self.ids.close(ids, f"{_shown(call)} looks them up")
            self._annotate(layer, (layer.embeddings, -1, given, "gives"))
        elif kind in SEPARABLE:
            between = np.repeat(ids, layer.depth_multiplier)
            self._annotate(
                layer,
                (layer.depthwise_kernel, -2, ids, "keeps"),
                (layer.pointwise_kernel, -2, between, "takes"),
                (layer.pointwise_kernel, -1, given, "gives"),
                *_bias(layer, given),
            )
        else:
            gives, takes = (-2, -1) if kind in TRANSPOSED else (-1, -2)
            self._annotate(
                layer,
                (layer.kernel, takes, ids, "takes"),
                (layer.kernel, gives, given, "gives"),
                *_bias(layer, given),
            )
        counted = {"Dense": "units", "Embedding": "output_dim"} | dict.fromkeys(RECURRENT, "units")
        self._count(layer, counted.get(kind, "filters"), given)
        self.givers.setdefault(call.name, given)
        try:
            _check_elementwise(getattr(layer, "activation", None))
        except _Closed as e:
            self.ids.close(given, str(e))
        return given

    def _recurrent(self, call: LayerCall, ids: Ids, given: Ids) -> None:
        layer = call.layer
        if layer.stateful or layer.return_state:
            raise _Closed("it keeps or gives out its state")
        _check_elementwise(getattr(layer, "recurrent_activation", None))
        cell = layer.cell
        gates = np.tile(given, cell.kernel.shape[-1] // len(given))
        self._annotate(
            layer,
            (cell.kernel, 0, ids, "takes"),
            (cell.kernel, 1, gates, "gives"),
            (cell.recurrent_kernel, 0, given, "takes"),
            (cell.recurrent_kernel, 1, gates, "gives"),
            *_bias(cell, gates),
        )

    def _kept(self, call: LayerCall, ids: Ids, *weights: tuple[Any, int]) -> Ids:
        self._annotate(call.layer, *((w, axis, ids, "keeps") for w, axis in weights))
        return ids

    def _annotate(self, layer: Any, *found: tuple[Any, int, Ids, str]) -> None:
        """Note what the axes of a layer's variables are; of all calls, the same."""
        known = {id(variable) for variable, *_ in found}
        if any(id(w) not in known for w in layer.weights if len(w.shape)) and found:
            raise _Closed("it has other weights than its kind has")
        for variable, axis, ids, role in found:
            there = self.axes.setdefault((id(variable), axis), Axis(variable, axis, ids, role))
            self.ids.unite(there.ids, ids)

    def _count(self, layer: Any, setting: str, ids: Ids) -> None:
        _, there = self.sizes.setdefault(id(layer), (setting, ids))
        self.ids.unite(there, ids)

    def channels(self) -> Channels:
        roots = self.ids.roots
        return Channels(
            givers={name: roots(ids) for name, ids in self.givers.items()},
            axes=tuple(replace(a, ids=roots(a.ids)) for a in self.axes.values()),
            sizes={key: (name, roots(ids)) for key, (name, ids) in self.sizes.items()},
            closed=self.ids.closed(),
            uncut=self.uncut,
        )


def _bias(layer: Any, ids: Ids) -> list[tuple[Any, int, Ids, str]]:
    return [] if layer.bias is None else [(layer.bias, -1, ids, "keeps")]


def _shown(call: LayerCall) -> str:
    return f"{call.name} ({kind_of(call.layer)})"


def _unknown(kind: str) -> str:
    return f"it is not known how {kind} could be cut"


def _check_elementwise(activation: Any) -> None:
    """Refuse activations that look at several channels, or might.

    Raises:
        _Closed: it does.
    """
    if not is_elementwise(activation):
        raise _Closed(f"its activation {name_of(activation)!r} may need all channels")

"""Layers that turn text and categories into numbers: which they are, and what they do, as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.toolchain.calls import Call, calls_of, layer_name, of_keras_itself, runs_its_graph
from edgekit.toolchain.model import functional_of, of_keras
from edgekit.types import Signature, TensorSpec

TABLES = (
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "StringLookup",
    "TextVectorization",
)
"""Layers that some format has no operation for."""

PREPROCESSING = (*TABLES, "CategoryEncoding", "Discretization")
"""Layers that are split off: of those, or since int8 would round the categories."""

MOVES = (
    "Cast",
    "Concatenate",
    "ExpandDims",
    "Flatten",
    "GetItem",
    "Identity",
    "Reshape",
    "SlicingOpLambda",
    "Squeeze",
)
"""Operations that give the values they take, which may stand before a lookup."""

MOVING_FUNCTIONS = (
    "cast",
    "compat.v1.squeeze",
    "concat",
    "expand_dims",
    "identity",
    "reshape",
    "squeeze",
)
"""The same as functions of TensorFlow, in Keras 2."""

NOTE = (
    "Apply `layers` in this order: each takes the tensors named in its `inputs` (raw inputs, or "
    "outputs of layers before it) and makes those named in its `outputs`; the files take those "
    "named in `inputs` here. `config`, and `arguments` of the call, are Keras' own. In a layer "
    "with a `vocabulary`, a token's index is its place in that list. output_mode 'int' gives "
    "indices; 'one_hot', 'multi_hot' and 'count' vectors with a place for each index; 'tf_idf' "
    "the count at each place times `idf_weights` there; with `invert`, indices become tokens. "
    "Tokens that are not in the list have the index of `oov_token`, one of several by their hash, "
    "or with none of it no place."
)


@dataclass(frozen=True)
class Preprocessing:
    """What was split off: `model` goes from the raw inputs to those of the rest.

    `tensor_names` has the name of each tensor by its id, `ends` the ids of the rest's inputs.
    """

    model: Any
    calls: list[Call]
    raw_inputs: list[str]
    tensor_names: Mapping[int, str]
    ends: list[int]

    @property
    def names(self) -> list[str]:
        """The rest's inputs."""
        return [self.tensor_names[end] for end in self.ends]

    @property
    def layers(self) -> list[Any]:
        """Each layer once."""
        return list(dict.fromkeys(call.layer for call in self.calls))

    @property
    def signature(self) -> Signature:
        """The raw inputs, and what becomes of them."""
        outputs = [
            TensorSpec(name, name, tuple(t.shape), tf.as_dtype(t.dtype).name)
            for name, t in zip(self.names, self.model.outputs, strict=True)
        ]
        return Signature(of_keras(self.model, self.raw_inputs).inputs, tuple(outputs))

    def apply(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raw rows by raw name -> the rest's inputs by their names."""
        results = self.model([tf.constant(feed[name]) for name in self.raw_inputs], training=False)
        return dict(zip(self.names, map(np.asarray, tf.nest.flatten(results)), strict=True))

    def describe(self) -> dict[str, Any]:
        """All that is needed to apply the layers elsewhere, as JSON."""
        taken = set(self.tensor_names.values())
        return {
            "note": NOTE,
            "raw_inputs": self.raw_inputs,
            "inputs": self.names,
            "layers": list(_entries(self.calls, self.tensor_names, taken)),
        }


def first_calls(calls: Sequence[Call]) -> list[Call]:
    """Those calls that are preprocessing and come before all else, in their order."""
    raw: set[int] = set()  # tensors that are inputs, or come from such calls only
    candidates = []
    for call in calls:
        is_first = raw.issuperset(map(id, call.inputs)) and (_prepares(call) or _moves(call.layer))
        if call.is_input or is_first:
            raw.update(map(id, call.outputs))
        if is_first:
            candidates.append(call)
    found: list[Call] = []
    wanted: set[int] = set()  # what moves values stays where nothing else needs it
    for call in reversed(candidates):
        if _prepares(call) or not wanted.isdisjoint(map(id, call.outputs)):
            found.insert(0, call)
            wanted.update(map(id, call.inputs))
    return found


def name_tensors(
    calls: Sequence[Call], given: Mapping[int, str], taken: set[str]
) -> dict[int, str]:
    """`given` names of tensors by id, and with them those of all that `calls` make.

    A tensor is called after its layer, with a name that is not `taken`; it is then.
    """
    names = dict(given)
    for call in calls:
        for tensor in call.outputs:
            if id(tensor) not in names:
                names[id(tensor)] = _fresh(call.layer.name, taken)
    return names


def check_adapted(model: Any) -> None:
    """Refuse a model that lost what a layer learned of data.

    Raises:
        SourceError: a Discretization has no boundaries.
    """
    for layer in model._flatten_layers():
        if type(layer).__name__ != "Discretization" or not of_keras_itself(layer):
            continue
        if not layer.bin_boundaries:
            raise SourceError(
                f"the layer {layer.name!r} (Discretization) has no boundaries: it was not adapted, "
                "or Keras 2 did not save what adapt() found",
                hint="build it with the boundaries of the adapted layer, bin_boundaries=[...], "
                "and save the model again",
            )


def check_none_left(model: Any) -> None:
    """Refuse lookups of text and categories inside of a model.

    Raises:
        SourceError: there is one, which could not be split off.
    """
    for layer in model._flatten_layers():
        kind = next((c for c in type(layer).__mro__ if c.__name__ in TABLES), None)
        if kind is None or kind.__module__.partition(".")[0] not in ("keras", "tf_keras"):
            continue
        raise SourceError(
            f"the layer {layer.name!r} ({kind.__name__}) is not at the beginning of "
            f"{model.name!r}, where it could be split off, and no format has it",
            hint=_way_around(model, layer),
        )


def _way_around(model: Any, layer: Any) -> str:
    """Which part of `model` does without `layer`, or the model within that this is part of."""
    graph = functional_of(model)
    if graph is None:
        return "save the model without it, and look up in the application"
    calls = calls_of(graph)
    models = [c for c in calls if hasattr(c.layer, "_flatten_layers")]
    holders = [c for c in models if layer in c.layer._flatten_layers()]
    made = {id(t) for c in holders for t in c.outputs}
    behind = [c.layer.name for c in calls if not made.isdisjoint(map(id, c.inputs))]
    if behind:
        return f"export what comes behind it: --from {behind[0] if len(behind) == 1 else 'LAYER'}"
    before = [layer_name(t) for c in holders for t in c.inputs]
    return f"export what comes before it: --until {before[0] if len(before) == 1 else 'LAYER'}"


def _prepares(call: Call) -> bool:
    """Whether a layer of Keras is preprocessing, or a model of nothing else."""
    layer = call.layer
    if type(layer).__name__ in PREPROCESSING:
        return of_keras_itself(layer)
    graph = functional_of(layer)
    if graph is None or not runs_its_graph(layer):
        return False
    calls = [c for c in calls_of(graph) if not c.is_input]
    made = [id(t) for c in calls for t in c.outputs]
    return (
        _same_order(call, graph)
        and any(_prepares(c) for c in calls)
        and all(_prepares(c) or _moves(c.layer) for c in calls)
        and len({id(t) for t in graph.outputs}.intersection(made)) == len(graph.outputs)
    )


def _same_order(call: Call, graph: Any) -> bool:
    """Whether a model within another takes the tensors in the order of its own inputs."""
    if len(call.inputs) != len(graph.inputs):
        return False
    if len(graph.inputs) == 1:
        return True
    is_keras_3 = hasattr(graph, "_inputs_struct")
    structure = graph._inputs_struct if is_keras_3 else graph._nested_inputs
    given = call.args[0] if call.args else None
    return isinstance(given, Mapping) == isinstance(structure, Mapping)


def _moves(layer: Any) -> bool:
    if type(layer).__name__ == "TFOpLambda":
        return layer.get_config()["function"] in MOVING_FUNCTIONS
    return type(layer).__name__ in MOVES and of_keras_itself(layer)


def _entries(
    calls: Sequence[Call], names: Mapping[int, str], taken: set[str]
) -> Iterator[dict[str, Any]]:
    """Each call as JSON; of a model within the model, its own calls, with names not `taken`."""
    for call in calls:
        inputs = [names[id(t)] for t in call.inputs]
        outputs = [names[id(t)] for t in call.outputs]
        graph = functional_of(call.layer)
        if graph is None:
            yield _described(call, inputs, outputs)
        else:
            inner = [c for c in calls_of(graph) if not c.is_input]
            ends = [*graph.inputs, *graph.outputs]
            given = dict(zip(map(id, ends), inputs + outputs, strict=True))
            yield from _entries(inner, name_tensors(inner, given, taken), taken)


def _described(call: Call, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    layer = call.layer
    entry = {
        "class_name": type(layer).__name__,
        "name": layer.name,
        "inputs": inputs,
        "outputs": outputs,
        "config": _plain(layer.get_config()),
    }
    if _moves(layer) and (arguments := _arguments(call)):
        entry["arguments"] = _plain(arguments)
    if hasattr(layer, "get_vocabulary"):
        entry["vocabulary"] = _plain(layer.get_vocabulary())
        lookup = getattr(layer, "_lookup_layer", layer)
        if lookup.output_mode == "tf_idf":
            entry["idf_weights"] = _plain(np.asarray(lookup.idf_weights))
    if type(layer).__name__ == "Discretization":
        entry["bin_boundaries"] = _plain(layer.bin_boundaries)
    return entry


def _arguments(call: Call) -> dict[str, Any]:
    """What the call is given beside tensors."""
    bound = inspect.signature(call.layer.call).bind(*call.args, **call.kwargs)
    tensors = set(map(id, call.inputs))
    return {
        name: value
        for name, value in bound.arguments.items()
        if value is not None and tensors.isdisjoint(map(id, tf.nest.flatten(value)))
    }


def _fresh(name: str, taken: set[str]) -> str:
    """`name`, or with a number the first that is not `taken` yet; adds it there."""
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _plain(value: Any) -> Any:
    """`value` with lists, numbers and strings of Python's own."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, slice):
        return {"start": _plain(value.start), "stop": _plain(value.stop), "step": value.step}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

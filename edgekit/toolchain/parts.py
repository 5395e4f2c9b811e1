"""Parts of a graph of layers: what the user names, and what is left without its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.toolchain.model import functional_of, of_keras, unique
from edgekit.types import Signature, TensorSpec

PREPROCESSING = (
    "CategoryEncoding",
    "Discretization",
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "StringLookup",
    "TextVectorization",
)
"""Layers that turn text and categories into numbers. Some format has no operation for each of
them, and int8 would round the categories."""


@dataclass(frozen=True)
class Part:
    """A model whose inputs may be tensors inside of another; `input_names` are their new names."""

    model: Any
    input_names: list[str] | None = None


@dataclass(frozen=True)
class Preprocessing:
    """What was split off: a model from the raw inputs to those of the rest."""

    model: Any
    names: list[str]
    layers: list[Any]

    @property
    def signature(self) -> Signature:
        """The raw inputs, and what becomes of them."""
        whole = of_keras(self.model)
        outputs = [
            TensorSpec(name, name, tuple(t.shape), tf.as_dtype(t.dtype).name)
            for name, t in zip(self.names, self.model.outputs, strict=True)
        ]
        return Signature(whole.inputs, tuple(outputs))

    def apply(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raw rows by raw name -> the rest's inputs by their names."""
        raw = {name: tf.constant(value) for name, value in feed.items()}
        results = of_keras(self.model).call(raw)
        return dict(zip(self.names, map(np.asarray, results.values()), strict=True))

    def describe(self) -> dict[str, Any]:
        """All that is needed to apply the layers elsewhere, as JSON."""
        return {
            "note": "Apply these layers, in this order, to the raw inputs; then feed the files "
            "with `inputs`. `config` is Keras' own; index i of `vocabulary` is the word or "
            "number that becomes i.",
            "raw_inputs": [_name(t) for t in self.model.inputs],
            "inputs": self.names,
            "layers": [_described(layer) for layer in self.layers],
        }


def cut(model: Any, from_layer: str | None, until_layer: str | None) -> Part:
    """The part of `model` from one layer's input until another's output, both included.

    Raises:
        SourceError: there is no such layer, or the part needs tensors of the rest.
    """
    if from_layer is None and until_layer is None:
        return Part(model)
    graph = functional_of(model)
    if graph is None:
        raise SourceError(
            f"the model {model.name!r} is no graph of layers, from which a part could be taken",
            hint="--from and --until need a Functional or Sequential model",
        )
    inputs, outputs = model.inputs, _nested_outputs(model)
    if from_layer is not None:
        inputs, _ = _call_of(model, graph, from_layer)
    if until_layer is not None:
        _, outputs = _call_of(model, graph, until_layer)
    try:
        part = _model_class(model)(inputs, outputs, name=model.name)
    except ValueError as e:  # "Graph disconnected", or `inputs` not connected to `outputs`
        ends = f"from {from_layer or 'its inputs'!r} until {until_layer or 'its outputs'!r}"
        raise SourceError(
            f"{model.name!r} has no part {ends} that stands alone",
            hint="another branch of the model leads into it, or it ends before it begins: "
            "begin at an earlier layer, or behind the point where the branches meet",
        ) from e
    names = None if from_layer is None else unique([_name(t) for t in inputs])
    return Part(part, names)


def split(part: Part) -> tuple[Part, Preprocessing | None]:
    """`part` without the preprocessing layers that its inputs go through first, and those.

    Raises:
        SourceError: there is nothing else in it.
    """
    graph = functional_of(part.model)
    if graph is None:
        return part, None
    raw: set[int] = set()  # tensors that are inputs, or come from preprocessing only
    ends: dict[int, Any] = {}  # those of them that the rest takes
    layers = []
    for layer, inputs, outputs in _calls(graph):
        if type(layer).__name__ == "InputLayer":
            raw.update(map(id, outputs))
        elif type(layer).__name__ in PREPROCESSING and raw.issuperset(map(id, inputs)):
            raw.update(map(id, outputs))
            layers.append(layer)
        else:
            ends.update((id(t), t) for t in inputs if id(t) in raw)
    if not layers:
        return part, None
    if any(id(t) in raw for t in graph.outputs):
        raise SourceError(
            f"an output of {part.model.name!r} comes from preprocessing layers alone "
            f"({', '.join(layer.name for layer in layers)}): no format has them",
            hint="export a model that computes something with it",
        )
    tensors = list(ends.values())
    names = unique([_name(t) for t in tensors])
    build = _model_class(part.model)
    rest = build(tensors, _nested_outputs(part.model), name=part.model.name)
    before = build(part.model.inputs, tensors, name="preprocessing")
    return Part(rest, names), Preprocessing(before, names, list(dict.fromkeys(layers)))


def _model_class(model: Any) -> Any:
    """The Model class of the Keras that `model` belongs to."""
    return next(c for c in reversed(type(model).__mro__) if c.__name__ == "Model")


def _call_of(model: Any, graph: Any, name: str) -> tuple[list[Any], list[Any]]:
    """The tensors that the layer `name` takes and gives."""
    calls = [call for call in _calls(graph) if call[0].name == name]
    if len(calls) == 1:
        return calls[0][1], calls[0][2]
    if calls:
        raise SourceError(
            f"the layer {name!r} is used {len(calls)} times in {model.name!r}",
            hint="name the layer before or behind it",
        )
    known = [layer.name for layer in model.layers]
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    raise SourceError(f"{model.name!r} has no layer {name!r}", hint=f"it has: {shown}")


def _nested_outputs(model: Any) -> Any:
    functional = functional_of(model)
    keras_3 = getattr(functional, "_outputs_struct", None)
    return functional._nested_outputs if keras_3 is None else keras_3


def _calls(graph: Any) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Each call of a layer in the graph, first to last: (layer, input tensors, output tensors)."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if hasattr(node, "operation"):
                yield node.operation, list(node.input_tensors), list(node.output_tensors)
            else:  # tf_keras
                yield node.layer, list(node.keras_inputs), tf.nest.flatten(node.outputs)


def _name(tensor: Any) -> str:
    """The layer that a symbolic tensor comes from."""
    history = tensor._keras_history
    layer = history.operation if hasattr(history, "operation") else history.layer  # tf_keras
    return str(layer.name)


def _described(layer: Any) -> dict[str, Any]:
    entry = {
        "class_name": type(layer).__name__,
        "name": layer.name,
        "config": _plain(layer.get_config()),
    }
    if hasattr(layer, "get_vocabulary"):
        entry["vocabulary"] = _plain(layer.get_vocabulary())
    return entry


def _plain(value: Any) -> Any:
    """`value` with lists, numbers and strings of Python's own."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

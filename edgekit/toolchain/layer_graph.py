"""A Keras model as the list of its layers' calls, which can be computed one after the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import tensorflow as tf

from edgekit.errors import ConversionError
from edgekit.toolchain.calls import Call, calls_of, runs_its_graph
from edgekit.toolchain.model import functional_of

Values = dict[int, Any]
"""Tensors of a LayerGraph by their number; the first axis of each is the row."""


@dataclass(frozen=True)
class _Place:
    """Stands for a tensor in the arguments of a call."""

    number: int


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a layer; a layer that is called twice has two of them.

    `name` is the layer's, behind those of the models it is nested in: "encoder/conv".
    """

    name: str
    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    args: Any
    kwargs: Any

    def compute(self, values: Mapping[int, Any]) -> list[Any]:
        """The tensors of `outputs`, in inference, from those of `inputs` among `values`."""

        def filled(given: Any) -> Any:
            return tf.nest.map_structure(
                lambda x: values[x.number] if isinstance(x, _Place) else x, given
            )

        kwargs = dict(filled(self.kwargs))
        if "training" in getattr(self.layer, "_call_context_args", ()):
            kwargs["training"] = False  # as a model does that is called so
        elif getattr(self.layer, "_expects_training_arg", False):  # tf_keras
            kwargs.setdefault("training", False)
        return tf.nest.flatten(self.layer(*filled(self.args), **kwargs))


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """The layers of a Functional or Sequential model, those of nested models among them.

    Tensors have numbers. `inputs` and `outputs` are in the order of the model's signature, and
    `calls` in one in which each comes behind those that it needs.
    """

    name: str
    input_names: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    calls: tuple[LayerCall, ...]

    def between(self, number: int, known: Collection[int]) -> set[int]:
        """Places of the calls that lead to a tensor from those that are known."""
        found: set[int] = set()
        open_ends = [number]
        while open_ends:
            place = self._maker.get(open_ends.pop())
            if place is not None and place not in found:
                found.add(place)
                open_ends.extend(n for n in self.calls[place].inputs if n not in known)
        return found

    @cached_property
    def _maker(self) -> dict[int, int]:
        return {n: place for place, call in enumerate(self.calls) for n in call.outputs}

    @property
    def readers(self) -> dict[int, list[LayerCall]]:
        """The calls that take each tensor."""
        found: dict[int, list[LayerCall]] = {}
        for call in self.calls:
            for number in call.inputs:
                found.setdefault(number, []).append(call)
        return found


def layer_graph(model: Any) -> LayerGraph:
    """The graph of layers of a keras.Model or tf_keras.Model; None stands for a SavedModel.

    A nested model is entered; any other layer that holds layers (TimeDistributed, Bidirectional,
    one of the user's) is one layer.

    Raises:
        ConversionError: the model is none: subclassed, or with a call() of its own.
    """
    if not _is_graph(model):
        kind = "a SavedModel" if model is None else f"{model.name!r} ({type(model).__name__})"
        raise ConversionError(
            f"{kind} has no graph of layers, which would tell what each layer gives",
            hint="this takes a Functional or Sequential model, as keras.Model(inputs, outputs), "
            "from a .keras or .h5 file",
        )
    flat = _Flattened()
    functional = functional_of(model)
    inputs = [flat.new(tensor) for tensor in functional.inputs]
    flat.add(functional, "")
    return LayerGraph(
        name=model.name,
        input_names=tuple(t._keras_history[0].name for t in functional.inputs),
        inputs=tuple(inputs),
        outputs=tuple(flat.numbers[id(t)] for t in functional.outputs),
        calls=tuple(flat.calls),
    )


def _is_graph(model: Any) -> bool:
    return functional_of(model) is not None and runs_its_graph(model)


@dataclass
class _Flattened:
    """Calls collected so far, and the number of each symbolic tensor by its id."""

    calls: list[LayerCall] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def new(self, tensor: Any) -> int:
        self.numbers[id(tensor)] = self.count
        self.count += 1
        return self.count - 1

    def add(self, functional: Any, prefix: str) -> None:
        """The calls in a graph whose inputs have their numbers."""
        for call in calls_of(functional):
            if call.is_input:
                continue
            inner = _entered(call)
            if inner is None:
                self.calls.append(self._call(call, prefix))
                continue
            # The model may be called again, with other tensors for the same symbolic ones.
            for symbol, given in zip(inner.inputs, call.inputs, strict=True):
                self.numbers[id(symbol)] = self.numbers[id(given)]
            self.add(inner, f"{prefix}{call.layer.name}/")
            for symbol, made in zip(call.outputs, inner.outputs, strict=True):
                self.numbers[id(symbol)] = self.numbers[id(made)]

    def _call(self, call: Call, prefix: str) -> LayerCall:
        inputs = tuple(self.numbers[id(t)] for t in call.inputs)
        known = {id(t): _Place(n) for t, n in zip(call.inputs, inputs, strict=True)}

        def numbered(given: Any) -> Any:
            return tf.nest.map_structure(lambda x: known.get(id(x), x), given)

        return LayerCall(
            name=prefix + call.layer.name,
            layer=call.layer,
            inputs=inputs,
            outputs=tuple(self.new(t) for t in call.outputs),
            args=numbered(tuple(call.args)),
            kwargs=numbered(dict(call.kwargs)),
        )


def _entered(call: Call) -> Any:
    """The graph of a nested model that is called with its inputs as they are; else None."""
    if not _is_graph(call.layer):
        return None
    functional = functional_of(call.layer)
    # What is named or shaped otherwise, Keras sorts or reshapes first.
    is_same = bool(call.args) and (
        isinstance(call.args[0], Mapping) == isinstance(_taken(functional), Mapping)
        and len(functional.inputs) == len(call.inputs)
        and all(_fits(t, given) for t, given in zip(functional.inputs, call.inputs, strict=True))
    )
    return functional if is_same else None


def _fits(symbol: Any, given: Any) -> bool:
    """Whether a tensor is of a symbolic one's shape, which may leave dimensions open."""
    own, other = tuple(symbol.shape[1:]), tuple(given.shape[1:])
    return len(own) == len(other) and all(a in (None, b) for a, b in zip(own, other, strict=True))


def _taken(functional: Any) -> Any:
    """The symbolic inputs as the user nested them."""
    keras_3 = getattr(functional, "_inputs_struct", None)
    return functional._nested_inputs if keras_3 is None else keras_3

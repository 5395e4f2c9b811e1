"""The calls of layers that a Functional or Sequential model is made of, in either Keras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.toolchain.model import functional_of


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, with the symbolic tensors that it takes and gives.

    `args` and `kwargs` are those of the call, with the tensors among them.
    """

    layer: Any
    inputs: list[Any]
    outputs: list[Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def is_input(self) -> bool:
        """Whether it stands for an input of the model."""
        return type(self.layer).__name__ == "InputLayer"


def calls_of(graph: Any) -> list[Call]:
    """The calls in a graph of layers (`functional_of`), each behind those that it needs."""
    nodes = [
        n
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for n in graph._nodes_by_depth[depth]
    ]
    return [_call(node) for node in nodes]


def _call(node: Any) -> Call:
    if hasattr(node, "operation"):
        given = node.arguments
        tensors = list(node.input_tensors), list(node.output_tensors)
        return Call(node.operation, *tensors, given.args, given.kwargs)
    outputs = tf.nest.flatten(node.outputs)  # tf_keras
    return Call(node.layer, list(node.keras_inputs), outputs, node.call_args, node.call_kwargs)


def layer_name(tensor: Any) -> str:
    """The layer that a symbolic tensor comes from."""
    history = tensor._keras_history
    layer = history.operation if hasattr(history, "operation") else history.layer  # tf_keras
    return str(layer.name)


def of_keras_itself(layer: Any) -> bool:
    """Whether the layer's class is one of Keras, and not the user's of the same name."""
    return _is_keras(type(layer))


def runs_its_graph(model: Any) -> bool:
    """Whether calling the model is no more than calling the layers of its graph."""
    return all(
        _is_keras(next(c for c in type(model).__mro__ if name in vars(c)))
        for name in ("call", "__call__")
    )


def nested_outputs(model: Any) -> Any:
    """The symbolic outputs as the user nested them."""
    functional = functional_of(model)
    keras_3 = getattr(functional, "_outputs_struct", None)
    return functional._nested_outputs if keras_3 is None else keras_3


def rebuild(model: Any, inputs: list[Any], outputs: Any, name: str) -> Any:
    """A model of those layers of `model` that lead from `inputs` to `outputs`.

    Raises:
        SourceError: `model` does something else beside its layers, which would be lost.
    """
    if not runs_its_graph(model):
        raise SourceError(
            f"the model {model.name!r} has a call() of its own ({type(model).__name__}), of which "
            "a part of its layers knows nothing",
            hint="export it whole and without text layers, or save as the model the layers alone: "
            "keras.Model(model.inputs, model.outputs)",
        )
    base = next(c for c in reversed(type(model).__mro__) if c.__name__ == "Model")
    return base(inputs, outputs, name=name)


def _is_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in ("keras", "tf_keras")

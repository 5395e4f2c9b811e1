"""One traced function per model, from which every format is made.

TFLiteConverter, tf2onnx and a SavedModel each rename and reorder a Keras model's inputs and
outputs in their own way, and TFLiteConverter loses a Keras 3 model's weights without a word. One
function with known names and tracked variables, used by all, ends that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.types import Signature, TensorSpec


@dataclass(frozen=True, eq=False)
class Canonical:
    """A model's inference as a concrete function.

    `signature` has the Keras names and order; its `native` names are tensors of the graph
    ("x:0"). Keep `holder` alive as long as `concrete` is converted: it owns the variables.
    """

    signature: Signature
    function: Any
    concrete: Any
    holder: tf.Module


def trace(model: keras.Model, batch: int | None) -> Canonical:
    """Trace `model` in inference mode, with `batch` rows per call (None = any number).

    Raises:
        SourceError: the model has no defined inputs (never built), or is not a tensor function.
    """
    names, tensors = _inputs(model)
    structure = _structure(model, "_inputs_struct")

    def serve(*args: Any) -> dict[str, Any]:
        feed = keras.tree.pack_sequence_as(structure, list(args))
        return _name_outputs(model, model(feed, training=False))

    arguments = [
        tf.TensorSpec([batch, *t.shape[1:]], t.dtype, name=safe)
        for safe, t in zip(_identifiers(names), tensors, strict=True)
    ]
    function = tf.function(serve, input_signature=arguments, autograph=False)
    holder = tf.Module()
    holder.variables_ = [v.value if isinstance(v, keras.Variable) else v for v in model.variables]
    concrete = function.get_concrete_function()

    # tf.function flattens a dict in sorted key order.
    output_names = list(_name_outputs(model, _structure(model, "_outputs_struct")))
    outputs = dict(zip(sorted(output_names), concrete.outputs, strict=True))
    return Canonical(
        signature=Signature(
            inputs=_specs(names, concrete.inputs[: len(names)], batch),
            outputs=_specs(output_names, [outputs[n] for n in output_names], batch),
        ),
        function=function,
        concrete=concrete,
        holder=holder,
    )


def fixed_batch(model: keras.Model) -> int | None:
    """The number of rows that the model itself was built for; None: any."""
    inputs = getattr(model, "inputs", None)
    return inputs[0].shape[0] if inputs else None


def call(model: keras.Model, feed: dict[str, Any]) -> dict[str, Any]:
    """The Keras model called as it is, eagerly: outputs by Keras name."""
    names, _ = _inputs(model)
    arguments = [feed[name] for name in names]
    packed = keras.tree.pack_sequence_as(_structure(model, "_inputs_struct"), arguments)
    return _name_outputs(model, model(packed, training=False))


def _inputs(model: keras.Model) -> tuple[list[str], list[Any]]:
    """Keras names and symbolic tensors of the inputs, in the model's order."""
    try:
        tensors = list(model.inputs)
    except (AttributeError, ValueError):
        tensors = []
    if not tensors:
        raise SourceError(
            f"the model {model.name!r} has no defined inputs: it was saved before it was built",
            hint="call it once on a batch of data, then save it again",
        )
    struct = _structure(model, "_inputs_struct")
    if isinstance(struct, dict):
        # Keras flattens a dict in sorted key order; its keys are what the user feeds.
        return sorted(struct), [struct[k] for k in sorted(struct)]
    return _unique([t.name for t in tensors]), tensors


def _structure(model: keras.Model, attribute: str) -> Any:
    """The model's inputs or outputs as the user nested them; a Sequential wraps a Functional."""
    functional = getattr(model, "_functional", None) or model
    return getattr(functional, attribute)


def _name_outputs(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """Outputs by Keras name, in the model's order."""
    if isinstance(outputs, dict):
        return {str(k): outputs[k] for k in sorted(outputs)}
    flat = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    functional = getattr(model, "_functional", None) or model
    names = list(
        getattr(functional, "output_names", None) or [f"output_{i}" for i in range(len(flat))]
    )
    return dict(zip(_unique(names), flat, strict=True))


def _specs(names: list[str], tensors: list[Any], batch: int | None) -> tuple[TensorSpec, ...]:
    specs = []
    for name, t in zip(names, tensors, strict=True):
        if t.shape.rank in (None, 0):
            raise SourceError(f"{name!r} has no batch dimension: shape {t.shape}")
        shape = (batch, *t.shape.as_list()[1:])
        specs.append(TensorSpec(name=name, native=t.name, shape=shape, dtype=t.dtype.name))
    return tuple(specs)


def _unique(names: list[str]) -> list[str]:
    """Names made unique by _1, _2 ..., as two outputs of one layer share the layer's name."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(name if count == 0 else f"{name}_{count}")
    return unique


def _identifiers(names: list[str]) -> list[str]:
    """Names that tf.function keeps: unique identifiers, most often the Keras names themselves."""
    return _unique([re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII) for name in names])

"""One traced function per model, from which every format is made.

TFLiteConverter, tf2onnx and a SavedModel each rename and reorder a Keras model's inputs and
outputs in their own way, and TFLiteConverter loses a Keras 3 model's weights without a word. One
function with known names and tracked variables, used by all, ends that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.toolchain.model import Model, unique
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


def trace(model: Model, batch: int | None) -> Canonical:
    """Trace `model` in inference mode, with `batch` rows per call (None = any number).

    Raises:
        SourceError: the model is not a function of tensors.
    """
    names = [spec.name for spec in model.inputs]
    order: list[str] = []

    def serve(*args: Any) -> dict[str, Any]:
        outputs = model.call(dict(zip(names, args, strict=True)))
        order[:] = outputs
        return outputs

    arguments = [
        tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=safe)
        for safe, spec in zip(_identifiers(names), model.inputs, strict=True)
    ]
    function = tf.function(serve, input_signature=arguments, autograph=False)
    holder = tf.Module()
    holder.variables_ = list(model.variables)
    concrete = function.get_concrete_function()

    # tf.function flattens a dict in sorted key order.
    outputs = dict(zip(sorted(order), concrete.outputs, strict=True))
    return Canonical(
        signature=Signature(
            inputs=_specs(names, concrete.inputs[: len(names)], batch),
            outputs=_specs(order, [outputs[n] for n in order], batch),
        ),
        function=function,
        concrete=concrete,
        holder=holder,
    )


def _specs(names: list[str], tensors: list[Any], batch: int | None) -> tuple[TensorSpec, ...]:
    specs = []
    for name, t in zip(names, tensors, strict=True):
        if t.shape.rank in (None, 0):
            raise SourceError(
                f"{name!r} has no batch dimension: its shape is {t.shape}",
                hint="files are compared row by row: export the part whose outputs have one row "
                "for each of the inputs, with --until LAYER",
            )
        if t.dtype.name in ("string", "resource", "variant") or t.dtype.is_complex:
            raise SourceError(
                f"{name!r} is of type {t.dtype.name}, which no format has",
                hint="export the part of the model that works with numbers: --from, --until LAYER",
            )
        shape = (batch, *t.shape.as_list()[1:])
        specs.append(TensorSpec(name=name, native=t.name, shape=shape, dtype=t.dtype.name))
    return tuple(specs)


def _identifiers(names: list[str]) -> list[str]:
    """Names that tf.function keeps: unique identifiers, most often the Keras names themselves."""
    return unique([re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII) for name in names])

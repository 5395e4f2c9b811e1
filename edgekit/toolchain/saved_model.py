"""SavedModel folders as functions: of a plain tf.Module, or as Keras 3 exports them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.toolchain.model import Model, Tensors
from edgekit.types import TensorSpec

DEFAULT = "serving_default"


def load(path: Path) -> Model:
    """The signature of a SavedModel that is meant for serving.

    Raises:
        SourceError: it cannot be read, has no signature, or one that no batch goes through.
    """
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as e:  # anything from OSError to a missing custom operation
        reason = str(e).strip().partition("\n")[0]
        raise SourceError(f"{path}: TensorFlow cannot load this SavedModel: {reason}") from e
    function = _signature(path, loaded)
    specs = [
        TensorSpec(
            name=name,
            native=name,
            shape=tuple(_dims(path, name, spec.shape)),
            dtype=spec.dtype.name,
        )
        for name, spec in sorted(function.structured_input_signature[1].items())
    ]

    def call(feed: Mapping[str, Any]) -> Tensors:
        outputs = function(**{spec.name: feed[spec.name] for spec in specs})
        return {name: outputs[name] for name in sorted(outputs)}

    variables = tuple(function.graph.variables)
    return Model(
        name=path.resolve().name,
        inputs=tuple(specs),
        call=_Held(call, loaded),
        variables=variables,
        parameters=sum(math.prod(v.shape.as_list()) for v in variables),
    )


def _signature(path: Path, loaded: Any) -> Any:
    signatures = dict(loaded.signatures)
    if DEFAULT in signatures:
        return signatures[DEFAULT]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    found = f"these: {', '.join(sorted(signatures))}" if signatures else "none"
    raise SourceError(
        f"{path} has no signature {DEFAULT!r}; it has {found}",
        hint="save it with one: tf.saved_model.save(module, folder, "
        "signatures=module.function.get_concrete_function(...))",
    )


def _dims(path: Path, name: str, shape: Any) -> list[int | None]:
    if shape.rank is None or shape.rank == 0:
        raise SourceError(
            f"{path}: its input {name!r} has the shape {shape}: edgekit needs a batch dimension",
            hint="save it with an input of a known rank, whose first axis is the rows",
        )
    return list(shape.as_list())


class _Held:
    """`call`, and what must live as long as it: the variables belong to the loaded object."""

    def __init__(self, call: Any, owner: Any) -> None:
        self._call, self._owner = call, owner

    def __call__(self, feed: Mapping[str, Any]) -> Tensors:
        return self._call(feed)

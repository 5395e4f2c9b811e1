"""Models with TFMOT's wrappers around some of their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tf_keras

from edgekit.errors import ConversionError
from edgekit.toolchain.calls import calls_of
from edgekit.toolchain.model import functional_of


def wrapped(
    model: Any, amounts: Mapping[str, Any], wrap: Callable[[Any, Any], Any], prefix: str = ""
) -> Any:
    """A copy of the graph of `model` in which `wrap(layer, amount)` stands for some layers.

    Args:
        model: its other layers are in the copy, too.
        amounts: by the names of these layers, "encoder/conv" in a nested model.
        wrap: TFMOT's wrapper of a layer, by the layer's name.
        prefix: of the names in `model`.

    Raises:
        ConversionError: TFMOT does not know a layer, or would lose what it is called with.
    """

    def replaced(layer: Any) -> Any:
        name = f"{prefix}{layer.name}"
        if functional_of(layer) is not None:
            return wrapped(layer, amounts, wrap, f"{name}/")
        return wrap(layer, amounts[name]) if name in amounts else layer

    calls = calls_of(functional_of(model))
    if any(getattr(t, "_keras_mask", None) is not None for call in calls for t in call.outputs):
        raise ConversionError("TFMOT's wrappers lose masks (mask_zero, Masking)")
    try:
        return tf_keras.models.clone_model(model, clone_function=replaced)
    except ConversionError:
        raise
    except Exception as e:  # of every kind, from the layers
        raise ConversionError(f"TFMOT does not take this model: {e}") from e

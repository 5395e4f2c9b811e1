"""What Keras layers are told before they are traced, so that every format can take them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from edgekit.errors import ConversionError, SourceError

MOST_STEPS = 256
"""Unrolled further, a recurrent layer makes graphs that no converter finishes in minutes."""


def use_float32(layers: Iterable[Any]) -> list[str]:
    """Let layers of a mixed policy compute in float32, the type that their weights have anyway.

    Returns:
        The names of the policies that were replaced.
    """
    replaced = []
    for layer in layers:
        policy: Any = getattr(layer, "dtype_policy", None)
        name = getattr(policy, "name", "") or ""
        if not name.startswith("mixed_"):
            continue
        replaced.append(name)
        if hasattr(layer, "_set_dtype_policy"):  # tf_keras
            layer._set_dtype_policy(type(policy)("float32"))
        else:
            layer.dtype_policy = type(policy)("float32")
    return sorted(set(replaced))


def keep_no_state(layers: Iterable[Any]) -> None:
    """Let recurrent layers be functions of their inputs alone.

    Raises:
        SourceError: a layer is meant to keep its state from call to call.
    """
    for layer in layers:
        if getattr(layer, "stateful", False) and hasattr(layer, "cell"):
            raise SourceError(
                f"the layer {layer.name!r} keeps its state from one call to the next "
                "(stateful=True), and no exported file does",
                hint="build the model with stateful=False, and give and take the state as inputs "
                "and outputs if it must go on",
            )
        if hasattr(layer, "_could_use_gpu_kernel"):
            # TFLite makes of Keras 2's fused LSTM an operation that carries its state along.
            layer._could_use_gpu_kernel = False
        if hasattr(layer, "get_dropout_mask"):
            # Keras 3 draws the mask, and counts that in a variable, in inference too.
            layer.dropout = layer.recurrent_dropout = 0.0


def recurrent(layers: Iterable[Any]) -> list[Any]:
    """The layers that loop over time."""
    return [layer for layer in layers if hasattr(layer, "unroll") and hasattr(layer, "cell")]


def check_unrollable(layers: Iterable[Any]) -> bool:
    """Whether there are loops over time, which int8 kernels do not have.

    Raises:
        ConversionError: they are too long to be unrolled.
    """
    layers = list(layers)
    if not recurrent(layers):
        return False
    steps = max((_steps(layer) for layer in layers), default=0)
    if steps > MOST_STEPS:
        raise ConversionError(
            f"int8 needs recurrent layers unrolled, and {steps} steps are too many for that "
            f"(at most {MOST_STEPS})",
            hint="export fp32 or fp16, or build the model for shorter sequences",
        )
    return True


def _steps(layer: Any) -> int:
    """Length of the sequence that a recurrent layer takes, 0 where that is not known."""
    if not (hasattr(layer, "unroll") or type(layer).__name__ == "Bidirectional"):
        return 0
    try:
        first = layer.input[0] if isinstance(layer.input, (list, tuple)) else layer.input
        return first.shape[1] or 0
    except (AttributeError, ValueError, RuntimeError):  # inside of a wrapper, or shared
        return 0


@contextlib.contextmanager
def unrolled(layers: Iterable[Any]) -> Iterator[None]:
    """Within the block, loops over time are traced step by step: a graph without loops."""
    loops = recurrent(layers)
    before = [layer.unroll for layer in loops]
    for layer in loops:
        layer.unroll = True
    try:
        yield
    except ValueError as e:
        if not re.search("Cannot unroll|Unrolling requires", str(e)):
            raise
        raise ConversionError(
            "int8 needs recurrent layers unrolled, and the length of the sequences is not known",
            hint="export fp32 or fp16, or build the model with a fixed length: "
            "keras.Input((length, features))",
        ) from e
    finally:
        for layer, value in zip(loops, before, strict=True):
            layer.unroll = value

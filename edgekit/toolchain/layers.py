"""What Keras layers are told before they are traced, so that every format can take them."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edgekit.errors import ConversionError, SourceError

MOST_STEPS = 256
"""Unrolled further, a recurrent layer makes graphs that no converter finishes in minutes."""


def use_float32(layers: Iterable[Any]) -> list[str]:
    """Let layers of a mixed policy compute in float32, the type that their weights have anyway.

    Returns:
        The names of the policies that were replaced.

    Raises:
        SourceError: a layer has weights of another type.
    """
    replaced = []
    for layer in layers:
        policy: Any = getattr(layer, "dtype_policy", None)
        name = getattr(policy, "name", "") or ""
        if name in ("float16", "bfloat16", "float64"):
            raise SourceError(
                f"the layer {layer.name!r} computes in {name}, with weights of that type, and no "
                "format does",
                hint="build the model again in float32 and copy the weights: "
                "new.set_weights(old.get_weights())",
            )
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


@contextlib.contextmanager
def unrolled(layers: Iterable[Any]) -> Iterator[None]:
    """Within the block, loops over time are traced step by step: a graph without loops.

    Raises:
        ConversionError: the sequences are too long for that, or of unknown length.
    """
    loops = recurrent(layers)
    before = [layer.unroll for layer in loops]
    for layer in loops:
        layer.unroll = True
        object.__setattr__(layer, "call", _limited(layer.call))
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
            object.__delattr__(layer, "call")


def _limited(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` of a recurrent layer, for sequences that can be unrolled."""

    @functools.wraps(call)
    def checked(sequences: Any, *args: Any, **kwargs: Any) -> Any:
        first = sequences[0] if isinstance(sequences, (list, tuple)) else sequences
        steps = first.shape[1]
        if steps is not None and steps > MOST_STEPS:
            raise ConversionError(
                f"int8 needs recurrent layers unrolled, and {steps} steps are too many for that "
                f"(at most {MOST_STEPS})",
                hint="export fp32 or fp16, or build the model for shorter sequences",
            )
        return call(sequences, *args, **kwargs)

    return checked

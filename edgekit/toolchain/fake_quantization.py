"""Fake quantization of any model of either Keras, without another architecture.

Within `fake_quantized`, layers compute as their int8 files will: the weights in 8 bits per output
channel, symmetric, and the activations in 8 bits per tensor. Gradients go straight through the
rounding (Jacob et al., Quantization and Training of Neural Networks, CVPR 2018). Only `call` of
the layers is another meanwhile; models, files and other models of the same layers know nothing.

A kernel before batch normalization is rounded as it is. The files have it multiplied by
gamma / sqrt(variance + epsilon) of its channel, but each channel has a scale of its own: the steps
are the same share of the channel's weights.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from edgekit.toolchain.kernels import output_axes

LEVELS = 127
"""Steps of a weight on either side of 0."""

SHRINK = 0.01
"""How fast the range of an activation follows values that became smaller."""

_MERGED = {
    "BatchNormalization",
    "Dropout",
    "ReLU",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
}
"""Layers that converters merge into the layer before them."""

_MOVING = {
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "Flatten",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GlobalMaxPooling3D",
    "Identity",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "Permute",
    "RepeatVector",
    "Reshape",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
}
"""Layers that only move values, which the next layer rounds."""


@contextlib.contextmanager
def fake_quantized(model: Any) -> Iterator[None]:
    """Within the block, the layers of `model` compute with rounded weights and activations."""
    layers = list({id(layer): layer for layer in _layers(model)}.values())
    for layer in layers:
        # Not by the layer's own __setattr__, which tracks what it is given.
        object.__setattr__(layer, "call", _rounding(layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _layers(parent: Any) -> Iterator[Any]:
    """The layers inside of `parent`; a loop over time is one, with all that it contains."""
    for layer in parent._flatten_layers(recursive=False, include_self=False):
        yield layer
        if not _loops(layer):
            yield from _layers(layer)


def _loops(layer: Any) -> bool:
    return hasattr(layer, "cell") or type(layer).__name__ == "TimeDistributed"


def _rounding(layer: Any) -> Callable[..., Any]:
    """`layer.call` with rounded weights and, where the files round them, activations."""
    call, inside = layer.call, list(layer._flatten_layers(include_self=False))
    owners = [layer, *(inside if _loops(layer) else [])]
    takes_rounded = _loops(layer) or not (inside or _is_merged(layer))
    activation = vars(layer).get("activation")
    # What it takes is a tensor of the files, as is what the layer gives.
    stands_alone = bool(_weights(layer)) and not _is_merged_activation(activation)
    ranges: dict[Any, _Range] = {}

    def rounded(key: Any, value: Any) -> Any:
        if not (tf.is_tensor(value) and value.dtype.is_floating):
            return value
        if key not in ranges:
            ranges[key] = _Range()
        return ranges[key](value)

    @functools.wraps(call)
    def quantized(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for owner in owners:
                weights = {
                    name: per_channel(tf.convert_to_tensor(value), output_axes(owner, name))
                    for name, value in _weights(owner).items()
                }
                stack.enter_context(_attributes(owner, weights))
            if stands_alone:
                between = {"activation": lambda x: activation(rounded("activation", x))}
                stack.enter_context(_attributes(layer, between))
            if takes_rounded:
                flat = [rounded(i, value) for i, value in enumerate(tf.nest.flatten(args))]
                args = tf.nest.pack_sequence_as(args, flat)
            return call(*args, **kwargs)

    return quantized


def _is_merged(layer: Any) -> bool:
    """Whether the files have no tensor of its own between it and the layer before or behind."""
    kind = type(layer).__name__
    if kind == "Activation":
        return _is_merged_activation(layer.activation)
    return kind in _MERGED | _MOVING


def _is_merged_activation(activation: Any) -> bool:
    return getattr(activation, "__name__", "linear") in ("linear", "relu", "relu6")


def _weights(owner: Any) -> dict[str, Any]:
    """Float variables of two dimensions and more by attribute; biases are 32 bits wide."""
    return {
        name: value
        for name, value in vars(owner).items()
        if "bias" not in name
        and hasattr(value, "assign")
        and len(getattr(value, "shape", ())) > 1
        and tf.as_dtype(value.dtype).is_floating
    }


@contextlib.contextmanager
def _attributes(owner: Any, values: dict[str, Any]) -> Iterator[None]:
    """Within the block, attributes of `owner` have other values, which it does not track."""
    known = vars(owner)
    before = {name: known[name] for name in values}
    known.update(values)
    try:
        yield
    finally:
        known.update(before)


class _Range:
    """The range of an activation."""

    def __init__(self) -> None:
        with tf.init_scope():
            self._low = tf.Variable(0.0, trainable=False)
            self._high = tf.Variable(0.0, trainable=False)

    def __call__(self, value: Any) -> Any:
        return per_tensor(value, self._low, self._high)


def per_tensor(value: Any, lowest: Any, highest: Any) -> Any:
    """`value` in 8 bits of the range in the variables `lowest` and `highest`, at first 0.

    It is as wide as the widest batch, and slowly narrower again. 0 is always a step: padding is
    exact.
    """
    x = tf.cast(value, tf.float32)
    low, high = tf.reduce_min(x), tf.reduce_max(x)
    low = tf.minimum(tf.minimum(low, lowest + SHRINK * (low - lowest)), 0.0)
    high = tf.maximum(tf.maximum(high, highest + SHRINK * (high - highest)), 0.0)
    lowest.assign(low)
    highest.assign(high)
    rounded = tf.quantization.fake_quant_with_min_max_vars(x, low, high)
    return tf.cast(x + tf.stop_gradient(rounded - x), value.dtype)


def per_channel(weight: Any, channels: Iterable[int]) -> Any:
    """`weight` in 8 bits, symmetric, with a scale of its own for each index of these axes."""
    rank = len(weight.shape)
    kept = {axis % rank for axis in channels}
    others = [axis for axis in range(rank) if axis not in kept]
    scale = tf.reduce_max(tf.abs(weight), others, keepdims=True) / LEVELS
    steps = tf.round(tf.math.divide_no_nan(weight, scale))
    return weight + tf.stop_gradient(steps * scale - weight)

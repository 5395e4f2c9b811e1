"""Quantization-aware training by TFMOT, rounding as TFLite's own files do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry,
    default_8bit_quantize_scheme,
)

from edgekit.errors import ConversionError
from edgekit.toolchain.calls import calls_of
from edgekit.toolchain.fake_quantization import per_channel, per_tensor
from edgekit.toolchain.kernels import name_of
from edgekit.toolchain.model import functional_of

quantizers = tfmot.quantization.keras.quantizers


def _round_activation(
    self: Any, inputs: Any, training: Any, weights: Mapping[str, Any], **kwargs: Any
) -> Any:
    return per_tensor(inputs, weights["min_var"], weights["max_var"])


# TFMOT's own average begins at [-6, 6] and takes thousands of batches to see anything wider.
quantizers.MovingAverageQuantizer.build = quantizers.AllValuesQuantizer.build
quantizers.MovingAverageQuantizer.__call__ = _round_activation
quantizers.AllValuesQuantizer.__call__ = _round_activation


class PerChannel(tfmot.quantization.keras.quantizers.Quantizer):
    """Weights as TFLite has them: a scale for each output channel, on these axes."""

    def __init__(self, *channels: int) -> None:
        self.channels = channels

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {}

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        return per_channel(inputs, self.channels)

    def get_config(self) -> dict[str, Any]:
        return {}


class _Registry(default_8bit_quantize_registry.Default8BitQuantizeRegistry):
    """TFMOT's own, where Dense and depthwise kernels have one scale each."""

    def get_quantize_config(self, layer: Any) -> Any:
        config = super().get_quantize_config(layer)
        if type(layer) is tf_keras.layers.Dense:
            config.weight_quantizer = PerChannel(-1)
        elif type(layer) is tf_keras.layers.DepthwiseConv2D:
            config.weight_quantizer = PerChannel(-2, -1)
        return config


class _Scheme(default_8bit_quantize_scheme.Default8BitQuantizeScheme):
    def get_quantize_registry(self) -> Any:
        return _Registry()


def train_quantized(model: Any, fit: Callable[[Any], None]) -> None:
    """Train `model` while TFMOT rounds its weights and activations to 8 bits.

    Raises:
        ConversionError: there is a layer that TFMOT would leave out, or fails with.
    """
    trained = _quantized(model)
    fit(trained)
    _take_weights(model, trained)


def _quantized(model: Any) -> Any:
    """A copy of `model` that TFMOT quantizes while it is trained; layers keep their names."""
    supported, merged = _Registry(), _behind_kernels(model)

    def annotated(layer: Any) -> Any:
        if functional_of(layer) is not None:
            raise ConversionError(f"TFMOT does not quantize a model in a model ({layer.name!r})")
        if supported.supports(layer) or layer.name in merged:
            return tfmot.quantization.keras.quantize_annotate_layer(layer)
        if any(len(weight.shape) > 1 for weight in layer.weights):
            kind = type(layer).__name__
            raise ConversionError(f"TFMOT does not quantize {kind} ({layer.name!r})")
        return layer

    copy = tf_keras.models.clone_model(model, clone_function=annotated)
    try:
        return tfmot.quantization.keras.quantize_apply(
            copy, _Scheme(), quantized_layer_name_prefix=""
        )
    except Exception as e:  # of every kind, from its graph patterns
        raise ConversionError(f"TFMOT does not quantize this model: {e}") from e


def _behind_kernels(model: Any) -> set[str]:
    """Batch normalization that TFMOT knows, as it is merged into the layer before."""
    makers = {id(t): call.layer for call in calls_of(functional_of(model)) for t in call.outputs}
    return {
        call.layer.name
        for call in calls_of(functional_of(model))
        if type(call.layer).__name__ == "BatchNormalization"
        and type(makers[id(call.inputs[0])]).__name__ in ("Conv2D", "DepthwiseConv2D", "Dense")
    }


def _take_weights(model: Any, trained: Any) -> None:
    """Give the plain `model` the weights of its TFMOT copy, which has others beside them."""
    for layer in model.layers:
        found = {name_of(w): w for w in trained.get_layer(layer.name).weights}
        for weight in layer.weights:
            weight.assign(found[name_of(weight)])

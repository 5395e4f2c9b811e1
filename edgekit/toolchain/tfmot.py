"""The verbs of the worker with TFMOT: it has Keras 2 alone, also for those who import `keras`."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry,
    default_8bit_quantize_scheme,
)

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import decode
from edgekit.errors import ConversionError
from edgekit.toolchain import translation
from edgekit.toolchain.calls import calls_of
from edgekit.toolchain.fake_quantization import per_channel, per_tensor
from edgekit.toolchain.fine_tuning import Lesson, fine_tune
from edgekit.toolchain.model import functional_of
from edgekit.types import Feed, Progress

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


class Session:
    """One tf_keras model, built of a description."""

    def __init__(self) -> None:
        self._model: Any = None
        self._feed: Feed = {}
        # A recipe imports keras where it needs it; here it gets what TFMOT understands.
        sys.modules["keras"] = tf_keras
        for name, module in vars(tf_keras).items():
            if isinstance(module, types.ModuleType):
                sys.modules[f"keras.{name}"] = module

    def build(
        self,
        *,
        described: dict[str, Any],
        weights: Mapping[str, str],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Build the model, and see that it computes `outputs` of `inputs`."""
        self._model = translation.build(described)
        translation.set_weights(self._model, load_arrays(weights))
        self._feed = load_arrays(inputs)
        given = translation.outputs_of(self._model, self._feed)
        translation.check_same(given, load_arrays(outputs))

    def quantize_aware(
        self, *, lesson: Mapping[str, Any], folder: str, progress: Progress
    ) -> dict[str, Any]:
        """Fine-tune with TFMOT's fake quantization; `folder` gets the plain weights.

        And the outputs of the plain model with them, for the inputs that it was built with.
        """
        trained = _quantized(self._model)
        fine_tune(trained, decode(Lesson, lesson), progress)
        _take_weights(self._model, trained)
        return {
            "engine": f"tfmot {version('tensorflow-model-optimization')}",
            "weights": save_arrays(translation.weights_of(self._model), Path(folder, "weights")),
            "outputs": save_arrays(
                translation.outputs_of(self._model, self._feed), Path(folder, "outputs")
            ),
        }


def _quantized(model: Any) -> Any:
    """A copy of `model` that TFMOT quantizes while it is trained; layers keep their names.

    Raises:
        ConversionError: there is a layer that TFMOT would leave out, or fails with.
    """
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
        found = {_last(w): w for w in trained.get_layer(layer.name).weights}
        for weight in layer.weights:
            weight.assign(found[_last(weight)])


def _last(weight: Any) -> str:
    """The weight's name without its layer's: "kernel"."""
    return str(weight.name).rpartition("/")[2].removesuffix(":0")

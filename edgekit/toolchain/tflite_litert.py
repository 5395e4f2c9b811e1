"""Static quantization of a float TFLite file by Google's litert-quantizer, with our own ranges.

It is the successor of the quantizers in TensorFlow. Its own calibration is not used: a moving
average, which shrinks ranges and depends on the order of the rows.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from typing import Any

import numpy as np

from edgekit.errors import ConversionError, MissingDependency
from edgekit.toolchain import tflite_file
from edgekit.toolchain.calibration import Ranges
from edgekit.toolchain.tflite_masks import cut_masks
from edgekit.types import Signature

_BITS = {"int8": 8, "int16x8": 16}


def quantize(
    content: bytes,
    signature: Signature,
    ranges: Ranges,
    *,
    precision: str,
    int8_io: bool = False,
    keep: Collection[str] = (),
) -> bytes:
    """The int8 or int16x8 version of a float file, as `tflite_quantize.quantize` makes it.

    Raises:
        MissingDependency: litert-quantizer is not installed.
        ConversionError: `keep` names what no operator gives, or the quantizer failed.
    """
    try:
        from litert_quantizer import Quantizer
        from litert_quantizer.qtyping import TFLOperationName
    except ImportError as e:
        raise MissingDependency(
            "litert-quantizer is not installed", hint="pip install 'edgekit-ml[litert]'"
        ) from e
    if int8_io and precision != "int8":
        raise ConversionError(f"{precision} files have float inputs and outputs")
    model = tflite_file.unpack(content)
    tflite_file.check_operators(model, keep)
    ranges = cut_masks(model, ranges, 2 ** _BITS[precision])
    tflite_file.drop_unused(model)
    quantizer = Quantizer(tflite_file.pack(model))
    quantizer.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, _BITS[precision], 8)
    if not int8_io:
        for border in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            quantizer.update_quantization_recipe(".*", border, algorithm_key="no_quantize")
    for name in sorted(keep):
        # It joins the names of an operator's outputs.
        quantizer.update_quantization_recipe(
            f"(^|;){re.escape(name)}(;|$)",
            TFLOperationName.ALL_SUPPORTED,
            algorithm_key="no_quantize",
        )
    try:
        with warnings.catch_warnings():
            # It opens every tensor of the file, and its interpreter warns that this takes memory.
            warnings.filterwarnings("ignore", message="Warning: Enabling `experimental_preserve")
            result = quantizer.quantize(_statistics(ranges), enable_progress_report=False)
    except Exception as e:  # it raises whatever its parts raise
        reason = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise ConversionError(
            f"litert-quantizer failed: {reason.strip()}", hint="take the other backend: converter"
        ) from e
    quantized = tflite_file.unpack(bytes(result.quantized_model))
    tflite_file.order(quantized, signature)
    tflite_file.shrink(quantized)
    return tflite_file.pack(quantized)


def _statistics(ranges: Ranges) -> dict[str, dict[str, Any]]:
    """As its own calibration gives them."""
    return {
        name: {"min": np.array(limits.low, np.float32), "max": np.array(limits.high, np.float32)}
        for name, limits in ranges.items()
    }

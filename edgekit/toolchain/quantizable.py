"""A model as a float TFLite file that is to be quantized: made once, tried many times."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from edgekit.toolchain import (
    tflite,
    tflite_bias,
    tflite_compact,
    tflite_file,
    tflite_litert,
    tflite_quantize,
    tflite_scaling,
)
from edgekit.toolchain.calibration import Range, calibrate
from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.taps import TfliteTaps
from edgekit.types import Quantization, Signature


class Quantizable:
    """The float file, with the rows that it is calibrated on."""

    def __init__(self, model: Canonical, rows: Mapping[str, np.ndarray]) -> None:
        """Convert `model`; `rows` are (N, ...) finite arrays by Keras input name.

        Raises:
            ConversionError: TFLite cannot quantize the model, or not even convert it.
        """
        self.content, self.signature = tflite.floats(model)
        self.rows = rows
        self._ranges: dict[tuple[str, float], dict[str, Range]] = {}

    @cached_property
    def taps(self) -> TfliteTaps:
        return TfliteTaps(self.content, self.signature)

    @cached_property
    def _scaled(self) -> list[str]:
        return tflite_scaling.scaled_inputs(
            tflite_file.unpack(self.content), self.signature, self.rows
        )

    def ranges(self, method: str, percentile: float) -> dict[str, Range]:
        """The range of each activation, by the tensor's name."""
        key = (method, percentile if method == "percentile" else 0.0)
        if key not in self._ranges:
            self._ranges[key] = calibrate(
                self.taps, self.rows, method=method, percentile=percentile
            )
        return self._ranges[key]

    def quantize(
        self,
        precision: str,
        quantization: Quantization,
        *,
        int8_io: bool = False,
        keep: Collection[str] = (),
    ) -> bytes:
        """The int8 or int16x8 file.

        Args:
            precision: "int8" or "int16x8".
            quantization: how; `keep_float` and `equalize` are not looked at here.
            int8_io: whether inputs and outputs are int8.
            keep: tensors of the float file whose operators stay float. So do those that scale
                raw features, unless `int8_io`.
        """
        raw = [] if int8_io else self._scaled
        ways: dict[str, Callable[..., bytes]] = {
            "converter": tflite_quantize.quantize,
            "litert": tflite_litert.quantize,
        }
        content = ways[quantization.backend](
            self.content,
            self.signature,
            self.ranges(quantization.calibration, quantization.percentile),
            precision=precision,
            int8_io=int8_io,
            keep=[*keep, *raw],
        )
        if quantization.compact:
            content = tflite_compact.compact_weights(content, self.content)
        if quantization.correct_bias:
            content = tflite_bias.correct_bias(content, self.content, self.rows, self.signature)
        return content

    def write(self, path: Path, content: bytes) -> Signature:
        """Write a quantized file; its signature."""
        path.write_bytes(content)
        return tflite_file.signature(content, self.signature)

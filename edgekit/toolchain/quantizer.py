"""The verb of the light worker: it quantizes ONNX while the other converts the next file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.agent.arrays import load_arrays
from edgekit.agent.protocol import Signature, decode
from edgekit.toolchain import onnx_dynamic, onnx_fp16, onnx_quantize
from edgekit.toolchain.onnx_quantize import FloatFile
from edgekit.types import Progress, Quantization

SOME_UNSEEN = 100
"""Rows that are looked at for activations that leave their ranges."""


def write(
    source: FloatFile,
    path: Path,
    precision: str,
    quantization: Quantization | None = None,
    keep: Collection[str] = (),
) -> None:
    """Write a float ONNX file in another precision; its signature stays the same.

    Args:
        source: the float file, for "int8" and "int16x8" with rows.
        path: the file to write.
        precision: "fp16", "dynamic", "int8" or "int16x8".
        quantization: how the last two are quantized.
        keep: names of tensors of the float file: the nodes that give them stay float.

    Raises:
        ConversionError: there is nothing to quantize, or no row to calibrate with.
    """
    if precision == "fp16":
        onnx_fp16.convert(source.path, path, keep)
    elif precision == "dynamic":
        onnx_dynamic.convert(source.path, path, keep)
    else:
        onnx_quantize.quantize(source, path, precision, quantization, keep)


class Session:
    """Holds the file that was quantized last, since a search makes many attempts at it."""

    def __init__(self) -> None:
        self._source: FloatFile | None = None
        self._made_of: tuple[Any, ...] = ()

    def quantize(
        self,
        *,
        fp32: str,
        path: str,
        signature: Mapping[str, Any],
        precision: str,
        quantization: Mapping[str, Any],
        keep: Sequence[str],
        calibration: Mapping[str, str] | None,
        unseen: Mapping[str, str] | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Write the ONNX file `fp32` in another precision to `path`.

        `unseen` are rows that are not calibrated with: activations that leave their ranges on
        them are warned of.
        """
        source = self._open(Path(fp32), decode(Signature, signature), calibration or {})
        write(source, Path(path), precision, decode(Quantization, quantization), keep)
        warnings: list[str] = []
        if calibration and unseen:
            some = {name: rows[:SOME_UNSEEN] for name, rows in load_arrays(unseen).items()}
            warnings = source.departures(some)
        return {"signature": signature, "warnings": warnings}

    def _open(self, fp32: Path, signature: Signature, calibration: Mapping[str, str]) -> FloatFile:
        files = [fp32, *(Path(calibration[name]) for name in sorted(calibration))]
        states = [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
        if self._source is None or self._made_of != (signature, *states):
            self._source = FloatFile(fp32, signature, load_arrays(calibration))
            self._made_of = (signature, *states)
        return self._source

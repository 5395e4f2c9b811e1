"""The verb of the light worker: it quantizes ONNX while the other converts the next file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.agent.arrays import load_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.toolchain import onnx_int8
from edgekit.types import Progress


class Session:
    """No state: each request names its files."""

    def quantize(
        self,
        *,
        fp32: str,
        path: str,
        signature: Mapping[str, Any],
        calibration: Mapping[str, str],
        progress: Progress,
    ) -> Any:
        """Write the int8 version of the ONNX file `fp32` to `path`."""
        wanted = decode(Signature, signature)
        rows = load_arrays(calibration)
        return encode(onnx_int8.quantize(Path(fp32), Path(path), wanted, rows))

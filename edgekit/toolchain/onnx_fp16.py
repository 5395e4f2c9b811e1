"""ONNX files with float16 weights, in float32 arithmetic.

Arithmetic in float16 would be another file: onnxruntime has next to none for CPUs, so that it is
slower there (measured: 1.0 to 1.6 times), and what it gives on another device, where sums may
overflow, cannot be proved here.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx

from edgekit.errors import ConversionError
from edgekit.toolchain.onnx_file import compact, made_in, save
from edgekit.toolchain.onnx_weights import constants_read_by, fits_half, matrices, store_half

FEWEST = 16
"""Elements with which float16 saves more bytes than the node that widens them takes."""


def convert(fp32: Path, path: Path, keep: Collection[str] = ()) -> None:
    """Write the float16 version of `fp32`, a file of `onnx.convert`; inputs and outputs stay.

    What float16 cannot hold, such as the -1e9 of a mask, stays float32. The same file always
    gives the same bytes.

    Args:
        fp32: the float file.
        path: the file to write.
        keep: names of tensors of `fp32`: weights of the nodes that give them stay float32.

    Raises:
        ConversionError: no weight can be stored as float16.
    """
    proto = onnx.load(fp32)
    names = made_in(proto.graph)
    stored = 0
    for weight in matrices(proto.graph, but=constants_read_by(proto.graph, keep)):
        if weight.values.size >= FEWEST and fits_half(weight.values):
            store_half(weight)
            stored += 1
    if not stored:
        raise ConversionError(
            "onnx: fp16: the model has no weights of a size that float16 would halve",
            hint="export it as fp32",
        )
    compact(proto, names)
    save(proto, path)

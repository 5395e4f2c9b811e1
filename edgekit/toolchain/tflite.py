"""TFLite: from the canonical function, with its variables tracked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from edgekit.errors import ConversionError
from edgekit.toolchain import tflite_file, tflite_sparse
from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.unsplit import without_splits
from edgekit.types import Signature


def convert(
    model: Canonical,
    path: Path,
    *,
    precision: str,
    flex: bool = False,
    sparse_encoding: bool = False,
) -> Signature:
    """Write `model` as a TFLite file of `precision` ("fp32", "fp16" or "dynamic").

    dynamic has int8 weights and computes in float. With `flex`, TensorFlow's own operations are
    taken where TFLite has none. With `sparse_encoding`, for fp32, weights that are mostly 0 are
    stored by their places.

    Returns:
        The signature of the file: `native` is the name in its TFLite signature, and its inputs and
        outputs stand in the order of the Keras model.

    Raises:
        ConversionError: an operation has no TFLite builtin, the converter failed, or the sparse
            encoding has no effect.
    """
    try:
        file = _converted(_converter(model, precision))
    except NoBuiltin:
        if not flex:
            raise
        converter = _converter(model, precision)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        file = _converted(converter)
    if sparse_encoding:
        tflite_sparse.encode(file)
    signature = tflite_file.order(file, model.signature)
    path.write_bytes(tflite_file.pack(file))
    return signature


def floats(model: Canonical) -> tuple[bytes, Signature]:
    """The float file from which int8 and int16x8 are made, and its signature.

    Raises:
        ConversionError: TFLite cannot quantize the model, or not even convert it.
    """
    _refuse_loops(model)
    file = _converted(_converter(without_splits(model), "fp32"))
    signature = tflite_file.order(file, model.signature)
    tflite_file.shorten_names(file)
    tflite_file.drop_unused(file)
    return tflite_file.pack(file), signature


class NoBuiltin(ConversionError):
    """TensorFlow has operations that TFLite has not."""


def _converter(model: Canonical, precision: str) -> Any:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.concrete], model.holder)
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    return converter


def _converted(converter: Any) -> Any:
    """The file, unpacked; it is the converter that fails."""
    try:
        content = converter.convert()
    except Exception as e:  # the converter raises whatever its passes raise
        raise _explained(e) from e
    return tflite_file.unpack(content)


def _refuse_loops(model: Canonical) -> None:
    """The converter does not survive the quantization of a loop (seen in TensorFlow 2.21)."""
    graph = model.concrete.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    loops = [n.name for n in nodes if n.op in ("While", "StatelessWhile")]
    if loops:
        raise ConversionError(
            f"TFLite has no int8 for loops, and the model has one: {loops[0]}",
            hint="export fp32 or fp16, or try int8 in onnx; of .keras and .h5 files LSTM, GRU and "
            "SimpleRNN are unrolled for int8",
        )


def _explained(error: Exception) -> ConversionError:
    text = str(error)
    ops = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)))
    if ops:
        return NoBuiltin(
            f"TFLite has no builtin for {', '.join(ops)}",
            hint="replace the layer, or move that step out of the model; with --allow-unverified "
            "it becomes a Flex operation, which no runtime here can verify",
        )
    if "TensorListReserve" in text or "Lowering tensor list ops is failed" in text:
        return ConversionError(
            "TFLite cannot loop over time with a number of rows that is not fixed",
            hint="export the .keras or .h5 file instead of a SavedModel, or save the SavedModel "
            "for one row: keras.Input(..., batch_size=1)",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ConversionError(
        f"the TFLite converter failed: {lines[0] if lines else type(error).__name__}"
    )

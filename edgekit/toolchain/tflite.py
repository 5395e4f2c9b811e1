"""TFLite: from the canonical function, with its variables tracked."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from edgekit.errors import ConversionError
from edgekit.toolchain.canonical import Canonical
from edgekit.toolchain.unsplit import without_splits
from edgekit.types import Signature, TensorSpec


def convert(
    model: Canonical,
    path: Path,
    *,
    precision: str,
    calibration: Mapping[str, np.ndarray] | None = None,
    int8_io: bool = False,
    flex: bool = False,
) -> Signature:
    """Write `model` as a TFLite file of `precision` ("fp32", "fp16", "dynamic" or "int8").

    dynamic has int8 weights and computes in float. int8 is per-channel with integer kernels only,
    calibrated by the minimum and maximum over all rows of `calibration` (Keras input name ->
    array); its inputs and outputs stay float32 unless `int8_io`. With `flex`, TensorFlow's own
    operations are taken where TFLite has none.

    Returns:
        The signature of the file: `native` is the name in its TFLite signature, and its inputs and
        outputs stand in the order of the Keras model.

    Raises:
        ConversionError: an operation has no TFLite builtin, or the converter failed.
    """
    if precision == "int8":
        _refuse_loops(model)
        model = without_splits(model)
    converter = _converter(model, precision, calibration, int8_io)
    try:
        content = _content(converter)
    except NoBuiltin:
        if not flex or precision == "int8":
            raise
        converter = _converter(model, precision, calibration, int8_io)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        content = _content(converter)
    signature = _order(content, model.signature)
    path.write_bytes(content)
    return signature


class NoBuiltin(ConversionError):
    """TensorFlow has operations that TFLite has not."""


def _converter(
    model: Canonical,
    precision: str,
    calibration: Mapping[str, np.ndarray] | None,
    int8_io: bool,
) -> Any:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.concrete], model.holder)
    if precision != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _rows(model, calibration or {})
    if int8_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter


def _content(converter: Any) -> bytearray:
    """The bytes of the file; it is the converter that fails."""
    try:
        with warnings.catch_warnings():
            # The converter calibrates with TensorFlow's own, deprecated interpreter.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is dep")
            return bytearray(converter.convert())
    except Exception as e:  # the converter raises whatever its passes raise
        raise _explained(e) from e


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


def _rows(model: Canonical, calibration: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """One batch after the other, by the argument names of the canonical function."""
    specs = model.signature.inputs
    batch = specs[0].shape[0] or 1
    rows = len(calibration[specs[0].name])
    for start in range(0, rows - rows % batch, batch):
        yield {
            s.native.removesuffix(":0"): calibration[s.name][start : start + batch].astype(s.dtype)
            for s in specs
        }


def _order(content: bytearray, wanted: Signature) -> Signature:
    """Put the file's inputs and outputs into the order of `wanted`, in place.

    The converter orders them by name; an application that binds by index, as most do, expects
    the order of the model.
    """
    file = schema.Model.GetRootAs(content)
    graph, native = file.Subgraphs(0), file.SignatureDefs(0)
    inputs = {
        native.Inputs(i).Name().decode(): native.Inputs(i).TensorIndex()
        for i in range(native.InputsLength())
    }
    outputs = {
        native.Outputs(i).Name().decode(): native.Outputs(i).TensorIndex()
        for i in range(native.OutputsLength())
    }
    input_names = [s.native.removesuffix(":0") for s in wanted.inputs]
    output_names = [s.name for s in wanted.outputs]
    # A model whose outputs are one tensor twice has fewer graph outputs than signature entries.
    if len(set(outputs.values())) == len(outputs):
        graph.OutputsAsNumpy()[:] = [outputs[n] for n in output_names]
    graph.InputsAsNumpy()[:] = [inputs[n] for n in input_names]
    # Fields 0 and 1 of a SignatureDef are its inputs and outputs.
    _permute(content, native, 0, [list(inputs).index(n) for n in input_names])
    _permute(content, native, 1, [list(outputs).index(n) for n in output_names])
    return Signature(
        inputs=tuple(
            _spec(s, n, graph.Tensors(inputs[n]))
            for s, n in zip(wanted.inputs, input_names, strict=True)
        ),
        outputs=tuple(
            _spec(s, n, graph.Tensors(outputs[n]))
            for s, n in zip(wanted.outputs, output_names, strict=True)
        ),
    )


def _permute(content: bytearray, table: Any, field: int, order: list[int]) -> None:
    """Reorder a table's vector of tables; its elements are offsets from where they stand."""
    start = table._tab.Vector(table._tab.Offset(4 + 2 * field))
    places = [start + 4 * i for i in range(len(order))]
    targets = [place + int.from_bytes(content[place : place + 4], "little") for place in places]
    for place, i in zip(places, order, strict=True):
        content[place : place + 4] = (targets[i] - place).to_bytes(4, "little")


_DTYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.BOOL: "bool",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.FLOAT16: "float16",
}


def _spec(wanted: TensorSpec, native: str, tensor: Any) -> TensorSpec:
    quantization = tensor.Quantization()
    scaled = quantization is not None and quantization.ScaleLength() == 1
    return TensorSpec(
        name=wanted.name,
        native=native,
        shape=wanted.shape,
        dtype=_DTYPES[tensor.Type()],
        scale=float(quantization.Scale(0)) if scaled else None,
        zero_point=int(quantization.ZeroPoint(0)) if scaled else None,
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

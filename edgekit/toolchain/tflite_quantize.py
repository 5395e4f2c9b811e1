"""Static quantization of a float TFLite file with ranges of our own, by TensorFlow's quantizers.

int8 is made by the MLIR quantizer. int16x8 (16-bit activations, 8-bit weights, 64-bit biases) is
made by the older one, since the other gives it 32-bit biases and zero points that its own kernels
refuse. Both read the range of each activation from the file. The converter's calibration is not
used: it reads tensors whose memory was taken again by a later operator (TensorFlow 2.21).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.optimize.calibrator import Calibrator
from tensorflow.lite.toco.types_pb2 import QUANTIZED_INT8

from edgekit.errors import ConversionError
from edgekit.toolchain import tflite_file
from edgekit.toolchain.calibration import Range, Ranges
from edgekit.toolchain.tflite_masks import cut_masks
from edgekit.types import Signature

NO_INT16_KERNEL = (
    "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL",
    "SELECT", "SQUARED_DIFFERENCE",
)  # fmt: skip
"""Operators that the quantizer makes int16, and no kernel runs rightly (TensorFlow 2.21)."""

CHOOSING = ("MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2")
"""Operators that give one of their operands: the quantizer puts its range on all of them."""

UNKNOWN = schema.BuiltinOperator.ELU
"""An operator that the int16 quantizer takes as it comes, and leaves in float."""


def quantize(
    content: bytes,
    signature: Signature,
    ranges: Ranges,
    *,
    precision: str,
    int8_io: bool = False,
    keep: Collection[str] = (),
) -> bytes:
    """The int8 or int16x8 version of a float file.

    Weights become int8 per channel, without a zero point. Inputs and outputs stay float32 unless
    `int8_io`. Operators that have no integer kernel stay float; formats.describe names them.

    Args:
        content: the float file, of `tflite.floats`.
        signature: what `floats` returned for it.
        ranges: of each float activation, from `calibration.calibrate`, by the file's tensor names.
        precision: "int8" or "int16x8".
        int8_io: whether inputs and outputs are int8; only with precision "int8".
        keep: tensors whose operators stay float, by their names in the float file.

    Returns:
        The new file. Its tensors have the names they had, its inputs and outputs their order;
        `tflite_file.signature` has their types and scales.

    Raises:
        ConversionError: `keep` names what no operator gives, or the quantizer failed.
    """
    if int8_io and precision != "int8":
        raise ConversionError(f"{precision} files have float inputs and outputs")
    model = tflite_file.unpack(content)
    tflite_file.check_operators(model, keep)
    ranges = cut_masks(model, ranges, 2**8 if precision == "int8" else 2**16)
    _fit_choices(model, ranges)
    _write_ranges(model, ranges)
    floats = _given_by(model, keep)
    try:
        if precision == "int8":
            quantized = _int8(model, floats, int8_io)
        else:
            _fill_zeros(model, ranges)
            quantized = _int16x8(model, floats)
    except Exception as e:  # the quantizers raise whatever their passes raise
        reason = next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise ConversionError(
            f"TFLite's quantizer failed: {reason.strip()}",
            hint="keep more layers in float, or export fp16",
        ) from e
    tflite_file.order(quantized, signature)
    tflite_file.shrink(quantized)
    return tflite_file.pack(quantized)


def _int8(model: Any, floats: Collection[int], int8_io: bool) -> Any:
    """Quantize a file that has ranges; the operators at the places `floats` stay as they are."""
    tflite_file.drop_unused(model)
    graph, outside = tflite_file.main_graph(model), tf.int8 if int8_io else tf.float32
    content = mlir_quantize(
        tflite_file.pack(model),
        inference_type=QUANTIZED_INT8,
        input_data_type=outside,
        output_data_type=outside,
        denylisted_nodes={
            graph.tensors[graph.operators[place].outputs[0]].name.decode() for place in floats
        },
    )
    return tflite_file.unpack(content)


def _int16x8(model: Any, floats: Collection[int]) -> Any:
    disguised = _disguise(model, _kinds_for_int16(model) | dict.fromkeys(floats, UNKNOWN))
    tflite_file.drop_unused(model)
    _give_own_biases(model)

    def number(dtype: str) -> int:
        return np.dtype(dtype).num

    calibrated = tflite_file.pack(model)  # it must outlive the calibrator, which reads it in place
    # Ranges that stand in a file are taken where no rows were fed.
    content = Calibrator(calibrated)._calibrator.QuantizeModel(
        number("float32"),  # inputs
        number("float32"),  # outputs
        True,  # an operator that cannot be quantized stays float
        number("int16"),  # activations
        number("int64"),  # biases
        False,  # per channel, not per tensor
        False,  # dense layers too
    )
    quantized = tflite_file.unpack(content)
    _uncover(quantized, disguised)
    return quantized


def _fit_choices(model: Any, ranges: dict[str, Range]) -> None:
    """Fit results that are chosen and what they are chosen from to each other, in place.

    The result's range is widened to operands that are read elsewhere too: else values that were
    not chosen here, and matter there, would be cut off. A bound far outside is cut to the range:
    min(x, 1e6) would take all steps of x.
    """
    graph = tflite_file.main_graph(model)
    readers = Counter([*graph.outputs, *(i for op in graph.operators for i in op.inputs)])
    wanted = {i for i, count in readers.items() if count > 1}
    for op in graph.operators:
        kind = tflite_file.kind(model, op)
        name = graph.tensors[op.outputs[0]].name.decode()
        if kind not in CHOOSING or name not in ranges:
            continue
        operands = [graph.tensors[i].name.decode() for i in op.inputs if i in wanted]
        found = [ranges[n] for n in (name, *operands) if n in ranges]
        covering = Range(min(r.low for r in found), max(r.high for r in found))
        if covering != ranges[name]:
            wanted.add(op.outputs[0])  # what chooses from it in turn must not narrow it again
            ranges[name] = covering
        if kind in ("MAXIMUM", "MINIMUM"):
            _cut_bounds(model, op, covering)


def _cut_bounds(model: Any, op: Any, limits: Range) -> None:
    graph = tflite_file.main_graph(model)
    for place, tensor in enumerate(op.inputs):
        value = tflite_file.constant(model, graph.tensors[tensor])
        if value is None or value.dtype != np.float32:
            continue
        cut = np.clip(value, np.float32(limits.low), np.float32(limits.high))
        if np.any(cut != value):
            op.inputs = op.inputs.copy()
            op.inputs[place] = tflite_file.add_constant(model, "bound", cut)


def _write_ranges(model: Any, ranges: Ranges) -> None:
    for tensor in tflite_file.main_graph(model).tensors:
        if found := ranges.get(tensor.name.decode()):
            # What was 0 on every row needs a scale, too.
            low, high = (found.low, found.high) if found.width > 0 else (-1.0, 1.0)
            tensor.quantization = schema.QuantizationParametersT(
                min=np.array([low], np.float32), max=np.array([high], np.float32)
            )


def _given_by(model: Any, keep: Collection[str]) -> set[int]:
    """Places of the operators that give the tensors `keep`."""
    graph = tflite_file.main_graph(model)
    return {
        place
        for place, op in enumerate(graph.operators)
        if any(graph.tensors[i].name.decode() in keep for i in op.outputs)
    }


def _kinds_for_int16(model: Any) -> dict[int, int]:
    """Kinds that the int16 quantizer shall see instead, by the place of the operator.

    Some it would make into what no kernel runs. At those that know integers only it would stop,
    looking for their range. It gives a SUM the range of what is summed, but not a MEAN.
    """
    graph = tflite_file.main_graph(model)

    def computes_in_float(op: Any) -> bool:
        return any(
            tflite_file.dtype(graph.tensors[i]) == "float32"
            for i in (*op.inputs, *op.outputs)
            if i >= 0
        )

    kinds = {}
    for place, op in enumerate(graph.operators):
        kind = tflite_file.kind(model, op)
        if kind in NO_INT16_KERNEL or not computes_in_float(op):
            kinds[place] = UNKNOWN
        elif kind == "SUM":
            kinds[place] = schema.BuiltinOperator.MEAN
    return kinds


def _disguise(model: Any, kinds: Mapping[int, int]) -> dict[bytes, tuple[Any, Any]]:
    """Give the operators at some places other kinds, for the quantizer.

    Returns:
        Kind and operator as they were, by the custom options that mark the operator now.
    """
    graph, disguised = tflite_file.main_graph(model), {}
    codes = {kind: len(model.operatorCodes) + i for i, kind in enumerate(set(kinds.values()))}
    for place, kind in kinds.items():
        op, mark = graph.operators[place], b"operator %d" % place
        disguised[mark] = model.operatorCodes[op.opcodeIndex], op
        graph.operators[place] = schema.OperatorT(
            opcodeIndex=codes[kind],
            inputs=op.inputs,
            outputs=op.outputs,
            customOptions=np.frombuffer(mark, np.uint8),
        )
        if kind == schema.BuiltinOperator.MEAN:
            graph.operators[place].builtinOptionsType = op.builtinOptionsType
            graph.operators[place].builtinOptions = op.builtinOptions
    for kind in codes:
        model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=kind, deprecatedBuiltinCode=kind)
        )
    return disguised


def _uncover(model: Any, disguised: dict[bytes, tuple[Any, Any]]) -> None:
    """Undo `_disguise` in the quantized file."""
    graph = tflite_file.main_graph(model)
    before = {
        op.outputs[0]: op.inputs[0]
        for op in graph.operators
        if tflite_file.kind(model, op) == "QUANTIZE" and op.inputs[0] in graph.inputs
    }
    for op in graph.operators:
        mark = b"" if op.customOptions is None else op.customOptions.tobytes()
        if mark not in disguised:
            continue
        code, was = disguised[mark]
        op.opcodeIndex = len(model.operatorCodes)
        model.operatorCodes.append(code)
        op.builtinOptionsType, op.builtinOptions = was.builtinOptionsType, was.builtinOptions
        op.customOptions = was.customOptions
        if tflite_file.dtype(graph.tensors[op.outputs[0]]) != "int16":
            # It reads floats; the int16 quantizer forgets that where it changes a model's input.
            op.inputs = np.array([before.get(i, i) for i in op.inputs], np.int32)


def _fill_zeros(model: Any, ranges: Ranges) -> None:
    """Make a constant 0 that is added to less than a step of the sum.

    The int16 quantizer gives zeros the scale 0, at which the kernel aborts the process.
    """
    graph = tflite_file.main_graph(model)
    for op in graph.operators:
        limits = ranges.get(graph.tensors[op.outputs[0]].name.decode())
        if limits is None or tflite_file.kind(model, op) not in ("ADD", "SUB"):
            continue
        for place, tensor in enumerate(op.inputs):
            value = tflite_file.constant(model, graph.tensors[tensor])
            if value is not None and not value.any():
                step = max(abs(limits.low), abs(limits.high)) / 2**15
                filled = np.full(value.shape, step / 4 or 1.0, np.float32)
                op.inputs = op.inputs.copy()
                op.inputs[place] = tflite_file.add_constant(model, "nearly_zero", filled)


def _give_own_biases(model: Any) -> None:
    """Give each operator a bias of its own, and each constant a buffer.

    A bias is quantized by the scale of what it is added to, and the int16 quantizer does that
    once, in place: the steps of an unrolled loop would share the scale of the first.
    """
    graph = tflite_file.main_graph(model)
    used = set()
    for op in graph.operators:
        operand = tflite_file.bias_operand(model, op)
        if operand is None:
            continue
        if op.inputs[operand] in used:
            op.inputs = op.inputs.copy()
            graph.tensors.append(copy.copy(graph.tensors[op.inputs[operand]]))
            graph.tensors[-1].name += b"_%d" % len(graph.tensors)
            op.inputs[operand] = len(graph.tensors) - 1
        used.add(op.inputs[operand])
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and data.size:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT(data=data))

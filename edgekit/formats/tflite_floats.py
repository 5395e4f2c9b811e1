"""What a .tflite file computes in floating point, beside what has no other form."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.formats.tflite import Graph

COMPUTES_NOTHING = {
    "QUANTIZE", "DEQUANTIZE", "CAST", "SHAPE", "RANK",
    # A mask is what is exactly 0 in a float input.
    "EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL",
}  # fmt: skip
NEVER_QUANTIZED = {
    "CEIL", "COS", "ELU", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "LOCAL_RESPONSE_NORMALIZATION",
    "NEG", "POW", "ROUND", "SIGN", "SIN", "SQUARE",
}  # fmt: skip
"""Elementwise operators that TensorFlow's converter has no integer form for (2.21: each tried).

In its int8 files they stand in float between a DEQUANTIZE and a QUANTIZE; LayerNormalization
(NEG), GroupNormalization (SQUARE) and ELU bring them in.
"""
NEVER_INT16 = {"DIV", "HARD_SWISH", "PRELU", "SELECT", "SELECT_V2", "SQUARED_DIFFERENCE"}
"""Those that have an int8 form, and none of 16 bits, in files with 16-bit activations."""
ARITHMETIC = {"ADD", "SUB", "MUL", "DIV"}


def float_tensors(graph: Graph) -> list[str]:
    """Names of the tensors that are computed in floating point; see FileDescription."""
    wide = any(graph.dtypes[i] == "int16" for op in graph.operators for i in op.outputs)
    exempt = COMPUTES_NOTHING | NEVER_QUANTIZED | (NEVER_INT16 if wide else set())
    scaled = _scaled_inputs(graph)
    used = {
        index
        for op in graph.operators
        if op.name not in exempt and not scaled & {*op.outputs}
        for index in {*op.inputs, *op.outputs} - {-1}
    }
    return [graph.names[i] for i in sorted(used) if is_float(graph.dtypes[i])]


def _scaled_inputs(graph: Graph) -> set[int]:
    """What is made of inputs by adding or multiplying constants alone: raw features, scaled."""
    made = {i for op in graph.operators for i in op.outputs}
    reached = {*graph.inputs}
    for op in graph.operators:
        others = {*op.inputs} - reached
        if op.name in ARITHMETIC and len(others) == 1 < len(op.inputs) and not others & made:
            reached |= {*op.outputs}
    return reached - {*graph.inputs}


def is_float(dtype: str) -> bool:
    """Whether a type of the schema, in small letters, is one of floating point."""
    return dtype.startswith(("float", "bfloat", "complex"))

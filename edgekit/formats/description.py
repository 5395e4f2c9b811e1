"""What `inspect` tells about a model file, the same for every format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgekit.types import Signature

__all__ = [
    "FileDescription",
    "Quantization",
    "QuantizedTensor",
    "Role",
    "Sparsity",
    "Tensor",
    "TensorGroup",
    "TensorSparsity",
    "finite",
    "groups_of",
    "parameters_of",
    "quantization_of",
    "sparsity_of",
]

Role = Literal["weights", "biases", "activations", "other"]
ROLES: tuple[Role, ...] = ("weights", "biases", "activations", "other")

LARGE_SHARE = 0.01
"""A tensor with this share of all weight elements gets a sparsity line of its own."""


@dataclass(frozen=True)
class TensorGroup:
    """All tensors of one role and dtype.

    weights      constants that the model computes with, without the biases
    biases       bias operands; in Keras files every vector, as they do not say which is which
    activations  inputs, outputs and what flows between, as far as the file declares it; a free
                 dimension counts as 1, and the bytes are memory without reuse, not file size
    other        shapes, axes, scalars, strings, optimizer and random state, scales
    """

    role: Role
    dtype: str
    tensors: int
    elements: int
    size_bytes: int


@dataclass(frozen=True)
class QuantizedTensor:
    """The range of one tensor's quantization parameters: real = (integer - zero_point) * scale."""

    name: str
    role: Role
    dtype: str
    channels: int
    """Number of scales: 1 = per tensor."""
    scale_min: float
    scale_max: float
    zero_point_min: int
    zero_point_max: int


@dataclass(frozen=True)
class Quantization:
    """Tensors with one scale (`per_tensor`), with several (`per_channel`), and all of them."""

    per_tensor: int
    per_channel: int
    tensors: tuple[QuantizedTensor, ...]


@dataclass(frozen=True)
class TensorSparsity:
    """Share of the elements of one weight tensor, in [0, 1], that are exactly zero."""

    name: str
    elements: int
    share: float


@dataclass(frozen=True)
class Sparsity:
    """Exact zeros among the weights (biases left out); a quantized zero is the zero point.

    `share` is in [0, 1] over all weights whose values are in the file, None where there are none.
    `tensors` has those with at least 1 % of all weight elements, the largest first.
    """

    share: float | None
    tensors: tuple[TensorSparsity, ...]


@dataclass(frozen=True)
class FileDescription:
    """A model file as it is on disk; nothing was run.

    `signature` has the names that the file itself carries: name == native unless the file keeps
    both a signature key and a tensor name. A shape of () = the file does not say.

    `ops` counts operators (Keras: layers, by class), without constants and placeholders.
    `parameters` counts the elements of weights and biases.

    `float_tensors` names what is computed in floating point; () = integers throughout:
      tflite  every float tensor that an operator reads or writes, except QUANTIZE, DEQUANTIZE,
              CAST, SHAPE and RANK, which convert a number or look at a shape but compute nothing
              (so float inputs and outputs of an int8 file do not count), except the few
              elementwise ones that the converter cannot quantize (NEVER_QUANTIZED), and except
              arithmetic of inputs with constants, which scales raw features.
      onnx    operands of Conv, ConvTranspose, MatMul, Gemm, Einsum, LSTM, GRU and RNN nodes with
              constant weights, loop bodies included, that do not come out of a DequantizeLinear
              (operators that only move elements may stand between): the weight, or else the data.
      others  every weight that is float when the model runs. TensorFlow.js widens quantized
              weights to float32 at load, so there it is every one.
    """

    format: str
    """"tflite", "onnx", "tfjs", "keras" or "h5"."""
    path: str
    size_bytes: int
    """With its weight files, where the model is a folder or has external data."""
    signature: Signature
    ops: Mapping[str, int]
    parameters: int
    groups: tuple[TensorGroup, ...]
    quantization: Quantization
    sparsity: Sparsity
    float_tensors: tuple[str, ...]
    producer: str | None = None
    version: str | None = None
    """Of the file format."""
    opsets: Mapping[str, int] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    subgraphs: int = 1
    custom_ops: tuple[str, ...] = ()
    """Operators that the stock runtime does not have."""
    flex_ops: tuple[str, ...] = ()
    """TensorFlow operators in a TFLite file; they need the Flex delegate."""


@dataclass(frozen=True)
class Tensor:
    """One tensor as a reader sees it."""

    name: str
    role: Role
    dtype: str
    elements: int
    size_bytes: int
    zeros: int | None = None
    """Elements that stand for 0.0; None = the values are not known."""
    scales: Sequence[float] = ()
    zero_points: Sequence[int] = ()


def finite(scales: Iterable[float]) -> list[float]:
    """The scales as they are; ValueError for a NaN or infinite one, which no writer writes."""
    scales = [float(s) for s in scales]
    if not all(map(math.isfinite, scales)):
        raise ValueError("a quantization scale is not a finite number")
    return scales


def parameters_of(tensors: Iterable[Tensor]) -> int:
    return sum(t.elements for t in tensors if t.role in ("weights", "biases"))


def groups_of(tensors: Iterable[Tensor]) -> tuple[TensorGroup, ...]:
    groups: dict[tuple[Role, str], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.role, tensor.dtype), []).append(tensor)
    return tuple(
        TensorGroup(
            role=role,
            dtype=dtype,
            tensors=len(members),
            elements=sum(t.elements for t in members),
            size_bytes=sum(t.size_bytes for t in members),
        )
        for (role, dtype), members in sorted(
            groups.items(), key=lambda item: (ROLES.index(item[0][0]), item[0][1])
        )
    )


def quantization_of(tensors: Iterable[Tensor]) -> Quantization:
    quantized = tuple(_quantized(t) for t in tensors if t.scales)
    return Quantization(
        per_tensor=sum(t.channels == 1 for t in quantized),
        per_channel=sum(t.channels > 1 for t in quantized),
        tensors=quantized,
    )


def sparsity_of(tensors: Iterable[Tensor]) -> Sparsity:
    counted = [
        (t, t.zeros) for t in tensors if t.role == "weights" and t.zeros is not None and t.elements
    ]
    total = sum(t.elements for t, _ in counted)
    large = [(t, zeros) for t, zeros in counted if t.elements >= LARGE_SHARE * total]
    return Sparsity(
        share=sum(zeros for _, zeros in counted) / total if total else None,
        tensors=tuple(
            TensorSparsity(t.name, t.elements, zeros / t.elements)
            for t, zeros in sorted(large, key=lambda item: -item[0].elements)
        ),
    )


def _quantized(tensor: Tensor) -> QuantizedTensor:
    zero_points = tensor.zero_points or (0,)
    return QuantizedTensor(
        name=tensor.name,
        role=tensor.role,
        dtype=tensor.dtype,
        channels=len(tensor.scales),
        scale_min=min(tensor.scales),
        scale_max=max(tensor.scales),
        zero_point_min=min(zero_points),
        zero_point_max=max(zero_points),
    )

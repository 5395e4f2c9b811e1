"""The sparse encoding of TFLite: of weights that are mostly 0, the others and where they stand.

A DENSIFY operator before the layer writes the weights out once, when the file is loaded: the file
is smaller, and computes the same in the same time. Dense layers whose zeros fill blocks of four
inputs have a kernel of their own that skips them, and need no DENSIFY.

Only float32 weights are encoded. Integer ones behind a DENSIFY LiteRT refuses to load; float16
ones it widens at each call where XNNPACK does not, and embeddings and 3D convolutions of them come
out wrong. TensorFlow's own Optimize.EXPERIMENTAL_SPARSITY encodes them all, and its files crash the
runtime or compute something else (TensorFlow 2.21, LiteRT 2.3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.errors import ConversionError
from edgekit.toolchain import tflite_file

BLOCKS = (1, 2, 4, 8, 16)
"""Neighbours that are stored together if one of them is not 0."""

OVERHEAD = 256
"""Bytes that the operator and its second tensor take, about."""

SKIPPED = 4
"""Length of the blocks that the kernel for dense layers skips."""

GAIN_ELEMENTS, GAIN_SHARE = 2**17, 0.75
"""Size of a matrix, and share of blocks of zeros, from which on skipping is faster (measured with
one row: 1024 x 1024 at 80 % takes 0.76 of the time, at 70 % 1.1; 256 x 256 at 80 % 1.4)."""

SPARSE_KERNEL = 8
"""Version of FULLY_CONNECTED that takes sparse weights; XNNPACK leaves it to that kernel."""


@dataclass(frozen=True)
class _Encoding:
    values: np.ndarray
    """Those that are stored."""
    sparsity: Any
    """Where they stand."""
    size_bytes: int


def check(form: str, precision: str) -> None:
    """Raise ConversionError for files that cannot have it, or that no runtime runs with it."""
    if (form, precision) != ("tflite", "fp32"):
        raise ConversionError(
            f"{precision}.{form} has no sparse encoding that its runtime runs rightly",
            hint="it is for fp32 in tflite; elsewhere zeros become small by gzip",
        )


def encode(model: Any) -> None:
    """Store the weights of an fp32 file by their places, where that takes fewer bytes.

    Args:
        model: the unpacked file, changed in place. Its other tensors keep their places.

    Raises:
        ConversionError: no weights have enough zeros.
    """
    graph = tflite_file.main_graph(model)
    operators = []
    readers: dict[int, list[tuple[Any, int]]] = {}
    for op in graph.operators:
        for operand, place in enumerate(op.inputs):
            readers.setdefault(int(place), []).append((op, operand))
    count = 0
    for place, reads in readers.items():
        tensor = graph.tensors[place]
        value = None if place < 0 else tflite_file.constant(model, tensor)
        # LiteRT takes a tensor of no bytes for no constant: there must be something to store.
        if value is None or value.dtype != np.float32 or value.ndim < 2 or not value.any():
            continue
        found = min(_encodings(value), key=lambda e: e.size_bytes)
        if found.size_bytes + OVERHEAD >= value.nbytes:
            continue
        count += 1
        is_dense_layer = all(
            operand == 1 and tflite_file.kind(model, op) == "FULLY_CONNECTED"
            for op, operand in reads
        )
        if is_dense_layer and _gains(value):
            _hold(model, tensor, _blocks(value, SKIPPED))
            for op, _ in reads:
                op.opcodeIndex = _code(model, schema.BuiltinOperator.FULLY_CONNECTED, SPARSE_KERNEL)
        else:
            operators.append(_densify(model, place, found))
    if not count:
        raise ConversionError(
            "the sparse encoding has no effect: no layer has enough zeros",
            hint="prune the model first, or leave it out",
        )
    graph.operators = [*operators, *graph.operators]
    tflite_file.drop_unused(model)


def _gains(value: np.ndarray) -> bool:
    """Whether the kernel that skips zeros is the faster one."""
    if value.ndim != 2 or value.shape[1] % SKIPPED:
        return False
    empty = ~value.reshape(-1, SKIPPED).any(axis=1)
    return value.size >= GAIN_ELEMENTS and float(empty.mean()) >= GAIN_SHARE


def _encodings(value: np.ndarray) -> Iterator[_Encoding]:
    """The ways to store it: each axis may be the one along which zeros are left out."""
    for axis in range(value.ndim):
        yield _by_places(value, axis)
    for block in BLOCKS[1:]:
        if value.shape[-1] % block == 0:
            yield _blocks(value, block)


def _by_places(value: np.ndarray, axis: int) -> _Encoding:
    order = [*(i for i in range(value.ndim) if i != axis), axis]
    rows = np.transpose(value, order).reshape(-1, value.shape[axis])
    dimensions = [_dense(value.shape[i]) for i in order[:-1]]
    return _encoding(rows[:, :, None], order, [], dimensions)


def _blocks(value: np.ndarray, block: int) -> _Encoding:
    """By the places of blocks along the last axis."""
    rows = value.reshape(-1, value.shape[-1] // block, block)
    dimensions = [_dense(size) for size in value.shape[:-1]]
    return _encoding(rows, [*range(value.ndim + 1)], [value.ndim - 1], dimensions)


def _encoding(
    rows: np.ndarray, order: list[int], block_map: list[int], dimensions: list[Any]
) -> _Encoding:
    """(rows, blocks, values) as the blocks that are not 0, row by row."""
    stored = rows.any(axis=2)
    starts = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    places = np.nonzero(stored)[1]
    (starts_kind, starts_), (places_kind, places_) = _numbers(starts), _numbers(places)
    sparse = schema.DimensionMetadataT(
        format=schema.DimensionType.SPARSE_CSR,
        arraySegmentsType=starts_kind,
        arraySegments=starts_,
        arrayIndicesType=places_kind,
        arrayIndices=places_,
    )
    within = [_dense(rows.shape[2])] if block_map else []
    sparsity = schema.SparsityParametersT(
        traversalOrder=np.array(order, np.int32),
        blockMap=np.array(block_map, np.int32),
        dimMetadata=[*dimensions, sparse, *within],
    )
    values = rows[stored]
    size = values.nbytes + starts_.values.nbytes + places_.values.nbytes
    return _Encoding(values, sparsity, size)


def _numbers(values: np.ndarray) -> tuple[int, Any]:
    """In the narrowest type that holds them."""
    largest, kinds = values.max(initial=0), schema.SparseIndexVector
    if largest < 2**8:
        return kinds.Uint8Vector, schema.Uint8VectorT(values=values.astype(np.uint8))
    if largest < 2**16:
        return kinds.Uint16Vector, schema.Uint16VectorT(values=values.astype(np.uint16))
    return kinds.Int32Vector, schema.Int32VectorT(values=values.astype(np.int32))


def _dense(size: int) -> Any:
    return schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=int(size))


def _densify(model: Any, place: int, encoding: _Encoding) -> Any:
    """An operator that gives the tensor at `place`, from a new one with the encoding."""
    tensors = tflite_file.main_graph(model).tensors
    dense = tensors[place]
    sparse = copy.copy(dense)
    sparse.name = (dense.name or b"weights") + b"/sparse"
    _hold(model, sparse, encoding)
    tensors.append(sparse)
    dense.buffer = 0
    return schema.OperatorT(
        opcodeIndex=_code(model, schema.BuiltinOperator.DENSIFY, 1),
        inputs=np.array([len(tensors) - 1], np.int32),
        outputs=np.array([place], np.int32),
        builtinOptionsType=schema.BuiltinOptions.DensifyOptions,
        builtinOptions=schema.DensifyOptionsT(),
    )


def _hold(model: Any, tensor: Any, encoding: _Encoding) -> None:
    tensor.buffer = len(model.buffers)
    model.buffers.append(schema.BufferT(data=np.frombuffer(encoding.values.tobytes(), np.uint8)))
    tensor.sparsity = encoding.sparsity


def _code(model: Any, kind: int, version: int) -> int:
    """The place of an operator's kind and version in the file."""
    for place, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (kind, version):
            return place
    model.operatorCodes.append(
        schema.OperatorCodeT(builtinCode=kind, deprecatedBuiltinCode=kind, version=version)
    )
    return len(model.operatorCodes) - 1

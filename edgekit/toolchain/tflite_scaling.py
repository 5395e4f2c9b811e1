"""Arithmetic that brings raw features to one scale: no integers before it.

A tensor in TFLite has one scale. Where the channels of an input are a thousandfold apart, as rooms
and inhabitants are, the small ones would vanish in one step of it, before a Normalization layer
could bring them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.toolchain import tflite_file
from edgekit.types import Signature

FEWEST = 1 / 4
"""Of the steps of an input, the least that its narrowest channel must get: 64 of 256."""

_ARITHMETIC = ("ADD", "SUB", "MUL", "DIV")


def scaled_inputs(model: Any, signature: Signature, rows: Mapping[str, np.ndarray]) -> list[str]:
    """Tensors whose operators must stay float: they scale inputs of very unlike channels.

    Args:
        model: the float file, unpacked.
        signature: of the file.
        rows: (N, ..., channels) by Keras input name.
    """
    entries = model.signatureDefs[0].inputs
    tensors = {entry.name.decode(): entry.tensorIndex for entry in entries}
    raw = [spec for spec in signature.inputs if _too_unlike(rows[spec.name])]
    return _scaled(model, {tensors[spec.native] for spec in raw})


def _too_unlike(rows: np.ndarray) -> bool:
    """Whether one scale leaves too few steps to the narrowest channel that is not constant."""
    if rows.ndim < 2 or rows.dtype.kind != "f":
        return False
    flat = rows.reshape(-1, rows.shape[-1])
    widths = flat.max(axis=0) - flat.min(axis=0)
    # The integers reach from 0 on, or to it.
    whole = max(float(flat.max()), 0.0) - min(float(flat.min()), 0.0)
    varying = widths[widths > 0]
    return bool(varying.size and varying.min() < FEWEST * whole)


def _scaled(model: Any, inputs: set[int]) -> list[str]:
    """What is made of inputs by adding or multiplying one number per channel."""
    graph, reached, names = tflite_file.main_graph(model), set(inputs), []
    for op in graph.operators:
        if tflite_file.kind(model, op) not in _ARITHMETIC or not reached & {*op.inputs}:
            continue
        others = [tflite_file.constant(model, graph.tensors[i]) for i in {*op.inputs} - reached]
        if len(others) == 1 and others[0] is not None and others[0].size > 1:
            reached.add(op.outputs[0])
            names.append(graph.tensors[op.outputs[0]].name.decode())
    return names

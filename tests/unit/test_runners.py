from __future__ import annotations

import numpy as np
import pytest

from edgekit.agent.protocol import Runtime, Signature, TensorSpec
from edgekit.agent.rows import CHUNK, SINGLE_ROWS, run_rows
from edgekit.agent.runners import dequantize, quantize


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quantized_values_are_clipped_to_their_own_dtype(dtype):
    limits = np.iinfo(dtype)
    spec = TensorSpec("x", "x", (None, 1), dtype, 0.5, 3)
    values = np.array([[1e9], [-1e9], [1.0]])
    steps = quantize(values, spec)
    assert steps.dtype == dtype
    assert steps.ravel().tolist() == [limits.max, limits.min, 5]
    assert dequantize(steps, spec)[2] == 1.0


def test_float_tensors_pass_unchanged():
    spec = TensorSpec("x", "x", (None, 1), "float32")
    assert quantize(np.array([[0.1]]), spec).dtype == np.float32


class Echo:
    """Gives back what it was fed, and what it was fed the call before."""

    runtime = Runtime("echo", "1", "cpu")

    def __init__(self):
        self.sizes, self.bound, self.result = [], {}, {}

    def bind(self, feed):
        self.bound = {k: v.copy() for k, v in feed.items()}
        self.sizes.append(len(feed["x"]))

    def invoke(self):
        self.result = {"y": self.bound["x"] * 2}

    def read(self):
        return self.result


@pytest.mark.parametrize(
    ("batch", "rows", "sizes"),
    [
        (1, 5, [1] * 5),
        (4, 10, [4, 4, 4]),
        (None, 3, [1] * 3),
        (None, SINGLE_ROWS + CHUNK + 2, [1] * SINGLE_ROWS + [CHUNK, 2]),
    ],
)
def test_every_row_once_and_in_order(batch, rows, sizes):
    signature = Signature(
        (TensorSpec("x", "x", (batch, 2), "float32"),),
        (TensorSpec("y", "y", (batch, 2), "float32"),),
    )
    feed = {"x": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}
    runner = Echo()
    outputs = run_rows(runner, signature, feed)
    assert np.array_equal(outputs["y"], feed["x"] * 2)
    assert runner.sizes == sizes

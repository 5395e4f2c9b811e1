"""The plainest loop over a runtime: `python _loop.py tflite|onnx SECONDS ROWS.npz FILE...`.

Prints the median time of one invocation for each file, in nanoseconds, as a JSON list. Of several
files each has a turn of some 20 ms, again and again. One thread, the first row, no edgekit.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

TURN_NS = 20_000_000
SAMPLE_NS = 100_000
"""What is faster is called several times per reading of the clock."""


def tflite(path: str, row: np.ndarray) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row)
    return interpreter.invoke


def onnx(path: str, row: np.ndarray) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return functools.partial(session.run, names, {session.get_inputs()[0].name: row})


def loops_of(invoke: Callable[[], object]) -> int:
    """Warm up for a tenth of a second; invocations per sample."""
    count, start = 0, time.perf_counter_ns()
    while (passed := time.perf_counter_ns() - start) < 1e8:
        invoke()
        count += 1
    return max(1, round(SAMPLE_NS * count / passed))


def turn(invoke: Callable[[], object], loops: int, samples: list[float]) -> None:
    end = time.perf_counter_ns() + TURN_NS
    while (start := time.perf_counter_ns()) < end:
        for _ in range(loops):
            invoke()
        samples.append((time.perf_counter_ns() - start) / loops)


def main() -> None:
    form, seconds, rows, *paths = sys.argv[1:]
    row = next(iter(np.load(rows).values()))[:1]  # of a model with one input
    invokes = [{"tflite": tflite, "onnx": onnx}[form](path, row) for path in paths]
    loops = [loops_of(invoke) for invoke in invokes]
    samples: list[list[float]] = [[] for _ in paths]
    end = time.perf_counter() + float(seconds) * len(paths)
    while time.perf_counter() < end:
        for each in zip(invokes, loops, samples, strict=True):
            turn(*each)
    print(json.dumps([statistics.median(s) for s in samples]))


if __name__ == "__main__":
    main()

"""`python -m edgekit.agent`: one Job as JSON on stdin, one JobResult as JSON on stdout.

Exit code 1 with {"error": {"type", "message"}} when the runtime refuses the file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping

import numpy as np

from . import machine
from .arrays import load_arrays, save_arrays
from .protocol import Job, JobResult, Timing, decode, encode
from .rows import run_rows
from .runners import Runner, open_runner
from .timing import measure


def execute(job: Job) -> JobResult:
    """Carry out `job` in this process."""
    feed = load_arrays(job.inputs)
    before = machine.resident_bytes()
    start = time.perf_counter_ns()
    runner = open_runner(job.format, job.artifact, job.signature, job.threads)
    load_ns = time.perf_counter_ns() - start
    if job.action == "run":
        outputs = run_rows(runner, job.signature, feed)
        return JobResult(runner.runtime, machine.describe(), outputs=save_arrays(outputs, job.out))
    timing = time_first_row(runner, job, feed, load_ns, before)
    return JobResult(runner.runtime, machine.describe(), timing=timing)


def time_first_row(
    runner: Runner, job: Job, feed: Mapping[str, np.ndarray], load_ns: int, before: int | None
) -> Timing:
    """Time `runner` on the first row of `feed` (repeated where the batch is fixed above 1)."""
    batch = job.signature.inputs[0].shape[0] or 1
    runner.bind({name: np.repeat(value[:1], batch, 0) for name, value in feed.items()})
    runner.invoke()
    after = machine.resident_bytes()
    busy = machine.BusyMeter()
    measured = measure(runner.invoke, job.seconds)
    return Timing(
        samples_ns=measured.samples_ns,
        loops=measured.loops,
        warmup_invocations=measured.warmup_invocations + 1,
        stable=measured.stable,
        load_ns=load_ns,
        peak_memory_bytes=machine.peak_resident_bytes(),
        model_memory_bytes=_growth(before, after),
        busy_fraction=busy.read(),
    )


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def main() -> int:
    # Runtimes print to fd 1; the answer goes to a private copy of it.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        result = encode(execute(decode(Job, json.load(sys.stdin))))
        code = 0
    except Exception as e:  # the boundary where a runtime's own errors become an answer
        result, code = {"error": {"type": type(e).__name__, "message": str(e)}}, 1
    json.dump(result, answer)
    answer.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())

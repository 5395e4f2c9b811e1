"""`python -m edgekit.agent`: one Job as JSON on stdin, one JobResult as JSON on stdout.

Exit code 1 with {"error": {"type", "message"}} when the runtime refuses the file.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace

from . import conditions, machine
from .adapters import SOFTWARE
from .arrays import load_arrays, save_arrays
from .counting import mark_first_row
from .profiling import profile_first_row
from .protocol import Job, JobResult, Runtime, decode, encode
from .rows import run_rows, time_first_row
from .runners import load_runtime, open_runner


def execute(job: Job) -> JobResult:
    """Carry out `job` in this process."""
    feed = load_arrays(job.inputs)
    if job.action == "profile":
        runtime, profile = profile_first_row(job, feed)
        return JobResult(runtime, machine.describe(), profile=profile)
    load_runtime(job.format, job.accelerator)
    # Of a model in a GPU's memory this process sees nothing.
    before = machine.allocated_bytes() if job.accelerator is None else None
    start = time.perf_counter_ns()
    runner = open_runner(job.format, job.artifact, job.signature, job.threads, job.accelerator)
    load_ns = time.perf_counter_ns() - start
    here = replace(machine.describe(), accelerator=runner.adapter)
    if job.action == "run":
        outputs = run_rows(runner, job.signature, feed)
        return JobResult(runner.runtime, here, outputs=save_arrays(outputs, job.out))
    if job.action in ("count", "model"):
        mark_first_row(runner, job, feed)
        return JobResult(runner.runtime, here)
    cool = conditions.read()
    timing = time_first_row(runner, job, feed, load_ns, before)
    warm = conditions.read()
    return JobResult(
        runner.runtime,
        here,
        timing=timing,
        conditions=(cool, warm),
        warnings=(*conditions.warnings(cool, warm), *_of_software(runner.runtime)),
    )


def _of_software(runtime: Runtime) -> tuple[str, ...]:
    software = SOFTWARE in runtime.backend
    return ("timed on a software renderer: good for parity only",) if software else ()


def main() -> int:
    # Runtimes print to fd 1; the answer goes to a private copy of it.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # ONNX Runtime's wheels send usage data to their maker from a thread of their own, which costs
    # time and belongs to no measurement.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
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

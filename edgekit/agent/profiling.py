"""How the time of one invocation is shared among a file's operators, as its runtime tells it.

Taking the times costs time itself, so this is a run of its own and no measurement of latency.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .protocol import Job, OperatorTime, Profile, Runtime
from .rows import first_batch
from .runners import OnnxRunner

WARMUP = 10
"""Invocations that come before those that count."""
FEWEST, MOST = 5, 200
RESOLUTION_NS = 1000
"""LiteRT and ONNX Runtime cut the time of a call to whole microseconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One call of an operator: `key` tells which one it is, `ns` is without the calls inside it."""

    key: tuple[object, ...]
    type: str
    name: str
    ns: float


@dataclass(frozen=True)
class Invocation:
    """One invocation: how long it took from outside, and its calls."""

    ns: float
    calls: Sequence[Call]


def profile_first_row(job: Job, feed: Mapping[str, np.ndarray]) -> tuple[Runtime, Profile]:
    """Run the first row for about `job.seconds`, with the runtime's own times of operators.

    Raises:
        ValueError: the runtime gives none.
    """
    row = first_batch(job.signature, feed)
    if job.format == "tflite":
        runtime, invocations = _litert(job, row)
    elif job.format == "onnx":
        runtime, invocations = _onnx(job, row)
    else:
        raise ValueError(f"this agent profiles tflite and onnx, not {job.format!r}")
    return runtime, summarize(invocations, RESOLUTION_NS)


def summarize(invocations: Sequence[Invocation], resolution_ns: float) -> Profile:
    """Mean over the middle half of the invocations, by their time: a neighbour disturbs others."""
    ranked = sorted(invocations, key=lambda invocation: invocation.ns)
    outside = len(ranked) // 4
    middle = ranked[outside : len(ranked) - outside]
    found: dict[tuple[object, ...], list[Call]] = {}
    for invocation in middle:
        for call in invocation.calls:
            found.setdefault(call.key, []).append(call)
    return Profile(
        operators=tuple(
            OperatorTime(
                type=calls[0].type,
                name=calls[0].name,
                calls=round(len(calls) / len(middle), 2),
                ns=round(sum(call.ns for call in calls) / len(middle), 1),
            )
            for calls in found.values()
        ),
        invocations=len(middle),
        invocation_ns=round(sum(i.ns for i in middle) / len(middle), 1),
        resolution_ns=resolution_ns,
    )


def _litert(job: Job, row: Mapping[str, np.ndarray]) -> tuple[Runtime, list[Invocation]]:
    from .litert_names import names_of, nodes_of
    from .litert_profiler import LitertProfiler

    runner = LitertProfiler(job.artifact, job.signature, job.threads)
    runner.bind(row)

    def one() -> Invocation:
        runner.start()
        ns = _timed(runner.invoke)
        return Invocation(ns, runner.stop())

    invocations = _repeated(one, job.seconds)[WARMUP:]
    kinds = {call.key: call.type for call in invocations[0].calls}
    names = names_of(kinds, nodes_of(job.artifact))
    return runner.runtime, [
        Invocation(each.ns, [replace(c, name=names.get(c.key) or c.name) for c in each.calls])
        for each in invocations
    ]


def _onnx(job: Job, row: Mapping[str, np.ndarray]) -> tuple[Runtime, list[Invocation]]:
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        runner = OnnxRunner(job.artifact, job.signature, job.threads, profile=f"{folder}/events")
        runner.bind(row)
        times = _repeated(lambda: _timed(runner.invoke), job.seconds)
        events = json.loads(Path(runner.end_profiling()).read_bytes())
    calls = list(_onnx_invocations(events))
    if len(calls) != len(times):
        raise ValueError(f"{len(times)} invocations, and {len(calls)} in ONNX Runtime's profile")
    pairs = zip(times, calls, strict=True)
    return runner.runtime, [Invocation(ns, each) for ns, each in pairs][WARMUP:]


def _repeated(one: Callable[[], T], seconds: float) -> list[T]:
    """`one` again and again: `WARMUP` times, and then for about `seconds`."""
    results = [one() for _ in range(WARMUP)]
    deadline = time.perf_counter() + seconds
    while len(results) < WARMUP + FEWEST or (
        len(results) < WARMUP + MOST and time.perf_counter() < deadline
    ):
        results.append(one())
    return results


def _timed(invoke: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    invoke()
    return time.perf_counter_ns() - start


def _onnx_invocations(events: Sequence[Mapping[str, Any]]) -> Iterator[list[Call]]:
    """The operators of one invocation after the other, from ONNX Runtime's trace.

    An event is written when it ends: loops and branches come after the operators inside them,
    whose times are taken off theirs.
    """
    calls: list[Call] = []
    ended: list[Mapping[str, Any]] = []
    for event in events:
        if event["cat"] == "Session" and event["name"] == "model_run":
            yield calls
            calls, ended = [], []
        elif event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            own = event["dur"]
            while ended and ended[-1]["ts"] >= event["ts"]:
                own -= ended.pop()["dur"]
            ended.append(event)
            name, kind = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            key = (name, kind, event["args"].get("node_index"))
            calls.append(Call(key, kind, name, max(0, own) * 1000))

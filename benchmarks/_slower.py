"""The agent, with a call that takes longer: `python _slower.py SHARE` (0.1: a tenth longer).

The share is really spent, in an empty loop after each call of the runtime. How many turns that
takes is measured first, in this process, with the call itself.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable

from edgekit.agent import __main__ as agent
from edgekit.agent import rows, timing

SHARE = float(sys.argv[1])
BATCHES, BATCH_NS = 15, 1_000_000


def time_slower(invoke: Callable[[], object], seconds: float) -> timing.Measurement:
    # As many turns as take about as long as the call: fewer would drown in its noise.
    turn_ns = timed_ns(spinning(lambda: None, 10_000), 10) / 10_000
    many = max(100, round(statistics.median(timed_ns(invoke, 1) for _ in range(5)) / turn_ns))
    plain, empty, full = medians_ns(invoke, spinning(invoke, 0), spinning(invoke, many))
    turns = round(((1 + SHARE) * plain - empty) / (full - empty) * many)
    return timing.measure(spinning(invoke, max(0, turns)), seconds)


def spinning(invoke: Callable[[], object], turns: int) -> Callable[[], object]:
    def slower() -> None:
        invoke()
        for _ in itertools.repeat(None, turns):
            pass

    return slower


def medians_ns(*calls: Callable[[], object]) -> list[float]:
    """What each call takes, measured in turns."""
    timing.measure(calls[0], BATCH_NS / 1e9)  # warm
    found: list[list[float]] = [[] for _ in calls]
    loops = [max(1, round(BATCH_NS / timed_ns(call, 3))) for call in calls]
    for _ in range(BATCHES):
        for call, count, times in zip(calls, loops, found, strict=True):
            times.append(timed_ns(call, count))
    return [statistics.median(times) for times in found]


def timed_ns(call: Callable[[], object], loops: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(loops):
        call()
    return (time.perf_counter_ns() - start) / loops


if __name__ == "__main__":
    rows.measure = time_slower
    sys.exit(agent.main())

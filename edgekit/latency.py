"""Latency of several models side by side: interleaved over several processes, raw samples kept."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit import stats
from edgekit.errors import EdgekitError, RunnerError, TargetError
from edgekit.types import Histogram, JobResult, LatencyRecord, Progress, Timing

BUSY = 0.10
"""Share of the CPU time taken by others, above which a measurement is called disturbed."""
APART = 0.10
"""Largest difference between the medians of two processes, as a share of the overall median."""
WIDE = 0.25
"""Interquartile range as a share of the median."""
PERCENTILES = (50, 90, 99)
RESAMPLES = 500
"""Of the bootstrap that gives the intervals."""

Interval = tuple[float, float]

TAIL = 4
"""Times the range from the 5th to the 90th percentile: what a histogram shows above the median."""


@dataclass(frozen=True)
class Subject:
    """One model to time; `execute` runs one process (or one round in a process that lives on)."""

    id: str
    sha256: str
    rows: int
    execute: Callable[[], JobResult]


@dataclass(frozen=True)
class Summary:
    """The figures of a LatencyRecord, over the samples of all processes; times in nanoseconds."""

    artifact: str
    p50_ns: float
    p90_ns: float
    p99_ns: float
    spread: float
    """Interquartile range / median."""
    load_ns: float
    """Median over processes: from opening the file to ready."""
    peak_memory_bytes: int | None
    """Largest over processes, runtime included."""
    model_memory_bytes: float | None
    """Median over processes: what each grew by loading the model and running it once."""
    samples: int
    p50_interval_ns: Interval | None = None
    """In which it would lie in 95 % of such measurements; None: one process cannot tell."""
    p90_interval_ns: Interval | None = None
    p99_interval_ns: Interval | None = None
    energy_j: float | None = None
    """Median over processes, of one invocation, where the machine has a meter."""


def measure(
    subjects: Sequence[Subject],
    *,
    target: str,
    threads: int,
    rounds: int,
    progress: Progress,
    pinned: bool = False,
) -> list[LatencyRecord | EdgekitError]:
    """Time every subject once per round: A B C, A B C ..., so that drift touches all alike.

    `pinned` says that the processes run on cores of their own, which is up to the caller.

    Returns:
        In the order of `subjects`, a record or the error that ended its measurement.
    """
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    results: list[list[JobResult]] = [[] for _ in subjects]
    errors: dict[int, EdgekitError] = {}
    for number in range(rounds):
        for i, subject in enumerate(subjects):
            if i in errors:
                continue
            progress(f"timing, round {number + 1} of {rounds}: {subject.id}")
            try:
                results[i].append(subject.execute())
            except TargetError as e:  # the place is gone, for all
                errors |= {k: e for k in range(len(subjects)) if k not in errors}
            except EdgekitError as e:
                errors[i] = e
    known = {"target": target, "threads": threads, "pinned": pinned, "began": began}
    found: list[LatencyRecord | EdgekitError] = []
    for i, subject in enumerate(subjects):
        try:
            found.append(errors.get(i) or _record(subject, results[i], known))
        except RunnerError as e:
            found.append(e)
    return found


@functools.lru_cache(maxsize=128)
def summarize(record: LatencyRecord) -> Summary:
    """Percentiles over all samples of all processes, with what chance may make of them."""
    samples = [s for t in record.timings for s in t.samples_ns]
    grown = [t.model_memory_bytes for t in record.timings if t.model_memory_bytes is not None]
    peaks = [t.peak_memory_bytes for t in record.timings if t.peak_memory_bytes is not None]
    p50, p90, p99 = _intervals(record.timings)
    joules = [t.energy.joules for t in record.timings if t.energy is not None]
    return Summary(
        artifact=record.artifact,
        p50_ns=stats.percentile(samples, 50),
        p90_ns=stats.percentile(samples, 90),
        p99_ns=stats.percentile(samples, 99),
        spread=stats.relative_iqr(samples),
        load_ns=stats.median([t.load_ns for t in record.timings]),
        peak_memory_bytes=max(peaks, default=None),
        model_memory_bytes=stats.median(grown) if grown else None,
        samples=len(samples),
        p50_interval_ns=p50,
        p90_interval_ns=p90,
        p99_interval_ns=p99,
        energy_j=stats.median(joules) if joules else None,
    )


def _intervals(timings: Sequence[Timing]) -> list[Interval | None]:
    """95 % intervals of the percentiles, by a bootstrap in two steps: processes, then samples.

    Samples of one process are alike, and processes are few: drawn again they differ less than new
    ones would. So the limits are taken further out, by what a t interval is wider than a normal
    one (the expanded percentile interval of Hesterberg, 2015). Drawn with a fixed seed.
    """
    count = len(timings)
    if count < 2:
        return [None] * len(PERCENTILES)
    random = np.random.default_rng(0)
    pools = [np.asarray(t.samples_ns) for t in timings]
    found = np.empty((RESAMPLES, len(PERCENTILES)))
    for row in found:
        drawn = [pools[i] for i in random.integers(count, size=count)]
        again = [pool[random.integers(len(pool), size=len(pool))] for pool in drawn]
        row[:] = np.percentile(np.concatenate(again), PERCENTILES)
    tail = stats.expanded_tail(count)
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    return [(round(a, 1), round(b, 1)) for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def medians(record: LatencyRecord) -> tuple[float, ...]:
    """That of each process, in nanoseconds."""
    return tuple(stats.median(t.samples_ns) for t in record.timings)


def histogram(record: LatencyRecord, bins: int) -> Histogram:
    """All samples, in nanoseconds; the few fastest and a long tail lie beyond the edges."""
    samples = np.array([s for t in record.timings for s in t.samples_ns])
    low, early, middle, late, high = np.percentile(samples, [0.5, 5, 50, 90, 99.5])
    high = min(high, middle + TAIL * (late - early))
    if high <= low:
        low, high = 0.99 * low, 1.01 * low
    edges = np.linspace(low, high, bins + 1)
    places = np.searchsorted(edges, samples, side="right")
    counts = np.bincount(places, minlength=bins + 2)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def _record(
    subject: Subject, results: Sequence[JobResult], known: Mapping[str, Any]
) -> LatencyRecord:
    timings = tuple(r.timing for r in results if r.timing is not None)
    if len(timings) != len(results):
        raise RunnerError(f"{subject.id}: the agent answered without a timing")
    _refuse_mixed(results)
    return LatencyRecord(
        artifact=subject.id,
        sha256=subject.sha256,
        rows=subject.rows,
        timings=timings,
        runtime=results[0].runtime,
        machine=results[0].machine,
        warnings=(
            *_warnings(timings, results[0].machine.governor),
            *dict.fromkeys(w for r in results for w in r.warnings),
        ),
        conditions=tuple(r.conditions for r in results),
        **known,
    )


def _refuse_mixed(results: Sequence[JobResult]) -> None:
    """Samples of two machines or two runtimes are no one's latency."""
    places = [replace(r.machine, governor=None) for r in results]
    if len(set(places)) > 1:
        names = dict.fromkeys(f"{p.cpu}, {p.os}" for p in places)
        raise RunnerError(
            f"timed on different machines: {' / '.join(names)}",
            hint="time again, on one machine from beginning to end",
        )
    names = dict.fromkeys(
        f"{r.name} {r.version} ({r.backend})" for r in (r.runtime for r in results)
    )
    if len(names) > 1:
        raise RunnerError(f"timed with different runtimes: {' / '.join(names)}", hint="time again")


def _warnings(timings: Sequence[Timing], governor: str | None) -> list[str]:
    """Why these figures deserve less trust than they look."""
    found = []
    unstable = sum(not t.stable for t in timings)
    if unstable:
        found.append(f"no stable warm-up in {unstable} of {len(timings)} processes")
    busy = max((t.busy_fraction or 0.0 for t in timings), default=0.0)
    if busy > BUSY:
        found.append(f"other processes used up to {busy:.0%} of the CPU meanwhile")
    medians = [stats.median(t.samples_ns) for t in timings]
    apart = (max(medians) - min(medians)) / stats.median(medians)
    if apart > APART:
        found.append(f"the processes' medians differ by {apart:.0%}")
    spread = stats.relative_iqr([s for t in timings for s in t.samples_ns])
    if spread > WIDE:
        found.append(f"wide spread: the interquartile range is {spread:.0%} of the median")
    if governor not in (None, "performance"):
        found.append(f"the CPU frequency governor is {governor!r}")
    return found

"""Latency of several models side by side: interleaved over several processes, raw samples kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgekit import stats
from edgekit.errors import EdgekitError, RunnerError
from edgekit.types import JobResult, LatencyRecord, Progress, Timing

BUSY = 0.10
"""Share of the CPU time taken by others, above which a measurement is called disturbed."""
APART = 0.10
"""Largest difference between the medians of two processes, as a share of the overall median."""
WIDE = 0.25
"""Interquartile range as a share of the median."""


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


def measure(
    subjects: Sequence[Subject], *, target: str, threads: int, rounds: int, progress: Progress
) -> list[LatencyRecord | EdgekitError]:
    """Time every subject once per round: A B C, A B C ..., so that drift touches all alike.

    Returns:
        In the order of `subjects`, a record or the error that ended its measurement.
    """
    results: list[list[JobResult]] = [[] for _ in subjects]
    errors: dict[int, EdgekitError] = {}
    for number in range(rounds):
        for i, subject in enumerate(subjects):
            if i in errors:
                continue
            progress(f"timing, round {number + 1} of {rounds}: {subject.id}")
            try:
                results[i].append(subject.execute())
            except EdgekitError as e:
                errors[i] = e
    found: list[LatencyRecord | EdgekitError] = []
    for i, subject in enumerate(subjects):
        try:
            found.append(errors.get(i) or _record(subject, results[i], target, threads))
        except RunnerError as e:
            found.append(e)
    return found


def summarize(record: LatencyRecord) -> Summary:
    """Percentiles over all samples of all processes."""
    samples = [s for t in record.timings for s in t.samples_ns]
    grown = [t.model_memory_bytes for t in record.timings if t.model_memory_bytes is not None]
    peaks = [t.peak_memory_bytes for t in record.timings if t.peak_memory_bytes is not None]
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
    )


def _record(
    subject: Subject, results: Sequence[JobResult], target: str, threads: int
) -> LatencyRecord:
    timings = tuple(r.timing for r in results if r.timing is not None)
    if len(timings) != len(results):
        raise RunnerError(f"{subject.id}: the agent answered without a timing")
    _refuse_mixed(results)
    return LatencyRecord(
        artifact=subject.id,
        sha256=subject.sha256,
        target=target,
        threads=threads,
        rows=subject.rows,
        timings=timings,
        runtime=results[0].runtime,
        machine=results[0].machine,
        warnings=(
            *_warnings(timings, results[0].machine.governor),
            *dict.fromkeys(w for r in results for w in r.warnings),
        ),
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

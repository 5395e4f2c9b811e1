"""Every figure that a rule can ask for, out of what is known of a workspace's files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgekit import stats
from edgekit.snapshot import Snapshot
from edgekit.types import (
    LOCAL,
    AccuracyRecord,
    InstructionRecord,
    LatencyRecord,
    ParityRecord,
    RowScores,
    Timing,
)

Record = ParityRecord | AccuracyRecord | LatencyRecord | InstructionRecord
Key = tuple[str, str, int, str, str]
"""Artifact, target, threads, metric, and what it is of."""

TIMES: dict[str, Callable[[Timing], float]] = {
    "latency.p50": lambda timing: stats.percentile(timing.samples_ns, 50),
    "latency.p90": lambda timing: stats.percentile(timing.samples_ns, 90),
    "latency.p99": lambda timing: stats.percentile(timing.samples_ns, 99),
    "latency.load": lambda timing: float(timing.load_ns),
}
"""Of one process, in nanoseconds."""
_MEMORY: dict[str, Callable[[Timing], int | None]] = {
    "memory.peak": lambda timing: timing.peak_memory_bytes,
    "memory.model": lambda timing: timing.model_memory_bytes,
}


@dataclass(frozen=True)
class Figure:
    """One figure of one file on one target, in the unit of its metric."""

    artifact: str
    target: str
    metric: str
    value: float
    record: Record | None = None
    of: str = ""
    """The output or the task metric, where there are several."""
    scores: RowScores | None = None
    """By row, of a task metric."""

    @property
    def key(self) -> Key:
        """What it has in common with the same figure at another time."""
        threads = getattr(self.record, "threads", 1)
        return self.artifact, self.target, threads, self.metric, self.of

    @property
    def is_share(self) -> bool:
        """Whether points can be counted: a share of rows that are right."""
        if self.scores is not None:
            return self.scores.higher_is_better and 0 <= self.value <= 1
        return self.metric == "parity.top1"


def figures(snapshot: Snapshot) -> dict[Key, Figure]:
    """All of them, by what they are of."""
    return {f.key: f for f in _figures(snapshot)}


def _figures(snapshot: Snapshot) -> Iterator[Figure]:
    for artifact, size in snapshot.sizes.items():
        yield Figure(artifact, LOCAL, "size", size)
    for parity in snapshot.parity:
        yield from _of_parity(parity)
    for accuracy in snapshot.accuracy:
        yield from _of_accuracy(accuracy)
    for latency in snapshot.latency:
        yield from _of_latency(latency)
    for counted in snapshot.instructions:
        where = counted.artifact, counted.target
        yield Figure(*where, "instructions", counted.counts[0], counted)


def _of_parity(record: ParityRecord) -> Iterator[Figure]:
    where = record.artifact, record.target
    yield Figure(*where, "parity", float(record.passed), record)
    for output in record.outputs:
        of = output.name if len(record.outputs) > 1 else ""
        yield Figure(*where, "parity.max_abs", output.max_abs, record, of)
        yield Figure(*where, "parity.max_rel", output.max_rel, record, of)
        yield Figure(*where, "parity.sqnr_db", output.sqnr_db, record, of)
        if output.top1_agreement is not None:
            yield Figure(*where, "parity.top1", output.top1_agreement, record, of)


def _of_accuracy(record: AccuracyRecord) -> Iterator[Figure]:
    for scores in record.scores:
        yield Figure(
            record.artifact,
            record.target,
            "accuracy",
            record.metrics[scores.metric],
            record,
            "" if scores.metric == "accuracy" else scores.metric,
            scores,
        )


def _of_latency(record: LatencyRecord) -> Iterator[Figure]:
    where = record.artifact, record.target
    for metric, time in TIMES.items():
        yield Figure(*where, metric, stats.median([time(t) for t in record.timings]), record)
    for metric, memory in _MEMORY.items():
        known = [m for t in record.timings if (m := memory(t)) is not None]
        if known:
            yield Figure(*where, metric, stats.median(known), record)

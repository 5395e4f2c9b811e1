"""Whether one artifact is slower than another, as far as two latency records can tell.

The medians of processes are compared, not samples: what is drawn once for a process, such as where
its memory lies, is the same in all of its samples, so that a thousand of them count as one. One
process in a hundred is a fifth slower than the others, which ruins a mean and its standard
deviation; ranks bear it. So the interval is that of the Mann-Whitney test, turned round (Hodges
and Lehmann): of all ratios between a process of the one and a process of the other, sorted, as many
are left out at either end as chance would exceed in 2.5 % of the cases, whatever the distribution.
`benchmarks/comparison.py` holds it against other statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit import stats
from edgekit.errors import NotComparable
from edgekit.types import InstructionRecord, LatencyRecord, Timing

MARGIN = 0.05
"""The smallest difference that matters; less is "same"."""
CHANCE = 0.05
"""How often two records of the same artifact may have an interval without 1."""

Verdict = Literal["same", "slower", "faster", "unclear"]


@dataclass(frozen=True)
class Comparison:
    """How long `after` takes, as a multiple of `before`."""

    before: str
    after: str
    ratio: float
    """Of the medians: above 1, `after` is slower."""
    interval: tuple[float, float] | None
    """In which it lies in 95 % of the cases; None: there are too few processes to tell."""
    verdict: Verdict
    in_turns: bool
    """Whether both were timed in one measurement; if not, the interval knows nothing of how the
    machine changed in between, by up to 6 % within minutes: the margin should be 10 % then."""


def compare(
    before: LatencyRecord,
    after: LatencyRecord,
    *,
    margin: float = MARGIN,
    figure: Callable[[Timing], float] = lambda timing: stats.median(timing.samples_ns),
) -> Comparison:
    """Hold `after` against `before`.

    "slower" and "faster" ask for both: a ratio beyond the margin, and an interval without 1.
    "same" asks for an interval within the margin. All else is "unclear": measured again, with more
    processes or on a quieter machine, it would be one of them.

    Args:
        before: the measure.
        after: what is measured by it.
        margin: the smallest difference that matters, as a share.
        figure: what is compared of each process, in any unit.

    Raises:
        NotComparable: they are of different machines, runtimes or conditions.
    """
    refuse_strangers(before, after)
    firsts, seconds = (np.array([figure(t) for t in record.timings]) for record in (before, after))
    in_turns = bool(before.began) and before.began == after.began
    ratios = np.sort((seconds[:, None] / firsts[None, :]).ravel())
    ratio = float(np.median(ratios))
    rank = _rank(len(firsts), len(seconds))
    if rank == 0:
        return Comparison(before.artifact, after.artifact, ratio, None, "unclear", in_turns)
    low, high = float(ratios[rank - 1]), float(ratios[-rank])
    verdict = judge(ratio, low, high, margin)
    return Comparison(before.artifact, after.artifact, ratio, (low, high), verdict, in_turns)


def judge(ratio: float, low: float, high: float, margin: float = MARGIN) -> Verdict:
    """What a ratio within `low` and `high` says; see `compare`."""
    most = 1 + margin
    if 1 / most < low and high < most:
        return "same"
    if low > 1 and ratio > most:
        return "slower"
    if high < 1 and ratio < 1 / most:
        return "faster"
    return "unclear"


def _rank(n: int, m: int) -> int:
    """The interval goes from the so many-th smallest of n * m ratios to the so many-th largest.

    0: not even all of them make one, as with three processes each.
    """
    # Of all orders of n + m processes, in how many the second is ahead in 0, 1, 2 ... of the pairs:
    # the coefficients of a Gaussian binomial, the product of (1 - q^(m+i)) / (1 - q^i).
    orders = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for k in range(n * m, m + i - 1, -1):
            orders[k] -= orders[k - m - i]
        for k in range(i, n * m + 1):
            orders[k] += orders[k - i]
    most = CHANCE / 2 * math.comb(n + m, n)
    count = found = 0
    for order in orders:
        found += order
        if found > most:
            break
        count += 1
    return count


def refuse_strangers(
    before: LatencyRecord | InstructionRecord, after: LatencyRecord | InstructionRecord
) -> None:
    """Refuse records that say nothing of each other.

    Raises:
        NotComparable: they are of different machines, runtimes or conditions.
    """
    ours, theirs = _circumstances(before), _circumstances(after)
    for what, value in ours.items():
        if value != theirs[what]:
            raise NotComparable(
                f"not measured in the same circumstances: {what} {value} against {theirs[what]}",
                hint="time both anew, side by side: edgekit bench FILE FILE",
            )


def _circumstances(record: LatencyRecord | InstructionRecord) -> dict[str, object]:
    machine, runtime = record.machine, record.runtime
    return {
        "target": record.target,
        "machine": f"{machine.cpu} ({machine.arch}, {machine.cores} cores)",
        "system": machine.os,
        "governor": machine.governor,
        "runtime": f"{runtime.name} {runtime.version}",
        "backend": runtime.backend,
        "threads": getattr(record, "threads", 1),
        "rows per call": record.rows,
        "pinned": getattr(record, "pinned", False),
    }

"""How figures look in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Protocol

from rich import box
from rich.table import Table

from edgekit.latency import Summary
from edgekit.rules import Verdict
from edgekit.types import (
    BASELINE,
    LOCAL,
    AccuracyRecord,
    OutputParity,
    ParityRecord,
    SearchRecord,
)

NOT_VERIFIED = "not verified"
KERAS = "Keras model"
LONGEST = 80


def size(count: float) -> str:
    """Bytes in the largest unit (of 1000) that leaves a number above 1."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def energy(joules: float) -> str:
    """Joules as µJ, mJ or J with three digits."""
    return duration(joules * 1e9)[:-1] + "J"


def duration(nanoseconds: float) -> str:
    """Nanoseconds as µs, ms or s with three digits."""
    for unit, factor in (("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        value = nanoseconds / factor
        if value < 1000 or unit == "s":
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def give_or_take(value: float, interval: tuple[float, float] | None) -> str:
    """How far the farther end of an interval is from `value`: " ± 2%"."""
    if interval is None:
        return ""
    share = max(value - interval[0], interval[1] - value) / value
    return f" ± {math.ceil(100 * share)}%"


def short(text: str) -> str:
    """As much of it as a cell can hold."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def counted(number: int, what: str, several: str | None = None) -> str:
    """Number and noun: "1 row", "1,000 rows"."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def plain(text: str) -> str:
    """Without what would move a cursor, or turn the direction of writing: names are hostile."""
    return "".join(c if c.isprintable() else "?" for c in text)


def new_table(first: str, *others: str, left: Sequence[int] = ()) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column(first, no_wrap=True)
    for i, name in enumerate(others, 1):
        is_left = i in left or name == "verified on"
        table.add_column(name, justify="left" if is_left else "right", no_wrap=True)
    return table


class Disturbed(Protocol):
    """A measurement, and what calls it into question."""

    @property
    def artifact(self) -> str: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...


def model_name(id: str) -> str:
    return KERAS if id == BASELINE else id


def parity_cells(record: ParityRecord | None) -> tuple[str, str, str]:
    """Largest difference as a share of the output's scale, SQNR, top-1: of the worst output."""
    if record is None:
        return NOT_VERIFIED, "", ""
    if not record.outputs:
        return "–", "–", ""
    worst: OutputParity = max(record.outputs, key=lambda o: o.max_rel)
    agreements = [o.top1_agreement for o in record.outputs if o.top1_agreement is not None]
    return (
        f"{worst.max_rel:.1e}",
        f"{min(o.sqnr_db for o in record.outputs):.0f} dB",
        f"{min(agreements):.2%}" if agreements else "",
    )


def metric_name(records: Sequence[AccuracyRecord]) -> str:
    return next((next(iter(r.metrics)) for r in records), "metric")


def metric_cell(record: AccuracyRecord | None, baseline: AccuracyRecord | None = None) -> str:
    """The main metric, with the change against the Keras model."""
    if record is None:
        return ""
    name, value = next(iter(record.metrics.items()))
    if baseline is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({value - baseline.metrics[name]:+.4f})"


def where_cell(record: ParityRecord) -> str:
    kind = {"recipe": "test row", "samples": "sample row", "synthetic": "random row"}[record.data]
    return f"{record.runtime.name} on {record.runtime.backend}, {counted(record.rows, kind)}"


def time_cells(own: Summary | None, keras: Summary | None) -> tuple[str, str, str]:
    if own is None:
        return "", "", ""
    speedup = keras.p50_ns / own.p50_ns if keras else None
    return duration(own.p50_ns), duration(own.p90_ns), times(speedup)


def times(speedup: float | None) -> str:
    if speedup is None:
        return ""
    return f"{speedup:.0f}×" if speedup >= 10 else f"{speedup:.1f}×"


def subject(verdict: Verdict) -> str:
    """The file that a verdict is on, and where, unless that is here."""
    threads = f", {counted(verdict.threads, 'thread')}" if verdict.threads != 1 else ""
    where = f" on {verdict.target}" if verdict.target != LOCAL else ""
    return f"{verdict.artifact}{where}{threads}"


def figure(verdict: Verdict, value: float | None) -> str:
    """A figure in the unit of the verdict's metric."""
    if value is None:
        return "–"
    family, _, which = verdict.family.partition(".")
    if verdict.family == "parity":
        return "proved" if value else "differs"
    if family == "latency":
        return duration(value)
    if family in ("size", "memory"):
        return size(value)
    if family == "instructions":
        return f"{value:,.0f}"
    return {"sqnr_db": f"{value:.1f} dB", "top1": f"{value:.2%}"}.get(
        which, f"{value:.4f}" if family == "accuracy" else f"{value:.2g}"
    )


def relative_change(verdict: Verdict) -> str:
    """From the baseline to now: in points of a share, in dB, else in percent."""
    before, now = verdict.baseline, verdict.current
    if before is None or now is None or verdict.family == "parity":
        return ""
    if verdict.is_share:
        return f"{(now - before) * 100:+.2f} pt"
    if verdict.family == "parity.sqnr_db":
        return f"{now - before:+.1f} dB"
    return f"{now / before - 1:+.1%}" if before else ""


def disturbances(records: Sequence[Disturbed]) -> list[str]:
    """Each kind of warning once, at its worst, with the artifacts that it concerns."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        for warning in record.warnings:
            kind = re.sub(r"\d+", "", warning)
            kinds.setdefault(kind, []).append((warning, model_name(record.artifact)))
    lines = []
    for found in kinds.values():
        worst = max((w for w, _ in found), key=lambda w: [int(n) for n in re.findall(r"\d+", w)])
        names = ", ".join(name for _, name in found)
        lines.append(f"warning: {worst} ({names if len(found) < len(records) else 'all'})")
    return lines


def verdict(record: SearchRecord) -> str:
    """What came out of a search, in a line."""
    allowed = f"allowed: {record.budget} of {record.measure}"
    if record.baseline:
        allowed += f" ({record.baseline:.4f} in Keras)"
    if record.chosen is None:
        return f"{record.format}: nothing holds on {record.rows:,} validation rows; {allowed}"
    label = record.candidates[record.chosen].label
    state = "published" if record.holds else "not published"
    lost = f"lost {record.loss(record.final)} on the test rows"
    if record.chance:
        lost += f" (chance: ± {record.loss(record.chance)})"
    return f"{record.format}: {label}, {state}: {lost}; {allowed}"

"""What a gate says, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgekit.cells import (
    counted,
    figure,
    new_table,
    relative_change,
    subject,
)
from edgekit.rules import Verdict
from edgekit.snapshot import Snapshot


def verdicts(found: Sequence[Verdict]) -> Table:
    """What each rule says: the figures, and whether they pass."""
    table = new_table(
        "file", "metric", "rule", "baseline", "now", "change", "verdict", left=(1, 2, 6)
    )
    marks = {True: "[green]passed[/]", False: "[red]failed[/]", None: "[yellow]not comparable[/]"}
    previous = ""
    for verdict in found:
        name = subject(verdict)
        table.add_row(
            escape(name) if name != previous else "",
            escape(verdict.metric),
            escape(verdict.rule),
            figure(verdict, verdict.baseline),
            figure(verdict, verdict.current),
            relative_change(verdict),
            marks[verdict.passed],
        )
        previous = name
    return table


def judged(found: Sequence[Verdict]) -> str:
    """How many rules passed."""
    failed, unknown = (sum(v.passed is p for v in found) for p in (False, None))
    text = f"{counted(len(found), 'rule')}: {len(found) - failed - unknown} passed"
    text += f", {failed} failed" if failed else ""
    return text + (f", {unknown} not comparable" if unknown else "")


def held(snapshot: Snapshot) -> str:
    """What a baseline has, in a line."""
    timed = sorted({r.target for r in snapshot.latency})
    counted_on = sorted({r.target for r in snapshot.instructions})
    parts = [counted(len(snapshot.sizes), "file")]
    parts.append(f"accuracy of {len({r.artifact for r in snapshot.accuracy})}")
    parts.append(f"timed on {', '.join(timed)}" if timed else "never timed")
    if counted_on:
        parts.append(f"counted on {', '.join(counted_on)}")
    return ", ".join(parts)

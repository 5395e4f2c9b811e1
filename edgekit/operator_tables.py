"""The operators of a profile as a table, and what is to be said of it."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgekit.cells import counted, duration, new_table
from edgekit.types import OperatorTime, ProfileRecord

LONGEST = 80
MOST_OPERATORS = 16
OFF = 0.25
"""How far the operators of a profile may be off the time that was not profiled, unsaid."""


def operators(record: ProfileRecord) -> Table:
    """The operators of a file, the longest first, and all small ones in a line."""
    table = new_table("operator", "name", "calls", "time", "share", left=(1,))
    step = record.profile.resolution_ns
    ranked = sorted(record.profile.operators, key=lambda o: -o.ns)
    if len(ranked) > MOST_OPERATORS:
        ranked, tail = ranked[: MOST_OPERATORS - 1], ranked[MOST_OPERATORS - 1 :]
        rest = (sum(o.calls for o in tail), sum(o.ns for o in tail))
        ranked.append(OperatorTime(f"{len(tail)} others", "", *rest))
    for operator in ranked:
        table.add_row(
            escape(operator.type),
            escape(_first(operator.name)),
            f"{operator.calls:,.10g}",
            duration(operator.ns) if operator.ns else f"< {duration(step)}",
            f"{operator.ns / record.operators_ns:.1%}" if record.operators_ns else "",
        )
    return table


def profile_summary(record: ProfileRecord) -> list[str]:
    """What a profile is of, beside the time that is not profiled, and what is wrong with it."""
    profile = record.profile
    lines = [
        f"{record.artifact} by operator: {duration(record.operators_ns)} in all, "
        f"mean of {counted(profile.invocations, 'invocation')}; "
        f"one takes {duration(profile.invocation_ns)} while it is profiled"
    ]
    if record.p50_ns is None:
        return lines
    share = record.operators_ns / record.p50_ns
    lines[0] += f", {duration(record.p50_ns)} else ({share:.0%} of it are operators)"
    if share > 1 + OFF:
        lines.append(
            "warning: more than the whole: profiling takes time, or the machine was busier then"
        )
    elif share < 1 - OFF:
        step = duration(profile.resolution_ns)
        lines.append(
            f"warning: not the whole: calls are cut to whole steps of {step}, or the rest is "
            "between operators"
        )
    return lines


def _first(name: str) -> str:
    """TFLite names an operator after all that was joined to it."""
    name = name.partition(";")[0]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"

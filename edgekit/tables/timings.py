"""What was timed, counted and profiled, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from edgekit.cells import (
    counted,
    disturbances,
    duration,
    energy,
    give_or_take,
    model_name,
    new_table,
    short,
    size,
    times,
)
from edgekit.types import (
    InstructionRecord,
    LatencyRecord,
    Machine,
    OperatorTime,
    ProfileRecord,
)
from edgekit.verbs.bench import BenchRow, CountRow

MOST_OPERATORS = 16
OFF = 0.25
"""How far the operators of a profile may be off the time that was not profiled, unsaid."""


def latencies(rows: Sequence[BenchRow]) -> Table:
    """Times of one invocation."""
    table = new_table(
        "artifact", "size", "p50", "p90", "p99", "spread", "load", "peak memory", "× Keras"
    )
    measured = any(row.summary.energy_j is not None for row in rows)
    if measured:
        table.add_column("energy", justify="right", no_wrap=True)
    several = len({row.workspace for row in rows}) > 1
    for row in rows:
        s = row.summary
        home = f"{row.workspace}: " if several and row.workspace else ""
        table.add_row(
            home + model_name(s.artifact),
            size(row.size_bytes),
            duration(s.p50_ns) + give_or_take(s.p50_ns, s.p50_interval_ns),
            duration(s.p90_ns),
            duration(s.p99_ns),
            f"{s.spread:.0%}",
            duration(s.load_ns) if s.load_ns else "",
            size(s.peak_memory_bytes) if s.peak_memory_bytes is not None else "",
            times(row.speedup),
            *([""] if measured and s.energy_j is None else []),
            *([] if s.energy_j is None else [energy(s.energy_j)]),
        )
    return table


def instructions(rows: Sequence[CountRow]) -> Table:
    """What one invocation takes on an emulated machine, next to the first of its format."""
    table = new_table("artifact", "instructions", "of the first")
    if any(row.record.modelled for row in rows):
        for name in ("modelled cycles", "modelled time"):
            table.add_column(name, justify="right", no_wrap=True)
    several = len({row.workspace for row in rows}) > 1
    first: dict[tuple[str | None, str], int] = {}
    for row in rows:
        record, count = row.record, row.record.counts[0]
        share = count / first.setdefault((row.workspace, record.artifact.rpartition(".")[2]), count)
        home = f"{row.workspace}: " if several and row.workspace else ""
        cells = [home + record.artifact, f"{count:,}", f"{share:.2f}"]
        if (model := record.modelled) is not None:
            cells += [f"{model.cycles:,}", duration(model.cycles / model.clock_hz * 1e9)]
        table.add_row(*cells)
    return table


def modelling(records: Sequence[InstructionRecord]) -> list[str]:
    """What modelled cycles are, and what they leave out."""
    models = [record.modelled for record in records if record.modelled is not None]
    if not models:
        return []
    first, least = models[0], min(model.coverage for model in models)
    return [
        f"cycles and times are {first.label}: {first.tool}, core {first.core}, at "
        f"{first.clock_hz / 1e9:.1f} GHz, on {least:.1%} of the instructions or more; with perfect "
        "caches and branch prediction, and blocks one after the other"
    ]


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
            escape(short(operator.name.partition(";")[0])),  # TFLite names all that was joined
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


def machine(place: Machine) -> str:
    """A machine in a line."""
    gpu = f", {place.accelerator}" if place.accelerator else ""
    return f"{place.cpu} ({counted(place.cores, 'core')}){gpu}, {place.os}"


def conditions(records: Sequence[LatencyRecord]) -> list[str]:
    """Where it was measured and what disturbed it, one line each."""
    lines = []
    for place, group in groupby(records, key=lambda r: r.machine):
        same = list(group)
        first = same[0]
        runtimes = sorted(
            {f"{r.runtime.name} {r.runtime.version} ({r.runtime.backend})" for r in same}
        )
        lines += [
            f"{machine(place)}; "
            f"{counted(first.threads, 'thread')}{', pinned' if first.pinned else ''}; "
            f"{counted(len(first.timings), 'process', 'processes')} each, interleaved",
            ", ".join(runtimes),
        ]
    meters = sorted({t.energy.meter for r in records for t in r.timings if t.energy})
    if meters:
        lines.append(f"energy: {'; '.join(meters)}: all that it feeds, what it takes at rest, too")
    return [*lines, *disturbances(records)]

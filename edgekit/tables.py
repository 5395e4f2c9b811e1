"""Results as tables for a terminal; a narrow Markdown shape, so that they paste into a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.markup import escape
from rich.table import Table

from edgekit import latency
from edgekit.latency import Summary
from edgekit.recipe import Recipe
from edgekit.types import (
    BASELINE,
    AccuracyRecord,
    Artifact,
    Explanation,
    LatencyRecord,
    OutputParity,
    ParityRecord,
    SearchRecord,
)
from edgekit.verbs.bench import BenchRow
from edgekit.verbs.targets import TargetStatus
from edgekit.workspace import Workspace

NOT_VERIFIED = "not verified"
MOST_LAYERS = 12
LONGEST = 80
KERAS = "Keras model"


def artifacts(
    made: Sequence[Artifact], parity: Sequence[ParityRecord], accuracy: Sequence[AccuracyRecord]
) -> Table:
    """What was exported, and the proof."""
    metric = _metric_name(accuracy)
    table = _table("artifact", "size", "max diff", "SQNR", "top-1", metric, "verified on")
    proofs = {p.artifact: p for p in parity}
    metrics = {a.artifact: a for a in accuracy}
    for artifact in made:
        proof = proofs.get(artifact.id)
        table.add_row(
            artifact.id,
            size(artifact.size_bytes),
            *_parity_cells(proof),
            _metric(metrics.get(artifact.id)),
            NOT_VERIFIED if proof is None else _where(proof),
        )
    return table


def quantized(
    made: Sequence[Artifact],
    parity: Sequence[ParityRecord],
    accuracy: Sequence[AccuracyRecord],
    times: Sequence[LatencyRecord],
) -> Table:
    """What was quantized and what it costs, against the Keras model."""
    metric = _metric_name(accuracy)
    table = _table("artifact", "size", "SQNR", "top-1", metric, "p50", "verified on")
    proofs = {p.artifact: p for p in parity}
    metrics = {a.artifact: a for a in accuracy}
    medians = {t.artifact: duration(latency.summarize(t).p50_ns) for t in times}
    baseline = metrics.get(BASELINE)
    if baseline is not None:
        table.add_row(KERAS, "", "", "", _metric(baseline), "", "")
    for artifact in made:
        proof = proofs[artifact.id]
        _, sqnr, top1 = _parity_cells(proof)
        table.add_row(
            artifact.id,
            size(artifact.size_bytes),
            sqnr,
            top1,
            _metric(metrics.get(artifact.id), baseline),
            medians.get(artifact.id, ""),
            _where(proof),
        )
    return table


def search(record: SearchRecord) -> Table:
    """What a search tried, in its order."""
    table = _table("", record.format, "size", record.measure, "lost", "p50", "", left=(1, 6))
    for i, candidate in enumerate(record.candidates):
        state = "holds" if candidate.holds else "over the budget"
        if i == record.chosen:
            state = "[green]taken[/]"
        if candidate.failure is not None:
            state = escape(_short(candidate.failure))
        table.add_row(
            str(i + 1),
            escape(candidate.label),
            size(candidate.size_bytes) if candidate.size_bytes else "",
            "" if candidate.figure is None else f"{candidate.figure:.4f}",
            "" if candidate.lost is None else record.loss(candidate.lost),
            "" if candidate.p50_ns is None else duration(candidate.p50_ns),
            state,
        )
    return table


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


def explanation(found: Explanation) -> Table:
    """The layers of a file, the one that adds most error first."""
    heads = (found.artifact, "adds", "so far", "cause", "what was seen", "try")
    table = _table(*heads, left=(3, 4, 5))
    for error in found.layers[:MOST_LAYERS]:
        table.add_row(
            escape(" + ".join(error.layers)),
            f"{error.sqnr_db:.1f} dB",
            f"{error.cumulative_sqnr_db:.1f} dB",
            error.cause,
            escape(error.detail),
            escape(error.fix),
        )
    return table


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def parity(records: Sequence[ParityRecord], accuracy: Sequence[AccuracyRecord]) -> Table:
    """What was verified, with the verdict."""
    metric = _metric_name(accuracy)
    table = _table("artifact", "verdict", "max diff", "SQNR", "top-1", metric, "verified on")
    metrics = {a.artifact: a for a in accuracy}
    for record in records:
        table.add_row(
            record.artifact,
            "[green]proved[/]" if record.passed else "[red]differs[/]",
            *_parity_cells(record),
            _metric(metrics.get(record.artifact)),
            _where(record),
        )
    return table


def latencies(rows: Sequence[BenchRow]) -> Table:
    """Times of one invocation."""
    table = _table(
        "artifact", "size", "p50", "p90", "p99", "spread", "load", "peak memory", "× Keras"
    )
    several = len({row.workspace for row in rows}) > 1
    for row in rows:
        s = row.summary
        home = f"{row.workspace}: " if several and row.workspace else ""
        table.add_row(
            home + _name(s.artifact),
            size(row.size_bytes),
            duration(s.p50_ns),
            duration(s.p90_ns),
            duration(s.p99_ns),
            f"{s.spread:.0%}",
            duration(s.load_ns) if s.load_ns else "",
            size(s.peak_memory_bytes) if s.peak_memory_bytes is not None else "",
            _times(row.speedup),
        )
    return table


def conditions(records: Sequence[LatencyRecord]) -> list[str]:
    """Where it was measured and what disturbed it, one line each."""
    lines = []
    for machine, group in groupby(records, key=lambda r: r.machine):
        same = list(group)
        first = same[0]
        runtimes = sorted(
            {f"{r.runtime.name} {r.runtime.version} ({r.runtime.backend})" for r in same}
        )
        lines += [
            f"{machine.cpu} ({counted(machine.cores, 'core')}), {machine.os}; "
            f"{counted(first.threads, 'thread')}; "
            f"{counted(len(first.timings), 'process', 'processes')} each, interleaved",
            ", ".join(runtimes),
        ]
    return [*lines, *_disturbances(records)]


def _disturbances(records: Sequence[LatencyRecord]) -> list[str]:
    """Each kind of warning once, at its worst, with the artifacts that it concerns."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        for warning in record.warnings:
            kind = re.sub(r"\d+", "", warning)
            kinds.setdefault(kind, []).append((warning, _name(record.artifact)))
    lines = []
    for found in kinds.values():
        worst = max((w for w, _ in found), key=lambda w: [int(n) for n in re.findall(r"\d+", w)])
        names = ", ".join(name for _, name in found)
        lines.append(f"warning: {worst} ({names if len(found) < len(records) else 'all'})")
    return lines


def summary(workspace: Workspace) -> Table:
    """Size, parity, accuracy and latency of every artifact, against the Keras model."""
    manifest = workspace.manifest
    metric = _metric_name(manifest.accuracy)
    table = _table("artifact", "size", "max diff", "top-1", metric, "p50", "p90", "× Keras")
    proofs = {p.artifact: p for p in manifest.parity}
    metrics = {a.artifact: a for a in manifest.accuracy}
    times = {r.artifact: latency.summarize(r) for r in manifest.latency}
    keras = times.get(BASELINE)
    table.add_row(
        KERAS,
        size(workspace.model.stat().st_size),
        "",
        "",
        _metric(metrics.get(BASELINE)),
        *_time_cells(keras, keras),
    )
    for artifact in manifest.artifacts:
        difference, _, top1 = _parity_cells(proofs.get(artifact.id))
        table.add_row(
            artifact.id,
            size(artifact.size_bytes),
            difference,
            top1,
            _metric(metrics.get(artifact.id), metrics.get(BASELINE)),
            *_time_cells(times.get(artifact.id), keras),
        )
    return table


def recipes(known: Sequence[Recipe]) -> Table:
    """The bundled recipes."""
    table = _table("recipe", "task", "floor on the test split", "what it trains", left=(1, 2, 3))
    for recipe in known:
        sign = "≥" if recipe.higher_is_better else "≤"
        floor = f"{recipe.metric} {sign} {recipe.floor:g}"
        table.add_row(recipe.name, recipe.task, floor, escape(recipe.description))
    return table


def targets(known: Sequence[TargetStatus]) -> Table:
    """Where models can run."""
    table = _table("target", "machine", "format", "runtime", "state", left=(1, 2, 3, 4))
    for target in known:
        for i, runtime in enumerate(target.runtimes):
            state = runtime.version or f"[yellow]missing: {escape(str(runtime.missing))}[/]"
            table.add_row(
                target.uri if i == 0 else "",
                target.machine.cpu if i == 0 else "",
                runtime.format,
                runtime.name,
                state,
            )
    return table


def size(count: float) -> str:
    """Bytes in the largest unit (of 1000) that leaves a number above 1."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def duration(nanoseconds: float) -> str:
    """Nanoseconds as µs, ms or s with three digits."""
    for unit, factor in (("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        value = nanoseconds / factor
        if value < 1000 or unit == "s":
            digits = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def counted(number: int, what: str, several: str | None = None) -> str:
    """Number and noun: "1 row", "1,000 rows"."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def _table(first: str, *others: str, left: Sequence[int] = ()) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column(first, no_wrap=True)
    for i, name in enumerate(others, 1):
        is_left = i in left or name == "verified on"
        table.add_column(name, justify="left" if is_left else "right", no_wrap=True)
    return table


def _name(id: str) -> str:
    return KERAS if id == BASELINE else id


def _parity_cells(record: ParityRecord | None) -> tuple[str, str, str]:
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


def _metric_name(records: Sequence[AccuracyRecord]) -> str:
    return next((next(iter(r.metrics)) for r in records), "metric")


def _metric(record: AccuracyRecord | None, baseline: AccuracyRecord | None = None) -> str:
    """The main metric, with the change against the Keras model."""
    if record is None:
        return ""
    name, value = next(iter(record.metrics.items()))
    if baseline is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({value - baseline.metrics[name]:+.4f})"


def _where(record: ParityRecord) -> str:
    kind = {"recipe": "test row", "samples": "sample row", "synthetic": "random row"}[record.data]
    return f"{record.runtime.name} on {record.runtime.backend}, {counted(record.rows, kind)}"


def _time_cells(own: Summary | None, keras: Summary | None) -> tuple[str, str, str]:
    if own is None:
        return "", "", ""
    speedup = keras.p50_ns / own.p50_ns if keras else None
    return duration(own.p50_ns), duration(own.p90_ns), _times(speedup)


def _times(speedup: float | None) -> str:
    if speedup is None:
        return ""
    return f"{speedup:.0f}×" if speedup >= 10 else f"{speedup:.1f}×"

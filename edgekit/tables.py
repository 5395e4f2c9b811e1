"""Results as tables for a terminal; a narrow Markdown shape, so that they paste into a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from edgekit import latency
from edgekit.cells import (
    KERAS,
    NOT_VERIFIED,
    counted,
    duration,
    energy,
    metric_cell,
    metric_name,
    model_name,
    new_table,
    parity_cells,
    size,
    time_cells,
    times,
    where_cell,
)
from edgekit.recipe import Recipe
from edgekit.targets import LOCAL
from edgekit.types import (
    BASELINE,
    AccuracyRecord,
    Artifact,
    Explanation,
    InstructionRecord,
    LatencyRecord,
    Machine,
    ParityRecord,
    SearchRecord,
)
from edgekit.verbs.bench import BenchRow
from edgekit.verbs.gain import FASTER, Gain
from edgekit.verbs.prune import PruneResult
from edgekit.verbs.targets import TargetStatus
from edgekit.workspace import Workspace

MOST_LAYERS = 12
LONGEST = 80


def artifacts(
    made: Sequence[Artifact], parity: Sequence[ParityRecord], accuracy: Sequence[AccuracyRecord]
) -> Table:
    """What was exported, and the proof."""
    metric = metric_name(accuracy)
    table = new_table("artifact", "size", "max diff", "SQNR", "top-1", metric, "verified on")
    proofs = {p.artifact: p for p in parity}
    metrics = {a.artifact: a for a in accuracy}
    for artifact in made:
        proof = proofs.get(artifact.id)
        table.add_row(
            artifact.id,
            size(artifact.size_bytes),
            *parity_cells(proof),
            metric_cell(metrics.get(artifact.id)),
            NOT_VERIFIED if proof is None else where_cell(proof),
        )
    return table


def quantized(
    made: Sequence[Artifact],
    parity: Sequence[ParityRecord],
    accuracy: Sequence[AccuracyRecord],
    times: Sequence[LatencyRecord],
) -> Table:
    """What was quantized and what it costs, against the Keras model."""
    metric = metric_name(accuracy)
    table = new_table("artifact", "size", "SQNR", "top-1", metric, "p50", "verified on")
    proofs = {p.artifact: p for p in parity}
    metrics = {a.artifact: a for a in accuracy}
    medians = {t.artifact: duration(latency.summarize(t).p50_ns) for t in times}
    baseline = metrics.get(BASELINE)
    if baseline is not None:
        table.add_row(KERAS, "", "", "", metric_cell(baseline), "", "")
    for artifact in made:
        proof = proofs[artifact.id]
        _, sqnr, top1 = parity_cells(proof)
        table.add_row(
            artifact.id,
            size(artifact.size_bytes),
            sqnr,
            top1,
            metric_cell(metrics.get(artifact.id), baseline),
            medians.get(artifact.id, ""),
            where_cell(proof),
        )
    return table


def search(record: SearchRecord) -> Table:
    """What a search tried, in its order."""
    # Of a Keras file of floats the size says nothing.
    weight = "gzip" if record.format == "keras" else "size"
    table = new_table("", record.format, weight, record.measure, "lost", "p50", "", left=(1, 6))
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


def pruned_layers(result: PruneResult) -> Table:
    """What was done to each layer."""
    kind = (result.variant or "").rpartition("-")[2]
    what = next(text for name, text in _COUNTED.items() if kind.startswith(name))
    table = new_table("layer", f"{what} before", "after")
    for layer in result.layers:
        before, after = (
            f"{value:.1%}" if kind.startswith("sparse") else f"{value:,}"
            for value in (layer["before"], layer["after"])
        )
        table.add_row(escape(str(layer["name"])), before, after)
    return table


_COUNTED = {"structured": "channels", "sparse": "zeros", "cluster": "values"}


def pruned(result: PruneResult) -> Table:
    """The files of a pruned model beside those of the model before."""
    metric = metric_name(result.accuracy)
    heads = ("size", "gzip", "in memory", metric, "p50", "gzip ×", "speed ×")
    table = new_table("artifact", *heads)
    metrics = {a.artifact: a for a in result.accuracy}
    baseline = metrics.get(BASELINE)
    if baseline is not None:
        table.add_row(KERAS, "", "", "", metric_cell(baseline), "", "", "")
        own = next(a for n, a in metrics.items() if n.startswith(f"{result.variant}."))
        table.add_row(
            f"{KERAS}, {result.variant}", "", "", "", metric_cell(own, baseline), "", "", ""
        )
    shown: set[str] = set()
    for gain in result.gains:
        for row in (gain.before, gain):
            if row is None or row.artifact in shown:
                continue
            shown.add(row.artifact)
            table.add_row(
                row.artifact,
                size(row.size_bytes),
                size(row.gzip_bytes),
                "" if row.memory_bytes is None else size(row.memory_bytes),
                metric_cell(metrics.get(row.artifact), baseline),
                "" if row.p50_ns is None else duration(row.p50_ns),
                "" if row.before is None else times(row.before.gzip_bytes / row.gzip_bytes),
                times(row.speedup),
            )
    return table


def pruning_cost(result: PruneResult) -> str:
    """What the pruned Keras model is against the one before, where no label tells."""
    texts = []
    for output in result.outputs:
        noise = f"signal-to-noise ratio {output.sqnr_db:.0f} dB"
        agrees = output.top1_agreement
        figure = noise if agrees is None else f"the same top class in {agrees:.1%} of the rows"
        texts.append(f"{output.name}: {figure}")
    return f"{result.variant} against the {KERAS}: {'; '.join(texts)}"


def gained(gains: Sequence[Gain]) -> list[str]:
    """What the files of a pruned model gain, or that they do not, and what would help."""
    compared = [(gain, gain.before) for gain in gains if gain.before is not None]
    lines = []
    for gain, before in compared:
        if gain.is_smaller or gain.is_faster:
            smaller = f"{before.size_bytes / gain.size_bytes:.1f}× smaller"
            zipped = f"{before.gzip_bytes / gain.gzip_bytes:.1f}× gzipped"
            lines.append(f"{gain.artifact}: {smaller} ({zipped}){_speed(gain)}")
    others = [gain.artifact for gain, _ in compared if not (gain.is_smaller or gain.is_faster)]
    if others:
        lines.append(
            f"no smaller and no faster, but for gzip: {', '.join(others)}. Zeros and repeated "
            f"values are stored and multiplied like all others.{_advice(others)}"
        )
    return lines


def _speed(gain: Gain) -> str:
    if gain.speedup is None:
        return ""
    if gain.is_faster:
        return f", {times(gain.speedup)} as fast"
    return ", as fast" if gain.speedup >= FASTER else f", slower ({times(gain.speedup)} as fast)"


def _advice(ids: Sequence[str]) -> str:
    """What would make such files smaller or faster: what was not done yet."""
    ways = {
        "--structured (size and time)": any("structured" not in id for id in ids),
        "int8 (size and time)": any("int8." not in id for id in ids),
        "--sparse-encoding (size; with --pattern 4x1 also time)": any(
            "sparse" in id and id.endswith("fp32.tflite") for id in ids
        ),
    }
    helps = [way for way, does in ways.items() if does]
    return f" What helps: {', '.join(helps)}" if helps else ""


def explanation(found: Explanation) -> Table:
    """The layers of a file, the one that adds most error first."""
    heads = (found.artifact, "adds", "so far", "cause", "what was seen", "try")
    table = new_table(*heads, left=(3, 4, 5))
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
    metric = metric_name(accuracy)
    table = new_table("artifact", "verdict", "max diff", "SQNR", "top-1", metric, "verified on")
    metrics = {a.artifact: a for a in accuracy}
    for record in records:
        table.add_row(
            record.artifact,
            "[green]proved[/]" if record.passed else "[red]differs[/]",
            *parity_cells(record),
            metric_cell(metrics.get(record.artifact)),
            where_cell(record),
        )
    return table


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
            duration(s.p50_ns),
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


def instructions(records: Sequence[InstructionRecord]) -> Table:
    """What one invocation takes on an emulated machine, next to the first of its format."""
    table = new_table("artifact", "instructions", "of the first")
    modelled = any(record.modelled for record in records)
    if modelled:
        for name in ("modelled cycles", "modelled time"):
            table.add_column(name, justify="right", no_wrap=True)
    first: dict[str, int] = {}
    for record in records:
        count = record.counts[0]
        share = count / first.setdefault(record.artifact.rpartition(".")[2], count)
        cells = [record.artifact, f"{count:,}", f"{share:.2f}"]
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


def machine(place: Machine) -> str:
    """A machine in a line."""
    return f"{place.cpu} ({counted(place.cores, 'core')}), {place.os}"


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
            f"{counted(first.threads, 'thread')}; "
            f"{counted(len(first.timings), 'process', 'processes')} each, interleaved",
            ", ".join(runtimes),
        ]
    meters = sorted({t.energy.meter for r in records for t in r.timings if t.energy})
    if meters:
        lines.append(f"energy: {'; '.join(meters)}: all that it feeds, what it takes at rest, too")
    return [*lines, *disturbances(records)]


def disturbances(records: Sequence[LatencyRecord]) -> list[str]:
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


def summary(workspace: Workspace) -> Table:
    """Size, parity, accuracy and latency of every artifact, against the Keras model."""
    manifest = workspace.manifest
    metric = metric_name(manifest.accuracy)
    table = new_table("artifact", "size", "max diff", "top-1", metric, "p50", "p90", "× Keras")
    proofs = {p.artifact: p for p in manifest.parity}
    metrics = {a.artifact: a for a in manifest.accuracy}
    own = (r for r in manifest.latency if r.target == LOCAL)
    times = {r.artifact: latency.summarize(r) for r in own}
    keras = times.get(BASELINE)
    table.add_row(
        KERAS,
        size(workspace.model.stat().st_size),
        "",
        "",
        metric_cell(metrics.get(BASELINE)),
        *time_cells(keras, keras),
    )
    for artifact in manifest.artifacts:
        difference, _, top1 = parity_cells(proofs.get(artifact.id))
        table.add_row(
            artifact.id,
            size(artifact.size_bytes),
            difference,
            top1,
            metric_cell(metrics.get(artifact.id), metrics.get(BASELINE)),
            *time_cells(times.get(artifact.id), keras),
        )
    return table


def recipes(known: Sequence[Recipe]) -> Table:
    """The bundled recipes."""
    headings = ("task", "data", "floor on the test split", "what it trains")
    table = new_table("recipe", *headings, left=(1, 2, 3, 4))
    for recipe in known:
        sign = "≥" if recipe.higher_is_better else "≤"
        floor = f"{recipe.metric} {sign} {recipe.floor:g}"
        what = escape(recipe.description)
        table.add_row(recipe.name, recipe.task, escape(recipe.data_set or ""), floor, what)
    return table


def targets(known: Sequence[TargetStatus]) -> Table:
    """Where models can run."""
    table = new_table("target", "machine", "format", "runtime", "state", left=(1, 2, 3, 4))
    for target in known:
        for i, runtime in enumerate(target.runtimes):
            state = runtime.version or f"[yellow]missing: {escape(str(runtime.missing))}[/]"
            table.add_row(
                target.uri if i == 0 else "",
                escape(target.machine) if i == 0 else "",
                runtime.format,
                runtime.name,
                state,
            )
    return table

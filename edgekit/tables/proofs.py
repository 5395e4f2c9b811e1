"""What was made and what was proved, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgekit import latency
from edgekit.cells import (
    KERAS,
    NOT_VERIFIED,
    duration,
    metric_cell,
    metric_name,
    new_table,
    parity_cells,
    short,
    size,
    time_cells,
    where_cell,
)
from edgekit.manifest import here
from edgekit.types import (
    BASELINE,
    AccuracyRecord,
    Artifact,
    Explanation,
    LatencyRecord,
    ParityRecord,
    SearchRecord,
)
from edgekit.workspace import Workspace

MOST_LAYERS = 12


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
            state = escape(short(candidate.failure))
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


def summary(workspace: Workspace) -> Table:
    """Size, parity, accuracy and latency of every artifact, against the Keras model."""
    manifest = workspace.manifest
    metric = metric_name(manifest.accuracy)
    table = new_table("artifact", "size", "max diff", "top-1", metric, "p50", "p90", "× Keras")
    proofs = {p.artifact: p for p in here(manifest.parity)}
    metrics = {a.artifact: a for a in here(manifest.accuracy)}
    times = {r.artifact: latency.summarize(r) for r in here(manifest.latency)}
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

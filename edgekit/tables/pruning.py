"""What pruning cost and gained, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgekit.cells import (
    KERAS,
    duration,
    metric_cell,
    metric_name,
    new_table,
    size,
    times,
)
from edgekit.types import (
    BASELINE,
)
from edgekit.verbs.gain import Gain
from edgekit.verbs.prune import PruneResult


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
    if gain.times is None:
        return ""
    text = f"{times(gain.speedup)} as fast"
    return {
        "faster": f", {text}",
        "same": ", as fast",
        "slower": f", slower ({text})",
        "unclear": f", perhaps {text}: their times are too far apart to tell",
    }[gain.times.verdict]


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

"""A report in Markdown for a pull request, as CSV with a row per artifact, and as JSON."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from edgekit.agent.protocol import encode
from edgekit.cells import (
    KERAS,
    counted,
    disturbances,
    duration,
    model_name,
    plain,
    size,
    times,
)
from edgekit.reporting.answer import answer, metric_text
from edgekit.reporting.facts import FileFacts, Place, Report
from edgekit.types import BASELINE, LOCAL

MARKS = {"good": "✅", "doubtful": "⚠️", "bad": "❌"}


def markdown(report: Report) -> str:
    """What one pastes into a pull request."""
    said = answer(report)
    parts = [f"## {MARKS[said.tone]} {_escaped(report.source.name)}: {said.headline}"]
    wrong = [f for f in report.files if f.reasons or f.cautions]
    if wrong:
        parts.append("\n".join(map(_reasons, wrong)))
    parts += [_escaped(line) for line in said.text]
    if report.files:
        parts.append(_files(report))
    if len(report.targets) > 1:
        parts.append(_proofs(report))
    if report.counts:
        parts.append(_instructions(report))
    if report.places:
        parts.append(_folded("Times", "\n\n".join(map(_place, report.places))))
    lines = "\n".join(c.line for c in report.commands)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", lines)), default=0))
    if lines:
        parts.append(_folded("The same again", f"{fence}sh\n{lines}\n{fence}"))
    parts.append(
        f"<sub>edgekit {report.edgekit}, model {report.source.sha256[:12]}, "
        f"manifest {report.manifest_sha256[:12]}</sub>"
    )
    return "\n\n".join(parts) + "\n"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _reasons(file: FileFacts) -> str:
    why = "; ".join(file.reasons + file.cautions)
    return f"- **{_escaped(file.artifact.id)}**: {_escaped(why)}"


def _files(report: Report) -> str:
    metric = report.metric or ""
    heads = ("file", "verdict", "size", metric, "max diff", "SQNR", "top-1", "p50", "× Keras")
    base = "" if report.baseline is None else f"{report.baseline:.4f}"
    whole = "" if report.source_bytes is None else size(report.source_bytes)
    rows: list[Sequence[str]] = [(KERAS, "", whole, base, "", "", "", "", "")]
    for f in report.files:
        t = f.times
        rows.append(
            (
                f.artifact.id,
                f.state,
                size(f.artifact.size_bytes),
                metric_text(report, f),
                "" if f.max_rel is None else f"{f.max_rel:.1e}",
                "" if f.sqnr_db is None else f"{f.sqnr_db:.0f} dB",
                "" if f.top1 is None else f"{f.top1:.2%}",
                "" if t is None else duration(t.summary.p50_ns),
                "" if t is None else times(t.speedup),
            )
        )
    return _table(heads, rows)


def _proofs(report: Report) -> str:
    heads = ("proved on", *(_name(t) for t in report.targets))
    rows = []
    for f in report.files:
        cells = []
        for target in report.targets:
            passed = [r.passed for r in f.parity if r.target == target]
            cells.append("" if not passed else "yes" if all(passed) else "NO")
        rows.append((f.artifact.id, *cells))
    return _table(heads, rows)


def _place(place: Place) -> str:
    m = place.machine
    heads = (_name(place.target), "p50", "p90", "p99", "spread", "× Keras")
    rows = []
    for t in place.times:
        s = t.summary
        speed = "" if t.artifact == BASELINE else times(t.speedup)
        figures = (duration(s.p50_ns), duration(s.p90_ns), duration(s.p99_ns), f"{s.spread:.0%}")
        rows.append((model_name(t.artifact), *figures, speed))
    where = f"{m.cpu} ({counted(m.cores, 'core')}), {m.os}; {counted(place.threads, 'thread')}"
    notes = [_escaped(line) for line in (where, *disturbances(place.times))]
    return _table(heads, rows) + "\n\n" + "  \n".join(notes)


def _instructions(report: Report) -> str:
    heads = ("instructions", *(c.target for c in report.counts))
    counts = [{r.artifact: r.counts[0] for r in c.records} for c in report.counts]
    rows = []
    for f in report.files:
        own = [c.get(f.artifact.id) for c in counts]
        if any(own):
            rows.append((f.artifact.id, *("" if n is None else f"{n:,}" for n in own)))
    return _table(heads, rows)


def _name(target: str) -> str:
    return "this machine" if target == LOCAL else target


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    escaped = [[_escaped(cell) for cell in row] for row in (heads, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:]))


def _escaped(text: str) -> str:
    """So that no name is read as markup, of Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(plain(text), quote=False))


def table(report: Report) -> str:
    """CSV with a row for each artifact; what other targets say stands in columns of their own."""
    places = [p for p in report.places if p.target != LOCAL]
    rows = [
        {
            **_row(report, f),
            **{f"passed {t}": _passed(f, t) for t in report.targets if t != LOCAL},
            **{f"p50_ns {_label(p)}": _p50(p, f) for p in places},
            **{
                f"instructions {c.target}": next(
                    (r.counts[0] for r in c.records if r.artifact == f.artifact.id), None
                )
                for c in report.counts
            },
        }
        for f in report.files
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["artifact"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(report: Report, file: FileFacts) -> dict[str, Any]:
    artifact, timed = file.artifact, file.times
    first = file.parity[0] if file.parity else None
    return {
        "artifact": artifact.id,
        "format": artifact.format,
        "precision": artifact.precision,
        "model": artifact.model,
        "state": file.state,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "metric": report.metric,
        "value": file.metric,
        "keras_value": report.baseline,
        "max_rel": file.max_rel,
        "sqnr_db": file.sqnr_db,
        "top1_agreement": file.top1,
        "rows": first.rows if first else None,
        "data": first.data if first else None,
        "runtime": f"{first.runtime.name} {first.runtime.version}" if first else None,
        "machine": timed.machine.cpu if timed else None,
        "threads": timed.threads if timed else None,
        "p50_ns": timed.summary.p50_ns if timed else None,
        "p90_ns": timed.summary.p90_ns if timed else None,
        "p99_ns": timed.summary.p99_ns if timed else None,
        "speedup": timed.speedup if timed else None,
    }


def _passed(file: FileFacts, target: str) -> bool | None:
    passed = [r.passed for r in file.parity if r.target == target]
    return all(passed) if passed else None


def _label(place: Place) -> str:
    return place.target if place.threads == 1 else f"{place.target} {place.threads} threads"


def _p50(place: Place, file: FileFacts) -> float | None:
    found = (t.summary.p50_ns for t in place.times if t.artifact == file.artifact.id)
    return next(found, None)


def document(report: Report) -> str:
    """All that the report knows, as JSON."""
    known = {"answer": encode(answer(report)), **encode(report)}
    return json.dumps(known, indent=1, ensure_ascii=False) + "\n"

"""A report as one HTML page: no script, no network, all that is not ours is escaped."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from edgekit import cells
from edgekit.charts import search_picture
from edgekit.formats import TITLES
from edgekit.formats.description import FileDescription
from edgekit.reporting import drawings
from edgekit.reporting.answer import answer, metric_text, picks
from edgekit.reporting.drawings import Spot
from edgekit.reporting.facts import FileFacts, Report, Times
from edgekit.types import LOCAL, AccuracyRecord, OutputParity, ParityRecord, SearchRecord

LEAST_SPAN_PT, LEAST_SPAN_DB = 0.5, 20.0
"""Of the vertical axis of a frontier."""


@dataclass(frozen=True)
class Drawn:
    """A picture, and what stands below it."""

    svg: Markup
    caption: str


def render(report: Report) -> str:
    """The page as text, to be written in UTF-8."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edgekit.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )
    environment.filters |= {
        "size": cells.size,
        "duration": cells.duration,
        "times": cells.times,
        "counted": cells.counted,
        "model_name": cells.model_name,
        "dimensions": lambda shape: " × ".join("any" if d is None else str(d) for d in shape),
    }
    return environment.get_template("page.html").render(
        report=report,
        answer=answer(report),
        picks=picks(report),
        frontiers=_frontiers(report),
        titles=TITLES,
        metric_text=metric_text,
        place_name=place_name,
        proof_of=_proof_of,
        worst=_worst,
        drawn_errors=_errors,
        drawn_times=_distribution,
        strips=lambda times: [Markup(s) for s in drawings.strips(times)],
        bar=lambda value, most, title: Markup(drawings.bar(value, most, title)),
        disturbances=lambda times: [w.removeprefix("warning: ") for w in cells.disturbances(times)],
        all_times=lambda id: [t for p in report.places for t in p.times if t.artifact == id],
        accuracies=_accuracies,
        arithmetic=_arithmetic,
        search_image=_search_image,
        verdict=cells.verdict,
    )


def _plain(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(cells.plain(line) for line in value.split("\n"))


def place_name(target: str) -> str:
    """A target as a heading names it."""
    return "this machine" if target == LOCAL else target


def _frontiers(report: Report) -> list[Drawn]:
    """What the proved files lose against their size, and their speed in each place."""
    files = [(i, f) for i, f in enumerate(report.files) if f.is_proved]
    axis = _quality(report)
    sizes = {f.artifact.id: float(f.artifact.size_bytes) for _, f in files}
    panels: list[tuple[str, dict[str, float], Callable[[float], str]]] = [
        ("size of the file", sizes, cells.size)
    ]
    for place in report.places:
        own = {t.artifact: t.summary.p50_ns for t in place.times}
        of = f", {cells.counted(place.threads, 'thread')}" if place.threads > 1 else ""
        panels.append((f"p50 on {place_name(place.target)}{of}", own, cells.duration))
    for count in report.counts:
        own = {r.artifact: float(r.counts[0]) for r in count.records}
        panels.append((f"instructions on {count.target}", own, _thousands))
    found = []
    for what, values, text in panels:
        spots = [
            Spot(i, f.artifact.id, values[f.artifact.id], y)
            for i, f in files
            if f.artifact.id in values and (y := axis.value(f)) is not None
        ]
        if len(spots) > 1:
            svg = drawings.frontier(
                spots,
                f"{axis.name} against {what}",
                x_text=text,
                y_text=axis.text,
                y_span=axis.span,
                y_baseline=axis.baseline,
            )
            found.append(Drawn(Markup(svg), f"{axis.name}, by {what}"))
    return found


@dataclass(frozen=True)
class _Quality:
    """The vertical axis of a frontier: more is better."""

    name: str
    unit: str
    factor: float
    span: float
    baseline: float | None

    def value(self, file: FileFacts) -> float | None:
        if self.unit == "dB":
            return file.sqnr_db
        return None if file.change is None else self.factor * file.change

    def text(self, value: float) -> str:
        value = 0.0 if abs(value) < 1e-9 else value
        text = f"{value:g}" if self.unit == "dB" else f"{value:+.3g}"
        return f"{text.replace('-', '−')} {self.unit}"


def _quality(report: Report) -> _Quality:
    """By the metric, if the Keras model's is known and which way is better, else by the noise."""
    base = report.baseline
    if base is None or report.is_higher_better is None:
        return _Quality("Signal to noise", "dB", 1.0, LEAST_SPAN_DB, None)
    if report.is_higher_better and 0 <= base <= 1:
        return _Quality(f"Gain in {report.metric}", "pt", 100.0, LEAST_SPAN_PT, 0.0)
    name = f"Gain in {report.metric}" + ("" if report.is_higher_better else " (less is better)")
    return _Quality(name, "%", 100.0 / (abs(base) or 1.0), LEAST_SPAN_PT, 0.0)


def _thousands(value: float) -> str:
    for unit, factor in (("", 1.0), ("k", 1e3), ("M", 1e6)):
        if value < 1000 * factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value / 1e9:.3g}G"


def _proof_of(file: FileFacts, target: str) -> list[ParityRecord]:
    return [r for r in file.parity if r.target == target]


def _worst(records: Sequence[ParityRecord]) -> OutputParity | None:
    outputs = [o for r in records for o in r.outputs]
    return max(outputs, key=lambda o: o.max_rel, default=None)


def _errors(record: ParityRecord, output: OutputParity) -> Markup | None:
    if output.errors is None:
        return None
    title = f"Errors of {output.name} in {record.artifact} on {place_name(record.target)}"
    return Markup(drawings.errors(output.errors, title, record.tolerance.max_rel))


def _distribution(times: Times) -> Markup:
    title = f"Times of {times.artifact} on {place_name(times.target)}"
    return Markup(drawings.distribution(times, title))


def _accuracies(records: Sequence[AccuracyRecord]) -> list[tuple[str, str]]:
    return [
        (place_name(r.target), ", ".join(f"{n} {v:.4f}" for n, v in r.metrics.items()))
        for r in records
    ]


def _arithmetic(description: FileDescription) -> str:
    """What a file computes in, in words."""
    if not description.float_tensors:
        return "integers" if description.quantization.tensors else "float"
    if description.quantization.tensors and description.format != "tfjs":
        return f"integers and float ({cells.counted(len(description.float_tensors), 'tensor')})"
    return "float"


def _search_image(searches: Sequence[SearchRecord]) -> str:
    """As the address of an image: its style sheet would be that of the whole page."""
    picture = base64.b64encode(search_picture(searches).encode()).decode()
    return f"data:image/svg+xml;base64,{picture}"

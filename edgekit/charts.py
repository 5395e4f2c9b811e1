"""The picture of a search, as SVG: what each candidate loses against its size and its latency."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path

from edgekit.types import Candidate, SearchRecord

WIDTH, PLOT, HEIGHT = 860, 290, 190
RADIUS = 9
LEFT, GAP, TOP = 70, 110, 56
LINE, SPACE = 16, 4
NOISE_TITLE = "noise, as a share of the signal,"
OVER = 4
"""Losses beyond this many budgets are drawn at the upper edge, with an arrow."""

NUMBERS, LABELS = 44, 56
COLUMNS = (("size", 650), ("p50", 740), ("loss", 830))
"""Of the list below the plots: where numbers end, labels start, and figures end."""

LABEL_CHARACTERS, LINE_CHARACTERS = 70, 105
"""So many stand in a line: of a label, bold, and across the whole list."""

STYLE = """
svg { background: #fff; font: 12px system-ui, sans-serif; fill: #333 }
.title { font-size: 14px; font-weight: 600 } .axis { stroke: #bbb; fill: none }
.grid { stroke: #eee } .faint { fill: #666 } .budget { stroke: #c2410c; stroke-dasharray: 5 4 }
.over { fill: #c2410c } .tried { fill: #fff; stroke: #64748b; stroke-width: 1.5 }
.chosen { fill: #15803d; stroke: #15803d } .refused { fill: #c2410c; stroke: #c2410c }
.on { fill: #fff; font-weight: 600 } .number { text-anchor: middle; font-size: 11px }
.end { text-anchor: end } .holds { fill: #15803d; font-weight: 600 }
.fails { fill: #c2410c; font-weight: 600 }
"""


@dataclass(frozen=True)
class Point:
    """A candidate in a plot, in pixels; `is_beyond`: its loss is drawn at the edge."""

    number: int
    x: float
    y: float
    is_beyond: bool


@dataclass(frozen=True)
class Mark:
    """One rounded box for candidates that are close to one another, in a plot that starts at `x0`.

    It stands in the middle of them or, of the one that was chosen, in its place.
    """

    points: tuple[Point, ...]
    x0: int
    chosen: int | None

    @property
    def numbers(self) -> list[int]:
        return [point.number for point in self.points]

    @property
    def text(self) -> str:
        return _runs(self.numbers)

    @property
    def place(self) -> tuple[float, float, int]:
        """Its middle and half of its width, of which none lies left of the axis."""
        half = RADIUS + 3 * (len(self.text) - 1)
        points = [p for p in self.points if p.number == self.chosen] or self.points
        x = sum(p.x for p in points) / len(points)
        y = sum(p.y for p in points) / len(points)
        return max(x, self.x0 + half + 1), y, half

    def hides(self, other: Mark) -> bool:
        (x1, y1, half1), (x2, y2, half2) = self.place, other.place
        return abs(x1 - x2) < half1 + half2 + 2 and abs(y1 - y2) < 2 * RADIUS + 2


@dataclass(frozen=True)
class _Unit:
    name: str
    size: float

    def text(self, value: float) -> str:
        scaled = value / self.size
        return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {self.name}"


_KB, _MB = _Unit("kB", 1e3), _Unit("MB", 1e6)
_US, _MS = _Unit("µs", 1e3), _Unit("ms", 1e6)


def draw_searches(path: Path, searches: Sequence[SearchRecord]) -> None:
    """Write one SVG file: see `search_picture`."""
    path.write_text(search_picture(searches), encoding="utf-8")


def search_picture(searches: Sequence[SearchRecord]) -> str:
    """An SVG document with a row of two plots for each search: by size and by latency."""
    parts, top = [], 0
    for search in searches:
        content, height = _row(search, top)
        parts.append(content)
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        f'viewBox="0 0 {WIDTH} {top}"><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _row(search: SearchRecord, top: int) -> tuple[str, int]:
    budget = float(search.budget.rstrip("%pt"))
    unit = search.budget.lstrip("0123456789.")
    shown = [(i, c) for i, c in enumerate(search.candidates) if c.lost is not None]
    losses = [100 * (c.lost or 0.0) for _, c in shown]
    low = min([0.0, *losses])
    worst = 1.1 * max(losses, default=0.0)
    high = max(1.5 * budget, min(OVER * budget or worst, worst)) or 1.0
    sizes = _KB if max((c.size_bytes for c in search.candidates), default=0) < 1e6 else _MB
    times = _US if max((c.p50_ns or 0.0 for c in search.candidates), default=0) < 1e6 else _MS
    what = NOISE_TITLE if search.measure == "noise" else f"loss of {search.measure}"
    title = f"{search.format}, {search.method}: {what} on {search.rows:,} validation rows"
    out = [
        f'<g transform="translate(0 {top})">',
        f'<text x="{LEFT}" y="24" class="title">{escape(title)}</text>',
    ]
    panels: tuple[tuple[str, Callable[[Candidate], float | None]], ...] = (
        (f"size, {sizes.name}", lambda c: c.size_bytes / sizes.size),
        (
            f"p50 on this machine, {times.name}",
            lambda c: None if c.p50_ns is None else c.p50_ns / times.size,
        ),
    )
    for panel, (label, value) in enumerate(panels):
        x0 = LEFT + panel * (PLOT + GAP)
        points = [(i, x, 100 * (c.lost or 0.0)) for i, c in shown if (x := value(c)) is not None]
        out += _plot(points, x0, label, unit, (low, high), budget, search)
    y = TOP + HEIGHT + 66
    out += [f'<text x="{x}" y="{y}" class="faint end">{name}</text>' for name, x in COLUMNS]
    for i in range(len(search.candidates)):
        lines, y = _listed(search, i, y + LINE + SPACE, sizes, times)
        out += lines
    out.append("</g>")
    return "\n".join(out), y + 28


def _plot(
    points: Sequence[tuple[int, float, float]],
    x0: int,
    label: str,
    unit: str,
    limits: tuple[float, float],
    budget: float,
    search: SearchRecord,
) -> list[str]:
    """One panel; `points` are (index, x, loss in the unit of the budget)."""
    low, high = limits
    bottom = TOP + HEIGHT
    widest = 1.12 * max((x for _, x, _ in points), default=1.0)

    def across(value: float) -> float:
        return x0 + PLOT * value / widest

    def up(value: float) -> float:
        return bottom - HEIGHT * (min(value, high) - low) / (high - low)

    out = []
    for tick in ticks(low, high):
        y = up(tick)
        out.append(f'<line class="grid" x1="{x0}" x2="{x0 + PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="faint end" x="{x0 - 8}" y="{y + 4:.1f}">{tick:g} {unit}</text>')
    for tick in ticks(0, widest):
        out.append(
            f'<text class="faint" x="{across(tick):.1f}" y="{bottom + 24}" '
            f'text-anchor="middle">{tick:g}</text>'
        )
    y = up(budget)
    out += [
        f'<path class="axis" d="M{x0} {TOP}V{bottom}H{x0 + PLOT}"/>',
        f'<text class="end" x="{x0 + PLOT}" y="{bottom + 42}">{label}</text>',
        f'<line class="budget" x1="{x0}" x2="{x0 + PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="over" x="{x0 + PLOT + 6}" y="{y + 4:.1f}">budget</text>',
    ]
    found = [Point(n, across(x), up(loss), loss > high) for n, x, loss in points]
    for mark in apart(found, x0, search.chosen):
        x, y, half = mark.place
        kind, text = "tried", "number"
        if search.chosen in mark.numbers:
            kind, text = "chosen" if search.holds else "refused", "number on"
        out += [
            f'<rect class="{kind}" x="{x - half:.1f}" y="{y - RADIUS:.1f}" width="{2 * half}" '
            f'height="{2 * RADIUS}" rx="{RADIUS}"/>',
            f'<text class="{text}" x="{x:.1f}" y="{y + 4:.1f}">{mark.text}</text>',
        ]
        if any(p.is_beyond for p in mark.points):
            out.append(f'<text class="number over" x="{x:.1f}" y="{TOP - 12}">↑</text>')
    return out


def apart(points: Sequence[Point], x0: int, chosen: int | None) -> list[Mark]:
    """Marks that hide none of one another: of points too close for that, one for all."""
    marks = [Mark((point,), x0, chosen) for point in points]
    while True:
        pair = next(((a, b) for a, b in combinations(marks, 2) if a.hides(b)), None)
        if pair is None:
            return marks
        one, other = pair
        marks[marks.index(one)] = Mark((*one.points, *other.points), x0, chosen)
        marks.remove(other)


def _runs(numbers: Sequence[int]) -> str:
    """Candidates as the list below counts them, from 1: "1–3, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join("–".join(str(n + 1) for n in dict.fromkeys((r[0], r[-1]))) for r in runs)


def _listed(
    search: SearchRecord, i: int, y: int, sizes: _Unit, times: _Unit
) -> tuple[list[str], int]:
    """The lines of a candidate in the list from `y` on, and where the last one stands."""
    candidate = search.candidates[i]
    figures = (
        sizes.text(candidate.size_bytes) if candidate.size_bytes else "",
        "" if candidate.p50_ns is None else times.text(candidate.p50_ns),
        "" if candidate.lost is None else search.loss(candidate.lost),
    )
    kind, note = "faint", "" if candidate.failure is None else f"failed: {candidate.failure}"
    if i == search.chosen:
        kind, note = _outcome(search)
    weight = "" if i != search.chosen else f' class="{kind}"'
    out = [f'<text class="end" x="{NUMBERS}" y="{y}">{i + 1}</text>']
    out += [
        f'<text class="end" x="{x}" y="{y}">{text}</text>'
        for (_, x), text in zip(COLUMNS, figures, strict=True)
        if text
    ]
    lines = [(line, weight) for line in _wrapped(candidate.label, LABEL_CHARACTERS)]
    lines += [(line, f' class="{kind}"') for line in _wrapped(note, LINE_CHARACTERS)]
    out += [
        f'<text x="{LABELS}" y="{y + k * LINE}"{style}>{escape(line)}</text>'
        for k, (line, style) in enumerate(lines)
    ]
    return out, y + (len(lines) - 1) * LINE


def _outcome(search: SearchRecord) -> tuple[str, str]:
    """How to write the chosen candidate, and what the test rows said of it."""
    if search.holds:
        return "holds", f"chosen; {search.loss(search.final)} on the test rows"
    if search.final is None:
        return "fails", "not published: cannot be compared on the test rows"
    return "fails", f"not published: {search.loss(search.final)} on the test rows"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=4, placeholder=" …", break_on_hyphens=False)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]

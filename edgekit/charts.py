"""The picture of a search, as SVG: what each candidate loses against its size and its latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from edgekit.types import Candidate, SearchRecord

WIDTH, PLOT, HEIGHT = 860, 290, 190
RADIUS = 9
LEFT, GAP, TOP = 70, 110, 56
LINE = 18
NOISE_TITLE = "noise, as a share of the signal,"
OVER = 4
"""Losses beyond this many budgets are drawn at the upper edge, with an arrow."""

STYLE = """
svg { background: #fff; font: 12px system-ui, sans-serif; fill: #333 }
.title { font-size: 14px; font-weight: 600 } .axis { stroke: #bbb; fill: none }
.grid { stroke: #eee } .faint { fill: #777 } .budget { stroke: #c2410c; stroke-dasharray: 5 4 }
.over { fill: #c2410c } .tried { fill: #fff; stroke: #64748b; stroke-width: 1.5 }
.chosen { fill: #15803d; stroke: #15803d } .on { fill: #fff; font-weight: 600 }
.number { text-anchor: middle; font-size: 11px }
"""


def draw_searches(path: Path, searches: Sequence[SearchRecord]) -> None:
    """Write one SVG file with a row of two plots for each search: by size and by latency."""
    parts, top = [], 0
    for search in searches:
        content, height = _row(search, top)
        parts.append(content)
        top += height
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" '
        f'viewBox="0 0 {WIDTH} {top}"><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n",
        encoding="utf-8",
    )


def _row(search: SearchRecord, top: int) -> tuple[str, int]:
    budget = float(search.budget.rstrip("%pt"))
    unit = search.budget.lstrip("0123456789.")
    shown = [(i, c) for i, c in enumerate(search.candidates) if c.lost is not None]
    losses = [100 * (c.lost or 0.0) for _, c in shown]
    low = min([0.0, *losses])
    worst = 1.1 * max(losses, default=0.0)
    high = max(1.5 * budget, min(OVER * budget or worst, worst)) or 1.0
    chosen = search.chosen if search.holds else None
    what = NOISE_TITLE if search.measure == "noise" else f"loss of {search.measure}"
    title = f"{search.format}, {search.method}: {what} on {search.rows:,} validation rows"
    out = [
        f'<g transform="translate(0 {top})">',
        f'<text x="{LEFT}" y="24" class="title">{escape(title)}</text>',
    ]
    panels: tuple[tuple[str, Callable[[Candidate], float | None]], ...] = (
        ("size, kB", lambda c: c.size_bytes / 1e3),
        ("p50 on this machine, µs", lambda c: None if c.p50_ns is None else c.p50_ns / 1e3),
    )
    for panel, (label, value) in enumerate(panels):
        x0 = LEFT + panel * (PLOT + GAP)
        points = [(i, x, 100 * (c.lost or 0.0)) for i, c in shown if (x := value(c)) is not None]
        out += _plot(points, x0, label, unit, (low, high), budget, chosen)
    legend = TOP + HEIGHT + 52
    for i, candidate in enumerate(search.candidates):
        out.append(_legend(search, i, candidate, legend + i * LINE, i == chosen))
    out.append("</g>")
    return "\n".join(out), legend + len(search.candidates) * LINE + 8


def _plot(
    points: Sequence[tuple[int, float, float]],
    x0: int,
    label: str,
    unit: str,
    limits: tuple[float, float],
    budget: float,
    chosen: int | None,
) -> list[str]:
    """One panel; `points` are (number, x, loss in the unit of the budget)."""
    low, high = limits
    bottom = TOP + HEIGHT
    widest = 1.12 * max((x for _, x, _ in points), default=1.0)

    def across(value: float) -> float:
        return x0 + PLOT * value / widest

    def up(value: float) -> float:
        return bottom - HEIGHT * (min(value, high) - low) / (high - low)

    out = []
    for tick in _ticks(low, high):
        y = up(tick)
        out.append(f'<line class="grid" x1="{x0}" x2="{x0 + PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="faint" x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{tick:g} {unit}</text>"
        )
    for tick in _ticks(0, widest):
        out.append(
            f'<text class="faint" x="{across(tick):.1f}" y="{bottom + 16}" '
            f'text-anchor="middle">{tick:g}</text>'
        )
    y = up(budget)
    out += [
        f'<path class="axis" d="M{x0} {TOP}V{bottom}H{x0 + PLOT}"/>',
        f'<text x="{x0 + PLOT}" y="{bottom + 34}" text-anchor="end">{label}</text>',
        f'<line class="budget" x1="{x0}" x2="{x0 + PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<text class="over" x="{x0 + PLOT + 6}" y="{y + 4:.1f}">budget</text>',
    ]
    for group in _close([(n, across(x), up(loss)) for n, x, loss in points]):
        numbers, x, y = [n for n, _, _ in group], group[0][1], group[0][2]
        kind, text = ("chosen", "number on") if chosen in numbers else ("tried", "number")
        label = "–".join(str(n + 1) for n in sorted({min(numbers), max(numbers)}))
        half = RADIUS + 4 * (len(label) - 1)
        out += [
            f'<rect class="{kind}" x="{x - half:.1f}" y="{y - RADIUS:.1f}" width="{2 * half}" '
            f'height="{2 * RADIUS}" rx="{RADIUS}"/>',
            f'<text class="{text}" x="{x:.1f}" y="{y + 4:.1f}">{label}</text>',
        ]
        if any(loss > high for n, _, loss in points if n in numbers):
            out.append(f'<text class="number over" x="{x:.1f}" y="{TOP - 12}">↑</text>')
    return out


def _close(points: Sequence[tuple[int, float, float]]) -> list[list[tuple[int, float, float]]]:
    """Points in groups of consecutive numbers that would hide one another."""
    groups: list[list[tuple[int, float, float]]] = []
    for point in points:
        before = groups[-1][0] if groups else None
        if before is not None and math.dist(before[1:], point[1:]) < 1.5 * RADIUS:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _legend(search: SearchRecord, i: int, candidate: Candidate, y: int, is_chosen: bool) -> str:
    loss = "not measured" if candidate.lost is None else search.loss(candidate.lost)
    text = f"{i + 1}  {candidate.label}: {candidate.size_bytes / 1e3:.1f} kB, {loss}"
    weight = ' style="font-weight:600;fill:#15803d"' if is_chosen else ""
    return f'<text x="{LEFT}" y="{y}"{weight}>{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]

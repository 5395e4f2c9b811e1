"""The charts of a report, as SVG inside of a page, whose style sheet colours them.

They are built as trees, so that no name in a model can be read as markup.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from edgekit.cells import duration, plain
from edgekit.charts import RADIUS, Point, apart, ticks
from edgekit.reporting.facts import Times
from edgekit.types import Histogram

WIDTH, HEIGHT = 330, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 30
PLOT, DEEP = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
LOGARITHMIC = 12
"""Values further apart than this are drawn on a logarithmic axis."""

LINE, NARROW = 14, 26
BARS_HEIGHT = 150
STRIP, STRIP_HEIGHT = 190, 18
FEWEST_BINS = 6


@dataclass(frozen=True)
class Spot:
    """A file in a frontier: less of `x` is better, more of `y`."""

    number: int
    """From 0; it is drawn, as everywhere, from 1."""
    name: str
    x: float
    y: float


def on_front(spots: Sequence[Spot]) -> list[Spot]:
    """Those that no other beats in one of the two without being worse in the other; by `x`."""
    best: list[Spot] = []
    for spot in sorted(spots, key=lambda s: (s.x, -s.y)):
        if not best or spot.y > best[-1].y:
            best.append(spot)
    return best


def frontier(
    spots: Sequence[Spot],
    title: str,
    *,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    y_span: float,
    y_baseline: float | None,
) -> str:
    """Where each file stands between `x` and `y`, numbered; filled: on the frontier.

    Args:
        spots: at least one.
        title: what is shown; also what a screen reader says.
        x_text: writes a value of `x`.
        y_text: writes one of `y`.
        y_span: the least that the axis of y spans, so that noise does not look like a loss.
        y_baseline: where the Keras model stands.
    """
    svg = _svg(WIDTH, HEIGHT, title)
    across, x_ticks = _x_axis([s.x for s in spots])
    values = [s.y for s in spots] + ([] if y_baseline is None else [y_baseline])
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), (y_span - (high - low)) / 2)
    low, high = low - room, high + room
    bottom = TOP + DEEP

    def up(value: float) -> float:
        return bottom - DEEP * (value - low) / (high - low)

    lines = [(tick, y_text(tick), "grid") for tick in ticks(low, high)]
    if y_baseline is not None:
        apart_from_it = (line for line in lines if abs(up(line[0]) - up(y_baseline)) > LINE)
        lines = [*apart_from_it, (y_baseline, "Keras", "keras")]
    for value, text, kind in lines:
        y = up(value)
        _add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=kind)
        _add(svg, "text", text, x=LEFT - 8, y=y + 4, class_="end")
    for tick in x_ticks:
        text = _short(x_text(tick)) if tick else "0"
        _add(svg, "text", text, x=across(tick), y=bottom + 20, class_="middle")
    _add(svg, "path", d=f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", class_="axis")
    front = on_front(spots)
    steps = [f"M{across(front[0].x):.1f} {up(front[0].y):.1f}"]
    steps += [f"H{across(s.x):.1f}V{up(s.y):.1f}" for s in front[1:]]
    _add(svg, "path", d="".join(steps), class_="front-line")
    best = {s.number for s in front}
    names = {s.number: s for s in spots}
    points = [Point(s.number, across(s.x), up(s.y), False) for s in spots]
    for mark in apart(points, LEFT, None):
        x, y, half = mark.place
        kind = "best" if best & {*mark.numbers} else "other"
        group = _add(svg, "g", class_=kind)
        told = (names[n] for n in mark.numbers)
        said = "; ".join(f"{s.name}: {x_text(s.x)}, {y_text(s.y)}" for s in told)
        _add(group, "title", said)
        box = _add(group, "rect", x=x - half, y=y - RADIUS, width=2 * half, height=2 * RADIUS)
        box.set("rx", f"{RADIUS}")
        _add(group, "text", mark.text, x=x, y=y + 4, class_="middle")
    return _written(svg)


def _x_axis(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """Pixels of a value, and where to write some; from 0 on unless the values are far apart."""
    low, high = min(values), max(values)
    if low > 0 and high / low > LOGARITHMIC:
        start, end = math.log10(low) - 0.12, math.log10(high) + 0.12
        powers = range(math.floor(start), math.ceil(end) + 1)
        steps = (1, 3) if end - start < 2.5 else (1,)
        marks = [m * 10.0**power for power in powers for m in steps]
        shown = [v for v in marks if start <= math.log10(v) <= end]
        return lambda v: LEFT + PLOT * (math.log10(v) - start) / (end - start), shown
    widest = 1.12 * high or 1.0
    shown = ticks(0, widest)
    return lambda v: LEFT + PLOT * v / widest, shown if len(shown) < 5 else shown[::2]


def _short(text: str) -> str:
    """A round number with its unit, without zeros behind the point."""
    return re.sub(r"\.0+(?!\d)", "", text)


def errors(histogram: Histogram, title: str, limit: float | None = None) -> str:
    """How many values are off by how much; both axes are logarithmic.

    Args:
        histogram: of errors as shares of an output's scale; the first count is of those too small
            to tell from none.
        title: what is shown.
        limit: the largest error that was allowed.
    """
    counts, edges = histogram.counts, histogram.edges
    filled = [i for i, count in enumerate(counts) if count]
    if not filled:
        return ""
    first, last = filled[0], filled[-1]
    if limit is not None:
        last = max(last, next((i for i, e in enumerate(edges) if e > limit), last))
    last = max(last, min(first + FEWEST_BINS, len(edges)))
    first = max(0, min(first, last - FEWEST_BINS))
    total = sum(counts)
    rarest = min(counts[i] for i in filled) / total
    decades = max(1, math.ceil(-math.log10(rarest) + 0.3))
    svg = _svg(WIDTH, BARS_HEIGHT, title)
    bottom = BARS_HEIGHT - 36
    deep = bottom - TOP
    step = PLOT / (last - first + 1)
    every = 2 if decades > 4 else 1
    for power in range(0, decades + 1, every):
        y = TOP + deep * power / decades
        _add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        share = 10.0 ** (2 - power)
        text = f"{share:g} %" if power < 5 else f"{_power(share)} %"
        _add(svg, "text", text, x=LEFT - 8, y=y + 4, class_="end")
    for i in range(first, last + 1):
        x = LEFT + (i - first) * step
        if counts[i]:
            high = deep * (1 + math.log10(counts[i] / total) / decades)
            text = f"{counts[i]:,} of {total:,} values: {_between(edges, i)}"
            bar = _add(svg, "rect", x=x + 1, y=bottom - high, width=step - 2, height=high)
            bar.set("class", "bar")
            _add(bar, "title", text)
        if 0 < i < len(counts) and _is_decade(edges[i - 1]):
            _add(svg, "text", _power(edges[i - 1]), x=x, y=bottom + 16, class_="middle")
    if limit is not None:
        place = sum(math.log10(limit) >= math.log10(e) for e in edges)
        within = math.log10(limit / edges[place - 1]) / math.log10(edges[place] / edges[place - 1])
        x = LEFT + (place - first + within) * step
        _add(svg, "line", x1=x, x2=x, y1=TOP, y2=bottom, class_="limit")
        _add(svg, "text", "allowed", x=x - 5, y=TOP + 10, class_="end limit-label")
    _add(svg, "path", d=f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", class_="axis")
    what = "error, as a share of the output's scale"
    _add(svg, "text", what, x=LEFT + PLOT / 2, y=BARS_HEIGHT - 4, class_="middle")
    return _written(svg)


def _between(edges: Sequence[float], i: int) -> str:
    if i == 0:
        return f"off by less than {edges[0]:.0e}"
    if i == len(edges):
        return f"off by {edges[-1]:.0e} or more"
    return f"off by {edges[i - 1]:.1e} to {edges[i]:.1e}"


def _is_decade(value: float) -> bool:
    return abs(math.log10(value) - round(math.log10(value))) < 0.01


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(value: float) -> str:
    power = round(math.log10(value))
    return "1" if power == 0 else f"10{str(power).translate(_RAISED)}"


def distribution(times: Times, title: str) -> str:
    """How all samples of a file are spread, with the median of each process below."""
    counts, edges = times.spread_ns.counts[1:-1], times.spread_ns.edges
    svg = _svg(WIDTH, BARS_HEIGHT, title)
    left = 16
    plot = WIDTH - left - RIGHT
    bottom = BARS_HEIGHT - 44
    step = plot / len(counts)
    most = max(counts) or 1

    def across(value: float) -> float:
        share = (value - edges[0]) / (edges[-1] - edges[0])
        return left + plot * min(max(share, 0.0), 1.0)

    for i, count in enumerate(counts):
        high = (bottom - TOP) * count / most
        bar = _add(svg, "rect", x=left + i * step + 0.5, y=bottom - high, width=step - 1)
        bar.set("height", f"{high:.1f}")
        bar.set("class", "bar")
        text = f"{count:,} samples from {duration(edges[i])} to {duration(edges[i + 1])}"
        _add(bar, "title", text)
    last = -math.inf
    for share, value in ((50, times.summary.p50_ns), (90, times.summary.p90_ns)):
        x = across(value)
        mark = _add(svg, "line", x1=x, x2=x, y1=TOP, y2=bottom, class_="quantile")
        _add(mark, "title", f"p{share}: {duration(value)}")
        last = max(x, last + NARROW)
        _add(svg, "text", f"p{share}", x=last, y=TOP - 3, class_="middle")
    for i, value in enumerate(times.medians_ns):
        x = across(value)
        mark = _add(svg, "path", d=f"M{x:.1f} {bottom + 1}l4 7h-8z", class_="process")
        _add(mark, "title", f"median of process {i + 1}: {duration(value)}")
    _add(svg, "path", d=f"M{left} {bottom}H{WIDTH - RIGHT}", class_="axis")
    _add(svg, "text", duration(edges[0]), x=left, y=bottom + 24)
    _add(svg, "text", duration(edges[-1]), x=WIDTH - RIGHT, y=bottom + 24, class_="end")
    beyond = times.spread_ns.counts[-1] / max(1, sum(times.spread_ns.counts))
    told = f"▴ median of a process; {beyond:.1%} last longer"
    _add(svg, "text", told, x=WIDTH / 2, y=bottom + 40, class_="middle")
    return _written(svg)


def strips(times: Sequence[Times]) -> list[str]:
    """For each of several files a line from its median to its 99th percentile, on one axis."""
    low = math.log10(min(t.summary.p50_ns for t in times))
    high = math.log10(max(t.summary.p99_ns for t in times))
    width = high - low or 1.0
    room = STRIP - 12

    def across(value: float) -> float:
        return 6 + room * (math.log10(value) - low) / width

    found = []
    for each in times:
        s = each.summary
        texts = (f"{n} {duration(v)}" for n, v in _percentiles(each))
        svg = _svg(STRIP, STRIP_HEIGHT, ", ".join(texts))
        middle = STRIP_HEIGHT / 2
        _add(svg, "line", x1=6, x2=6 + room, y1=middle, y2=middle, class_="grid")
        x1, x2, x3 = (across(v) for v in (s.p50_ns, s.p90_ns, s.p99_ns))
        _add(svg, "line", x1=x1, x2=x3, y1=middle, y2=middle, class_="tail")
        _add(svg, "line", x1=x1, x2=x2, y1=middle, y2=middle, class_="body")
        _add(svg, "circle", cx=x1, cy=middle, r=5, class_="median")
        found.append(_written(svg))
    return found


def _percentiles(times: Times) -> list[tuple[str, float]]:
    s = times.summary
    return [("p50", s.p50_ns), ("p90", s.p90_ns), ("p99", s.p99_ns)]


def bar(value: float, most: float, title: str) -> str:
    """A number as a length."""
    svg = _svg(STRIP, STRIP_HEIGHT, title)
    high = STRIP_HEIGHT - 6
    _add(svg, "rect", x=0, y=3, width=STRIP, height=high, rx=3, class_="track")
    length = max(STRIP * value / most, 1.0) if most else 1.0
    _add(svg, "rect", x=0, y=3, width=length, height=high, rx=3, class_="bar")
    return _written(svg)


def _svg(width: float, height: float, title: str) -> ElementTree.Element:
    svg = ElementTree.Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img"})
    svg.set("width", f"{width}")
    _add(svg, "title", title)
    return svg


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: float | str
) -> ElementTree.Element:
    """A child; `class_` stands for class, and numbers are rounded to a tenth of a pixel."""
    written = {
        name.rstrip("_"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    child = ElementTree.SubElement(parent, tag, written)
    child.text = None if text is None else plain(text)
    return child


def _written(svg: ElementTree.Element) -> str:
    return ElementTree.tostring(svg, encoding="unicode")

"""The learning curves of a training, as SVG: each figure by epoch, on rows of both kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 360, 200
LEFT, TOP, GAP = 56, 48, 80
HELD_OUT = "val_"
MOST = 4
"""Figures that are drawn; others are in the logs."""

STYLE = """
svg { background: #fff; font: 12px system-ui, sans-serif; fill: #333 }
.title { font-size: 14px; font-weight: 600 } .axis { stroke: #bbb; fill: none }
.grid { stroke: #eee } .end { text-anchor: end } .middle { text-anchor: middle }
.train, .held { fill: none; stroke-width: 2; stroke-linejoin: round }
.train { stroke: #94a3b8 } .held { stroke: #15803d }
"""


def draw_curves(path: Path, title: str, history: Sequence[Mapping[str, float]]) -> None:
    """Write one SVG file with a plot for each figure.

    Args:
        path: of the file.
        title: what was trained.
        history: figures by name for each epoch, those on held-out rows as "val_<name>".
    """
    names = [n for n in history[-1] if not n.startswith(HELD_OUT) and n != "learning_rate"][:MOST]
    width = LEFT + len(names) * (WIDTH + GAP) - GAP + 24
    height = TOP + HEIGHT + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><style>{STYLE}</style>',
        f'<text x="{LEFT}" y="22" class="title">{escape(title)}, {len(history)} epochs: '
        '<tspan fill="#94a3b8">training rows</tspan>, '
        '<tspan fill="#15803d">validation rows</tspan></text>',
    ]
    for i, name in enumerate(names):
        parts += _plot(name, history, LEFT + i * (WIDTH + GAP))
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _plot(name: str, history: Sequence[Mapping[str, float]], left: int) -> list[str]:
    series = {
        style: [epoch.get(key) for epoch in history]
        for style, key in (("train", name), ("held", f"{HELD_OUT}{name}"))
    }
    values = [v for line in series.values() for v in line if v is not None]
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5

    def x(epoch: int) -> float:
        return left + WIDTH * (epoch / (len(history) - 1) if len(history) > 1 else 0.5)

    def y(value: float) -> float:
        return TOP + HEIGHT * (high - value) / (high - low)

    bottom = TOP + HEIGHT
    out = []
    for step in range(5):
        value = low + step * (high - low) / 4
        at = y(value)
        out.append(f'<path d="M{left} {at:.1f}h{WIDTH}" class="grid"/>')
        out.append(f'<text x="{left - 6}" y="{at + 4:.1f}" class="end">{value:.3g}</text>')
    out.append(f'<path d="M{left} {TOP}V{bottom}H{left + WIDTH}" class="axis"/>')
    for style, line in series.items():
        points = [(x(i), y(v)) for i, v in enumerate(line) if v is not None]
        if len(points) == 1:
            out.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
        elif points:
            steps = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            out.append(f'<polyline points="{steps}" class="{style}"/>')
    for epoch in sorted({0, len(history) // 2, len(history) - 1}):
        label = f'<text x="{x(epoch):.1f}" y="{bottom + 18}" class="middle">{epoch + 1}</text>'
        out.append(label)
    middle = left + WIDTH / 2
    out.append(
        f'<text x="{middle}" y="{bottom + 38}" class="middle">{escape(name)} by epoch</text>'
    )
    return out

"""The picture of a training."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from edgekit.curves import MOST, draw_curves

HISTORY = [
    {"loss": 1.0 / (i + 1), "val_loss": 1.2 / (i + 1), "mae": 2.0 - i, "learning_rate": 0.1}
    for i in range(5)
]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(tmp_path, history):
    draw_curves(tmp_path / "c.svg", "a <model>", history)
    return ET.parse(tmp_path / "c.svg").getroot()


def lines(root):
    return {
        (line.get("class"), len(line.get("points").split())) for line in root.iter(f"{SVG}polyline")
    }


def test_each_figure_has_a_plot_with_rows_of_both_kinds(tmp_path):
    root = drawn(tmp_path, HISTORY)
    assert [line.get("class") for line in root.iter(f"{SVG}polyline")] == ["train", "held", "train"]
    assert lines(root) == {("train", 5), ("held", 5)}
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "loss by epoch" in texts
    assert "mae by epoch" in texts
    assert not any("learning_rate" in (text or "") for text in texts)
    assert any("a <model>, 5 epochs" in (text or "") for text in texts)


def test_what_falls_is_drawn_falling_and_inside_of_the_picture(tmp_path):
    root = drawn(tmp_path, HISTORY)
    first = next(root.iter(f"{SVG}polyline")).get("points")
    points = [tuple(map(float, p.split(","))) for p in first.split()]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)
    width, height = float(root.get("width")), float(root.get("height"))
    for x, y in re.findall(
        r"([\d.]+),([\d.]+)", " ".join(p.get("points") for p in root.iter(f"{SVG}polyline"))
    ):
        assert 0 < float(x) < width
        assert 0 < float(y) < height


def test_one_epoch_is_a_point_and_a_figure_that_stays_is_a_line(tmp_path):
    root = drawn(tmp_path, HISTORY[:1])
    assert not lines(root)
    assert len(list(root.iter(f"{SVG}circle"))) == 3
    assert lines(drawn(tmp_path, [{"loss": 0.5}] * 3)) == {("train", 3)}


def test_of_many_figures_the_first_are_drawn(tmp_path):
    root = drawn(tmp_path, [{f"m{i}": i + e for i in range(9)} for e in range(3)])
    assert len(list(root.iter(f"{SVG}polyline"))) == MOST

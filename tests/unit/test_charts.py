"""The picture of a search: well-formed, and true to its figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from edgekit.charts import draw_searches
from edgekit.types import Candidate, Quantization, SearchRecord

SVG = "{http://www.w3.org/2000/svg}"


def candidate(label: str, size: int, lost: float | None, p50: float | None) -> Candidate:
    return Candidate(label, "int8", Quantization(), size, 0.9, lost, False, p50)


def record(*candidates: Candidate, chosen: int | None = None) -> SearchRecord:
    return SearchRecord(
        format="tflite",
        method="ptq",
        budget="1%",
        measure="accuracy",
        rows=1000,
        baseline=0.9,
        candidates=candidates,
        chosen=chosen,
        final=0.0,
        holds=chosen is not None,
    )


def draw(tmp_path, *searches):
    draw_searches(tmp_path / "s.svg", searches)
    return ET.parse(tmp_path / "s.svg").getroot()


def bubbles(root) -> list[tuple[str, float, float]]:
    """Class and middle of each mark."""
    return [
        (
            r.get("class"),
            float(r.get("x")) + float(r.get("width")) / 2,
            float(r.get("y")) + float(r.get("height")) / 2,
        )
        for r in root.iter(f"{SVG}rect")
    ]


def test_each_candidate_stands_at_its_size_and_at_its_latency(tmp_path):
    root = draw(
        tmp_path,
        record(
            candidate("int8", 20_000, 0.05, 4_000), candidate("fp16", 40_000, 0.0, 8_000), chosen=1
        ),
    )
    [size1, size2, time1, time2] = bubbles(root)
    assert [c[0] for c in (size1, size2, time1, time2)] == ["tried", "chosen"] * 2
    assert size2[1] - 70 == pytest.approx(2 * (size1[1] - 70), abs=0.2)
    assert time2[1] - 470 == pytest.approx(2 * (time1[1] - 470), abs=0.2)
    assert size1[2] < size2[2]  # a loss is drawn above none


def test_what_was_not_measured_is_named_but_not_drawn(tmp_path):
    root = draw(tmp_path, record(candidate("int8", 0, None, None), candidate("a < b", 9, 0.0, 9.0)))
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert len(bubbles(root)) == 2
    assert any("not measured" in t for t in texts)
    assert any("a < b" in t for t in texts)


def test_a_ruined_candidate_is_drawn_at_the_edge_with_an_arrow(tmp_path):
    root = draw(tmp_path, record(candidate("int8", 9, 30.0, 9.0), candidate("fp16", 18, 0.0, 9.0)))
    heights = [c[2] for c in bubbles(root)]
    assert min(heights) >= 40
    assert sum(t.text == "↑" for t in root.iter(f"{SVG}text")) == 2


def test_two_searches_stand_below_one_another(tmp_path):
    one = record(candidate("int8", 9, 0.0, 9.0))
    assert int(draw(tmp_path, one, one).get("height")) == 2 * int(draw(tmp_path, one).get("height"))


def test_marks_that_would_hide_one_another_are_one(tmp_path):
    same = [candidate(f"int8, {i}", 9_000, 0.001, 9.0) for i in range(3)]
    root = draw(tmp_path, record(*same, candidate("fp16", 20_000, 0.0, 30.0)))
    numbers = [t.text for t in root.iter(f"{SVG}text") if (t.get("class") or "") == "number"]
    assert numbers == ["1–3", "4"] * 2


@pytest.mark.parametrize("lost", [0.0, 0.3, None, -0.1])
def test_any_loss_can_be_drawn_against_a_budget_of_nothing(tmp_path, lost):
    one = replace(record(candidate("int8", 9, lost, 9.0)), budget="0%")
    assert draw(tmp_path, one).tag == f"{SVG}svg"

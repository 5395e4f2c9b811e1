"""The picture of a search: well-formed, and true to its figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations

import numpy as np
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


def texts(root) -> list[str]:
    return [t.text for t in root.iter(f"{SVG}text")]


def boxes(root) -> list[tuple[float, float, float]]:
    """Left, right and top of each mark."""
    return [
        (float(r.get("x")), float(r.get("x")) + float(r.get("width")), float(r.get("y")))
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


def test_what_failed_is_listed_with_the_reason_but_not_drawn(tmp_path):
    failed = replace(candidate("int8", 0, None, None), failure="the sky < fell")
    root = draw(tmp_path, record(failed, candidate("a < b", 9, 0.0, 9.0)))
    assert len(bubbles(root)) == 2
    assert "failed: the sky < fell" in texts(root)
    assert "a < b" in texts(root)
    assert "0.00 kB" not in texts(root)


@pytest.mark.parametrize(
    ("holds", "final", "kind", "note"),
    [
        (True, 0.004, "chosen", "chosen; 0.40 % on the test rows"),
        (False, 0.031, "refused", "not published: 3.10 % on the test rows"),
        (False, None, "refused", "not published: cannot be compared on the test rows"),
    ],
)
def test_the_mark_of_the_chosen_one_says_what_the_test_rows_did(tmp_path, holds, final, kind, note):
    one = record(candidate("int8", 9, 0.0, 9.0), candidate("fp16", 30, 0.0, 30.0), chosen=0)
    root = draw(tmp_path, replace(one, holds=holds, final=final))
    assert [c[0] for c in bubbles(root)] == [kind, "tried"] * 2
    assert note in texts(root)


def test_a_long_label_is_wrapped(tmp_path):
    names = ", ".join(f"layer_normalization_{i}" for i in range(7))
    root = draw(tmp_path, record(candidate(f"int8, {names} in float", 9, 0.0, 9.0), chosen=0))
    lines = [t for t in texts(root) if "layer_norm" in t]
    assert " ".join(lines) == f"int8, {names} in float"
    assert max(map(len, lines)) <= 70
    heights = {t.get("y") for t in root.iter(f"{SVG}text") if t.text in lines}
    assert len(heights) == len(lines)


def test_large_files_and_long_times_have_larger_units(tmp_path):
    root = draw(tmp_path, record(candidate("int8", 2_500_000, 0.0, 40e6)))
    assert {"2.50 MB", "size, MB", "40.0 ms", "p50 on this machine, ms"} <= set(texts(root))


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


def test_marks_of_any_candidates_hide_none_of_one_another(tmp_path):
    """Neighbours in the picture need not be neighbours in the list."""
    apart = [candidate(f"{i}", 5_000 * (1 + i % 2), 0.001, 50.0 * (1 + i % 2)) for i in range(6)]
    root = draw(tmp_path, record(*apart))
    numbers = [t.text for t in root.iter(f"{SVG}text") if (t.get("class") or "") == "number"]
    assert numbers == ["1, 3, 5", "2, 4, 6"] * 2
    random = np.random.default_rng(0)
    for _ in range(20):
        sizes, losses, times = random.random((3, 14)) ** 3
        many = [
            candidate("c", int(1e4 * s), t, 9e3 * u)
            for s, t, u in zip(sizes, losses, times, strict=True)
        ]
        root = draw(tmp_path, record(*many, chosen=int(random.integers(14))))
        for (left, right, top), (left2, right2, top2) in combinations(boxes(root), 2):
            assert right < left2 or right2 < left or abs(top - top2) > 18
        assert min(left for left, _, _ in boxes(root)) >= 70
        assert sum(c[0] == "chosen" for c in bubbles(root)) == 2


@pytest.mark.parametrize("lost", [0.0, 0.3, None, -0.1])
def test_any_loss_can_be_drawn_against_a_budget_of_nothing(tmp_path, lost):
    one = replace(record(candidate("int8", 9, lost, 9.0)), budget="0%")
    assert draw(tmp_path, one).tag == f"{SVG}svg"

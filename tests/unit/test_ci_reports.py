from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgekit import ci_reports
from edgekit.rules import Verdict

GOOD = Verdict(
    artifact="int8.tflite",
    target="local",
    threads=1,
    family="size",
    metric="size",
    is_share=False,
    rule="size:+5%",
    baseline=1000.0,
    current=1000.0,
    significant=None,
    passed=True,
    reason="within the bound",
)
BAD = replace(GOOD, current=2000.0, passed=False, reason="more than the bound")
UNKNOWN = replace(GOOD, target="qemu:pi4", current=None, passed=None, reason="not measured now")
HOSTILE = replace(
    BAD, metric="parity.max_abs of <script>\n::error::x|`%", family="parity.max_abs", artifact="a|b"
)
ALL = [GOOD, BAD, UNKNOWN, HOSTILE]


def test_junit_has_a_suite_for_each_file_and_target():
    root = ElementTree.fromstring(ci_reports.junit(ALL, "ws"))
    suites = {s.get("name"): s for s in root.iter("testsuite")}
    assert list(suites) == ["int8.tflite", "int8.tflite on qemu:pi4", "a|b"]
    counts = {n: (s.get("tests"), s.get("failures"), s.get("errors")) for n, s in suites.items()}
    assert counts["int8.tflite"] == ("2", "1", "0")
    assert counts["int8.tflite on qemu:pi4"] == ("1", "0", "1")
    [failure] = suites["int8.tflite"].iter("failure")
    assert failure.get("message") == (
        "size 1.0 kB → 2.0 kB (+100.0%), rule size:+5%: more than the bound"
    )


def test_github_shows_what_did_not_pass_in_one_line_each():
    lines = ci_reports.github_annotations(ALL, "ws")
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::error"]
    assert all("\n" not in line for line in lines)
    assert "%0A" in lines[2]
    assert "%25" in lines[2]
    assert "title=edgekit gate%3A int8.tflite on qemu%3Api4,file=ws::" in lines[1]


def test_the_summary_begins_with_the_answer():
    text = ci_reports.markdown(ALL, "ws")
    assert text.startswith("### edgekit gate: ws failed: 2 of 4 rules\n")
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(row.replace("\\|", "").count("|") == 8 for row in rows)
    assert ci_reports.markdown([GOOD], "ws").startswith("### edgekit gate: ws passed\n")
    assert "could not tell: 1 of 2" in ci_reports.markdown([GOOD, UNKNOWN], "ws")


def test_gitlab_has_what_its_schema_asks_for():
    issues = json.loads(ci_reports.gitlab(ALL, Path("ws")))
    assert [i["severity"] for i in issues] == ["major", "minor", "major"]
    assert len({i["fingerprint"] for i in issues}) == 3
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["location"] == {"path": "ws/manifest.json", "lines": {"begin": 1}}


@pytest.mark.parametrize(
    ("family", "before", "now", "shown"),
    [
        ("latency.p50", 1e3, 1.1e3, "1.00 µs → 1.10 µs (+10.0%)"),
        ("parity.sqnr_db", 40.0, 37.0, "40.0 dB → 37.0 dB (-3.0 dB)"),
        ("instructions", 1e6, 1.01e6, "1,000,000 → 1,010,000 (+1.0%)"),
        ("parity", 1.0, 0.0, "proved → differs,"),
        ("memory.peak", None, 1e6, "– → 1.0 MB,"),
    ],
)
def test_figures_are_in_their_unit(family, before, now, shown):
    verdict = replace(GOOD, family=family, metric=family, baseline=before, current=now)
    assert shown in ci_reports.in_words(verdict)


def test_points_of_a_share():
    verdict = replace(GOOD, family="accuracy", is_share=True, baseline=0.92, current=0.91)
    assert "0.9200 → 0.9100 (-1.00 pt)" in ci_reports.in_words(verdict)

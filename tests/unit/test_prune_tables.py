"""What `edgekit prune` says of a gain: that there is one, or none, and what would help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.comparison import Comparison
from edgekit.tables.pruning import gained
from edgekit.verbs.gain import Gain

DENSE = Gain("fp32.tflite", 100_000, 90_000, 300_000, 50_000.0)
SAME = Comparison("fp32.tflite", "sparse80-fp32.tflite", 0.98, (0.97, 0.99), "same", True)
FASTER = replace(SAME, ratio=0.4, interval=(0.38, 0.42), verdict="faster")
SPARSE = Gain("sparse80-fp32.tflite", 100_000, 30_000, 300_000, 49_000.0, DENSE, SAME)


def test_zeros_that_gain_nothing_are_no_gain():
    assert not SPARSE.is_smaller
    assert not SPARSE.is_faster
    [line] = gained([SPARSE])
    assert line.startswith("no smaller and no faster, but for gzip: sparse80-fp32.tflite.")
    assert "--structured" in line
    assert "--sparse-encoding" in line


def test_a_gain_is_told_in_figures():
    cut = replace(SPARSE, size_bytes=40_000, times=FASTER)
    assert gained([cut]) == ["sparse80-fp32.tflite: 2.5× smaller (3.0× gzipped), 2.5× as fast"]
    smaller = replace(SPARSE, size_bytes=40_000)
    assert gained([smaller]) == ["sparse80-fp32.tflite: 2.5× smaller (3.0× gzipped), as fast"]


def test_what_cannot_be_compared_or_timed_is_not_called_faster():
    assert gained([replace(SPARSE, before=None)]) == []
    untimed = replace(SPARSE, p50_ns=None, times=None, size_bytes=40_000)
    assert not untimed.is_faster
    assert gained([untimed]) == ["sparse80-fp32.tflite: 2.5× smaller (3.0× gzipped)"]


def test_those_without_a_gain_share_a_line():
    onnx = replace(SPARSE, artifact="sparse80-fp32.onnx")
    [line] = gained([SPARSE, onnx])
    assert "sparse80-fp32.tflite, sparse80-fp32.onnx" in line


@pytest.mark.parametrize(
    ("ratio", "verdict", "text"),
    [
        (2.0, "slower", ", slower (0.5× as fast)"),
        (0.8, "unclear", ", perhaps 1.2× as fast: their times are too far apart to tell"),
    ],
)
def test_what_is_no_gain_in_time_is_called_so(ratio, verdict, text):
    times = replace(SAME, ratio=ratio, verdict=verdict)
    gain = replace(SPARSE, size_bytes=40_000, times=times)
    assert not gain.is_faster
    [line] = gained([gain])
    assert line.endswith(text)


def test_nothing_is_advised_that_was_done():
    done = replace(SPARSE, artifact="structured50-sparse80-int8.onnx")
    [line] = gained([done])
    assert "What helps" not in line
    [line] = gained([replace(SPARSE, artifact="cluster16-fp32.tflite")])
    assert "--sparse-encoding" not in line

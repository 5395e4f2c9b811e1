"""What `edgekit prune` says of a gain: that there is one, or none, and what would help."""

from __future__ import annotations

from dataclasses import replace

from edgekit.tables import gained
from edgekit.verbs.gain import Gain

DENSE = Gain("fp32.tflite", 100_000, 90_000, 300_000, 50_000.0)
SPARSE = Gain("sparse80-fp32.tflite", 100_000, 30_000, 300_000, 49_000.0, before=DENSE)


def test_zeros_that_gain_nothing_are_no_gain():
    assert not SPARSE.is_smaller
    assert not SPARSE.is_faster
    [line] = gained([SPARSE])
    assert line.startswith("no smaller and no faster, but for gzip: sparse80-fp32.tflite.")
    assert "--structured" in line
    assert "--sparse-encoding" in line


def test_a_gain_is_told_in_figures():
    cut = replace(SPARSE, size_bytes=40_000, p50_ns=20_000.0)
    assert gained([cut]) == ["sparse80-fp32.tflite: 2.5× smaller (3.0× gzipped), 2.5× as fast"]
    smaller = replace(SPARSE, size_bytes=40_000)
    assert gained([smaller]) == ["sparse80-fp32.tflite: 2.5× smaller (3.0× gzipped), as fast"]


def test_what_cannot_be_compared_or_timed_is_not_called_faster():
    assert gained([replace(SPARSE, before=None)]) == []
    untimed = replace(SPARSE, p50_ns=None, size_bytes=40_000)
    assert not untimed.is_faster
    assert gained([untimed]) == ["sparse80-fp32.tflite: 2.5× smaller (3.0× gzipped)"]


def test_those_without_a_gain_share_a_line():
    onnx = replace(SPARSE, artifact="sparse80-fp32.onnx")
    [line] = gained([SPARSE, onnx])
    assert "sparse80-fp32.tflite, sparse80-fp32.onnx" in line


def test_times_that_are_far_apart_show_no_gain():
    steady, noisy = replace(SPARSE, p50_ns=40_000.0), replace(SPARSE, p50_ns=40_000.0, spread=0.3)
    assert steady.is_faster
    assert not noisy.is_faster


def test_a_file_that_got_slower_is_called_so():
    [line] = gained([replace(SPARSE, size_bytes=40_000, p50_ns=100_000.0)])
    assert line.endswith(", slower (0.5× as fast)")


def test_nothing_is_advised_that_was_done():
    done = replace(SPARSE, artifact="structured50-sparse80-int8.onnx")
    [line] = gained([done])
    assert "What helps" not in line
    [line] = gained([replace(SPARSE, artifact="cluster16-fp32.tflite")])
    assert "--sparse-encoding" not in line

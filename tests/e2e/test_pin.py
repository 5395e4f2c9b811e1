"""`edgekit bench --pin`: processes that stay on cores of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

import edgekit
from edgekit.agent.protocol import encode
from edgekit.targets import local
from tests.conftest import run_edgekit

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="needs Linux: os.sched_setaffinity"
)


@needs_affinity
def test_a_process_has_as_many_cores_as_threads(digits, tmp_path, monkeypatch):
    """Asked of the processes themselves: the Python ones and Node.js."""
    seen = set()

    def watched(command, job, *, timeout):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **pipes) as process:
            seen.add(frozenset(os.sched_getaffinity(process.pid)))
            out, _ = process.communicate(json.dumps(encode(job)).encode(), timeout=timeout)
        return subprocess.CompletedProcess(command, process.returncode, out.decode(), "")

    monkeypatch.setattr(local, "ask_agent", watched)
    before = os.sched_getaffinity(0)
    workspace = shutil.copytree(digits, tmp_path / "ws")
    files = [workspace / f"fp32.{form}" for form in ("tflite", "onnx", "tfjs")]
    result = edgekit.bench(sources=files, rounds=1, seconds=0.05, pin=True, baseline=False)
    assert seen == {frozenset([max(before)])}
    assert len(result.records) == 3
    assert all(record.pinned for record in result.records)
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_there_must_be_a_core_for_each_thread(digits):
    done = run_edgekit("bench", digits / "fp32.tflite", "--pin", "--threads", 4096)
    assert done.code == 1
    assert "4096 threads cannot have a core each" in done.err


def test_only_processes_of_this_machine_are_pinned(digits):
    done = run_edgekit("bench", digits / "fp32.tflite", "--pin", "--target", "qemu:pi4")
    assert done.code == 1
    assert "qemu:pi4: processes are pinned on local only" in done.err

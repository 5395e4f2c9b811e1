"""`--target` of verify and bench, as a user gives it; what targets do is tested beside each."""

from __future__ import annotations

import os
import shutil

import pytest

from edgekit.manifest import here
from edgekit.targets import arm_root, browser_programs
from edgekit.verbs.targets import list_targets
from edgekit.workspace import Workspace
from tests.conftest import run_edgekit, skip_without
from tests.e2e.sshd import INSTALL, PROGRAM, Sshd

PYTHON_FILES = {"fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"}


@pytest.fixture(scope="module")
def ws(digits, tmp_path_factory):
    """A workspace that goes from target to target."""
    return shutil.copytree(digits, tmp_path_factory.mktemp("targets") / "ws")


@pytest.fixture(scope="module")
def pi5():
    skip_without(shutil.which("qemu-aarch64") is not None, "qemu-aarch64", arm_root.INSTALL)
    skip_without(arm_root.root_folder().is_dir(), "an ARM root file system", arm_root.PREPARE)
    return "qemu:pi5"


def records(ws, kind, target):
    return {r.artifact: r for r in getattr(Workspace.open(ws).manifest, kind) if r.target == target}


def test_an_emulated_board_proves_and_counts(ws, pi5):
    verified = run_edgekit("verify", ws, "--target", pi5)
    assert verified.code == 0, verified.err
    assert "Cortex-A76, as in a Raspberry Pi 5 (emulated)" in verified.out
    assert "left out, since qemu:pi5 has no runtime for it: fp32.tfjs" in verified.err
    assert records(ws, "parity", pi5).keys() == PYTHON_FILES
    counted = run_edgekit("bench", ws, "--target", pi5, "--json")
    assert counted.code == 0, counted.err
    assert (counted.json["rows"], counted.json["records"]) == ([], [])
    assert {c["record"]["artifact"] for c in counted.json["counts"]} == PYTHON_FILES
    assert all(min(c["record"]["counts"]) > 1000 for c in counted.json["counts"])
    kept = records(ws, "instructions", pi5)
    again = run_edgekit("bench", ws / "int8.tflite", "--target", pi5)
    assert f"{kept['int8.tflite'].counts[0]:,}" in again.out


def test_a_browser_proves_and_times(ws):
    program = browser_programs.INSTALL["chromium"]
    skip_without(shutil.which("chromium") is not None, "Chromium", program)
    verified = run_edgekit("verify", ws, "--target", "browser")
    assert verified.code == 0, verified.err
    assert "Chromium" in verified.out
    timed = run_edgekit("bench", ws, "--target", "browser", "--seconds", "0.1", "--rounds", "2")
    assert timed.code == 0, timed.err
    found = records(ws, "latency", "browser")
    assert found.keys() == {*PYTHON_FILES, "fp32.tfjs"}
    assert {r.runtime.backend for r in found.values()} == {"wasm"}


def test_a_board_behind_ssh_proves_and_times(ws, tmp_path):
    skip_without(PROGRAM is not None and shutil.which("ssh") is not None, "sshd", INSTALL)
    with Sshd(tmp_path / "b") as board:
        path = f"{board.client}:{os.environ['PATH']}"
        verified = run_edgekit("verify", ws, "--target", board.uri, PATH=path)
        assert verified.code == 0, verified.err
        options = ("--seconds", "0.1", "--rounds", "2")
        timed = run_edgekit("bench", ws, "--target", board.uri, *options, PATH=path)
        assert timed.code == 0, timed.err
    assert records(ws, "accuracy", board.uri).keys() == PYTHON_FILES
    assert records(ws, "latency", board.uri).keys() == PYTHON_FILES


def test_records_of_other_places_are_not_those_of_here(ws, digits):
    """Runs last: what was measured elsewhere is beside what was measured here."""
    before, after = Workspace.open(digits).manifest, Workspace.open(ws).manifest
    for kind in ("parity", "accuracy", "latency"):
        assert here(getattr(after, kind)) == here(getattr(before, kind))
    assert run_edgekit("inspect", ws).out == run_edgekit("inspect", digits).out


def test_what_is_there_is_listed_and_what_is_missing_says_how():
    known = {target.uri: target for target in list_targets()}
    assert {"local", "browser", "browser:firefox", "qemu:pi4", "qemu:pi5", "qemu:phone"} <= {*known}
    bare = run_edgekit("targets", PATH="/nowhere", XDG_CACHE_HOME="/nowhere")
    assert bare.code == 0, bare.err
    assert arm_root.INSTALL in bare.out
    assert "edgekit targets prepare node" in bare.out
    assert browser_programs.INSTALL["chromium"] in bare.out


@pytest.mark.parametrize(
    ("command", "target", "message"),
    [
        ("bench", "qemu:pi6", "profiles are: qemu:pi4"),
        ("verify", "browser:safari", "browser:listen"),
        ("bench", "ssh://", "write ssh://USER@HOST"),
        ("verify", "moon", "known targets: local"),
    ],
)
def test_a_target_that_is_none_is_refused(digits, command, target, message):
    done = run_edgekit(command, digits, "--target", target)
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err

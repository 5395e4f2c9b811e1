"""ARM machines under QEMU: the same numbers as here, and exact counts of instructions."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.errors import MissingDependency, RunnerError, TargetError
from edgekit.samples import read_npz
from edgekit.targets import arm_root, cycle_model
from edgekit.targets.arm_root import INSTALL, PREPARE, root_folder
from edgekit.targets.local import LocalTarget
from edgekit.targets.qemu import QemuTarget
from edgekit.types import Job
from edgekit.workspace import Workspace
from tests.conftest import run_edgekit, skip_without

ROWS = 40


@pytest.fixture(scope="module", autouse=True)
def _root():
    skip_without(shutil.which("qemu-aarch64") is not None, "qemu-aarch64", INSTALL)
    skip_without(root_folder().is_dir(), "an ARM root file system", PREPARE)


@pytest.fixture(scope="module")
def jobs(digits, tmp_path_factory) -> dict[str, Job]:
    """A run of the first rows through each artifact, and that on this machine."""
    workspace = Workspace.open(digits)
    feed = read_npz(workspace.data_path("verification"))
    found = {}
    for artifact in workspace.manifest.artifacts:
        folder = tmp_path_factory.mktemp(artifact.id)
        names = [spec.name for spec in artifact.signature.inputs]
        inputs = save_arrays({n: feed[n][:ROWS] for n in names}, folder / "in")
        path = str(workspace.path / artifact.path)
        out = str(folder / "out")
        found[artifact.id] = Job("run", artifact.format, path, artifact.signature, inputs, out=out)
    return found


def outputs(target, job):
    with tempfile.TemporaryDirectory() as folder:
        result = target.execute(dataclasses.replace(job, out=folder))
        return {name: value[:].copy() for name, value in load_arrays(result.outputs).items()}


def require_llvm_or_skip():
    programs = [f"{name}-{cycle_model.LLVM}" for name in ("llvm-mc", "llvm-mca")]
    skip_without(all(map(shutil.which, programs)), " and ".join(programs), cycle_model.INSTALL)


def count(profile, job):
    return QemuTarget(f"qemu:{profile}").execute(dataclasses.replace(job, action="count"))


@pytest.mark.parametrize("profile", ["pi4", "pi5", "phone"])
@pytest.mark.parametrize("artifact", ["int8.tflite", "fp32.tflite", "fp32.onnx"])
def test_a_model_computes_on_arm_what_it_computes_here(jobs, artifact, profile):
    there = outputs(QemuTarget(f"qemu:{profile}"), jobs[artifact])
    here = outputs(LocalTarget(), jobs[artifact])
    assert there.keys() == here.keys()
    for name, value in here.items():
        assert len(value) == ROWS
        assert np.ptp(value) > 0
        if artifact == "int8.tflite":
            np.testing.assert_array_equal(there[name], value)
        else:
            assert np.abs(there[name] - value).max() <= 1e-6 * np.abs(value).max()


def test_the_record_names_what_was_emulated(jobs):
    result = QemuTarget("qemu:pi5").execute(jobs["fp32.tflite"])
    assert (result.machine.arch, result.machine.cores) == ("aarch64", 4)
    assert "Cortex-A76" in result.machine.cpu
    assert "emulated" in result.machine.cpu
    assert result.runtime.backend == "cpu, XNNPACK"


@pytest.mark.parametrize("artifact", ["int8.tflite", "int8.onnx"])
def test_counts_repeat_exactly(jobs, artifact, monkeypatch, tmp_path):
    first = count("pi4", jobs[artifact])
    assert first.machine.cpu.startswith("Cortex-A72")
    assert len(first.instructions) == 3
    # Neither what the user has in the environment nor where the file lies plays a part.
    monkeypatch.setenv("EDGEKIT_TEST_OF_COUNTS", "x" * 100)
    copied = tmp_path / "in a folder, of another name" / Path(jobs[artifact].artifact).name
    copied.parent.mkdir()
    shutil.copyfile(jobs[artifact].artifact, copied)
    again = dataclasses.replace(jobs[artifact], artifact=str(copied))
    assert count("pi4", again).instructions == first.instructions


def test_modelled_cycles_repeat_exactly_and_say_what_they_are(jobs):
    require_llvm_or_skip()
    job = dataclasses.replace(jobs["int8.tflite"], action="model")
    first, again = (QemuTarget("qemu:pi5").execute(job) for _ in range(2))
    assert first.modelled == again.modelled
    # Keeping the blocks costs the emulated program nothing.
    assert first.instructions == count("pi5", jobs["int8.tflite"]).instructions
    modelled = first.modelled
    assert modelled.label == "modelled, uncalibrated"
    assert modelled.core == "neoverse-n1"
    assert modelled.coverage > 0.9
    widest = 4  # instructions that the core takes in a cycle
    assert first.instructions[0] / widest <= modelled.cycles < 3 * first.instructions[0]


def test_a_machine_without_a_model_of_its_cycles(digits):
    for target in ("qemu:phone", "local"):
        done = run_edgekit("bench", digits, "--target", target, "--model-cycles")
        assert done.code == 1
        assert f"there is no model of the cycles of {target}" in done.err
        assert "qemu:pi4 or qemu:pi5" in done.err


def test_operators_have_no_times_there(digits):
    done = run_edgekit("bench", digits / "fp32.onnx", "--target", "qemu:pi4", "--profile")
    assert done.code == 1
    assert "no runtime of qemu:pi4 tells the times of operators: fp32.onnx" in done.err


def test_without_llvm_nothing_is_modelled(jobs, monkeypatch):
    monkeypatch.setattr(cycle_model.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependency, match="needs llvm-mc-19") as missing:
        cycle_model.require_llvm()
    assert missing.value.hint == "apt install llvm-19"


def test_a_pi_5_needs_fewer_instructions_for_int8_than_a_pi_4(jobs):
    """It has an instruction for sixteen products of int8; a Pi 4 has one for eight."""
    pi4, pi5 = (min(count(p, jobs["int8.tflite"]).instructions) for p in ("pi4", "pi5"))
    inputs, units = 64, 32  # of the first layer
    assert np.prod(jobs["int8.tflite"].signature.inputs[0].shape[1:]) == inputs
    assert inputs * units / 16 < pi5 < pi4 < 10 * inputs * units


@pytest.mark.parametrize("action", ["time", "profile"])
def test_a_time_is_refused(jobs, action):
    with pytest.raises(TargetError, match="no latency") as refused:
        QemuTarget("qemu:pi4").execute(dataclasses.replace(jobs["int8.tflite"], action=action))
    assert "ssh://" in refused.value.hint


def test_counting_threads_is_refused(jobs):
    with pytest.raises(TargetError, match="of one thread, not of 2"):
        count("pi4", dataclasses.replace(jobs["int8.tflite"], threads=2))


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_broken_file_is_an_error(jobs, form, tmp_path):
    broken = tmp_path / f"broken.{form}"
    broken.write_bytes(b"not a model" * 100)
    job = dataclasses.replace(jobs[f"fp32.{form}"], artifact=str(broken))
    with pytest.raises(RunnerError, match=rf"of qemu:pi4 cannot run broken\.{form}: "):
        QemuTarget("qemu:pi4").execute(job)


def test_a_model_that_takes_too_long_is_an_error(jobs):
    with pytest.raises(RunnerError, match=r"of qemu:pi4 in 0 s on fp32\.onnx"):
        QemuTarget("qemu:pi4").execute(jobs["fp32.onnx"], timeout=0.2)


def test_tfjs_does_not_run_there(jobs):
    with pytest.raises(RunnerError, match="runs tflite and onnx, not tfjs"):
        QemuTarget("qemu:pi4").execute(jobs["fp32.tfjs"])


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(TargetError, match="unknown target 'qemu:pi3'") as unknown:
        QemuTarget("qemu:pi3")
    assert unknown.value.hint == "profiles are: qemu:pi4, qemu:pi5, qemu:phone"


def test_what_is_missing_is_named(jobs, monkeypatch, tmp_path):
    monkeypatch.setattr(arm_root, "root_folder", lambda: tmp_path / "arm-0")
    with pytest.raises(MissingDependency, match="no ARM root file system") as missing:
        QemuTarget("qemu:pi4").execute(jobs["fp32.tflite"])
    assert missing.value.hint == "edgekit targets prepare qemu"
    monkeypatch.setenv("PATH", str(tmp_path))
    for act in (arm_root.prepare, lambda: QemuTarget("qemu:pi4").execute(jobs["fp32.tflite"])):
        with pytest.raises(MissingDependency, match="needs qemu-aarch64") as missing:
            act()
        assert missing.value.hint.startswith("apt install qemu-user")


def test_a_prepared_root_is_kept():
    before = root_folder().stat().st_mtime_ns
    assert arm_root.prepare() == root_folder()
    assert root_folder().stat().st_mtime_ns == before


def test_wheels_that_do_not_exist_leave_nothing_behind(monkeypatch, tmp_path):
    pins = tmp_path / "pins.txt"
    pins.write_text("numpy==0.0.1\n")
    monkeypatch.setattr(arm_root, "REQUIREMENTS", pins)
    monkeypatch.setattr(arm_root, "_unpack_debian", lambda *arguments: None)
    monkeypatch.setattr(arm_root.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    with pytest.raises(MissingDependency, match=r"numpy==0\.0\.1") as failed:
        arm_root.prepare()
    assert failed.value.hint.endswith(PREPARE)
    assert list((tmp_path / "edgekit").iterdir()) == []


def test_the_pins_are_those_of_the_constraints():
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    known = {line.partition(";")[0].strip() for line in lines}
    pins = [p for p in arm_root.REQUIREMENTS.read_text().splitlines() if not p.startswith("#")]
    assert len(pins) >= 3
    assert set(pins) <= known

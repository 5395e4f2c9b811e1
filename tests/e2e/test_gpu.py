"""The GPU of this machine, or SwiftShader in its place: its numbers, and nothing of the CPU's."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.adapters import SOFTWARE, Adapter, label
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.errors import MissingDependency, RunnerError, TargetError
from edgekit.formats import describe
from edgekit.samples import read_npz
from edgekit.targets import gpu, gpu_packages
from edgekit.targets.agent_process import ask_agent, read_answer
from edgekit.targets.gpu import SOFTWARE_DRIVER, SWIFTSHADER, GpuTarget
from edgekit.targets.gpu_packages import CUDA, PREPARE, WEBGPU
from edgekit.targets.local import LocalTarget
from edgekit.types import Job
from edgekit.verbs.targets import list_targets
from edgekit.workspace import Workspace
from tests.conftest import ROOT, run_edgekit, skip_without

ROWS = 45
"""Eight one by one, a full chunk, and a chunk that is not full."""
NONE = "/dev/null"
"""A list of drivers with nothing in it."""
MOCK = Path("/usr/lib/chromium/libVkICD_mock_icd.so")
"""Chromium's stand-in for a driver of a real GPU: it answers, and computes nothing."""


@pytest.fixture(scope="module", autouse=True)
def _adapter():
    there = bool(GpuTarget("gpu?backend=webgpu")._adapters("onnx"))
    skip_without(there, "a GPU, or SwiftShader as one", SOFTWARE_DRIVER)
    skip_without(GpuTarget("gpu").packages().folder().is_dir(), "its ONNX Runtime", PREPARE)


@pytest.fixture(scope="module")
def jobs(digits, tmp_path_factory) -> dict[str, Job]:
    """A run of the first rows through each artifact."""
    workspace = Workspace.open(digits)
    feed = read_npz(workspace.data_path("verification"))
    inputs = save_arrays({n: v[:ROWS] for n, v in feed.items()}, tmp_path_factory.mktemp("inputs"))
    out = str(tmp_path_factory.mktemp("out"))
    found = {}
    for artifact in workspace.manifest.artifacts:
        path = str(workspace.path / artifact.path)
        own = {s.name: inputs[s.name] for s in artifact.signature.inputs}
        found[artifact.id] = Job("run", artifact.format, path, artifact.signature, own, out)
    return found


@pytest.fixture
def afresh(monkeypatch):
    """Drivers are asked again, with what a test changes in the environment."""
    gpu._drivers.cache_clear()
    yield monkeypatch
    gpu._drivers.cache_clear()


def outputs(target, job):
    with tempfile.TemporaryDirectory() as folder:
        result = target.execute(dataclasses.replace(job, out=folder))
        arrays = load_arrays(result.outputs)
        return {name: value[:].copy() for name, value in arrays.items()}, result


def ask(job, accelerator, *, path=None, **env):
    """The agent itself, with nothing checked before."""
    asked = dataclasses.replace(job, accelerator=accelerator)
    modules = os.pathsep.join(str(p) for p in (path, ROOT) if p)
    command = [sys.executable, "-P", "-m", "edgekit.agent"]
    env = {**os.environ, "PYTHONPATH": modules, **env}
    return read_answer(job, ask_agent(command, asked, timeout=60, env=env))


def webgpu_folder():
    skip_without(WEBGPU.folder().is_dir(), WEBGPU.name, f"{PREPARE}?backend=webgpu")
    return WEBGPU.folder()


@pytest.mark.parametrize("artifact", ["fp32.tflite", "int8.tflite", "fp32.onnx"])
def test_a_file_computes_on_the_gpu_what_it_computes_here(jobs, artifact):
    there, result = outputs(GpuTarget("gpu"), jobs[artifact])
    here, _ = outputs(LocalTarget(), jobs[artifact])
    assert there.keys() == here.keys()
    # int8 is computed in float, with rounding: a step of the output (1/256) may come out otherwise.
    tolerance = 1 / 128 if artifact == "int8.tflite" else 1e-5
    for name, value in here.items():
        assert there[name].shape == value.shape
        assert there[name].dtype == value.dtype
        assert np.ptp(value) > 0
        assert np.abs(there[name] - value).max() <= tolerance * np.abs(value).max()
    adapter = result.machine.accelerator
    assert adapter
    assert adapter in result.runtime.backend
    assert "CPUExecution" not in result.runtime.backend
    assert (SOFTWARE in result.runtime.backend) == ("SwiftShader" in adapter)


def test_integers_go_in_and_out(tmp_path):
    rows = np.random.default_rng(1).random((3, 8, 8, 1), np.float32)

    def job(name):
        path = ROOT / "tests" / "data" / f"{name}.tflite"
        signature = describe(path).signature
        assert signature.inputs[0].dtype == "int8"
        inputs = save_arrays({signature.inputs[0].name: rows}, tmp_path / name)
        return Job("run", "tflite", str(path), signature, inputs, out="")

    (there,) = outputs(GpuTarget("gpu"), job("one_row_int8_io"))[0].values()
    (here,) = outputs(LocalTarget(), job("one_row_int8_io"))[0].values()
    assert np.ptp(here, axis=0).max() > 0.01
    assert np.abs(there - here).max() <= 2 / 256  # steps of the output
    with pytest.raises(RunnerError, match=r"free dimension.*--batch 1"):
        outputs(GpuTarget("gpu"), job("int8_io"))


@pytest.mark.parametrize("artifact", ["fp32.tflite", "fp32.onnx"])
def test_a_time_is_marked_where_software_plays_the_gpu(jobs, artifact):
    job = dataclasses.replace(jobs[artifact], action="time", seconds=0.2)
    result = GpuTarget("gpu").execute(job)
    assert len(result.timing.samples_ns) >= 5
    assert min(result.timing.samples_ns) > 0
    assert result.timing.model_memory_bytes is None  # it is not in this process's memory
    on_software = any("software renderer: good for parity only" in w for w in result.warnings)
    assert on_software == (SOFTWARE in result.runtime.backend)


def test_the_command_says_that_it_was_software(digits, tmp_path):
    skip_without(any(Path(p).is_file() for p in SWIFTSHADER), "SwiftShader", SOFTWARE_DRIVER)
    manifest = next(p for p in SWIFTSHADER if Path(p).is_file())
    workspace = shutil.copytree(digits, tmp_path / "ws")
    done = run_edgekit(
        *("bench", workspace / "fp32.tflite", "--target", "gpu", "--rounds", 1, "--seconds", 0.1),
        VK_DRIVER_FILES=manifest,
        VK_ICD_FILENAMES=manifest,
    )
    assert done.code == 0, done.err
    assert "warning: timed on a software renderer: good for parity only" in done.out
    assert f"litert 2.3.0 (webgpu (SwiftShader Device (Subzero); {SOFTWARE}))" in done.out


class TestNothingFallsBack:
    def test_webgpu_without_an_adapter(self, jobs):
        folder = webgpu_folder()
        hidden = {"VK_DRIVER_FILES": NONE, "VK_ICD_FILENAMES": NONE}
        script = (
            "import onnxruntime; from edgekit.agent.runners import IDENTITY; print(onnxruntime."
            "InferenceSession(IDENTITY, providers=['WebGpuExecutionProvider']).get_providers())"
        )
        env = {**os.environ, **hidden, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        left_alone = subprocess.run(
            [sys.executable, "-P", "-c", script],
            capture_output=True,
            text=True,
            env=env,
            check=True,
        )
        assert "Falling back" in left_alone.stdout
        assert left_alone.stdout.splitlines()[-1] == "['CPUExecutionProvider']"
        with pytest.raises(RunnerError, match=r"WebGpuExecutionProvider does not start: .*adapter"):
            ask(jobs["fp32.onnx"], "gpu", path=folder, **hidden)
        with pytest.raises(RunnerError, match="LiteRT found no adapter"):
            ask(jobs["fp32.tflite"], "gpu", **hidden)

    def test_a_provider_that_this_wheel_does_not_have(self, jobs):
        with pytest.raises(RunnerError, match=r"it has no CUDA.*, only WebGpu.*, CPUExecution"):
            ask(jobs["fp32.onnx"], "cuda", path=webgpu_folder())
        with pytest.raises(RunnerError, match=r"it has no Tensorrt.* or WebGpu.*, only .*CPU"):
            ask(jobs["fp32.onnx"], "gpu")  # with the wheel that everything else uses

    def test_a_provider_that_starts_as_another(self, jobs, tmp_path):
        """As CUDA's does without its libraries: no error, and a session on the CPU."""
        (tmp_path / "onnxruntime.py").write_text(
            "import types\n"
            "SessionOptions = types.SimpleNamespace\n"
            "def preload_dlls(): pass\n"
            "def get_available_providers(): return ['CUDAExecutionProvider']\n"
            "class InferenceSession:\n"
            "    def __init__(self, *given, **options): pass\n"
            "    def get_providers(self): return ['CPUExecutionProvider']\n"
        )
        with pytest.raises(
            RunnerError, match="CUDAExecutionProvider does not start: CPUExecutionProvider would"
        ):
            ask(jobs["fp32.onnx"], "cuda", path=tmp_path)

    def test_a_part_of_a_model(self, jobs, tmp_path):
        webgpu_folder()
        with pytest.raises(RunnerError, match="leave a part to the CPU: 3 QuantizeLinear") as left:
            GpuTarget("gpu?backend=webgpu").execute(jobs["int8.onnx"])
        assert "int8.tflite" in left.value.hint
        path = ROOT / "tests" / "data" / "lstm.tflite"
        signature = describe(path).signature
        values = {s.name: np.zeros([d or 1 for d in s.shape], s.dtype) for s in signature.inputs}
        inputs = save_arrays(values, tmp_path)
        with pytest.raises(RunnerError, match=r"left to the CPU: .*WHILE: ") as left:
            outputs(GpuTarget("gpu"), Job("run", "tflite", str(path), signature, inputs, out=""))
        assert left.value.hint == "this tflite file is for --target local"


class TestDrivers:
    def hide(self, afresh, folder):
        """No driver but those whose manifests are in `folder`."""
        for name in (*gpu._CHOSEN, *gpu._HIDDEN):
            afresh.delenv(name, raising=False)
        afresh.setenv("XDG_DATA_HOME", str(folder))
        afresh.setenv("XDG_DATA_DIRS", str(folder))

    def add(self, folder, name, library):
        manifest = folder / "vulkan" / "icd.d" / f"{name}.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        icd = {"library_path": str(library), "api_version": "1.1.0"}
        manifest.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))
        return str(manifest)

    def compile(self, library, source):
        skip_without(shutil.which("cc") is not None, "a compiler", "apt install gcc libc6-dev")
        command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return library

    def test_none_is_an_error_with_the_next_step(self, jobs, afresh):
        afresh.setenv("VK_DRIVER_FILES", NONE)
        afresh.setenv("VK_ICD_FILENAMES", NONE)
        for artifact in ("fp32.tflite", "fp32.onnx"):
            with pytest.raises(MissingDependency, match=r"no GPU for .*: Vulkan found") as missing:
                GpuTarget("gpu?backend=webgpu").execute(jobs[artifact])
            assert missing.value.hint.endswith("apt install libvulkan1 chromium")
        known = next(t for t in list_targets() if t.uri == "gpu")
        if not gpu._drivers()[0].cuda:
            assert known.machine == "no GPU was found"
            assert all("apt install" in r.missing for r in known.runtimes)

    def test_one_that_crashes_is_an_error(self, jobs, afresh, tmp_path):
        library = self.compile(
            tmp_path / "crash.so",
            "#include <stdlib.h>\n__attribute__((constructor)) void f() {abort();}",
        )
        manifest = self.add(tmp_path, "crash", library)
        afresh.setenv("VK_DRIVER_FILES", manifest)
        afresh.setenv("VK_ICD_FILENAMES", manifest)
        with pytest.raises(MissingDependency, match="asking the drivers was killed by SIGABRT"):
            GpuTarget("gpu?backend=webgpu").execute(jobs["fp32.onnx"])
        with pytest.raises(RunnerError, match=r"was killed by SIGABRT on fp32\.tflite"):
            ask(jobs["fp32.tflite"], "gpu", VK_DRIVER_FILES=manifest, VK_ICD_FILENAMES=manifest)

    def test_that_of_nvidia_decides_for_cuda(self, afresh, tmp_path):
        """Played by a library that has its functions, and two devices."""
        self.compile(
            tmp_path / "libcuda.so.1",
            "#include <stdio.h>\n"
            "int cuInit(unsigned flags) {return 0;}\n"
            "int cuDeviceGetCount(int *count) {*count = 2; return 0;}\n"
            "int cuDeviceGet(int *device, int ordinal) {*device = ordinal + 40; return 0;}\n"
            "int cuDeviceGetName(char *name, int size, int device)"
            '{snprintf(name, size, "NVIDIA RTX %d", device); return 0;}\n',
        )
        afresh.setenv("LD_LIBRARY_PATH", str(tmp_path))
        target = GpuTarget("gpu")
        assert target.description() == "CUDA (NVIDIA RTX 40)"
        assert target.packages() is CUDA
        assert [a.name for a in gpu._drivers()[0].cuda] == ["NVIDIA RTX 40", "NVIDIA RTX 41"]
        assert GpuTarget("gpu?backend=webgpu").packages() is WEBGPU

    def test_software_is_hidden_where_there_is_a_gpu(self, afresh, tmp_path):
        skip_without(MOCK.is_file(), "Chromium's mock driver", SOFTWARE_DRIVER)
        self.hide(afresh, tmp_path)
        self.add(tmp_path, "vk_swiftshader_icd", MOCK.with_name("libvk_swiftshader.so"))
        both = self.add(tmp_path, "mock", MOCK)
        assert {a.is_software for a in gpu._ask({}).vulkan} == {True, False}
        known, env = gpu._drivers()
        assert [a.is_software for a in known.vulkan] == [False]
        assert env == gpu._HIDDEN
        Path(both).unlink()
        gpu._drivers.cache_clear()
        known, env = gpu._drivers()
        assert [a.is_software for a in known.vulkan] == [True]
        assert env == {}

    def test_the_label_names_the_adapter_that_runtimes_take(self):
        fast, slow = Adapter("Fast", rank=3), Adapter("Slow", rank=2)
        soft = Adapter("llvmpipe", is_software=True, rank=-1)
        assert label("webgpu", [soft, slow, fast]) == "webgpu (Fast)"
        assert label("webgpu", [fast, dataclasses.replace(fast, name="Other")]) == (
            "webgpu (Fast or Other)"
        )
        assert label("webgpu", [soft]) == "webgpu (llvmpipe; software, parity only)"
        assert label("webgpu", []) == "webgpu (adapter not told)"


def test_what_a_gpu_does_not_do_is_said(jobs):
    target, job = GpuTarget("gpu"), jobs["fp32.tflite"]
    with pytest.raises(RunnerError, match="runs tflite and onnx, not tfjs") as refused:
        target.execute(jobs["fp32.tfjs"])
    assert "browser?backend=webgpu" in refused.value.hint
    with pytest.raises(TargetError, match="cannot count instructions"):
        target.execute(dataclasses.replace(job, action="count"))
    with pytest.raises(TargetError, match="threads are the CPU's"):
        target.execute(dataclasses.replace(job, threads=2))
    with pytest.raises(RunnerError, match="runs onnx, not tflite"):
        GpuTarget("gpu?backend=cuda").execute(job)


def test_a_broken_file_is_an_error(jobs, tmp_path):
    for form in ("tflite", "onnx"):
        broken = tmp_path / f"broken.{form}"
        broken.write_bytes(b"not a model" * 100)
        job = dataclasses.replace(jobs[f"fp32.{form}"], artifact=str(broken))
        with pytest.raises(RunnerError, match=rf"of gpu cannot run broken\.{form}: "):
            GpuTarget("gpu").execute(job)


@pytest.mark.parametrize("uri", ["gpu?backend=metal", "gpu:0", "gpu?x", "gpus"])
def test_an_unknown_uri_names_the_known_ones(uri):
    with pytest.raises(TargetError, match="unknown target") as unknown:
        GpuTarget(uri)
    assert unknown.value.hint == "known: gpu, gpu?backend=webgpu|cuda|tensorrt"


class TestPackages:
    def test_they_are_not_those_of_other_targets(self, jobs):
        _, result = outputs(GpuTarget("gpu"), jobs["fp32.onnx"])
        assert result.runtime.version == GpuTarget("gpu").packages().version()
        _, here = outputs(LocalTarget(), jobs["fp32.onnx"])
        assert here.runtime.backend == "CPUExecutionProvider"

    def test_what_is_missing_is_named(self, jobs, monkeypatch, tmp_path):
        monkeypatch.setattr(gpu_packages.platformdirs, "user_cache_path", lambda name: tmp_path)
        with pytest.raises(MissingDependency, match=r"onnxruntime-.* is not in ") as missing:
            GpuTarget("gpu").execute(jobs["fp32.onnx"])
        assert missing.value.hint == "run: edgekit targets prepare gpu"
        with pytest.raises(MissingDependency) as missing:
            GpuTarget("gpu?backend=webgpu").execute(jobs["fp32.onnx"])
        assert missing.value.hint == "run: edgekit targets prepare 'gpu?backend=webgpu'"

    def test_wheels_that_do_not_exist_leave_nothing_behind(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gpu_packages.platformdirs, "user_cache_path", lambda name: tmp_path)
        pins = tmp_path / "pins.txt"
        pins.write_text("onnxruntime-webgpu==0.0.1\n")
        wrong = dataclasses.replace(WEBGPU, requirements=pins)
        with pytest.raises(MissingDependency, match=r"onnxruntime-webgpu==0\.0\.1") as failed:
            wrong.prepare()
        assert failed.value.hint.endswith(PREPARE)
        assert list(tmp_path.iterdir()) == [pins]

    def test_each_has_its_folder(self):
        assert WEBGPU.folder() != CUDA.folder()
        assert GpuTarget("gpu?backend=cuda").packages() is CUDA
        assert GpuTarget("gpu?backend=tensorrt").packages() is CUDA
        assert GpuTarget("gpu?backend=webgpu").packages() is WEBGPU

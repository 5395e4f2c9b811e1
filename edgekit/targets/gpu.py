"""The GPU of this machine: TFLite by LiteRT's accelerator (WebGPU), ONNX by ONNX Runtime.

    gpu                     ONNX by TensorRT or CUDA where NVIDIA's driver is, else by WebGPU
    gpu?backend=webgpu      or cuda, tensorrt (these two for ONNX only): this one or an error

Where there is no GPU, and Chromium is installed, its SwiftShader plays one: for parity, and always
named as software.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from edgekit.agent.adapters import Adapter, Adapters, label
from edgekit.agent.protocol import decode
from edgekit.errors import MissingDependency, RunnerError, TargetError
from edgekit.processes import describe_exit
from edgekit.targets import require_able
from edgekit.targets.agent_process import ask_agent, read_answer
from edgekit.targets.gpu_packages import CUDA, WEBGPU, Packages
from edgekit.types import Job, JobResult

BACKENDS = ("webgpu", "cuda", "tensorrt")
DRIVERS = "install the driver of your GPU; for parity only, in software: "
SOFTWARE_DRIVER = "apt install libvulkan1 chromium"
SWIFTSHADER = (
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
)
"""Where Chromium and Chrome keep a driver that computes on the CPU."""
_CHOSEN = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""By which a user says which drivers Vulkan loads; the second for older loaders."""
_HIDDEN = {"VK_LOADER_DRIVERS_DISABLE": "*lvp*,*lavapipe*,*swiftshader*"}
_PROBE_S = 60


class GpuTarget:
    """Each job in a child process, as on `local`."""

    is_emulated = False
    profiles: tuple[str, ...] = ()
    models_cycles = False

    def __init__(self, uri: str) -> None:
        """Open "gpu" or "gpu?backend=...".

        Raises:
            TargetError: there is no such target.
        """
        self.uri = uri
        self._backend = backend_of(uri)
        webgpu = self._backend in (None, "webgpu")
        self.formats: tuple[str, ...] = ("tflite", "onnx") if webgpu else ("onnx",)

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """See Target.execute.

        Raises:
            TargetError: `job` is to be counted, or for several threads.
            MissingDependency: there is no GPU, or ONNX Runtime for it is not prepared.
        """
        self._check(job)
        self._require_adapter(job.format)
        asked = dataclasses.replace(job, accelerator=self._backend or "gpu")
        command = [sys.executable, "-P", "-m", "edgekit.agent"]
        env = self._environment(job.format)
        done = ask_agent(command, asked, timeout=timeout, place=self.uri, env=env)
        try:
            return read_answer(job, done, place=self.uri)
        except RunnerError as e:
            raise RunnerError(e.message, hint=_hint(job, e.message)) from e

    def close(self) -> None:
        pass

    def status(self, form: str) -> str:
        """The version of the runtime for files of format `form`, where it can run.

        Raises:
            MissingDependency: it cannot, and what to do.
        """
        self._require_adapter(form)
        if form == "tflite":
            import importlib.metadata

            return importlib.metadata.version("ai-edge-litert")
        packages = self.packages()
        packages.require(self.uri)
        return packages.version()

    def packages(self) -> Packages:
        """Those that ONNX files need."""
        return CUDA if self._uses_cuda("onnx") else WEBGPU

    def description(self) -> str:
        """What ONNX files run on, or why there is nothing, in words."""
        found = self._adapters("onnx")
        if found:
            return label("CUDA" if self._uses_cuda("onnx") else "WebGPU", found)
        return "no GPU was found"

    def _uses_cuda(self, form: str) -> bool:
        if form == "tflite" or self._backend == "webgpu":
            return False
        return self._backend is not None or bool(_drivers()[0].cuda)

    def _adapters(self, form: str) -> tuple[Adapter, ...]:
        known = _drivers()[0]
        return known.cuda if self._uses_cuda(form) else known.vulkan

    def _require_adapter(self, form: str) -> None:
        if self._adapters(form):
            return
        known = _drivers()[0]
        if self._uses_cuda(form):
            raise MissingDependency(
                f"there is no GPU for {self.uri}: {known.no_cuda}",
                hint="install NVIDIA's driver, or take --target 'gpu?backend=webgpu'",
            )
        raise MissingDependency(
            f"there is no GPU for {self.uri}: {known.no_vulkan}", hint=DRIVERS + SOFTWARE_DRIVER
        )

    def _check(self, job: Job) -> None:
        on_gpu = "--target 'browser?backend=webgpu'" if job.format == "tfjs" else "--target gpu"
        require_able(self, job, hint=f"take {on_gpu}")
        if job.threads != 1:
            raise TargetError(
                f"threads are the CPU's: {self.uri} has none to choose", hint="leave --threads out"
            )

    def _environment(self, form: str) -> dict[str, str]:
        env = {**os.environ, **_drivers()[1]}
        if form == "onnx":
            path = (str(self.packages().require(self.uri)), os.environ.get("PYTHONPATH", ""))
            env["PYTHONPATH"] = os.pathsep.join(p for p in path if p)
        return env


def backend_of(uri: str) -> str | None:
    """The part behind "?backend="; TargetError says which are known."""
    found = re.fullmatch(r"gpu(?:\?backend=(\w+))?", uri)
    if found is None or found[1] not in (None, *BACKENDS):
        raise TargetError(
            f"unknown target {uri!r}", hint=f"known: gpu, gpu?backend={'|'.join(BACKENDS)}"
        )
    return found[1]


@functools.cache
def _drivers() -> tuple[Adapters, dict[str, str]]:
    """The adapters of this machine, and the environment in which there are only they.

    Software comes in where there is no GPU, and is hidden where there is one: which of both a
    runtime took could not be told from outside.
    """
    known = _ask({})
    if any(name in os.environ for name in (*_CHOSEN, *_HIDDEN)):
        return known, {}
    software = [a for a in known.vulkan if a.is_software]
    if 0 < len(software) < len(known.vulkan):
        return _ask(_HIDDEN), _HIDDEN
    manifest = next((p for p in SWIFTSHADER if Path(p).is_file()), None)
    if known.vulkan or manifest is None:
        return known, {}
    env = dict.fromkeys(_CHOSEN, manifest)
    return _ask(env), env


def _ask(env: dict[str, str]) -> Adapters:
    """The adapters that a process in this environment finds."""
    command = [sys.executable, "-P", "-m", "edgekit.agent.adapters"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            env={**os.environ, **env},
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"the driver gave no answer in {_PROBE_S} s"
        return Adapters(no_vulkan=reason, no_cuda=reason)
    if done.returncode != 0:
        reason = f"asking the drivers {describe_exit(done.returncode)}"
        return Adapters(no_vulkan=reason, no_cuda=reason)
    return decode(Adapters, json.loads(done.stdout.splitlines()[-1]))


def _hint(job: Job, message: str) -> str | None:
    if "to the CPU" not in message and "varying size" not in message:
        return None
    if "QuantizeLinear" in message:
        return "quantized ONNX files are for CPUs: take fp32 or fp16, or int8.tflite"
    return f"this {job.format} file is for --target local"

"""ONNX Runtime with providers for GPUs, in a folder of its own.

~/.cache/edgekit/gpu-<digest>/      what one of the two requirement files pins

Its wheels bear the import name of the usual one, which runs on the CPU only. So they are installed
nowhere: the process that computes on a GPU gets the folder first on its path, and no other does.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edgekit.errors import MissingDependency
from edgekit.targets.agent_process import digest
from edgekit.targets.preparing import publish, run
from edgekit.types import Progress

PREPARE = "edgekit targets prepare gpu"


@dataclass(frozen=True)
class Packages:
    """One of the wheels, and what comes with it."""

    name: str
    requirements: Path
    provider: str
    megabytes: str
    """To download, and on disk."""

    def folder(self) -> Path:
        """Where they are for this Python, once prepared."""
        pins = self.requirements.read_bytes()
        found = digest({"python": str(sys.implementation.cache_tag).encode(), "wheels": pins})
        return Path(platformdirs.user_cache_path("edgekit")) / f"gpu-{found}"

    def require(self, uri: str) -> Path:
        """The prepared `folder()`, for the target `uri`.

        Raises:
            MissingDependency: nothing is prepared.
        """
        folder = self.folder()
        if not folder.is_dir():
            raise MissingDependency(
                f"{self.name} is not in {folder}",
                hint=f"run: edgekit targets prepare {shlex.quote(uri)}",
            )
        return folder

    def version(self) -> str:
        """Of the wheel."""
        lines = self.requirements.read_text().splitlines()
        return dict(line.split("==") for line in lines if "==" in line)[self.name]

    def prepare(self, progress: Progress | None = None) -> Path:
        """Install them into `folder()`, unless they are there.

        Raises:
            MissingDependency: there are no such wheels for this Python, or the download failed.
        """
        folder = self.folder()
        if folder.is_dir():
            return folder
        if progress:
            progress(f"installing {self.name} {self.version()} ({self.megabytes})")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="gpu-new-") as parent:
            fresh = Path(parent, "site")
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            wheels = ["--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(fresh)]
            run([*pip, *wheels, "--requirement", self.requirements], again=PREPARE)
            check = [sys.executable, "-P", "-c", _CHECK, str(fresh), self.provider]
            run(check, again=PREPARE)
            publish(fresh, folder)
        return folder


_HERE = Path(__file__)
WEBGPU = Packages(
    "onnxruntime-webgpu",
    _HERE.with_name("gpu-webgpu-requirements.txt"),
    "WebGpuExecutionProvider",
    "25 MB, 75 MB on disk",
)
CUDA = Packages(
    "onnxruntime-gpu",
    _HERE.with_name("gpu-cuda-requirements.txt"),
    "CUDAExecutionProvider",
    "1.6 GB",
)

_CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import onnxruntime
assert onnxruntime.__file__.startswith(sys.argv[1]), onnxruntime.__file__
assert sys.argv[2] in onnxruntime.get_available_providers()
"""

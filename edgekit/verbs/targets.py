"""`edgekit targets`: where models can run from here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgekit.agent import machine
from edgekit.errors import MissingDependency, TargetError
from edgekit.targets import arm_root, browser, browser_programs, node
from edgekit.targets.agent_process import REQUIREMENTS
from edgekit.targets.gpu import GpuTarget
from edgekit.targets.qemu_profiles import PROFILES
from edgekit.types import LOCAL, Progress


@dataclass(frozen=True)
class RuntimeStatus:
    """One runtime of a target; `missing` says what to do where it is not ready."""

    format: str
    name: str
    version: str | None
    missing: str | None


@dataclass(frozen=True)
class TargetStatus:
    """One target and its runtimes; `machine` in words."""

    uri: str
    machine: str
    runtimes: tuple[RuntimeStatus, ...]


def list_targets() -> tuple[TargetStatus, ...]:
    """Every target, with its runtimes and what they lack, as far as they can be known."""
    return (
        _here(),
        _gpu(),
        *(_browser(uri, kind) for uri, kind in _BROWSERS.items()),
        *(_emulated(name) for name in PROFILES),
        *(TargetStatus(uri, what, ()) for uri, what in _ON_CALL.items()),
    )


def prepare(target: str, progress: Progress = lambda text: None) -> Path | str:
    """Install what a target needs.

    Args:
        target: "node" (the JavaScript packages, which browsers need too), "qemu" (Python and the
            runtimes for ARM), "gpu" (ONNX Runtime for the GPU of this machine), or
            "ssh://USER@HOST" (a virtual environment on that board).
        progress: told in one line what happens.

    Returns:
        The folder it is in, on the board for ssh.

    Raises:
        TargetError: there is no such target, or the board cannot be reached.
        MissingDependency: a program is not installed, or a download failed.
    """
    if target == "node" or target.partition(":")[0] == "browser":
        return node.prepare(progress)
    if target.partition(":")[0] == "qemu":
        return arm_root.prepare(progress)
    if target.partition("?")[0] == "gpu":
        return GpuTarget(target).packages().prepare(progress)
    if target.startswith("ssh://"):
        from edgekit.targets import ssh

        return ssh.prepare(target, progress)
    raise TargetError(
        f"there is nothing to prepare for {target!r}",
        hint="name node, qemu, gpu or ssh://USER@HOST",
    )


_ON_CALL = {
    "browser:listen": "any phone or computer that opens the page",
    "ssh://USER@HOST": "a 64-bit Linux board",
}
_BROWSERS = {"browser": "chromium", "browser:firefox": "firefox"}


def _here() -> TargetStatus:
    runtimes = (
        _python("tflite", "ai-edge-litert"),
        _python("onnx", "onnxruntime"),
        _status("tfjs", "@tensorflow/tfjs in Node.js", _in_node),
    )
    return TargetStatus(LOCAL, machine.describe().cpu, runtimes)


def _gpu() -> TargetStatus:
    target = GpuTarget("gpu")
    runtimes = (
        _status("tflite", "ai-edge-litert", partial(target.status, "tflite")),
        _status("onnx", target.packages().name, partial(target.status, "onnx")),
    )
    return TargetStatus(target.uri, target.description(), runtimes)


def _in_node() -> str:
    node.node_command()
    return node.tfjs_version()


def _browser(uri: str, kind: str) -> TargetStatus:
    def found(package: str) -> str:
        browser_programs.find(kind)
        return browser.versions()[package]

    runtimes = tuple(
        _status(form, browser.RUNTIMES[form], partial(found, package))
        for form, package in browser.PACKAGES.items()
    )
    return TargetStatus(uri, f"{kind} on this machine", runtimes)


def _emulated(name: str) -> TargetStatus:
    lines = REQUIREMENTS.read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)

    def found(package: str) -> str:
        arm_root.require_root()
        return pins[package]

    runtimes = tuple(
        _status(form, package, partial(found, package))
        for form, package in (("tflite", "ai-edge-litert"), ("onnx", "onnxruntime"))
    )
    return TargetStatus(f"qemu:{name}", f"{PROFILES[name].title} (emulated)", runtimes)


def _python(form: str, package: str) -> RuntimeStatus:
    try:
        return RuntimeStatus(form, package, importlib.metadata.version(package), None)
    except importlib.metadata.PackageNotFoundError:
        return RuntimeStatus(form, package, None, f"pip install {package}")


def _status(form: str, name: str, version: Callable[[], str]) -> RuntimeStatus:
    try:
        return RuntimeStatus(form, name, version(), None)
    except MissingDependency as e:
        return RuntimeStatus(form, name, None, e.hint)

"""`edgekit targets`: where models can run from here."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from edgekit.errors import MissingDependency
from edgekit.targets import open_target
from edgekit.targets.node import node_command, tfjs_version
from edgekit.types import Machine


@dataclass(frozen=True)
class RuntimeStatus:
    """One runtime of a target; `missing` says what to do where it is not ready."""

    format: str
    name: str
    version: str | None
    missing: str | None


@dataclass(frozen=True)
class TargetStatus:
    """One target that can be reached now."""

    uri: str
    machine: Machine
    runtimes: tuple[RuntimeStatus, ...]


def list_targets() -> tuple[TargetStatus, ...]:
    """Every target that can be reached, with its runtimes."""
    place = open_target("local")
    runtimes = (
        _python("tflite", "ai-edge-litert"),
        _python("onnx", "onnxruntime"),
        _node(),
    )
    return (TargetStatus(place.uri, place.machine(), runtimes),)


def _python(form: str, package: str) -> RuntimeStatus:
    try:
        return RuntimeStatus(form, package, importlib.metadata.version(package), None)
    except importlib.metadata.PackageNotFoundError:
        return RuntimeStatus(form, package, None, f"pip install {package}")


def _node() -> RuntimeStatus:
    name = "@tensorflow/tfjs in Node.js"
    try:
        node_command()
    except MissingDependency as e:
        return RuntimeStatus("tfjs", name, None, e.hint)
    return RuntimeStatus("tfjs", name, tfjs_version(), None)

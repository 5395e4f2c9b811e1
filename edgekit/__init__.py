"""Export a Keras model to TFLite, ONNX and TensorFlow.js, and prove that each file works."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgekit.errors import (
        CheckFailed,
        ConversionError,
        EdgekitError,
        GateError,
        MissingDependency,
        NotComparable,
        RecipeError,
        RunnerError,
        SourceError,
        TargetError,
        WorkspaceError,
    )
    from edgekit.verbs.bench import bench
    from edgekit.verbs.demo import demo
    from edgekit.verbs.export import ExportFailed, export
    from edgekit.verbs.gate import GateFailed, gate
    from edgekit.verbs.inspect import inspect
    from edgekit.verbs.outcome import BudgetExceeded
    from edgekit.verbs.prune import PruneFailed, prune
    from edgekit.verbs.quantize import QuantizeFailed, quantize
    from edgekit.verbs.report import report
    from edgekit.verbs.run import RunFailed, run
    from edgekit.verbs.targets import list_targets, prepare
    from edgekit.verbs.train import train
    from edgekit.verbs.verify import VerifyFailed, verify
    from edgekit.workspace import Workspace

_HOMES = {
    "edgekit.errors": (
        "CheckFailed",
        "ConversionError",
        "EdgekitError",
        "GateError",
        "MissingDependency",
        "NotComparable",
        "RecipeError",
        "RunnerError",
        "SourceError",
        "TargetError",
        "WorkspaceError",
    ),
    "edgekit.verbs.bench": ("bench",),
    "edgekit.verbs.demo": ("demo",),
    "edgekit.verbs.export": ("ExportFailed", "export"),
    "edgekit.verbs.gate": ("GateFailed", "gate"),
    "edgekit.verbs.inspect": ("inspect",),
    "edgekit.verbs.outcome": ("BudgetExceeded",),
    "edgekit.verbs.prune": ("PruneFailed", "prune"),
    "edgekit.verbs.quantize": ("QuantizeFailed", "quantize"),
    "edgekit.verbs.report": ("report",),
    "edgekit.verbs.run": ("RunFailed", "run"),
    "edgekit.verbs.targets": ("list_targets", "prepare"),
    "edgekit.verbs.train": ("train",),
    "edgekit.verbs.verify": ("VerifyFailed", "verify"),
    "edgekit.workspace": ("Workspace",),
}

__all__ = [
    "BudgetExceeded",
    "CheckFailed",
    "ConversionError",
    "EdgekitError",
    "ExportFailed",
    "GateError",
    "GateFailed",
    "MissingDependency",
    "NotComparable",
    "PruneFailed",
    "QuantizeFailed",
    "RecipeError",
    "RunFailed",
    "RunnerError",
    "SourceError",
    "TargetError",
    "VerifyFailed",
    "Workspace",
    "WorkspaceError",
    "bench",
    "demo",
    "export",
    "gate",
    "inspect",
    "list_targets",
    "prepare",
    "prune",
    "quantize",
    "report",
    "run",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: `edgekit --help` must not wait for NumPy.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")

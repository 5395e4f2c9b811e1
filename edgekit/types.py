"""The nouns of edgekit as frozen dataclasses; all of them are plain JSON in manifest.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.agent.protocol import (
    Job,
    JobResult,
    Machine,
    Runtime,
    Signature,
    TensorSpec,
    Timing,
)

if TYPE_CHECKING:
    import numpy as np


__all__ = [
    "BASELINE",
    "FORMATS",
    "FREE_DIMENSION",
    "PRECISIONS",
    "AccuracyRecord",
    "Artifact",
    "Code",
    "Feed",
    "Job",
    "JobResult",
    "LatencyRecord",
    "Machine",
    "OutputParity",
    "ParityRecord",
    "Progress",
    "Runtime",
    "Signature",
    "Source",
    "Step",
    "TensorSpec",
    "Timing",
    "Tolerance",
]

Feed = dict[str, "np.ndarray"]
"""Arrays by Keras name, never by position; the first axis of each is the row."""

FORMATS = ("tflite", "onnx", "tfjs")
PRECISIONS = ("fp32", "fp16", "dynamic", "int8")
BASELINE = "keras"
"""The artifact id under which records of the Keras model itself are kept."""

FREE_DIMENSION = 16
"""Length given to a dimension that a model leaves open, in random rows."""

Progress = Callable[[str], None]
"""Told in one line what is being done now."""


@dataclass(frozen=True)
class Code:
    """Python code of the user's: a path or a module's name, perhaps with ":function" behind it."""

    name: str
    sha256: str | None = None
    """Of the file, once it was read."""


@dataclass(frozen=True)
class Source:
    """A trained model as it comes, and what else it takes to load it."""

    path: str
    """A .keras, .h5 or weights file, or a SavedModel folder."""
    family: str
    """Which loader fits: "keras" (3), "tf-keras" (Keras 2) or "saved-model"."""
    custom_objects: Code | None = None
    """The module with the classes and functions that the model uses."""
    builder: Code | None = None
    """The function that builds the model, of which the file has the weights."""
    from_layer: str | None = None
    """The first layer of the part that is wanted; None: from the model's inputs."""
    until_layer: str | None = None
    """The last layer of that part; None: until the model's outputs."""


@dataclass(frozen=True)
class Step:
    """How an artifact was made."""

    verb: str
    options: Mapping[str, Any]
    parent: str
    """SHA-256 of the model it was made from."""
    tools: Mapping[str, str]
    time: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class Artifact:
    """One deployable file (or folder, for TF.js) of a workspace."""

    id: str
    """"<variant>.<format>", for example int8.tflite."""
    path: str
    """Relative to the workspace."""
    sha256: str
    size_bytes: int
    signature: Signature
    step: Step

    @property
    def variant(self) -> str:
        return self.id.rpartition(".")[0]

    @property
    def precision(self) -> str:
        """The last part of the variant: "int8" of sparse80-int8."""
        return self.variant.rpartition("-")[2]

    @property
    def format(self) -> str:
        return self.id.rpartition(".")[2]


@dataclass(frozen=True)
class OutputParity:
    """How far one output is from the Keras model's, over all rows.

    `scale` is the largest absolute value of the Keras output; `max_rel` = max_abs / scale.
    `sqnr_db` = 10 log10(variance of the Keras output over rows / mean squared difference).
    `top1_agreement` is set where the output is a class distribution. Elsewhere, channels (last
    axis) are looked at one by one, since a large one hides a small one: `channel_sqnr_db` is the
    worst channel's, `dead_channels` the share of channels that vary in the Keras model and are
    constant here.
    """

    name: str
    max_abs: float
    mean_abs: float
    scale: float
    max_rel: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None = None
    channel_sqnr_db: float | None = None
    dead_channels: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """What parity asks of a precision; None = not asked."""

    max_rel: float | None = None
    min_sqnr_db: float | None = None
    min_top1: float | None = None
    min_channel_sqnr_db: float | None = None
    max_dead_channels: float | None = None
    max_drop: float | None = None
    """Largest allowed loss on the recipe's metric, as a share of the Keras model's figure."""


@dataclass(frozen=True)
class ParityRecord:
    """An artifact against the Keras model, on the runtime that ran it."""

    artifact: str
    sha256: str
    rows: int
    data: str
    """Where the rows came from: "recipe", "samples" or "synthetic"."""
    outputs: tuple[OutputParity, ...]
    tolerance: Tolerance
    failures: tuple[str, ...]
    runtime: Runtime
    machine: Machine

    @property
    def passed(self) -> bool:
        return not self.failures


@dataclass(frozen=True)
class AccuracyRecord:
    """The recipe's metrics over a whole split."""

    artifact: str
    sha256: str
    split: str
    rows: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class LatencyRecord:
    """Raw latency samples of one artifact on one machine, one Timing per process."""

    artifact: str
    sha256: str
    target: str
    threads: int
    rows: int
    """Rows per invocation (the batch)."""
    timings: tuple[Timing, ...]
    runtime: Runtime
    machine: Machine
    warnings: tuple[str, ...] = field(default=())

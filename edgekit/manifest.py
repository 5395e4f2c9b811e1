"""What manifest.json holds: all that a workspace knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from edgekit.agent.protocol import DecodeError, decode, encode
from edgekit.documents import as_json, write_whole
from edgekit.errors import WorkspaceError
from edgekit.types import (
    LOCAL,
    AccuracyRecord,
    Artifact,
    Code,
    Explanation,
    InstructionRecord,
    LatencyRecord,
    ParityRecord,
    SearchRecord,
    Signature,
    Step,
)

SCHEMA = 1
MANIFEST = "manifest.json"

R = TypeVar("R", ParityRecord, AccuracyRecord, LatencyRecord)


@dataclass(frozen=True)
class SourceInfo:
    """The Keras model, as it lies in the workspace, and how it is loaded."""

    path: str
    sha256: str
    name: str
    family: str
    """The loader and its version: "keras 3.15.1", "tf-keras 2.21.0" or "saved-model 2.21.0"."""
    parameters: int
    signature: Signature
    """What the artifacts take and give."""
    custom_objects: Code | None = None
    builder: Code | None = None
    from_layer: str | None = None
    until_layer: str | None = None
    raw_signature: Signature | None = None
    """What the preprocessing that was split off takes, and what it makes of that."""
    notes: tuple[str, ...] = ()
    """What was done to the model before it was converted."""

    @property
    def rows_signature(self) -> Signature:
        """What the user's rows are: raw, where preprocessing was split off."""
        raw = self.raw_signature
        return self.signature if raw is None else replace(self.signature, inputs=raw.inputs)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What a workspace is of: the same file, loaded in the same way."""
        return (
            self.sha256,
            self.custom_objects,
            self.builder,
            self.from_layer,
            self.until_layer,
        )


@dataclass(frozen=True)
class DataInfo:
    """One .npz file of rows; `origin` is "recipe", "samples", "synthetic" or "keras"."""

    path: str
    sha256: str
    rows: int
    origin: str


@dataclass(frozen=True)
class VariantInfo:
    """A Keras model that was trained on from the workspace's own, and how."""

    path: str
    sha256: str
    step: Step


@dataclass(frozen=True)
class Manifest:
    """All that a workspace knows; the content of manifest.json."""

    schema: int
    source: SourceInfo
    recipe: Code | None = None
    """The recipe that trained the model: a bundled name or a path."""
    data: Mapping[str, DataInfo] = field(default_factory=dict)
    """"calibration", "verification" and, where rows are held back, "validation" rows, and the Keras
    models' outputs for them: see `reference_name`. Samples are of one file at a time."""
    variants: Mapping[str, VariantInfo] = field(default_factory=dict)
    """Models that were trained on: "qat"."""
    artifacts: tuple[Artifact, ...] = ()
    parity: tuple[ParityRecord, ...] = ()
    accuracy: tuple[AccuracyRecord, ...] = ()
    latency: tuple[LatencyRecord, ...] = ()
    instructions: tuple[InstructionRecord, ...] = ()
    searches: tuple[SearchRecord, ...] = ()
    explanations: tuple[Explanation, ...] = ()


def here(records: Iterable[R]) -> tuple[R, ...]:
    """Those of this machine, without those of other targets."""
    return tuple(r for r in records if r.target == LOCAL)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the workspace in `folder`.

    Raises:
        WorkspaceError: there is none, or it cannot be read.
    """
    file = folder / MANIFEST
    try:
        data = json.loads(file.read_bytes())
    except OSError as e:
        raise WorkspaceError(
            f"{folder} is not a workspace: it has no {MANIFEST}",
            hint="make one with: edgekit export MODEL.keras -o FOLDER",
        ) from e
    except ValueError as e:
        raise WorkspaceError(f"{file} is not JSON: {e}") from e
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise WorkspaceError(
            f"{file} has the schema {schema!r}; this edgekit reads {SCHEMA}",
            hint="export again into a new folder",
        )
    try:
        return decode(Manifest, data, "manifest")
    except DecodeError as e:
        raise WorkspaceError(f"{file}: {e}", hint="export again into a new folder") from e


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, whole or not at all."""
    write_whole(folder / MANIFEST, as_json(encode(manifest)))


def judged_by(variant: str | None) -> str | None:
    """The model by which the accuracy of a variant's files is judged.

    What was trained for 8 bits has to be as good as the model before it. What was pruned was meant
    to lose something, and its files are not to lose more.
    """
    before, _, last = (variant or "").rpartition("-")
    return (before or None) if last == "qat" else variant


def reference_name(rows: str, variant: str | None = None) -> str:
    """The data with a Keras model's outputs for `rows`, which is a name of data, too."""
    first = "" if rows == "verification" else f"{rows}-"
    return f"{first}reference" if variant is None else f"{variant}-{first}reference"

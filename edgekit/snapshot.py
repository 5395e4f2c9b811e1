"""What a workspace knows of its files at one moment, as one file: the baseline of a gate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from edgekit import __version__
from edgekit.agent.protocol import DecodeError, decode, encode
from edgekit.documents import as_json, write_whole
from edgekit.errors import GateError
from edgekit.types import (
    AccuracyRecord,
    InstructionRecord,
    LatencyRecord,
    ParityRecord,
    Timing,
)
from edgekit.workspace import Workspace

SCHEMA = 1
MOST_SAMPLES = 100
"""Of a process that are kept: a baseline is read by people, too."""

R = TypeVar("R", ParityRecord, AccuracyRecord, LatencyRecord, InstructionRecord)


@dataclass(frozen=True)
class Snapshot:
    """Sizes in bytes by artifact, and the records of just these files."""

    schema: int
    edgekit: str
    """The version that took it."""
    rows_sha256: str | None
    """Of the rows that parity and accuracy are of."""
    sizes: Mapping[str, int]
    parity: tuple[ParityRecord, ...] = ()
    accuracy: tuple[AccuracyRecord, ...] = ()
    latency: tuple[LatencyRecord, ...] = ()
    instructions: tuple[InstructionRecord, ...] = ()


def take(workspace: Workspace) -> Snapshot:
    """That of a workspace as it is; in a stable order."""
    manifest = workspace.manifest
    digests = {a.id: a.sha256 for a in manifest.artifacts}

    def own(records: Iterable[R]) -> tuple[R, ...]:
        found = (r for r in records if digests.get(r.artifact) == r.sha256)
        return tuple(sorted(found, key=lambda r: (r.artifact, r.target)))

    rows = manifest.data.get("verification")
    return Snapshot(
        schema=SCHEMA,
        edgekit=__version__,
        rows_sha256=rows.sha256 if rows else None,
        sizes={a.id: a.size_bytes for a in sorted(manifest.artifacts, key=lambda a: a.id)},
        parity=own(manifest.parity),
        accuracy=own(manifest.accuracy),
        latency=tuple(_thinned(r) for r in own(manifest.latency)),
        instructions=own(manifest.instructions),
    )


def read(path: Path) -> Snapshot:
    """A baseline.

    Raises:
        GateError: there is none, or it cannot be read.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as e:
        raise GateError(f"there is no baseline {path}", hint="write one: --update") from e
    except ValueError as e:
        raise GateError(f"{path} is not JSON: {e}", hint="write it anew: --update") from e
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise GateError(
            f"{path} has the schema {schema!r}; this edgekit reads {SCHEMA}",
            hint="write it anew: --update",
        )
    try:
        return decode(Snapshot, data)
    except DecodeError as e:
        raise GateError(f"{path} is no baseline: {e}", hint="write it anew: --update") from e


def write(path: Path, snapshot: Snapshot) -> None:
    """Write a baseline."""
    write_whole(path, as_json(encode(snapshot)))


def _thinned(record: LatencyRecord) -> LatencyRecord:
    return replace(record, timings=tuple(_fewer(t) for t in record.timings))


def _fewer(timing: Timing) -> Timing:
    step = max(1, -(-len(timing.samples_ns) // MOST_SAMPLES))
    return replace(timing, samples_ns=timing.samples_ns[::step])

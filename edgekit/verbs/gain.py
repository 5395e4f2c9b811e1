"""What pruning gains in each file, beside the file of the same format and precision before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.comparison import Comparison, compare
from edgekit.errors import MissingDependency, NotComparable, RunnerError
from edgekit.hashing import gzip_bytes
from edgekit.latency import summarize
from edgekit.manifest import here
from edgekit.proof import prove
from edgekit.types import Artifact, LatencyRecord
from edgekit.verbs.production import Made, Production
from edgekit.workspace import Workspace

LEAST = 0.1
"""The share of the dense file's bytes, or time, that has to go for a gain to be one."""


@dataclass(frozen=True)
class Gain:
    """A file of the pruned model beside the one of the same format and precision before."""

    artifact: str
    size_bytes: int
    gzip_bytes: int
    memory_bytes: float | None
    """What the process grew by loading and running it."""
    p50_ns: float | None
    before: Gain | None = None
    """None: there is no such file."""
    times: Comparison | None = None
    """With those of the file before; None: one of them was not timed, or elsewhere."""

    @property
    def is_smaller(self) -> bool:
        """On disk; gzip finds zeros that nobody took out."""
        return self.before is not None and self.size_bytes <= (1 - LEAST) * self.before.size_bytes

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the file before."""
        return None if self.times is None else 1 / self.times.ratio

    @property
    def is_faster(self) -> bool:
        return self.times is not None and self.times.verdict == "faster"


def dense_files(
    dense: Production, wanted: Sequence[tuple[str, str]], made: Sequence[Made]
) -> tuple[dict[str, Artifact], list[str]]:
    """For what was `made`, by its id, the file of the unpruned model, which is made if need be.

    And why there is none, or why it is no measure.
    """
    known = {a.id: a for a in dense.workspace.manifest.artifacts}
    missing = [
        (form, precision) for form, precision in wanted if f"{precision}.{form}" not in known
    ]
    fresh, failures = dense.run(missing)
    known |= {m.artifact.id: m.artifact for m in fresh}
    found, reasons = {}, [f"nothing to compare with: {failure}" for failure in failures]
    for own in (m.artifact for m in made):
        other = known.get(f"{own.precision}.{own.format}")
        if other is None:
            continue
        if other.signature != own.signature:
            reasons.append(f"{own.id} is not compared with {other.id}: other inputs or outputs")
            continue
        if fault := _fault(dense, other):
            reasons.append(f"{own.id} is compared with {other.id}, {fault}")
        found[own.id] = other
    return found, list(dict.fromkeys(reasons))


def _fault(dense: Production, artifact: Artifact) -> str | None:
    """What is wrong with a file; it is held against rows it was not proved on before."""
    workspace = dense.workspace
    record = next((p for p in here(workspace.manifest.parity) if p.artifact == artifact.id), None)
    if record is None:
        try:
            proof = prove(
                workspace.artifact_path(artifact),
                id=artifact.id,
                precision=artifact.precision,
                sha256=artifact.sha256,
                signature=artifact.signature,
                evidence=dense.evidence,
                target=dense.target,
                keep_float=artifact.keeps_float,
            )
        except (RunnerError, MissingDependency) as e:
            return f"which is not verified: {e.message}"
        workspace.add_records(*proof.records)
        record = proof.parity
    if record.failures:
        return f"which is not equal to the Keras model: {'; '.join(record.failures)}"
    return None


def gain(
    workspace: Workspace,
    artifact: Artifact,
    before: Artifact | None,
    times: Mapping[str, LatencyRecord],
) -> Gain:
    """What `artifact` is beside the file `before`; `times` are by the ids of both."""
    own, other = times.get(artifact.id), times.get(before.id) if before else None
    summary = None if own is None else summarize(own)
    compared = None
    if own is not None and other is not None:
        with contextlib.suppress(NotComparable):  # another back end took it
            compared = compare(other, own, margin=LEAST)
    return Gain(
        artifact=artifact.id,
        size_bytes=artifact.size_bytes,
        gzip_bytes=gzip_bytes(workspace.artifact_path(artifact)),
        memory_bytes=None if summary is None else summary.model_memory_bytes,
        p50_ns=None if summary is None else summary.p50_ns,
        before=None if before is None else gain(workspace, before, None, times),
        times=compared,
    )

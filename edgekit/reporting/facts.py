"""What a report knows: read from a workspace, without TensorFlow and without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

from edgekit import __version__, evidence, formats, latency
from edgekit.errors import EdgekitError, SourceError, WorkspaceError
from edgekit.formats.description import FileDescription
from edgekit.hashing import sha256, size_bytes
from edgekit.latency import Summary
from edgekit.manifest import MANIFEST, DataInfo, Manifest, SourceInfo, VariantInfo
from edgekit.reporting.commands import Command, commands
from edgekit.types import (
    BASELINE,
    LOCAL,
    AccuracyRecord,
    Artifact,
    Code,
    Explanation,
    Histogram,
    InstructionRecord,
    LatencyRecord,
    Machine,
    ParityRecord,
    Runtime,
    SearchRecord,
)
from edgekit.workspace import Workspace

PROVED, NOT_VERIFIED, DIFFERS = "proved", "not verified", "differs"
CHANGED, MISSING = "changed", "missing"
"""What can be said of an artifact; only the first may ship."""

R = TypeVar("R", ParityRecord, AccuracyRecord)

BINS = 40
"""Of a histogram of times."""


@dataclass(frozen=True)
class Times:
    """A LatencyRecord in figures; `spread_ns` has its samples, of all processes."""

    artifact: str
    target: str
    threads: int
    rows: int
    runtime: Runtime
    machine: Machine
    summary: Summary
    medians_ns: tuple[float, ...]
    """Of each process."""
    spread_ns: Histogram
    speedup: float | None
    """The Keras model's median by this one, of the same place."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A machine on which artifacts were timed: only what is in one place may be compared."""

    target: str
    machine: Machine
    threads: int
    times: tuple[Times, ...]


@dataclass(frozen=True)
class Counts:
    """Instructions on one emulated machine; `of_first` compares files of one format."""

    target: str
    machine: Machine
    records: tuple[InstructionRecord, ...]
    of_first: tuple[float, ...]


@dataclass(frozen=True)
class FileFacts:
    """An artifact with all that is known of it."""

    artifact: Artifact
    state: str
    """PROVED, DIFFERS (anywhere), NOT_VERIFIED (nowhere), or CHANGED or MISSING since then."""
    reasons: tuple[str, ...]
    """Why it is not proved."""
    cautions: tuple[str, ...]
    """Why its proof is a weak one."""
    parity: tuple[ParityRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    metric: float | None
    """The first of its metrics, on this machine or else where it was measured."""
    change: float | None
    """Of the metric against the Keras model, above 0 where it is better."""
    max_rel: float | None
    """Of the worst output, wherever it was compared; so are the next two."""
    sqnr_db: float | None
    top1: float | None
    """The share of rows with the same top class."""
    times: Times | None
    """On this machine."""
    description: FileDescription | None
    """What is in the file; None: it cannot be read."""

    @property
    def is_proved(self) -> bool:
        return self.state == PROVED

    @property
    def is_there(self) -> bool:
        """Whether the file is the one that its records are of."""
        return self.state not in (CHANGED, MISSING)


@dataclass(frozen=True)
class Report:
    """All that a report says, in the order in which it says it."""

    name: str
    """Of the workspace's folder."""
    edgekit: str
    manifest_sha256: str
    as_of: str | None
    """When the newest artifact was made, ISO 8601, UTC."""
    source: SourceInfo
    source_bytes: int | None
    """None: the file is gone."""
    recipe: Code | None
    metric: str | None
    """Its name; None: the rows have no labels."""
    is_higher_better: bool | None
    """None: the recipe cannot be asked any more."""
    baseline: float | None
    """The Keras model's figure."""
    rows: DataInfo | None
    """Which the proofs were made on."""
    files: tuple[FileFacts, ...]
    places: tuple[Place, ...]
    counts: tuple[Counts, ...]
    searches: tuple[SearchRecord, ...]
    explanations: tuple[Explanation, ...]
    variants: Mapping[str, VariantInfo]
    data: Mapping[str, DataInfo]
    commands: tuple[Command, ...]

    @property
    def targets(self) -> list[str]:
        """On which something was proved or refuted, this machine first."""
        found = {r.target for f in self.files for r in f.parity}
        return sorted(found, key=lambda t: (t != LOCAL, t))


def gather(workspace: Workspace) -> Report:
    """Read all that there is; the files are compared with their hashes."""
    manifest = workspace.manifest
    metric, baseline = _baseline(manifest)
    is_higher_better = _direction(workspace) if metric else None
    places = _places(manifest)
    # Of several numbers of threads the fewest come first.
    first = next((p for p in places if p.target == LOCAL), None)
    here = {t.artifact: t for t in first.times} if first else {}
    files = tuple(
        _file(workspace, artifact, metric, baseline, is_higher_better, here.get(artifact.id))
        for artifact in manifest.artifacts
    )
    times = sorted(a.step.time for a in manifest.artifacts)
    model = workspace.path / manifest.source.path
    return Report(
        name=workspace.path.resolve().name,
        edgekit=__version__,
        manifest_sha256=sha256(workspace.path / MANIFEST),
        as_of=times[-1] if times else None,
        source=manifest.source,
        source_bytes=size_bytes(model) if model.exists() else None,
        recipe=manifest.recipe,
        metric=metric,
        is_higher_better=is_higher_better,
        baseline=baseline,
        rows=manifest.data.get("verification"),
        files=files,
        places=places,
        counts=_counts(manifest.instructions),
        searches=manifest.searches,
        explanations=manifest.explanations,
        variants=manifest.variants,
        data=manifest.data,
        commands=commands(manifest, workspace.path.resolve().name),
    )


def _baseline(manifest: Manifest) -> tuple[str | None, float | None]:
    """The metric by which files are compared, and what the Keras model reaches."""
    own = [r for r in manifest.accuracy if r.artifact == BASELINE]
    for record in (*own, *manifest.accuracy):
        for name in record.metrics:
            return name, record.metrics[name] if record in own else None
    return None, None


def _direction(workspace: Workspace) -> bool | None:
    """Whether more of the metric is better; without a recipe it is an accuracy."""
    try:
        recipe = evidence.recipe_of(workspace)
    except EdgekitError:
        return None
    return True if recipe is None else recipe.higher_is_better


def _file(
    workspace: Workspace,
    artifact: Artifact,
    metric: str | None,
    baseline: float | None,
    is_higher_better: bool | None,
    times: Times | None,
) -> FileFacts:
    manifest = workspace.manifest
    parity = _of(artifact, manifest.parity)
    accuracy = _of(artifact, manifest.accuracy)
    figure = next((r.metrics[metric] for r in accuracy if metric and metric in r.metrics), None)
    change = None
    if figure is not None and baseline is not None and is_higher_better is not None:
        change = figure - baseline if is_higher_better else baseline - figure
    outputs = [o for r in parity for o in r.outputs]
    state, reasons = _state(workspace, artifact, parity)
    return FileFacts(
        artifact=artifact,
        state=state,
        reasons=reasons,
        cautions=_cautions(parity),
        parity=parity,
        accuracy=accuracy,
        metric=figure,
        change=change,
        max_rel=max((o.max_rel for o in outputs), default=None),
        sqnr_db=min((o.sqnr_db for o in outputs), default=None),
        top1=min((o.top1_agreement for o in outputs if o.top1_agreement is not None), default=None),
        times=times,
        description=_described(workspace, artifact) if state not in (CHANGED, MISSING) else None,
    )


def _of(artifact: Artifact, records: Iterable[R]) -> tuple[R, ...]:
    """Those of this very file, this machine's first."""
    own = [r for r in records if r.artifact == artifact.id and r.sha256 == artifact.sha256]
    return tuple(sorted(own, key=lambda r: (r.target != LOCAL, r.target)))


def _state(
    workspace: Workspace, artifact: Artifact, parity: Sequence[ParityRecord]
) -> tuple[str, tuple[str, ...]]:
    try:
        workspace.artifact_path(artifact)
    except WorkspaceError as e:
        is_there = (workspace.path / artifact.path).exists()
        return CHANGED if is_there else MISSING, (e.message.replace(f"{workspace.path}/", ""),)
    failures = tuple(f"{_where(r)}{text}" for r in parity for text in r.failures)
    if failures:
        return DIFFERS, failures
    if not parity:
        return NOT_VERIFIED, ("no runtime has run it yet",)
    return PROVED, ()


def _where(record: ParityRecord) -> str:
    return "" if record.target == LOCAL else f"on {record.target}: "


def _cautions(parity: Sequence[ParityRecord]) -> tuple[str, ...]:
    if not parity:
        return ()
    found = []
    if all(r.data == "synthetic" for r in parity):
        found.append("compared on random rows only, which say nothing of real ones")
    if all(r.target != LOCAL for r in parity):
        found.append(f"not run on this machine, but on {', '.join(r.target for r in parity)}")
    return tuple(found)


def _described(workspace: Workspace, artifact: Artifact) -> FileDescription | None:
    try:
        return replace(formats.describe(workspace.path / artifact.path), path=artifact.path)
    except SourceError:
        return None


def _places(manifest: Manifest) -> tuple[Place, ...]:
    known = {a.id: a.sha256 for a in manifest.artifacts} | {BASELINE: manifest.source.sha256}
    order = list(known)
    records = sorted(
        (r for r in manifest.latency if known.get(r.artifact) == r.sha256),
        key=lambda r: (*_place(r), order.index(r.artifact) if r.artifact != BASELINE else -1),
    )
    places = []
    for _, group in groupby(records, key=_place):
        same = list(group)
        keras = next((r for r in same if r.artifact == BASELINE), None)
        median = None if keras is None else latency.summarize(keras).p50_ns
        times = tuple(_times(r, median) for r in same)
        places.append(Place(same[0].target, same[0].machine, same[0].threads, times))
    return tuple(places)


def _place(record: LatencyRecord) -> tuple[bool, str, int, str, str]:
    """What records must share to be compared; this machine comes first."""
    machine = record.machine
    return record.target != LOCAL, record.target, record.threads, machine.cpu, machine.os


def _times(record: LatencyRecord, keras_ns: float | None) -> Times:
    summary = latency.summarize(record)
    return Times(
        artifact=record.artifact,
        target=record.target,
        threads=record.threads,
        rows=record.rows,
        runtime=record.runtime,
        machine=record.machine,
        summary=summary,
        medians_ns=latency.medians(record),
        spread_ns=latency.histogram(record, BINS),
        speedup=None if keras_ns is None else keras_ns / summary.p50_ns,
        warnings=record.warnings,
    )


def _counts(records: Sequence[InstructionRecord]) -> tuple[Counts, ...]:
    found = []
    for target, group in groupby(sorted(records, key=lambda r: r.target), key=lambda r: r.target):
        same = tuple(group)
        first: dict[str, int] = {}
        shares = tuple(
            r.counts[0] / first.setdefault(r.artifact.rpartition(".")[2], r.counts[0]) for r in same
        )
        found.append(Counts(target, same[0].machine, same, shares))
    return tuple(found)

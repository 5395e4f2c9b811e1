"""`edgekit bench`: latency, load time, memory and size, side by side with the Keras model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import latency
from edgekit.agent.protocol import JobResult, decode, encode
from edgekit.errors import EdgekitError, Failure, RunnerError, SourceError, TargetError
from edgekit.hashing import size_bytes
from edgekit.latency import Subject, Summary
from edgekit.processes import pinned
from edgekit.targets import Target, open_target
from edgekit.toolchain.client import Toolchain, kind_for
from edgekit.types import (
    BASELINE,
    LOCAL,
    Artifact,
    InstructionRecord,
    Job,
    LatencyRecord,
    ProfileRecord,
    Progress,
)
from edgekit.verbs.count import count_files
from edgekit.verbs.first_row import first_row
from edgekit.verbs.locate import Located, locate, of_workspace, runnable
from edgekit.verbs.profile import profilable, profile_files
from edgekit.workspace import Workspace

SHORTLY_S, ROUNDS = 0.1, 4
"""Of a comparison beside other work: time measured in each process, and how many processes."""


@dataclass(frozen=True)
class BenchRow:
    """One line of the table; `speedup` is the Keras model's p50 / this p50."""

    workspace: str | None
    summary: Summary
    size_bytes: int
    speedup: float | None


@dataclass(frozen=True)
class CountRow:
    """What an emulated machine says of one file."""

    workspace: str | None
    record: InstructionRecord


@dataclass(frozen=True)
class BenchResult:
    """`records` hold the raw samples, `rows` the figures made of them, in the same order."""

    rows: tuple[BenchRow, ...] = ()
    records: tuple[LatencyRecord, ...] = ()
    counts: tuple[CountRow, ...] = ()
    """What an emulated machine gives instead of times."""
    profiles: tuple[ProfileRecord, ...] = ()
    """The operators of each file, where they were asked for."""
    failures: tuple[Failure, ...] = ()


class BenchFailed(RunnerError):
    """An artifact could not be timed; `result` has the others."""

    def __init__(self, result: BenchResult) -> None:
        first, *others = result.failures
        also = f" (and {len(others)} more)" if others else ""
        super().__init__(f"not timed: {first}{also}", hint=first.hint)
        self.result = result


def bench(
    *,
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: str = "local",
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 0.3,
    baseline: bool = True,
    pin: bool = False,
    profile: bool = False,
    model_cycles: bool = False,
    progress: Progress = lambda text: None,
) -> BenchResult:
    """Time artifacts on a target, interleaved over `rounds` processes each.

    Only the invocation is timed: not the copying in and out, not the loading. One row per call
    (or the batch that the file is fixed to), the first of the workspace's rows. An emulated machine
    has no times of its own: there, instructions are counted.

    Args:
        sources: workspaces (all artifacts), artifacts of a workspace, or model files.
        target: where to run; "local" is this machine. Of a workspace, files that it has no runtime
            for are left out.
        threads: threads of the runtime.
        rounds: processes per artifact that is timed.
        seconds: time measured in each process.
        baseline: also time the Keras model of each workspace, called as a compiled graph; only
            on this machine.
        pin: keep each process on as many cores as it has threads; only on this machine.
        profile: after that, also profile each file, in a process of its own: the time by operator.
        model_cycles: of an emulated machine, also the cycles that a model of its processor gives
            for these instructions: uncalibrated, and no measurement.
        progress: told in one line what happens.

    Raises:
        SourceError: a source is not there, or not a model file.
        TargetError: only processes of this machine can be pinned; the target cannot tell operators,
            or has no model of cycles, as was asked for.
        BenchFailed: a runtime is missing, or cannot run a file; the others were timed.
    """
    if pin and target != LOCAL:
        raise TargetError(f"{target}: processes are pinned on {LOCAL} only", hint="leave out --pin")
    given = [sources] if isinstance(sources, (str, os.PathLike)) else sources
    if not given:
        raise SourceError("nothing to time", hint="name a workspace or model files")
    found = [item for source in given for item in locate(Path(source))]
    workspaces = {item.workspace.path: item.workspace for item in found if item.workspace}
    with contextlib.ExitStack() as stack:
        if pin:
            stack.enter_context(pinned(threads))
        place = open_target(target, progress)
        stack.callback(place.close)
        found = runnable(found, place, progress)
        profiled = profilable(found, place, progress) if profile else []
        if model_cycles and not place.models_cycles:
            raise TargetError(
                f"there is no model of the cycles of {place.uri}",
                hint="take qemu:pi4 or qemu:pi5, or leave --model-cycles out",
            )
        if place.is_emulated:
            return _counted(found, place, progress, threads, model_cycles)
        entries: list[_Entry] = []
        if baseline and workspaces and place.uri == LOCAL:
            progress("starting TensorFlow")
            workers: dict[str, Toolchain] = {}
            for workspace in workspaces.values():
                kind = kind_for(workspace.source.family)
                if kind not in workers:
                    workers[kind] = Toolchain(kind=kind, threads=threads)
                    stack.callback(workers[kind].close)
                entries.append(_keras(workspace, workers[kind], seconds, stack))
        entries += [_file(item, place, threads, seconds, stack) for item in found]
        measured = latency.measure(
            [e.subject for e in entries],
            target=target,
            threads=threads,
            rounds=rounds,
            progress=progress,
            pinned=pin,
        )
        p50 = {
            item.path: latency.summarize(r).p50_ns
            for item, r in zip(found, measured[-len(found) :], strict=True)
            if isinstance(r, LatencyRecord)
        }
        profiles = profile_files(
            profiled,
            place,
            threads=threads,
            seconds=seconds,
            medians=[p50.get(item.path) for item in profiled],
            progress=progress,
        )
    pairs = list(zip(entries, measured, strict=True))
    timed = [(e, r) for e, r in pairs if isinstance(r, LatencyRecord)]
    for path, workspace in workspaces.items():
        records = (r for e, r in timed if e.workspace == path)
        workspace.keep(*records, progress=progress)
    result = BenchResult(
        rows=_rows(timed),
        records=tuple(record for _, record in timed),
        profiles=tuple(p for p in profiles if isinstance(p, ProfileRecord)),
        failures=(
            *(r.failure(e.subject.id) for e, r in pairs if isinstance(r, EdgekitError)),
            *(
                p.failure(f"{item.id}, by operator")
                for item, p in zip(profiled, profiles, strict=True)
                if isinstance(p, EdgekitError)
            ),
        ),
    )
    if result.failures:
        raise BenchFailed(result)
    return result


def _counted(
    found: Sequence[Located], place: Target, progress: Progress, threads: int, model: bool
) -> BenchResult:
    answers = count_files(found, place, progress, threads=threads, model=model)
    counted = list(zip(found, answers, strict=True))
    rows = [
        CountRow(str(item.workspace.path) if item.workspace else None, r)
        for item, r in counted
        if isinstance(r, InstructionRecord)
    ]
    for workspace in {id(w): w for item in found if (w := item.workspace)}.values():
        own = (r for item, r in counted if item.workspace is workspace)
        workspace.keep(*(r for r in own if isinstance(r, InstructionRecord)), progress=progress)
    failures = tuple(r.failure(i.id) for i, r in counted if isinstance(r, EdgekitError))
    result = BenchResult(counts=tuple(rows), failures=failures)
    if failures:
        raise BenchFailed(result)
    return result


def time_files(items: Sequence[Located], place: Target) -> list[LatencyRecord | EdgekitError]:
    """Time files side by side, shortly, in their order: a record of each, or why there is none."""
    with contextlib.ExitStack() as stack:
        subjects = [_file(item, place, 1, SHORTLY_S, stack).subject for item in items]
        return latency.measure(
            subjects, target=place.uri, threads=1, rounds=ROUNDS, progress=lambda text: None
        )


def time_artifacts(
    workspace: Workspace, artifacts: Sequence[Artifact], place: Target
) -> tuple[tuple[LatencyRecord, ...], list[str]]:
    """Time artifacts side by side, shortly; their workspace keeps that. And why some have none."""
    found = time_files([of_workspace(workspace, a) for a in artifacts], place)
    records = tuple(r for r in found if isinstance(r, LatencyRecord))
    workspace.add_records(*records)
    reasons = [
        f"{artifact.id} was not timed: {error.message}"
        for artifact, error in zip(artifacts, found, strict=True)
        if isinstance(error, EdgekitError)
    ]
    return records, reasons


@dataclass(frozen=True)
class _Entry:
    subject: Subject
    size_bytes: int
    workspace: Path | None


def _keras(
    workspace: Workspace, toolchain: Toolchain, seconds: float, stack: contextlib.ExitStack
) -> _Entry:
    source = workspace.manifest.source
    inputs = first_row(source.signature, workspace, stack)
    job = Job("time", BASELINE, "", source.signature, inputs, out="", seconds=seconds)

    def execute() -> JobResult:
        answer = toolchain.call("time", source=encode(workspace.source), job=encode(job))
        return decode(JobResult, answer)

    subject = Subject(BASELINE, source.sha256, 1, execute)
    return _Entry(subject, size_bytes(workspace.model), workspace.path)


def _file(
    item: Located, place: Target, threads: int, seconds: float, stack: contextlib.ExitStack
) -> _Entry:
    form = item.id.rpartition(".")[2]
    inputs = first_row(item.signature, item.workspace, stack)
    job = Job(
        "time",
        form,
        str(item.path),
        item.signature,
        inputs,
        out="",
        threads=threads,
        seconds=seconds,
    )
    rows = item.signature.inputs[0].shape[0] or 1
    subject = Subject(item.id, item.sha256, rows, lambda: place.execute(job))
    home = item.workspace.path if item.workspace else None
    return _Entry(subject, size_bytes(item.path), home)


def _rows(timed: Sequence[tuple[_Entry, LatencyRecord]]) -> tuple[BenchRow, ...]:
    summaries = [(entry, latency.summarize(record)) for entry, record in timed]
    keras = {e.workspace: s.p50_ns for e, s in summaries if s.artifact == BASELINE}
    return tuple(
        BenchRow(
            workspace=None if e.workspace is None else str(e.workspace),
            summary=s,
            size_bytes=e.size_bytes,
            speedup=keras[e.workspace] / s.p50_ns if e.workspace in keras else None,
        )
        for e, s in summaries
    )

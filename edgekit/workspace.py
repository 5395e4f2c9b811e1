"""A workspace: a folder with a model, its artifacts, and manifest.json, which vouches for them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import WorkspaceError
from edgekit.hashing import sha256
from edgekit.locking import lock
from edgekit.manifest import (
    MANIFEST,
    SCHEMA,
    DataInfo,
    Manifest,
    SourceInfo,
    VariantInfo,
    read_manifest,
    reference_name,
    write_manifest,
)
from edgekit.types import (
    BASELINE,
    AccuracyRecord,
    Artifact,
    Explanation,
    InstructionRecord,
    LatencyRecord,
    ParityRecord,
    Progress,
    SearchRecord,
    Source,
    Step,
)

Measured = ParityRecord | AccuracyRecord | LatencyRecord | InstructionRecord
Record = Measured | SearchRecord | Explanation

PREPROCESSING = "preprocessing.json"
LOCK = ".lock"
TRAINING = ".training"
"""A folder in which a training lies, before the workspace is made of it."""
AGAIN = "export again to make it"


class Workspace:
    """Reads and changes a workspace; each change is one atomic write of the manifest."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path) -> Workspace:
        """The workspace in the folder `path`.

        Raises:
            WorkspaceError: there is none, or its manifest cannot be read.
        """
        return cls(path, read_manifest(path))

    @classmethod
    def create(
        cls, path: Path, model: Path, source: SourceInfo, preprocessing: Any = None
    ) -> Workspace:
        """A workspace for a copy of `model`, or the one that is there for the same model.

        `preprocessing` is written beside it as JSON.

        Raises:
            WorkspaceError: the folder holds something else.
        """
        if (path / MANIFEST).exists():
            existing = cls.open(path)
            if existing.manifest.source.identity != source.identity:
                raise WorkspaceError(
                    f"{path} is the workspace of another model",
                    hint="give another folder with -o, or remove this one",
                )
            return existing
        if path.exists() and (not path.is_dir() or any(p.name != TRAINING for p in path.iterdir())):
            raise WorkspaceError(
                f"{path} exists and is not a workspace", hint="give a new folder with -o"
            )
        path.mkdir(parents=True, exist_ok=True)
        workspace = cls(path, Manifest(SCHEMA, source))
        with workspace.staging() as staging:
            copy = staging / "model"
            if model.is_dir():
                shutil.copytree(model, copy)
            else:
                shutil.copyfile(model, copy)
            os.replace(copy, path / source.path)
            if preprocessing is not None:
                text = json.dumps(preprocessing, indent=1, ensure_ascii=False)
                (path / PREPROCESSING).write_text(text + "\n", encoding="utf-8")
        workspace.change()
        return workspace

    @property
    def source(self) -> Source:
        """The model for the toolchain, after its hash was compared."""
        info = self.manifest.source
        return Source(
            path=str(self.model),
            family=info.family.partition(" ")[0],
            custom_objects=info.custom_objects,
            builder=info.builder,
            from_layer=info.from_layer,
            until_layer=info.until_layer,
        )

    @property
    def model(self) -> Path:
        """The Keras model, after its hash was compared."""
        return self._file(self.manifest.source.path, self.manifest.source.sha256)

    def model_of(self, variant: str | None) -> tuple[Source, str]:
        """The Keras model that artifacts of a variant are made from, and its SHA-256."""
        if variant is None:
            return self.source, self.manifest.source.sha256
        info = self.manifest.variants.get(variant)
        if info is None:
            known = ", ".join(self.manifest.variants) or "none yet; edgekit prune makes some"
            raise WorkspaceError(
                f"{self.path} has no model variant {variant!r}", hint=f"it has: {known}"
            )
        path = self._file(info.path, info.sha256)
        return self.source_at(path, variant), info.sha256

    def source_at(self, path: Path, variant: str) -> Source:
        """A variant's file for the toolchain: loaded as the workspace's own model."""
        # With fewer channels it is not what a builder builds.
        is_cut = "structured" in variant
        return self.source.of_itself(str(path)) if is_cut else replace(self.source, path=str(path))

    def artifact(self, id: str) -> Artifact:
        """The artifact of that id; WorkspaceError lists the ones that there are."""
        for artifact in self.manifest.artifacts:
            if artifact.id == id:
                return artifact
        known = ", ".join(a.id for a in self.manifest.artifacts) or "none yet"
        raise WorkspaceError(f"{self.path} has no artifact {id!r}", hint=f"it has: {known}")

    def artifact_path(self, artifact: Artifact) -> Path:
        """Where the artifact lies, after its hash was compared."""
        return self._file(artifact.path, artifact.sha256)

    def has_data(self, *names: str) -> bool:
        """Whether all these rows are there; a file that was lost is made again."""
        infos = [self.manifest.data.get(name) for name in names]
        return all(info is not None and (self.path / info.path).exists() for info in infos)

    def data_path(self, name: str) -> Path | None:
        """Where the rows called `name` lie, after their hash was compared; None: there are none."""
        info = self.manifest.data.get(name)
        if info is None:
            return None
        remedy = "give the rows again: --samples FILE.npz" if info.origin == "samples" else AGAIN
        return self._file(info.path, info.sha256, remedy)

    def change(self, **changes: Any) -> None:
        """Replace fields of the manifest and write it, whole or not at all."""
        manifest = replace(self.manifest, **changes)
        write_manifest(self.path, manifest)
        self.manifest = manifest

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from changing this workspace; what they changed before is read anew.

        Raises:
            WorkspaceError: another command is changing it now.
        """
        with lock(self.path / LOCK) as is_ours:
            if not is_ours:
                raise WorkspaceError(
                    f"{self.path} is in use by another edgekit command",
                    hint="wait until that has finished",
                )
            self.manifest = Workspace.open(self.path).manifest
            for left in self.path.glob(".staging-*"):  # of a command that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder on the workspace's own disk for files that are not proved yet."""
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".staging-") as folder:
            yield Path(folder)

    def take_data(
        self, staged: Mapping[str, tuple[Path, int, str]], dropped: Collection[str] = ()
    ) -> None:
        """Take over staged .npz files: name -> (file, rows, origin), all in one change.

        With rows that are `dropped`, the models' outputs for them go, too; with other rows, those
        of the models that were trained on; with other verification rows, the proofs made on the
        old ones.
        """
        infos = {
            name: DataInfo(f"{name}.npz", sha256(file), rows, origin)
            for name, (file, rows, origin) in staged.items()
        }
        data = self.manifest.data
        other = {n for n, info in infos.items() if n in data and data[n].sha256 != info.sha256}
        stale = {reference_name(n, v) for n in {*other, *dropped} for v in self.manifest.variants}
        stale |= {*dropped, *map(reference_name, dropped)}
        kept = {n: info for n, info in data.items() if n not in stale}
        changes: dict[str, Any] = {"data": {**kept, **infos}}
        if "verification" in other:
            changes |= {"parity": (), "accuracy": ()}
        for name, (file, _, _) in staged.items():
            os.replace(file, self.path / infos[name].path)
        self.change(**changes)
        for name in stale & {*data}:
            (self.path / data[name].path).unlink(missing_ok=True)

    def take_variant(self, name: str, staged: Path, step: Step) -> list[str]:
        """Take over a staged Keras model.

        Returns:
            The files that an earlier one led to, which are dropped.
        """
        info = VariantInfo(staged.name, sha256(staged), step)
        before = self.manifest.variants.get(name)
        dropped: list[str] = []
        if before is not None and before.sha256 != info.sha256:
            dropped = self._drop_variant(name)
        os.replace(staged, self.path / info.path)
        self.change(variants={**self.manifest.variants, name: info})
        return dropped

    def _drop_variant(self, name: str) -> list[str]:
        """Forget a model, those that were made from it, their artifacts and outputs."""
        gone = {v for v in self.manifest.variants if f"{v}-".startswith(f"{name}-")}
        artifacts = {a.id: a for a in self.manifest.artifacts if a.model in gone}
        data = {
            n: d
            for n, d in self.manifest.data.items()
            if any(n.startswith(f"{v}-") and n.endswith("reference") for v in gone)
        }
        paths = [
            *(self.manifest.variants[v].path for v in gone),
            *(a.path for a in artifacts.values()),
            *(d.path for d in data.values()),
        ]
        subjects = {*artifacts, *(self.manifest.variants[v].path for v in gone)}
        subjects |= {
            e.artifact
            for e in self.manifest.explanations
            if any(e.artifact.startswith(f"{v}-") for v in gone)
        }
        changes: dict[str, Any] = {
            "variants": {n: v for n, v in self.manifest.variants.items() if n not in gone},
            "artifacts": tuple(a for a in self.manifest.artifacts if a.id not in artifacts),
            "data": {n: d for n, d in self.manifest.data.items() if n not in data},
        }
        for kind in _KINDS.values():
            records = getattr(self.manifest, kind)
            changes[kind] = tuple(r for r in records if _subject(r) not in subjects)
        self.change(**changes)
        for path in paths:
            _remove(self.path / path)
        return [*sorted(gone - {name}), *artifacts]

    def publish(self, artifact: Artifact, staged: Path, *records: Record) -> None:
        """Take over a staged artifact with its records; those of an earlier one are dropped."""
        final = self.path / artifact.path
        if final.is_dir():
            # A folder cannot be replaced in one step: the old one leaves first.
            os.replace(final, staged.with_name("replaced"))
        os.replace(staged, final)

        kept = [a for a in self.manifest.artifacts if a.id != artifact.id]
        changes: dict[str, Any] = {"artifacts": tuple(sorted([*kept, artifact], key=_order))}
        # An explanation is not of this file: it is of one that was made to be looked into.
        for kind in set(_KINDS.values()) - {"explanations"}:
            present = getattr(self.manifest, kind)
            changes[kind] = tuple(r for r in present if _subject(r) != artifact.id)
        for record in records:
            changes[_KINDS[type(record)]] += (record,)
        self.change(**changes)

    def add_records(self, *records: Record) -> None:
        """Keep `records`, each in place of an earlier one of the same artifact and conditions."""
        changes: dict[str, tuple[Any, ...]] = {}
        for record in records:
            kind = _KINDS[type(record)]
            present = changes.get(kind, getattr(self.manifest, kind))
            kept = [r for r in present if _conditions(r) != _conditions(record)]
            changes[kind] = (*kept, record)
        self.change(**changes)

    def keep(self, *records: Measured, progress: Progress) -> None:
        """Keep `records` if that is possible: what was found is true where it cannot be written."""
        try:
            with self.locked():
                known = {BASELINE: self.manifest.source.sha256}
                known |= {a.id: a.sha256 for a in self.manifest.artifacts}
                self.add_records(*(r for r in records if known.get(r.artifact) == r.sha256))
        except (OSError, WorkspaceError) as e:
            progress(f"the records are not kept in {self.path}: {e}")

    def _file(self, relative: str, digest: str, remedy: str = AGAIN) -> Path:
        path = self.path / relative
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise WorkspaceError(f"{self.path}: the manifest names a path outside: {relative}")
        if not path.exists():
            raise WorkspaceError(f"{path} is missing", hint=remedy)
        if sha256(path) != digest:
            raise WorkspaceError(
                f"{path} is not the file that was recorded: its SHA-256 differs",
                hint="export again, or restore the file",
            )
        return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


_KINDS: dict[type, str] = {
    ParityRecord: "parity",
    AccuracyRecord: "accuracy",
    LatencyRecord: "latency",
    InstructionRecord: "instructions",
    SearchRecord: "searches",
    Explanation: "explanations",
}


def _subject(record: Any) -> str | None:
    """The artifact that a record is of; a search is of none."""
    return getattr(record, "artifact", None)


def _conditions(record: Any) -> tuple[Any, ...]:
    """What two records must share for the newer one to replace the older."""
    if isinstance(record, LatencyRecord):
        # Two phones may have the same name for their processor.
        place = record.machine
        return (
            *(record.artifact, record.target, record.threads),
            *(place.cpu, place.os, place.cores),
        )
    if isinstance(record, AccuracyRecord):
        return record.artifact, record.split, record.target
    if isinstance(record, SearchRecord):
        return record.format, record.method
    if isinstance(record, Explanation):
        return (record.artifact,)
    if isinstance(record, InstructionRecord):
        return record.artifact, record.target
    return record.artifact, record.target, record.runtime.name, record.machine.cpu


_FORMAT_ORDER = {"tflite": 0, "onnx": 1, "tfjs": 2}


def _order(artifact: Artifact) -> tuple[Any, ...]:
    return _FORMAT_ORDER.get(artifact.format, 9), artifact.variant

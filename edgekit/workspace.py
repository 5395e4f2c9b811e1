"""A workspace: a folder with a model, its artifacts, and manifest.json, which vouches for them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.agent.protocol import DecodeError, decode, encode
from edgekit.errors import WorkspaceError
from edgekit.hashing import sha256
from edgekit.locking import lock
from edgekit.types import (
    BASELINE,
    AccuracyRecord,
    Artifact,
    Code,
    LatencyRecord,
    ParityRecord,
    Progress,
    SearchRecord,
    Signature,
    Source,
    Step,
)

Record = ParityRecord | AccuracyRecord | LatencyRecord | SearchRecord

SCHEMA = 1
MANIFEST = "manifest.json"
PREPROCESSING = "preprocessing.json"
LOCK = ".lock"
AGAIN = "export again to make it"


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
    searches: tuple[SearchRecord, ...] = ()


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
        file = path / MANIFEST
        try:
            data = json.loads(file.read_bytes())
        except OSError as e:
            raise WorkspaceError(
                f"{path} is not a workspace: it has no {MANIFEST}",
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
            manifest = decode(Manifest, data, "manifest")
        except DecodeError as e:
            raise WorkspaceError(f"{file}: {e}", hint="export again into a new folder") from e
        return cls(path, manifest)

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
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
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
            raise WorkspaceError(
                f"{self.path} has no model {variant!r} any more", hint="quantize it again"
            )
        path = self._file(info.path, info.sha256)
        return replace(self.source, path=str(path)), info.sha256

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
        text = _one_line_lists(json.dumps(encode(manifest), indent=1, allow_nan=False)) + "\n"
        descriptor, name = tempfile.mkstemp(dir=self.path, prefix=".manifest-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, self.path / MANIFEST)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
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

    def take_variant(self, name: str, staged: Path, step: Step) -> None:
        """Take over a staged Keras model; the references of an earlier one are dropped."""
        info = VariantInfo(staged.name, sha256(staged), step)
        os.replace(staged, self.path / info.path)
        data = {n: d for n, d in self.manifest.data.items() if not n.startswith(f"{name}-")}
        self.change(variants={**self.manifest.variants, name: info}, data=data)

    def publish(self, artifact: Artifact, staged: Path, *records: Record) -> None:
        """Take over a staged artifact with its records; those of an earlier one are dropped."""
        final = self.path / artifact.path
        if final.is_dir():
            # A folder cannot be replaced in one step: the old one leaves first.
            os.replace(final, staged.with_name("replaced"))
        os.replace(staged, final)

        kept = [a for a in self.manifest.artifacts if a.id != artifact.id]
        changes: dict[str, Any] = {"artifacts": tuple(sorted([*kept, artifact], key=_order))}
        for kind in _KINDS.values():
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

    def keep(
        self, *records: ParityRecord | AccuracyRecord | LatencyRecord, progress: Progress
    ) -> None:
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


def reference_name(rows: str, variant: str | None = None) -> str:
    """The data with a Keras model's outputs for `rows`, which is a name of data, too."""
    first = "" if rows == "verification" else f"{rows}-"
    return f"{first}reference" if variant is None else f"{variant}-{first}reference"


_KINDS: dict[type, str] = {
    ParityRecord: "parity",
    AccuracyRecord: "accuracy",
    LatencyRecord: "latency",
    SearchRecord: "searches",
}


def _subject(record: Any) -> str | None:
    """The artifact that a record is of; a search is of none."""
    return getattr(record, "artifact", None)


def _conditions(record: Any) -> tuple[Any, ...]:
    """What two records must share for the newer one to replace the older."""
    if isinstance(record, LatencyRecord):
        return record.artifact, record.target, record.threads, record.machine.cpu
    if isinstance(record, AccuracyRecord):
        return record.artifact, record.split
    if isinstance(record, SearchRecord):
        return record.format, record.method
    return record.artifact, record.runtime.name, record.machine.arch


def _one_line_lists(text: str) -> str:
    """Indented JSON with lists of numbers (shapes, raw samples) on one line each."""
    return re.sub(
        r"\[[\s\d.,eE+-]*(?:null[\s\d.,eE+-]*)*\]",
        lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"),
        text,
    )


_FORMAT_ORDER = {"tflite": 0, "onnx": 1, "tfjs": 2}


def _order(artifact: Artifact) -> tuple[Any, ...]:
    return _FORMAT_ORDER.get(artifact.format, 9), artifact.variant

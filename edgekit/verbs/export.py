"""`edgekit export`: convert, prove, publish. What cannot be proved is not published."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import evidence
from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import Signature, decode
from edgekit.errors import ConversionError, EdgekitError, MissingDependency, SourceError
from edgekit.evidence import Evidence
from edgekit.hashing import sha256, size_bytes
from edgekit.proof import Proof, measure_accuracy, prove
from edgekit.samples import Samples, read_samples
from edgekit.targets import Target, open_target
from edgekit.toolchain.client import Toolchain, open_toolchain
from edgekit.types import (
    BASELINE,
    FORMATS,
    PRECISIONS,
    AccuracyRecord,
    Artifact,
    ParityRecord,
    Progress,
    Step,
)
from edgekit.workspace import SourceInfo, Workspace

SUPPORTED = {
    "tflite": ("fp32", "fp16", "int8"),
    "onnx": ("fp32", "int8"),
    "tfjs": ("fp32", "fp16", "int8"),
}
"""int8 in TF.js means weights stored in 8 bits: smaller to download, computed in float."""


@dataclass(frozen=True)
class Failure:
    """An artifact that was asked for and does not exist, and why."""

    artifact: str
    error: str
    message: str
    hint: str | None


@dataclass(frozen=True)
class ExportResult:
    """`artifacts` are proved (parity has a record of each) unless `allow_unverified`."""

    workspace: str
    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    failures: tuple[Failure, ...]


class ExportFailed(ConversionError):
    """Some artifacts could not be made or did not hold; `result` has the others."""

    def __init__(self, result: ExportResult) -> None:
        first, *others = result.failures
        also = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{first.artifact}: {first.message}{also}", hint=first.hint)
        self.result = result


def export(
    *,
    source: str | os.PathLike[str],
    to: Sequence[str] = FORMATS,
    precision: Sequence[str] = ("fp32",),
    samples: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    opset: int = 17,
    int8_io: bool = False,
    allow_unverified: bool = False,
    progress: Progress = lambda text: None,
) -> ExportResult:
    """Export a model to every format of `to` in every precision of `precision`.

    Each file is loaded by its own runtime and compared with the Keras model before it appears in
    the workspace: on the recipe's test split, on `samples`, or on random rows.

    Args:
        source: a workspace, or a .keras or .h5 file saved by Keras 3.
        to: any of "tflite", "onnx", "tfjs".
        precision: any of "fp32", "fp16", "int8".
        samples: an .npz file of rows (arrays named after the inputs, or `x`; labels as `y`), to
            calibrate int8 with and, without a recipe, to compare on.
        output: the workspace; `<model name>-edgekit` beside you unless given.
        batch: rows per call; unless given 1 in TFLite, any number in ONNX and TF.js.
        opset: of ONNX, 13 to 18.
        int8_io: int8 TFLite files take and give int8 instead of float32.
        allow_unverified: publish, as "not verified", what no runtime here can load.
        progress: told in one line what happens.

    Raises:
        ExportFailed: an artifact could not be made, or is not equal to the model. The others are
            finished, and in its `result`.
        SourceError: the model or the samples cannot be used.
        WorkspaceError: the folder holds something else.
    """
    wanted = _plan(to, precision)
    with open_toolchain(progress) as toolchain:
        workspace = _workspace(Path(source), output, toolchain)
        rows = None
        if samples is not None:
            rows = read_samples(Path(samples), workspace.manifest.source.signature)
        evidence.prepare(workspace, toolchain, rows, progress)
        calibration = evidence.calibration(workspace) if "int8" in precision else None
        if "int8" in precision and calibration is None and set(to) != {"tfjs"}:
            raise SourceError(
                "int8 needs samples to calibrate with, and there are none",
                hint="give --samples FILE.npz with a few hundred typical rows",
            )
        with evidence.opened(workspace) as proof_rows:
            job = _Export(
                workspace, toolchain, proof_rows, open_target("local"), allow_unverified, progress
            )
            options = {"batch": batch, "opset": opset, "int8_io": int8_io}
            result = job.run(wanted, options, calibration)
    if result.failures:
        raise ExportFailed(result)
    return result


def describe_source(model: Path, toolchain: Toolchain) -> SourceInfo:
    """What a workspace records of the Keras model in the file `model`."""
    found = toolchain.call("load", source=str(model))
    return SourceInfo(
        path=f"model{model.suffix}",
        sha256=sha256(model),
        name=found["name"],
        family=found["family"],
        parameters=found["parameters"],
        signature=decode(Signature, found["signature"]),
    )


def _plan(to: Sequence[str], precision: Sequence[str]) -> list[tuple[str, str]]:
    _check_names("format", to, FORMATS)
    _check_names("precision", precision, PRECISIONS)
    plan = []
    for form in (f for f in FORMATS if f in to):
        for kind in (p for p in PRECISIONS if p in precision):
            if kind not in SUPPORTED[form]:
                raise ConversionError(
                    f"{form} cannot be {kind}", hint=f"{form}: {', '.join(SUPPORTED[form])}"
                )
            plan.append((form, kind))
    return plan


def _check_names(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    given = list(given)
    if not given:
        raise ConversionError(f"no {what} was asked for", hint=f"known: {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ConversionError(f"unknown {what} {name!r}", hint=f"known: {', '.join(known)}")


def _workspace(
    source: Path, output: str | os.PathLike[str] | None, toolchain: Toolchain
) -> Workspace:
    if source.is_dir():
        if output is not None and Path(output).resolve() != source.resolve():
            raise SourceError(
                f"{source} is a workspace: its artifacts go into it", hint="leave out -o"
            )
        return Workspace.open(source)
    if not source.exists():
        raise SourceError(f"there is no file {source}")
    if source.suffix not in (".keras", ".h5"):
        raise SourceError(
            f"{source} is not a Keras model file", hint="save one with model.save('model.keras')"
        )
    folder = Path(f"{source.stem}-edgekit") if output is None else Path(output)
    return Workspace.create(folder, source, describe_source(source, toolchain))


@dataclass(frozen=True)
class _Export:
    """Converts in the toolchain while, in one thread, the file before is being proved."""

    workspace: Workspace
    toolchain: Toolchain
    evidence: Evidence
    target: Target
    allow_unverified: bool
    progress: Progress

    def run(
        self,
        wanted: list[tuple[str, str]],
        options: dict[str, Any],
        calibration: Samples | None,
    ) -> ExportResult:
        proofs: list[tuple[Artifact, Path, Future[Proof]]] = []
        failures: list[Failure] = []
        with self.workspace.staging() as staging, ThreadPoolExecutor(1) as prover:
            feeds = save_arrays(calibration.feed, staging / "calibration") if calibration else None
            for form, precision in wanted:
                try:
                    artifact, path = self._convert(form, precision, options, feeds, staging)
                    proofs.append((artifact, path, prover.submit(self._prove, artifact, path)))
                except EdgekitError as e:
                    failures.append(_failure(f"{precision}.{form}", e))
            self.progress("comparing with the Keras model")
            finished = list(self._publish(proofs, failures))
        self._record_baseline()
        return ExportResult(
            workspace=str(self.workspace.path),
            artifacts=tuple(a for a, _ in finished),
            parity=tuple(p.parity for _, p in finished if p is not None),
            accuracy=tuple(p.accuracy for _, p in finished if p is not None and p.accuracy),
            failures=tuple(failures),
        )

    def _convert(
        self,
        form: str,
        precision: str,
        options: dict[str, Any],
        calibration: dict[str, str] | None,
        staging: Path,
    ) -> tuple[Artifact, Path]:
        id = f"{precision}.{form}"
        self.progress(f"{id}: converting")
        path = staging / id
        used = _used_options(form, precision, options)
        try:
            answer = self.toolchain.call(
                "convert",
                source=str(self.workspace.model),
                form=form,
                precision=precision,
                path=str(path),
                calibration=calibration if precision == "int8" else None,
                **{"batch": None, "opset": 17, "int8_io": False, **used},
            )
        except ConversionError as e:
            if "SIGSEGV" in e.message:
                e.hint = "the converter crashes on this model; the other formats are not affected"
            raise
        manifest = self.workspace.manifest
        step = Step(
            verb="export",
            options={"precision": precision, **used},
            parent=manifest.source.sha256,
            tools=answer["tools"],
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        return Artifact(
            id=id,
            path=id,
            sha256=sha256(path),
            size_bytes=size_bytes(path),
            signature=decode(Signature, answer["signature"]),
            step=step,
        ), path

    def _prove(self, artifact: Artifact, path: Path) -> Proof:
        proof = prove(
            path,
            id=artifact.id,
            precision=artifact.precision,
            sha256=artifact.sha256,
            signature=artifact.signature,
            evidence=self.evidence,
            target=self.target,
        )
        verdict = "differs from" if proof.parity.failures else "proved against"
        self.progress(f"{artifact.id}: {verdict} the Keras model on {self.evidence.rows:,} rows")
        return proof

    def _publish(
        self, proofs: list[tuple[Artifact, Path, Future[Proof]]], failures: list[Failure]
    ) -> Iterator[tuple[Artifact, Proof | None]]:
        for artifact, path, future in proofs:
            proof: Proof | None = None
            try:
                proof = future.result()
                _require(artifact, proof)
            except MissingDependency as e:
                if not self.allow_unverified:
                    failures.append(_failure(artifact.id, _not_verified(e)))
                    continue
            except EdgekitError as e:
                failures.append(_failure(artifact.id, e))
                continue
            self.workspace.publish(artifact, path)
            if proof is not None:
                self.workspace.add_records(proof.parity)
            if proof is not None and proof.accuracy is not None:
                self.workspace.add_records(proof.accuracy)
            yield artifact, proof

    def _record_baseline(self) -> None:
        digest = self.workspace.manifest.source.sha256
        record = measure_accuracy(BASELINE, digest, self.evidence.reference, self.evidence)
        if record is not None:
            self.workspace.add_records(record)


def _used_options(form: str, precision: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that mean something here, with their defaults spelled out."""
    batch = options["batch"]
    used: dict[str, Any] = {"batch": 1 if batch is None and form == "tflite" else batch}
    if form == "onnx":
        used["opset"] = options["opset"]
    if form == "tflite" and precision == "int8":
        used["int8_io"] = options["int8_io"]
    return used


def _require(artifact: Artifact, proof: Proof) -> None:
    if proof.parity.failures:
        raise ConversionError(
            f"the converted file is not equal to the Keras model, and was removed: "
            f"{'; '.join(proof.parity.failures)}",
            hint="more or other --samples may help"
            if artifact.variant == "int8"
            else "please report this model",
        )


def _not_verified(error: MissingDependency) -> MissingDependency:
    return MissingDependency(
        f"not verified, so not exported: {error.message}",
        hint=f"{error.hint}; or --allow-unverified to get the file without proof",
    )


def _failure(id: str, error: EdgekitError) -> Failure:
    return Failure(id, type(error).__name__, error.message, error.hint)

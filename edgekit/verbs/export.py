"""`edgekit export`: convert, prove, publish. What cannot be proved is not published."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import evidence
from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.errors import (
    ConversionError,
    EdgekitError,
    Failure,
    MissingDependency,
    SourceError,
)
from edgekit.evidence import Evidence
from edgekit.hashing import sha256, size_bytes
from edgekit.proof import Proof, measure_accuracy, prove
from edgekit.samples import read_samples
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
from edgekit.workspace import Workspace

SUPPORTED = {
    "tflite": ("fp32", "fp16", "int8"),
    "onnx": ("fp32", "int8"),
    "tfjs": ("fp32", "fp16", "int8"),
}
"""int8 in TF.js means weights stored in 8 bits: smaller to download, computed in float."""


@dataclass(frozen=True)
class ExportResult:
    """`artifacts` are proved (parity has a record of each) unless `allow_unverified`."""

    workspace: str
    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...] = ()


class ExportFailed(ConversionError):
    """Some artifacts could not be made or did not hold; `result` has the others."""

    def __init__(self, result: ExportResult) -> None:
        first, *others = result.failures
        also = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{first}{also}", hint=first.hint)
        self.result = result


def export(
    *,
    source: str | os.PathLike[str],
    to: str | Sequence[str] = FORMATS,
    precision: str | Sequence[str] = ("fp32",),
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
        batch: rows per call; unless given 1 in TFLite, any number in ONNX and TF.js, or what the
            model itself is fixed to.
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
    wanted = _plan(_several(to), _several(precision))
    given = Path(source)
    _check_files(given, samples, wanted)
    with contextlib.ExitStack() as stack:
        toolchain = stack.enter_context(open_toolchain(progress))
        workspace = _workspace(given, output, toolchain)
        stack.enter_context(workspace.locked())
        rows = None
        if samples is not None:
            rows = read_samples(Path(samples), workspace.manifest.source.signature)
        evidence.prepare(workspace, toolchain, rows, progress)
        held = stack.enter_context(evidence.opened(workspace))
        target = open_target("local")
        stack.callback(target.close)
        options = {"batch": batch, "opset": opset, "int8_io": int8_io}
        job = _Export(workspace, toolchain, held, target, options, allow_unverified, progress)
        result = job.run(wanted)
    if result.failures:
        raise ExportFailed(result)
    return result


def _plan(to: Sequence[str], precision: Sequence[str]) -> list[tuple[str, str]]:
    _check_names("format", to, FORMATS)
    _check_names("precision", precision, PRECISIONS)
    plan = []
    # Files that take longest to prove come first: proofs go on while the next is converted.
    for form in (f for f in reversed(FORMATS) if f in to):
        for kind in (p for p in PRECISIONS if p in precision):
            if kind not in SUPPORTED[form]:
                raise ConversionError(
                    f"{form} cannot be {kind}", hint=f"{form}: {', '.join(SUPPORTED[form])}"
                )
            plan.append((form, kind))
    return plan


def _several(names: str | Sequence[str]) -> Sequence[str]:
    """`to="onnx"` is one format, not four letters."""
    return (names,) if isinstance(names, str) else names


def _check_files(
    source: Path, samples: str | os.PathLike[str] | None, wanted: list[tuple[str, str]]
) -> None:
    """What can be refused before TensorFlow starts."""
    if not source.exists():
        raise SourceError(f"there is no file {source}")
    if not source.is_dir() and source.suffix not in (".keras", ".h5"):
        raise SourceError(
            f"{source} is not a Keras model file", hint="save one with model.save('model.keras')"
        )
    if samples is not None and not Path(samples).is_file():
        raise SourceError(f"there is no file {samples}")
    needs_rows = any(kind == "int8" and form != "tfjs" for form, kind in wanted)
    has_rows = source.is_dir() and Workspace.open(source).has_data("calibration")
    has_recipe = source.is_dir() and Workspace.open(source).manifest.recipe is not None
    if needs_rows and samples is None and not has_rows and not has_recipe:
        raise SourceError(
            "int8 needs samples to calibrate with, and there are none",
            hint="give --samples FILE.npz with a few hundred typical rows",
        )


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
    folder = Path(f"{source.stem}-edgekit") if output is None else Path(output)
    return Workspace.create(folder, source, evidence.describe_source(source, toolchain))


@dataclass(frozen=True)
class _Draft:
    """A converted file that is not proved yet."""

    id: str
    path: Path
    signature: Signature
    step: Step


@dataclass(frozen=True)
class _Export:
    """Converts in the toolchain while, in one thread, the file before is being proved."""

    workspace: Workspace
    toolchain: Toolchain
    evidence: Evidence
    target: Target
    options: dict[str, Any]
    allow_unverified: bool
    progress: Progress

    def run(self, wanted: list[tuple[str, str]]) -> ExportResult:
        drafts: list[tuple[_Draft, Future[Any]]] = []
        failures: list[Failure] = []
        with contextlib.ExitStack() as stack:
            staging = stack.enter_context(self.workspace.staging())
            calibration = self._calibration(staging, wanted)
            quantizer = None
            if ("onnx", "int8") in wanted:
                quantizer = Toolchain(kind="quantizer")
                stack.callback(quantizer.close)
            prover = stack.enter_context(ThreadPoolExecutor(1))
            for form, precision in wanted:
                try:
                    draft = self._convert(form, precision, calibration, staging)
                except EdgekitError as e:
                    failures.append(e.failure(f"{precision}.{form}"))
                else:
                    future = prover.submit(self._finish, draft, calibration, quantizer)
                    drafts.append((draft, future))
            self.progress("comparing with the Keras model")
            finished = sorted(self._publish(drafts, failures), key=lambda f: _place(f[0].id))
        self._record_baseline()
        return ExportResult(
            workspace=str(self.workspace.path),
            artifacts=tuple(a for a, _ in finished),
            parity=tuple(p.parity for _, p in finished if p is not None),
            accuracy=tuple(p.accuracy for _, p in finished if p is not None and p.accuracy),
            failures=tuple(sorted(failures, key=lambda f: _place(f.artifact))),
            warnings=evidence.weaknesses(self.evidence),
        )

    def _calibration(self, staging: Path, wanted: list[tuple[str, str]]) -> dict[str, str] | None:
        """The calibration rows as .npy files, where an int8 file is wanted."""
        samples = evidence.calibration(self.workspace)
        if samples is None or not any(precision == "int8" for _, precision in wanted):
            return None
        info = self.workspace.manifest.data["calibration"]
        origin = "the recipe" if info.origin == "recipe" else "samples"
        self.progress(f"calibrating int8 with {info.rows:,} rows of {origin}")
        return save_arrays(samples.feed, staging / "calibration")

    def _convert(
        self, form: str, precision: str, calibration: dict[str, str] | None, staging: Path
    ) -> _Draft:
        id = f"{precision}.{form}"
        self.progress(f"{id}: converting")
        path = staging / id
        options = self._used_options(form, precision)
        answer = self.toolchain.call(
            "convert",
            source=str(self.workspace.model),
            form=form,
            precision=precision,
            path=str(path),
            calibration=calibration if precision == "int8" else None,
            **{"opset": 17, "int8_io": False, **options},
        )
        if precision == "int8" and form != "tfjs":
            info = self.workspace.manifest.data["calibration"]
            options |= {"calibration_sha256": info.sha256, "calibration_rows": info.rows}
        step = Step(
            verb="export",
            options={"precision": precision, **options},
            parent=self.workspace.manifest.source.sha256,
            tools=answer["tools"],
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        return _Draft(id, path, decode(Signature, answer["signature"]), step)

    def _finish(
        self, draft: _Draft, calibration: dict[str, str] | None, quantizer: Toolchain | None
    ) -> tuple[Artifact, Path, Proof | MissingDependency]:
        """Quantize where that is still to be done, and prove: beside the worker, in a thread."""
        path, signature = draft.path, draft.signature
        if draft.id == "int8.onnx" and quantizer is not None:
            path = draft.path.with_name("quantized.onnx")
            answer = quantizer.call(
                "quantize",
                fp32=str(draft.path),
                path=str(path),
                signature=encode(signature),
                calibration=calibration,
            )
            signature = decode(Signature, answer)
        digest, size = sha256(path), size_bytes(path)
        artifact = Artifact(draft.id, draft.id, digest, size, signature, draft.step)
        try:
            return artifact, path, self._prove(artifact, path)
        except MissingDependency as e:
            return artifact, path, e

    def _used_options(self, form: str, precision: str) -> dict[str, Any]:
        """The options that mean something here, with their defaults spelled out."""
        own_batch = self.workspace.manifest.source.signature.inputs[0].shape[0]
        default = 1 if own_batch is None and form == "tflite" else own_batch
        used: dict[str, Any] = {"batch": self.options["batch"] or default}
        if form == "onnx":
            used["opset"] = self.options["opset"]
        if form == "tflite" and precision == "int8":
            used["int8_io"] = self.options["int8_io"]
        return used

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
        self,
        drafts: list[tuple[_Draft, Future[tuple[Artifact, Path, Proof | MissingDependency]]]],
        failures: list[Failure],
    ) -> Iterator[tuple[Artifact, Proof | None]]:
        for draft, future in drafts:
            try:
                artifact, path, proof = future.result()
            except EdgekitError as e:
                failures.append(e.failure(draft.id))
                continue
            if isinstance(proof, MissingDependency):
                if self.allow_unverified:
                    self.workspace.publish(artifact, path)
                    yield artifact, None
                else:
                    failures.append(_not_verified(proof).failure(draft.id))
            elif proof.parity.failures:
                failures.append(_differs(artifact, proof).failure(draft.id))
            else:
                self.workspace.publish(artifact, path, *proof.records)
                yield artifact, proof

    def _record_baseline(self) -> None:
        digest = self.workspace.manifest.source.sha256
        record = measure_accuracy(BASELINE, digest, self.evidence.reference, self.evidence)
        if record is not None:
            self.workspace.add_records(record)


def _place(id: str) -> tuple[int, int]:
    """Where an artifact stands in a table."""
    precision, _, form = id.rpartition(".")
    return FORMATS.index(form), PRECISIONS.index(precision)


def _differs(artifact: Artifact, proof: Proof) -> ConversionError:
    return ConversionError(
        f"the new file is not equal to the Keras model, and was removed: "
        f"{'; '.join(proof.parity.failures)}",
        hint="more, or more typical, --samples may help"
        if artifact.precision == "int8"
        else "try another format; if the model uses built-in layers only, please report it",
    )


def _not_verified(error: MissingDependency) -> MissingDependency:
    return MissingDependency(
        f"not verified, so not exported: {error.message}",
        hint=f"{error.hint}; or --allow-unverified to get the file without proof",
    )

"""`edgekit export`: convert, prove, publish. What cannot be proved is not published."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import evidence, formats
from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.errors import (
    ConversionError,
    EdgekitError,
    Failure,
    MissingDependency,
    RunnerError,
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
from edgekit.verbs.export_request import SUPPORTED, check_samples, check_workspace, plan
from edgekit.verbs.source import ModelSource, is_workspace, name_of, opened_source
from edgekit.workspace import Workspace


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
    source: ModelSource,
    to: str | Sequence[str] = FORMATS,
    precision: str | Sequence[str] = ("fp32",),
    samples: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    opset: int = 17,
    int8_io: bool = False,
    allow_unverified: bool = False,
    custom_objects: str | os.PathLike[str] | None = None,
    builder: str | None = None,
    from_layer: str | None = None,
    until_layer: str | None = None,
    progress: Progress = lambda text: None,
) -> ExportResult:
    """Export a model to every format of `to` in every precision of `precision`.

    Each file is loaded by its own runtime and compared with the Keras model before it appears in
    the workspace: on the recipe's test split, on `samples`, or on random rows.

    Args:
        source: a workspace; a .keras or .h5 file of Keras 2 or 3; a file of weights, with
            `builder`; a SavedModel folder; or a model as a Python object.
        to: any of "tflite", "onnx", "tfjs".
        precision: any of "fp32", "fp16", "dynamic", "int8".
        samples: an .npz file of rows (arrays named after the inputs, or `x`; labels as `y`), to
            calibrate int8 with and, without a recipe, to compare on.
        output: the workspace; `<model name>-edgekit` beside you unless given.
        batch: rows per call; unless given 1 in TFLite, any number in ONNX and TF.js, or what the
            model itself is fixed to.
        opset: of ONNX, 13 to 18.
        int8_io: int8 TFLite files take and give int8 instead of float32.
        allow_unverified: publish, as "not verified", what no runtime here can load; TFLite files
            may then hold Flex (TensorFlow) operations.
        custom_objects: the module, or .py file, that defines the model's own layers and functions.
        builder: "module:function" or "FILE.py:function" that builds the model; `source` has its
            weights.
        from_layer: export the part from this layer on, whose input becomes the input.
        until_layer: export the part until this layer, whose output becomes the output.
        progress: told in one line what happens.

    Raises:
        ExportFailed: an artifact could not be made, or is not equal to the model. The others are
            finished, and in its `result`.
        SourceError: the model or the samples cannot be used.
        WorkspaceError: the folder holds something else.
    """
    wanted = plan(to, precision)
    loading: dict[str, Any] = {
        "custom_objects": custom_objects,
        "builder": builder,
        "from_layer": from_layer,
        "until_layer": until_layer,
    }
    with contextlib.ExitStack() as stack:
        if is_workspace(source):
            existing = Workspace.open(Path(source))
            check_workspace(existing, output, loading)
            family = existing.source.family
        else:
            existing = None
            model = stack.enter_context(opened_source(source, **loading))
            family = model.family
        check_samples(samples, existing, wanted)
        toolchain = stack.enter_context(open_toolchain(progress, family=family))
        if existing is not None:
            info = existing.manifest.source
        else:
            info, preprocessing = evidence.describe_source(model, toolchain)
        # Before anything is written.
        rows = read_samples(Path(samples), info.rows_signature) if samples is not None else None
        if existing is not None:
            workspace = existing
        else:
            folder = Path(output or f"{name_of(source)}-edgekit")
            workspace = evidence.make_workspace(folder, model, info, preprocessing, toolchain)
        stack.enter_context(workspace.locked())
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
            warnings=(*self.workspace.manifest.source.notes, *evidence.weaknesses(self.evidence)),
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
            source=encode(self.workspace.source),
            form=form,
            precision=precision,
            path=str(path),
            calibration=calibration if precision == "int8" else None,
            flex=self.allow_unverified,
            **{"opset": 17, "int8_io": False, **options},
        )
        if precision == "int8" and form != "tfjs":
            info = self.workspace.manifest.data["calibration"]
            options |= {"calibration_sha256": info.sha256, "calibration_rows": info.rows}
        options |= answer["options"]
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
        if flex := formats.describe(path).flex_ops:
            missing = MissingDependency(f"no runtime here runs {', '.join(flex)}")
            return artifact, path, missing
        try:
            return artifact, path, self._prove(artifact, path)
        except MissingDependency as e:
            return artifact, path, e
        except RunnerError as e:
            raise RunnerError(e.message, hint=e.hint or _other_ways(signature)) from e

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
        hint=_remedy(artifact, proof.parity.failures),
    )


def _other_ways(signature: Signature) -> str:
    """What to try where a runtime cannot run a file."""
    if any(None in spec.shape[1:] for spec in signature.inputs):
        return "build the model for one size (no None in an Input's shape), or try another format"
    return "try another format; if the model uses built-in layers only, please report it"


def _remedy(artifact: Artifact, failures: Sequence[str]) -> str:
    text = " ".join(failures)
    others = " or ".join(p for p in reversed(SUPPORTED[artifact.format]) if p != "int8")
    if "it is not dynamic" in text:
        return "the weights are too few or of a kind that stays float: export fp32 or fp16"
    if "compute in float" in text:
        return f"there are no integer kernels for that: export {others}, or another format"
    if artifact.precision == "int8" and artifact.format != "tfjs":
        return f"more, or more typical, --samples may help; or export {others}"
    return "try another format; if the model uses built-in layers only, please report it"


def _not_verified(error: MissingDependency) -> MissingDependency:
    return MissingDependency(
        f"not verified, so not exported: {error.message}",
        hint=f"{error.hint}; or --allow-unverified to get the file without proof",
    )

"""From a model to published artifacts: draft, prove, publish. What is not proved is not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from edgekit import formats
from edgekit.agent.protocol import Signature
from edgekit.errors import (
    ConversionError,
    EdgekitError,
    Failure,
    MissingDependency,
    RunnerError,
)
from edgekit.evidence import Evidence
from edgekit.proof import Proof, accuracy_record, cost_of, prove
from edgekit.targets import Target
from edgekit.types import BASELINE, FORMATS, PRECISIONS, Artifact, Progress, Quantization
from edgekit.verbs.drafts import Draft, Drafter
from edgekit.verbs.export_request import SUPPORTED, needs_calibration
from edgekit.workspace import Workspace


@dataclass(frozen=True)
class Made:
    """An artifact that was published, with its proof unless it could not be verified."""

    artifact: Artifact
    proof: Proof | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Held:
    """A finished draft and how it stands against the evidence."""

    draft: Draft
    artifact: Artifact
    proof: Proof | MissingDependency


@dataclass(frozen=True)
class Production:
    """Converts in the toolchain while, in one thread, the file before is being proved."""

    drafter: Drafter
    evidence: Evidence
    target: Target
    progress: Progress
    quantization: Quantization = field(default_factory=Quantization)
    allow_unverified: bool = False

    @property
    def workspace(self) -> Workspace:
        return self.drafter.workspace

    def run(self, wanted: Sequence[tuple[str, str]]) -> tuple[list[Made], list[Failure]]:
        """Make and publish each (format, precision); what failed does not stop the others."""
        futures: list[tuple[str, Future[_Held]]] = []
        failures: list[Failure] = []
        with ThreadPoolExecutor(1) as prover:
            for form, precision in wanted:
                id = f"{self.drafter.prefix}{precision}.{form}"
                self.progress(f"{id}: converting")
                try:
                    draft = self.drafter.draft(form, precision, self.quantization)
                except EdgekitError as e:
                    failures.append(e.failure(id))
                else:
                    futures.append((id, prover.submit(self._finish, draft)))
            self.progress("comparing with the Keras model")
            made = sorted(self._publish(futures, failures), key=lambda m: place(m.artifact.id))
        self.record_baseline()
        return made, sorted(failures, key=lambda f: place(f.artifact))

    def prove(self, draft: Draft, evidence: Evidence | None = None) -> Proof:
        """Hold a finished draft against the Keras model."""
        held = evidence or self.evidence
        artifact = draft.artifact()
        return prove(
            draft.path,
            id=artifact.id,
            precision=artifact.precision,
            sha256=artifact.sha256,
            signature=artifact.signature,
            keep_float=artifact.keeps_float,
            evidence=held,
            target=self.target,
        )

    def record_baseline(self) -> None:
        """Keep the Keras model's own figures."""
        held, digest = self.evidence, self.workspace.manifest.source.sha256
        record = accuracy_record(
            BASELINE, digest, cost_of(held.original, held), held.original, held
        )
        if record is not None:
            self.workspace.add_records(record)

    def _finish(self, draft: Draft) -> _Held:
        """Quantize where that is still to be done, and prove: beside the worker, in a thread."""
        draft = self.drafter.finish(draft, self.quantization)
        artifact = draft.artifact()
        if flex := formats.describe(draft.path).flex_ops:
            missing = MissingDependency(f"no runtime here runs {', '.join(flex)}")
            return _Held(draft, artifact, missing)
        try:
            proof = self.prove(draft)
        except MissingDependency as e:
            return _Held(draft, artifact, e)
        except RunnerError as e:
            raise RunnerError(e.message, hint=e.hint or _other_ways(draft.signature)) from e
        verdict = "differs from" if proof.parity.failures else "proved against"
        self.progress(f"{artifact.id}: {verdict} the Keras model on {self.evidence.rows:,} rows")
        return _Held(draft, artifact, proof)

    def _publish(
        self, futures: list[tuple[str, Future[_Held]]], failures: list[Failure]
    ) -> Iterator[Made]:
        for id, future in futures:
            try:
                held = future.result()
            except EdgekitError as e:
                failures.append(e.failure(id))
                continue
            draft, artifact, proof = held.draft, held.artifact, held.proof
            if isinstance(proof, MissingDependency):
                if self.allow_unverified:
                    self.workspace.publish(artifact, draft.path)
                    yield Made(artifact, None, draft.warnings)
                else:
                    failures.append(_not_verified(proof).failure(id))
            elif proof.parity.failures:
                failures.append(_differs(artifact, proof).failure(id))
            else:
                self.workspace.publish(artifact, draft.path, *proof.records)
                yield Made(artifact, proof, draft.warnings)


def place(id: str) -> tuple[int, int]:
    """Where an artifact stands in a table."""
    variant, _, form = id.rpartition(".")
    return FORMATS.index(form), PRECISIONS.index(variant.rpartition("-")[2])


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
    narrower = ("int8", artifact.precision)
    others = " or ".join(p for p in reversed(SUPPORTED[artifact.format]) if p not in narrower)
    if "it is not dynamic" in text:
        return "the weights are too few or of a kind that stays float: export fp32 or fp16"
    if "no weight is stored as int8" in text:
        return "keep fewer layers in float"
    if "compute in float" in text:
        return f"there are no integer kernels for that: export {others}, or another format"
    if needs_calibration(artifact.format, artifact.precision):
        return (
            "edgekit quantize --explain names the layers that hurt, --max-drop looks for a way; "
            f"more, or more typical, --samples may help; or export {others}"
        )
    return "try another format; if the model uses built-in layers only, please report it"


def _not_verified(error: MissingDependency) -> MissingDependency:
    return MissingDependency(
        f"not verified, so not exported: {error.message}",
        hint=f"{error.hint}; or --allow-unverified to get the file without proof",
    )

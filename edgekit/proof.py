"""One file against the Keras model, on its own runtime: structure, numbers, task metric."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit import accuracy, formats, parity, row_scores
from edgekit.agent.arrays import load_arrays
from edgekit.evidence import Evidence
from edgekit.targets import Target
from edgekit.types import (
    LOCAL,
    AccuracyRecord,
    Feed,
    Job,
    OutputParity,
    ParityRecord,
    Signature,
    TensorSpec,
    Tolerance,
)


@dataclass(frozen=True)
class Cost:
    """How far outputs are from those of the workspace's own model, whatever they are made from."""

    outputs: tuple[OutputParity, ...]
    rows: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the task; none where the rows have no labels."""
    flipped: Mapping[str, float] = field(default_factory=dict)
    """Of each accuracy, the share of rows that the workspace's own model decides otherwise."""


@dataclass(frozen=True)
class Proof:
    """What was found; `parity.failures` says whether the file holds."""

    parity: ParityRecord
    accuracy: AccuracyRecord | None
    cost: Cost | None
    """None: the outputs are not such that they can be compared."""

    @property
    def records(self) -> tuple[ParityRecord | AccuracyRecord, ...]:
        """What a workspace keeps of it."""
        return (self.parity,) if self.accuracy is None else (self.parity, self.accuracy)


def prove(
    path: Path,
    *,
    id: str,
    precision: str,
    sha256: str,
    signature: Signature,
    evidence: Evidence,
    target: Target,
    keep_float: bool = False,
) -> Proof:
    """Run every row of `evidence` through the file `path` on `target` and compare.

    `precision` decides how near it must come, and whether it must be integer inside:
    all of it, unless some layers were asked to stay float (`keep_float`).

    Raises:
        RunnerError: the runtime cannot load or run the file.
        MissingDependency: the runtime is not installed.
    """
    form = id.rpartition(".")[2]
    tolerance = parity.TOLERANCES[precision]
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        job = Job("run", form, str(path), signature, evidence.inputs, out=folder)
        result = target.execute(job)
        outputs = {name: value[:] for name, value in load_arrays(result.outputs).items()}
        failures = _structure(path, precision, signature, keep_float)
        mismatches = parity.mismatches(evidence.reference, outputs)
        figures: list[OutputParity] = []
        cost: Cost | None = None
        if not mismatches:
            figures = _compare(evidence.reference, outputs, evidence)
            is_own = evidence.reference is evidence.original
            model = "the Keras model" if is_own else "the model trained on"
            for figure in figures:
                mismatches += parity.violations(figure, tolerance, model)
            cost = cost_of(outputs, evidence, figures if is_own else None)
            mismatches += _accuracy(outputs, cost.metrics, evidence, tolerance)
        failures += mismatches
    record = ParityRecord(
        artifact=id,
        sha256=sha256,
        rows=evidence.rows,
        data=evidence.origin,
        outputs=tuple(figures),
        tolerance=tolerance,
        failures=tuple(failures),
        runtime=result.runtime,
        machine=result.machine,
        target=target.uri,
    )
    if cost is None:
        return Proof(record, None, None)
    metrics = accuracy_record(id, sha256, cost, outputs, evidence, target.uri)
    return Proof(record, metrics, cost)


def cost_of(
    outputs: Feed, evidence: Evidence, compared: Sequence[OutputParity] | None = None
) -> Cost:
    """What `outputs` lose; `compared` are they with the own model's, if that was done before."""
    known = evidence.recipe, outputs, evidence.targets, evidence.original
    if compared is None:
        compared = _compare(evidence.original, outputs, evidence)
    return Cost(
        outputs=tuple(compared),
        rows=evidence.rows,
        metrics=accuracy.evaluate(*known),
        flipped=accuracy.flipped(*known) if evidence.targets else {},
    )


def accuracy_record(
    id: str, sha256: str, cost: Cost, outputs: Feed, evidence: Evidence, target: str = LOCAL
) -> AccuracyRecord | None:
    """The task metrics as a workspace keeps them; None where the rows have no labels."""
    if not cost.metrics:
        return None
    known = evidence.recipe, outputs, evidence.targets, evidence.original
    return AccuracyRecord(
        artifact=id,
        sha256=sha256,
        split="test" if evidence.origin == "recipe" else evidence.origin,
        rows=evidence.rows,
        metrics=cost.metrics,
        target=target,
        scores=row_scores.score(*known, cost.metrics),
    )


def labelled(evidence: Evidence) -> Collection[str]:
    """Outputs that decide between classes, by their labels."""
    if evidence.recipe is not None:
        return ()
    return accuracy.class_labels(evidence.original, evidence.targets)


def _structure(path: Path, precision: str, promised: Signature, keep_float: bool) -> list[str]:
    """What the file itself says: its inputs and outputs, and the precision that it is of."""
    found = formats.describe(path)
    problems = []
    for what in ("inputs", "outputs"):
        given = [_as_text(s) for s in getattr(found.signature, what)]
        wanted = [_as_text(s) for s in getattr(promised, what)]
        if given != wanted:
            problems.append(f"its {what} are {', '.join(given)}, not {', '.join(wanted)}")
    weights = {group.dtype for group in found.groups if group.role == "weights"}
    stored = _STORED_AS.get((found.format, precision))
    if stored and weights and stored not in weights:
        problems.append(f"it is not {precision}: no weight is stored as {stored}")
    # In TF.js 8 bits are how weights are stored; it always computes in float.
    is_integer = precision in ("int8", "int16x8") and found.format != "tfjs" and not keep_float
    if is_integer and found.float_tensors:
        names = found.float_tensors
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        problems.append(
            f"it is not {precision} inside: {', '.join(names[:3])}{more} compute in float"
        )
    return problems


_STORED_AS = {
    **{(form, "fp16"): "float16" for form in ("tflite", "onnx", "tfjs")},
    **{(form, p): "int8" for form in ("tflite", "onnx") for p in ("dynamic", "int8", "int16x8")},
    ("tfjs", "int8"): "uint8",
}
"""What at least some weights are, also where layers were asked to stay float."""


def _as_text(spec: TensorSpec) -> str:
    shape = " × ".join("any" if d is None else str(d) for d in spec.shape)
    return f"{spec.native} ({shape}, {spec.dtype})"


def _compare(reference: Feed, outputs: Feed, evidence: Evidence) -> list[OutputParity]:
    return parity.compare(
        reference, outputs, classifier=evidence.classifier, labelled=labelled(evidence)
    )


def _accuracy(
    outputs: Feed, metrics: Mapping[str, float], evidence: Evidence, tolerance: Tolerance
) -> list[str]:
    """What is lost against the model by which accuracy is judged, in words."""
    if not metrics:
        return []
    recipe, targets, judge = evidence.recipe, evidence.targets, evidence.judge
    baseline = accuracy.evaluate(recipe, judge, targets, evidence.original)
    flipped = accuracy.flipped(recipe, outputs, targets, judge)
    found = accuracy.violation(recipe, baseline, metrics, flipped, evidence.rows, tolerance)
    return [found] if found else []

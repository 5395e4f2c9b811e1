"""One file against the Keras model, on its own runtime: structure, numbers, task metric."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgekit import accuracy, formats, parity
from edgekit.agent.arrays import load_arrays
from edgekit.evidence import Evidence
from edgekit.targets import Target
from edgekit.types import (
    AccuracyRecord,
    Feed,
    Job,
    OutputParity,
    ParityRecord,
    Signature,
    Tolerance,
)


@dataclass(frozen=True)
class Proof:
    """What was found; `parity.failures` says whether the file holds."""

    parity: ParityRecord
    accuracy: AccuracyRecord | None


def prove(
    path: Path,
    *,
    id: str,
    precision: str,
    sha256: str,
    signature: Signature,
    evidence: Evidence,
    target: Target,
) -> Proof:
    """Run every row of `evidence` through the file `path` on `target` and compare.

    `precision` decides how near it must come, and whether it must be integer inside.

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
        failures = [*_structure(path, precision), *parity.mismatches(evidence.reference, outputs)]
        figures: list[OutputParity] = []
        metrics: AccuracyRecord | None = None
        if not failures:
            figures = parity.compare(evidence.reference, outputs, classifier=evidence.classifier)
            failures = [v for figure in figures for v in parity.violations(figure, tolerance)]
            metrics = measure_accuracy(id, sha256, outputs, evidence)
            if metrics is not None:
                failures += _accuracy(metrics, evidence, tolerance)
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
    )
    return Proof(record, metrics)


def measure_accuracy(
    id: str, sha256: str, outputs: Feed, evidence: Evidence
) -> AccuracyRecord | None:
    """The task metrics of `outputs`; None where the rows have no labels."""
    metrics = accuracy.evaluate(evidence.recipe, outputs, evidence.targets)
    split = "test" if evidence.origin == "recipe" else evidence.origin
    return AccuracyRecord(id, sha256, split, evidence.rows, metrics) if metrics else None


def _structure(path: Path, precision: str) -> list[str]:
    """An int8 file must be int8 inside: a converter that finds nothing to quantize says nothing."""
    found = formats.describe(path)
    floats = found.float_tensors
    # In TF.js 8 bits are how weights are stored; it always computes in float.
    if precision != "int8" or found.format == "tfjs" or not floats:
        return []
    more = f" and {len(floats) - 3} more" if len(floats) > 3 else ""
    return [f"it is not int8 inside: {', '.join(floats[:3])}{more} compute in float"]


def _accuracy(metrics: AccuracyRecord, evidence: Evidence, tolerance: Tolerance) -> list[str]:
    baseline = accuracy.evaluate(evidence.recipe, evidence.reference, evidence.targets)
    found = accuracy.violation(
        evidence.recipe, baseline, dict(metrics.metrics), evidence.rows, tolerance
    )
    return [found] if found else []

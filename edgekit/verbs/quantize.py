"""`edgekit quantize`: smaller and faster at a known cost, within a budget where one is given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit import evidence
from edgekit.budget import parse_budget
from edgekit.charts import draw_searches
from edgekit.errors import Failure
from edgekit.manifest import here
from edgekit.targets import open_target
from edgekit.types import (
    BASELINE,
    FORMATS,
    AccuracyRecord,
    Artifact,
    Explanation,
    LatencyRecord,
    ParityRecord,
    Progress,
    Quantization,
    SearchRecord,
)
from edgekit.verbs import drafts, variants
from edgekit.verbs.bench import time_artifacts
from edgekit.verbs.export_request import plan
from edgekit.verbs.opening import opened_workspace
from edgekit.verbs.outcome import BudgetExceeded, Incomplete, unmeasured
from edgekit.verbs.production import Made, Production
from edgekit.verbs.quantize_request import check_combination, check_values
from edgekit.verbs.search import WIDER, Search
from edgekit.verbs.source import ModelSource

CHART = "search.svg"
"""The picture of the searches of a workspace."""


@dataclass(frozen=True)
class QuantizeResult:
    """`artifacts` are published and proved; what each costs is in the records."""

    workspace: str
    artifacts: tuple[Artifact, ...] = ()
    parity: tuple[ParityRecord, ...] = ()
    accuracy: tuple[AccuracyRecord, ...] = ()
    """With that of the Keras model, where the rows have labels."""
    latency: tuple[LatencyRecord, ...] = ()
    searches: tuple[SearchRecord, ...] = ()
    chart: str | None = None
    """The picture of the searches, an SVG file."""
    explanations: tuple[Explanation, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()


class QuantizeFailed(Incomplete):
    """Some artifacts could not be made or did not hold; `result` has the others."""


def _more(search: SearchRecord) -> str:
    if search.chosen is None:
        return "see which layers hurt: --explain; or train on for 8 bits: --method qat"
    chosen = search.candidates[search.chosen]
    others = [c.precision for c in search.candidates if c.holds and c.precision != chosen.precision]
    return f"allow a little more, or make a wider one: --precision {[*others, 'fp16'][0]}"


def quantize(
    *,
    source: ModelSource,
    to: str | Sequence[str] = ("tflite", "onnx"),
    precision: str | Sequence[str] = (),
    samples: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    method: str = "ptq",
    epochs: int | None = None,
    max_drop: str | None = None,
    calibration: str = "minmax",
    percentile: float = 99.99,
    keep_float: str | Sequence[str] = (),
    equalize: bool = False,
    backend: str = "converter",
    explain: bool = False,
    batch: int | None = None,
    opset: int = 17,
    int8_io: bool = False,
    custom_objects: str | os.PathLike[str] | None = None,
    builder: str | None = None,
    from_layer: str | None = None,
    until_layer: str | None = None,
    progress: Progress = lambda text: None,
) -> QuantizeResult:
    """Quantize a model, each file proved, measured, and, with `max_drop`, chosen by what it loses.

    Args:
        source: as in `export`.
        to: any of "tflite", "onnx", "tfjs".
        precision: any of "fp16", "dynamic", "int8", "int16x8"; "int8" unless given. With `explain`
            also "fp32"; not with `max_drop`, which finds it.
        samples: an .npz file of rows to calibrate with and, without a recipe, to compare on.
        output: the workspace; `<model name>-edgekit` beside you unless given.
        variant: quantize this model of the workspace ("sparse80"), and not its own.
        method: "ptq" quantizes the model as it is; "qat" trains it on for its 8 bits first, by its
            recipe, or on the labels of `samples`.
        epochs: of "qat".
        max_drop: "1%" of the Keras model's figure or "0.5pt", points of it: finds the smallest file
            that loses no more, on validation rows, and says what it loses on the test rows.
        calibration: how the range of an activation is found: "minmax", "percentile", "entropy".
        percentile: share of the values, in percent, that "percentile" keeps.
        keep_float: patterns of names of layers ("head/*") that stay float.
        equalize: even out the ranges of channels between layers, which changes no output.
        backend: what quantizes TFLite: "converter", or "litert" (an extra).
        explain: publish nothing, but say for each file what error each layer adds, and why.
        batch: rows per call, as in `export`.
        opset: of ONNX, 13 to 18.
        int8_io: int8 TFLite files take and give int8 instead of float32.
        custom_objects: as in `export`.
        builder: as in `export`.
        from_layer: quantize the part from this layer on.
        until_layer: quantize the part until this layer.
        progress: told in one line what happens.

    Raises:
        QuantizeFailed: an artifact could not be made, or is not equal to the model.
        BudgetExceeded: no file of a format loses as little as `max_drop` (exit code 3).
        SourceError: the model or the samples cannot be used.
        WorkspaceError: the folder holds something else.
    """
    keep_float = (keep_float,) if isinstance(keep_float, str) else tuple(keep_float)
    quantization = Quantization(
        calibration=calibration,
        percentile=percentile,
        keep_float=keep_float,
        equalize=equalize,
        backend=backend,
    )
    check_values(method, epochs, max_drop, quantization)
    budget = None if max_drop is None else parse_budget(max_drop)
    wanted = plan(to, precision or ("int8",))
    check_combination(wanted, quantization, method, bool(precision), budget is not None, explain)
    formats = [form for form in FORMATS if any(form == f for f, _ in wanted)]
    if budget is not None:
        wanted = [(form, p) for form in formats for p in ("int8", *WIDER[form])]
    with contextlib.ExitStack() as stack:
        workspace, toolchain = stack.enter_context(
            opened_workspace(
                source,
                output=output,
                samples=samples,
                wanted=wanted,
                loading={
                    "custom_objects": custom_objects,
                    "builder": builder,
                    "from_layer": from_layer,
                    "until_layer": until_layer,
                },
                # Rows that were trained on must not judge.
                hold_back=budget is not None or method == "qat",
                variant=variant,
                progress=progress,
            )
        )
        if method == "qat":
            variant = variants.take_variant(workspace, toolchain, variant, None, epochs, progress)
        held = stack.enter_context(evidence.opened(workspace, variant=variant))
        drafter = stack.enter_context(
            drafts.opened(
                workspace,
                toolchain,
                wanted,
                rows=held.inputs,
                options={"batch": batch, "opset": opset, "int8_io": int8_io},
                variant=variant,
                progress=progress,
            )
        )
        if explain:
            explanations = [drafter.explain(f, p, quantization) for f, p in wanted]
            workspace.add_records(*explanations)
            return QuantizeResult(str(workspace.path), explanations=tuple(explanations))
        target = open_target("local")
        stack.callback(target.close)
        production = Production(drafter, held, target, progress, quantization)
        if budget is None:
            made, failures = production.run(wanted)
            return _done(production, made, failures)
        rows = evidence.opened(workspace, rows="validation", variant=variant)
        validation = stack.enter_context(rows)
        found = [Search(f, production, validation, budget, method).run() for f in formats]
        production.record_baseline()
        draw_searches(workspace.path / CHART, [f.record for f in found])
        return _done(production, [f.made for f in found if f.made], (), [f.record for f in found])


def _done(
    production: Production,
    made: Sequence[Made],
    failures: Sequence[Failure],
    searches: Sequence[SearchRecord] = (),
) -> QuantizeResult:
    """The result, with times that were measured side by side; raises where it fell short."""
    workspace = production.workspace
    production.progress("timing")
    artifacts = tuple(m.artifact for m in made)
    latency, untimed = time_artifacts(workspace, artifacts, production.target)
    workspace.add_records(*searches)
    known = {BASELINE, *(a.id for a in artifacts)}
    result = QuantizeResult(
        workspace=str(workspace.path),
        artifacts=artifacts,
        parity=tuple(m.proof.parity for m in made if m.proof),
        accuracy=tuple(a for a in here(workspace.manifest.accuracy) if a.artifact in known),
        latency=latency,
        searches=tuple(searches),
        chart=str(workspace.path / CHART) if searches else None,
        failures=(*failures, *(f for s in searches if (f := unmeasured(s)))),
        warnings=(
            *workspace.manifest.source.notes,
            *variants.notes(workspace, production.drafter.variant),
            *evidence.weaknesses(workspace, production.evidence),
            *untimed,
            *dict.fromkeys(w for m in made for w in m.warnings),
        ),
    )
    short = [s for s in searches if not s.holds and unmeasured(s) is None]
    if short:
        raise BudgetExceeded(result, short, _more(short[0]))
    if result.failures:
        raise QuantizeFailed(result)
    return result

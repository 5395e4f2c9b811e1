"""The search for the smallest file that loses no more than a budget.

First int8 with what costs nothing (channels evened out, the ways to calibrate). Where that does not
hold, or is no smaller than fp16 would be: int8 with the layers that hurt most in float, int8
weights alone, int16x8, fp16. The smallest that holds on the validation rows is taken; the test rows
only say what it lost in the end. Times are measured for the report, and decide nothing: the same
answer comes out twice.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.budget import Budget, judged, measure_of
from edgekit.errors import EdgekitError
from edgekit.evidence import Evidence
from edgekit.latency import summarize
from edgekit.types import Candidate, LatencyRecord, Quantization, SearchRecord
from edgekit.verbs.bench import time_files
from edgekit.verbs.drafts import Draft
from edgekit.verbs.export_request import needs_calibration
from edgekit.verbs.locate import Located
from edgekit.verbs.production import Made, Production

MOST_FLOAT = 8
"""Layers that are tried in float at most; more of them is a float model with int8 in it."""

FREE = (
    Quantization(),
    Quantization(equalize=True),
    Quantization(calibration="percentile"),
    Quantization(calibration="entropy"),
)
"""What costs neither size nor time."""

WIDER = {"tflite": ("dynamic", "int16x8", "fp16"), "onnx": ("dynamic", "fp16"), "tfjs": ("fp16",)}
"""Where int8 is not enough. int16x8 is slow on a CPU, and in onnxruntime gains nothing."""

GAIN = 0.9
"""Of the loss, the share that a layer in float may leave, to be worth it."""

SAME_SIZE = 1.05
"""Of files that differ by less, the one that was tried first is taken."""


@dataclass(frozen=True)
class Trial:
    """A candidate, and its file where one could be made."""

    candidate: Candidate
    draft: Draft | None


@dataclass(frozen=True)
class Found:
    """What a search saw, and what it published."""

    record: SearchRecord
    made: Made | None


@dataclass
class Search:
    """Searches one format, on the validation rows."""

    form: str
    production: Production
    validation: Evidence
    budget: Budget
    method: str

    def __post_init__(self) -> None:
        self._measure = measure_of(self.validation, self.budget)
        self._trials: list[Trial] = []

    def run(self) -> Found:
        """Find the smallest file that holds, prove it on the test rows, and publish it."""
        self._try_all()
        chosen = _smallest(self._trials)
        record = SearchRecord(
            format=self.form,
            method=self.method,
            budget=self.budget.text,
            measure=self._measure.name,
            rows=self.validation.rows,
            baseline=self._measure.baseline,
            candidates=self._timed(),
            chosen=chosen,
        )
        draft = None if chosen is None else self._trials[chosen].draft
        return Found(record, None) if draft is None else self._accept(record, draft)

    def _accept(self, record: SearchRecord, draft: Draft) -> Found:
        """Publish what was chosen, if it holds on the test rows, too."""
        self.production.progress(f"{draft.id}: comparing with the Keras model on the test rows")
        proof = self.production.prove(draft)
        if proof.cost is None:
            return Found(record, None)
        record = judged(record, proof.cost, self.production.evidence, self.budget)
        if not record.holds or proof.parity.failures:
            return Found(replace(record, holds=False), None)
        options = {**draft.step.options, "max_drop": self.budget.text}
        step = replace(draft.step, verb="quantize", options=options)
        artifact = replace(draft, step=step).artifact()
        self.production.workspace.publish(artifact, draft.path, *proof.records)
        return Found(record, Made(artifact, proof, draft.warnings))

    def _try_all(self) -> None:
        """Try what is worth it, in order."""
        given = self.production.quantization
        if self.form == "tfjs":  # weights are stored in 8 bits: nothing is calibrated
            _ = any(self._holds(p, Quantization()) for p in ("int8", *WIDER[self.form]))
            return
        for way in FREE:
            own = replace(way, keep_float=given.keep_float, backend=given.backend)
            if self._holds("int8", own):
                break
        best = min((t.candidate for t in self._trials), key=_loss)
        if not best.holds:
            self._try_keeping_float(best)
        elif self._is_below_fp16():
            return
        for precision in WIDER[self.form]:
            if precision == "fp16" and self._is_below_fp16():
                return
            if precision == "dynamic" and given.keep_float:
                continue  # it has the weights of all layers in 8 bits
            # What serves int8 best serves a wider one, too, where it means something there.
            how = Quantization(equalize=best.quantization.equalize and precision == "dynamic")
            if needs_calibration(self.form, precision):
                how = best.quantization
            self._holds(precision, how)

    def _try_keeping_float(self, best: Candidate) -> None:
        """`best` with more and more of the layers that hurt in float, while that is small."""
        way, lost = best.quantization, best.lost
        kept, useless = set[str](), set[str]()
        for _ in range(MOST_FLOAT):
            self.production.progress(f"{self.form}: looking for the layers that hurt")
            try:
                # Again each time: what one layer leaves in float, the next one rounds.
                found = self.production.drafter.explain(self.form, "int8", way).layers
            except EdgekitError as e:  # no graph of layers: nothing can be kept by name
                self.production.progress(f"{self.form}: {e.message}")
                return
            candidates = (e.keep for e in found if not {*kept, *useless}.issuperset(e.keep))
            more = next(candidates, ())
            wider = _keeping(way, more)
            if not more or len({*kept, *more}) >= len(found) or self._holds("int8", wider):
                return
            tried = self._trials[-1].candidate
            if tried.size_bytes > self._fp16_bytes:
                return
            if tried.lost is not None and (lost is None or tried.lost < GAIN * lost):
                way, lost = wider, tried.lost
                kept.update(more)
                useless.clear()  # beside this one, they may be of use
            else:
                useless.update(more)

    @property
    def _fp16_bytes(self) -> int:
        """What a file with weights of 2 bytes has at least."""
        return 2 * self.production.workspace.manifest.source.parameters

    def _is_below_fp16(self) -> bool:
        candidates = [t.candidate for t in self._trials]
        return any(c.holds and c.size_bytes < self._fp16_bytes for c in candidates)

    def _holds(self, precision: str, quantization: Quantization) -> bool:
        """Try one candidate."""
        label = _label(self.form, precision, quantization)
        self.production.progress(f"{self.form}: trying {label}")
        untried = Candidate(label, precision, quantization, 0, None, None, False)
        self._trials.append(self._tried(untried))
        return self._trials[-1].candidate.holds

    def _tried(self, candidate: Candidate) -> Trial:
        drafter, how = self.production.drafter, candidate.quantization
        name = f"{len(self._trials)}-"
        try:
            draft = drafter.finish(drafter.draft(self.form, candidate.precision, how, name), how)
            proof = self.production.prove(draft, self.validation)
        except EdgekitError as e:
            return Trial(replace(candidate, failure=e.message), None)
        candidate = replace(
            candidate,
            size_bytes=draft.artifact().size_bytes,
            failure="; ".join(proof.parity.failures) or None,
        )
        if proof.cost is not None:
            figure = self._measure.figure(proof.cost)
            lost = self._measure.lost(figure, self.budget)
            holds = lost <= self.budget.allowed and not proof.parity.failures
            candidate = replace(candidate, figure=figure, lost=lost, holds=holds)
        return Trial(candidate, draft)

    def _timed(self) -> tuple[Candidate, ...]:
        """All candidates with the median of their latency, measured side by side."""
        self.production.progress("timing what was tried")
        made = [(i, t.draft) for i, t in enumerate(self._trials) if t.draft]
        workspace = self.production.workspace
        items = []
        for _, draft in made:
            artifact = draft.artifact()
            items.append(
                Located(
                    id=artifact.id,
                    path=draft.path,
                    precision=artifact.precision,
                    sha256=artifact.sha256,
                    signature=artifact.signature,
                    workspace=workspace,
                )
            )
        found = time_files(items, self.production.target)
        candidates = [t.candidate for t in self._trials]
        for (i, _), record in zip(made, found, strict=True):
            if isinstance(record, LatencyRecord):
                p50 = summarize(record).p50_ns
                candidates[i] = replace(candidates[i], p50_ns=p50)
        return tuple(candidates)


def _smallest(trials: Sequence[Trial]) -> int | None:
    """Which of those that hold to take: of about the same size, the one that was tried first."""
    holding = [i for i, t in enumerate(trials) if t.candidate.holds]
    least = min((trials[i].candidate.size_bytes for i in holding), default=0)
    return next((i for i in holding if trials[i].candidate.size_bytes <= SAME_SIZE * least), None)


def _loss(candidate: Candidate) -> tuple[bool, float]:
    """The least first; a file that could not be measured last."""
    return candidate.lost is None, candidate.lost or 0.0


def _label(form: str, precision: str, how: Quantization) -> str:
    """What is particular about a candidate, in words."""
    words = {
        "8 bits of storage": form == "tfjs" and precision == "int8",
        "equalized": how.equalize,
        how.calibration: how.calibration != "minmax",
        f"{', '.join(how.keep_float)} in float": bool(how.keep_float),
    }
    return ", ".join([precision, *(text for text, is_so in words.items() if is_so)])


def _keeping(quantization: Quantization, layers: Sequence[str]) -> Quantization:
    """The same with these layers in float, too: as patterns that match their names only."""
    names = (glob.escape(name) for name in layers)
    kept = dict.fromkeys((*quantization.keep_float, *names))
    return replace(quantization, keep_float=tuple(kept))

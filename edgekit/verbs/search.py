"""The search for the cheapest file that loses no more than a budget.

The space is small and ordered by cost: int8 with what costs nothing (channels evened out, the ways
to calibrate), int8 with the layers that hurt most in float, int16x8, int8 weights alone, fp16. The
first one that holds on the validation rows is taken; the test rows only say what it lost in the
end. Times are measured for the report, and decide nothing: the same answer comes out twice.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit.budget import Budget, Measure, measure_of
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

WIDER = {"tflite": ("int16x8", "dynamic", "fp16"), "onnx": ("dynamic", "fp16"), "tfjs": ("fp16",)}
"""Where int8 is not enough. onnxruntime computes int16x8 in float, slower than `dynamic`."""

TIMED_S = 0.2
ROUNDS = 2


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


@dataclass(frozen=True)
class Search:
    """Searches one format after the other, on the validation rows."""

    production: Production
    validation: Evidence
    budget: Budget
    method: str

    def run(self, form: str) -> Found:
        """Find the cheapest file of one format, prove it on the test rows, and publish it."""
        measure = measure_of(self.validation, self.budget)
        trials: list[Trial] = []
        for precision, quantization in self._ladder(form, trials):
            label = _label(form, precision, quantization)
            self.production.progress(f"{form}: trying {label}")
            untried = Candidate(label, precision, quantization, 0, None, None, False)
            trial = self._try(form, untried, measure, name=f"{len(trials)}-")
            if quantization.keep_float and self._exceeds_fp16(trial, trials):
                candidate = replace(trial.candidate, holds=False, failure="larger than fp16")
                trial = replace(trial, candidate=candidate)
            trials.append(trial)
            if trials[-1].candidate.holds:
                break
        chosen = trials[-1] if trials[-1].candidate.holds else None
        record = SearchRecord(
            format=form,
            method=self.method,
            budget=self.budget.text,
            measure=measure.name,
            rows=self.validation.rows,
            baseline=measure.baseline,
            candidates=self._timed(trials),
            chosen=len(trials) - 1 if chosen else None,
        )
        if chosen is None or chosen.draft is None:
            return Found(record, None)
        return self._accept(record, chosen.draft)

    def _accept(self, record: SearchRecord, draft: Draft) -> Found:
        """Publish what was chosen, if it holds on the test rows, too."""
        self.production.progress(f"{draft.id}: comparing with the Keras model on the test rows")
        proof = self.production.prove(draft)
        if not proof.parity.outputs:
            return Found(record, None)
        measure = measure_of(self.production.evidence, self.budget)
        lost = measure.lost(measure.figure(proof), self.budget)
        chance = measure.chance(proof, self.budget)
        holds = lost <= self.budget.allowed + chance and not proof.parity.failures
        record = replace(record, final=lost, chance=chance, holds=holds)
        if not holds:
            return Found(record, None)
        options = {**draft.step.options, "max_drop": self.budget.text}
        step = replace(draft.step, verb="quantize", options=options)
        artifact = replace(draft, step=step).artifact()
        self.production.workspace.publish(artifact, draft.path, *proof.records)
        return Found(record, Made(artifact, proof, draft.warnings))

    def _ladder(self, form: str, trials: list[Trial]) -> Iterator[tuple[str, Quantization]]:
        """(precision, how) of what to try next, given what was tried so far."""
        if form == "tfjs":  # weights are stored in 8 bits: nothing is calibrated
            yield "int8", Quantization()
            yield from ((precision, Quantization()) for precision in WIDER[form])
            return
        given = self.production.quantization
        for way in FREE:
            yield "int8", replace(way, keep_float=given.keep_float, backend=given.backend)
        best = min((t.candidate for t in trials), key=_loss).quantization
        yield from (("int8", way) for way in self._mixed(form, best, trials))
        for precision in WIDER[form]:
            # What serves int8 best serves a wider one, too, where it means something there.
            weights_only = Quantization(equalize=best.equalize and precision == "dynamic")
            yield precision, best if needs_calibration(form, precision) else weights_only

    def _mixed(self, form: str, best: Quantization, trials: list[Trial]) -> Iterator[Quantization]:
        """`best` with more and more of the layers that hurt in float, while that is small."""
        kept: list[str] = []
        while len(kept) < MOST_FLOAT:
            self.production.progress(f"{form}: looking for the layers that hurt")
            try:
                # Again each time: what one layer leaves in float, the next one rounds.
                found = self.production.drafter.explain(form, "int8", _keeping(best, kept)).layers
            except EdgekitError as e:  # no graph of layers: nothing can be kept by name
                self.production.progress(f"{form}: {e.message}")
                return
            more = next((e.keep for e in found if not set(e.keep) <= set(kept)), ())
            kept += [name for name in more if name not in kept]
            if not more or len(kept) >= len(found):
                return
            yield _keeping(best, kept)
            if self._exceeds_fp16(trials[-1], trials):
                return

    def _exceeds_fp16(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        """Whether it takes a byte per parameter more than the smallest, as fp16 does."""
        smallest = min((t.candidate.size_bytes for t in trials if t.draft), default=0)
        parameters = self.production.workspace.manifest.source.parameters
        return bool(smallest) and trial.candidate.size_bytes > smallest + parameters

    def _try(self, form: str, candidate: Candidate, measure: Measure, name: str) -> Trial:
        quantization = candidate.quantization
        drafter = self.production.drafter
        try:
            draft = drafter.draft(form, candidate.precision, quantization, name)
            draft = drafter.finish(draft, quantization)
            proof = self.production.prove(draft, self.validation)
        except EdgekitError as e:
            return Trial(replace(candidate, failure=e.message), None)
        candidate = replace(
            candidate,
            size_bytes=draft.artifact().size_bytes,
            failure="; ".join(proof.parity.failures) or None,
        )
        if proof.parity.outputs:  # else it cannot be compared at all
            figure = measure.figure(proof)
            lost = measure.lost(figure, self.budget)
            holds = lost <= self.budget.allowed and not proof.parity.failures
            candidate = replace(candidate, figure=figure, lost=lost, holds=holds)
        return Trial(candidate, draft)

    def _timed(self, trials: Sequence[Trial]) -> tuple[Candidate, ...]:
        """All candidates with the median of their latency, measured side by side."""
        self.production.progress("timing what was tried")
        made = [(i, t.draft) for i, t in enumerate(trials) if t.draft is not None]
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
        found = time_files(
            items,
            self.production.target,
            rounds=ROUNDS,
            seconds=TIMED_S,
            progress=lambda text: None,
        )
        candidates = [t.candidate for t in trials]
        for (i, _), record in zip(made, found, strict=True):
            if isinstance(record, LatencyRecord):
                p50 = summarize(record).p50_ns
                candidates[i] = replace(candidates[i], p50_ns=p50)
        return tuple(candidates)


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

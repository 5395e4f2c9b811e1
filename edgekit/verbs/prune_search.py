"""The search for the most that can be pruned within a budget: each trial makes a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import evidence
from edgekit.budget import Budget, Measure, judged, measure_of
from edgekit.errors import EdgekitError
from edgekit.evidence import Evidence
from edgekit.hashing import gzip_bytes
from edgekit.proof import Cost, cost_of
from edgekit.toolchain.client import Toolchain
from edgekit.types import Candidate, Progress, Pruning, Quantization, SearchRecord, Step
from edgekit.verbs import variants
from edgekit.workspace import Workspace

AMOUNTS = {
    "sparse": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    "structured": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
}
"""What is tried, by halves: what holds is taken to hold for less, too."""

FORMAT = "keras"
"""Of the record of such a search: it is the Keras model that is judged."""


@dataclass
class PruneSearch:
    """Searches the highest amount of a pruning that holds, on the validation rows.

    With the same data, options and budget, the same answer comes out.
    """

    workspace: Workspace
    toolchain: Toolchain
    base: str | None
    pruning: Pruning
    epochs: int | None
    budget: Budget
    folder: Path
    progress: Progress
    _candidates: list[Candidate] = field(default_factory=list)

    def run(self) -> tuple[SearchRecord, str | None]:
        """Make models until it is known which is the smallest that holds, and take that over.

        Returns:
            What was tried, and the name of the variant; None: nothing holds.
        """
        amounts = AMOUNTS[self.pruning.kind]
        best: tuple[int, str, Path, Step] | None = None
        with evidence.opened(self.workspace, rows="validation") as held:
            measure = measure_of(held, self.budget)
            least, most = 0, len(amounts)
            while least < most:
                middle = (least + most) // 2
                pruning = replace(self.pruning, amount=amounts[middle])
                made = self._try(pruning, held, measure)
                tried = self._candidates[-1]
                if made is not None:
                    best = len(self._candidates) - 1, tried.label, *made
                # What cannot be made at all is mostly too little: no channel would go.
                if tried.holds or tried.failure:
                    least = middle + 1
                else:
                    most = middle
            record = SearchRecord(
                format=FORMAT,
                method=self.pruning.kind,
                budget=self.budget.text,
                measure=measure.name,
                rows=held.rows,
                baseline=measure.baseline,
                candidates=tuple(self._candidates),
                chosen=None if best is None else best[0],
            )
        if best is None:
            return record, None
        _, name, path, step = best
        record = self._judged(record, name, path)
        if not record.holds:
            return record, None
        step = replace(step, options={**step.options, "max_drop": self.budget.text})
        variants.keep_variant(self.workspace, name, path, step, self.progress)
        evidence.prepare_variant(self.workspace, self.toolchain, name, self.progress)
        return record, name

    def _try(self, pruning: Pruning, held: Evidence, measure: Measure) -> tuple[Path, Step] | None:
        """Make one model; None: it does not hold."""
        name = variants.variant_name(self.base, pruning)
        self.progress(f"trying {name}")
        candidate = Candidate(name, "fp32", Quantization(), 0, None, None, False)
        folder = self.folder / name
        folder.mkdir()
        try:
            path, step = variants.make_variant(
                self.workspace,
                self.toolchain,
                self.base,
                pruning,
                self.epochs,
                folder,
                self.progress,
            )
        except EdgekitError as e:
            self._candidates.append(replace(candidate, failure=e.message))
            return None
        cost = self._cost(name, path, "validation", held)
        figure = measure.figure(cost)
        lost = measure.lost(figure, self.budget)
        holds = lost <= self.budget.allowed
        size = gzip_bytes(path)
        self._candidates.append(
            replace(candidate, size_bytes=size, figure=figure, lost=lost, holds=holds)
        )
        return (path, step) if holds else None

    def _judged(self, record: SearchRecord, name: str, path: Path) -> SearchRecord:
        """What the model loses on the test rows, which nothing has seen."""
        with evidence.opened(self.workspace) as held:
            cost = self._cost(name, path, "verification", held)
            return judged(record, cost, held, self.budget)

    def _cost(self, name: str, path: Path, rows: str, held: Evidence) -> Cost:
        self.progress(f"running {name} on {held.rows:,} {rows} rows")
        source = self.workspace.source_at(path, name)
        samples = evidence.rows_of(self.workspace, rows)
        return cost_of(evidence.run_model(source, self.toolchain, samples), held)

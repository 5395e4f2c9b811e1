"""A budget of accuracy, and what a file has lost against it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from edgekit import accuracy, parity
from edgekit.errors import ConversionError
from edgekit.evidence import Evidence
from edgekit.proof import Cost, labelled
from edgekit.types import OutputParity, SearchRecord

AGREEMENT = "top-1 agreement"
NOISE = "noise"
"""The error as a share of the output's own variation: of all rows (root mean square,
10^(-SQNR/20)) or of the typical row (median), the larger one."""
WORST = "the worst output"


@dataclass(frozen=True)
class Budget:
    """The most that may be lost: a share of the Keras model's figure, or points of it."""

    text: str
    allowed: float
    is_relative: bool


def parse_budget(text: str) -> Budget:
    """`1%` of the Keras model's own figure, or `0.5pt`: half a point of a share of 100.

    Raises:
        ConversionError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|pt)\s*", text)
    if found is None:
        raise ConversionError(
            f"{text!r} is no budget", hint="give 1% (of the Keras model's figure) or 0.5pt (points)"
        )
    return Budget(f"{found[1]}{found[2]}", float(found[1]) / 100, found[2] == "%")


@dataclass(frozen=True)
class Measure:
    """What a budget is held to: a figure of the outputs on some rows."""

    name: str
    baseline: float
    """The Keras model's own."""
    higher_is_better: bool
    output: str | None
    """The one that an agreement or a noise is of; None: it is a task metric."""

    def figure(self, cost: Cost) -> float:
        """That of a file."""
        if self.output is None:
            return cost.metrics[self.name]
        found = self._parity(cost)
        if self.higher_is_better:
            return found.top1_agreement or 0.0
        return max(10 ** (-found.sqnr_db / 20), found.typical_noise or 0.0)

    def chance(self, cost: Cost, budget: Budget) -> float:
        """Two standard errors of what is lost on these rows, in the unit of the budget.

        At most the budget itself: however few the rows are, no file that loses more than twice
        as much is taken. Nothing is known of figures that are no decisions: 0.
        """
        flipped = cost.flipped.get(self.name, 0.0)
        if self.output is not None and self.higher_is_better:
            flipped = 1 - self.figure(cost)
        error = accuracy.chance(flipped, cost.rows)
        if budget.is_relative and self.baseline:
            error /= abs(self.baseline)
        return min(error, budget.allowed)

    def lost(self, figure: float, budget: Budget) -> float:
        """What is lost by `figure`, in the unit of the budget; negative: it is better."""
        loss = self.baseline - figure if self.higher_is_better else figure - self.baseline
        if budget.is_relative:
            loss = accuracy.drop(self.baseline, figure, higher_is_better=self.higher_is_better)
        return round(loss, 9)  # 1 - 0.99 is more than 0.01

    def worst(self, cost: Cost, budget: Budget) -> Measure:
        """The measure by which a file loses most: this one, where there is one."""
        return self

    def _parity(self, cost: Cost) -> OutputParity:
        return next(o for o in cost.outputs if o.name == self.output)


@dataclass(frozen=True)
class WorstOutput(Measure):
    """Each output by its own measure, of which the one counts that loses most.

    Figures of several kinds cannot be compared: this one's is the loss, in the unit of `budget`.
    """

    parts: tuple[Measure, ...]
    budget: Budget

    def figure(self, cost: Cost) -> float:
        """What the worst output loses."""
        worst = self.worst(cost, self.budget)
        return worst.lost(worst.figure(cost), self.budget)

    def chance(self, cost: Cost, budget: Budget) -> float:
        """That of the worst output; 0 where chance does not explain what another one loses."""
        for part in self.parts:
            lost = part.lost(part.figure(cost), budget)
            if lost > budget.allowed + part.chance(cost, budget):
                return 0.0
        return self.worst(cost, budget).chance(cost, budget)

    def lost(self, figure: float, budget: Budget) -> float:
        """The figure itself."""
        return figure

    def worst(self, cost: Cost, budget: Budget) -> Measure:
        """The measure of the output that loses most."""
        return max(self.parts, key=lambda part: part.lost(part.figure(cost), budget))


def measure_of(held: Evidence, budget: Budget) -> Measure:
    """The recipe's metric, or, for each output, its accuracy on class labels; without such labels,
    the agreement on the top class or, where the output is no classes, the noise.

    Raises:
        ConversionError: points are asked of a figure that is no share.
    """
    figures = accuracy.evaluate(held.recipe, held.original, held.targets, held.original)
    if held.recipe is not None:
        name = held.recipe.metric
        found = Measure(name, figures[name], held.recipe.higher_is_better, None)
    else:
        parts = tuple(_measures(held, figures))
        found = parts[0] if len(parts) == 1 else WorstOutput(WORST, 0.0, False, None, parts, budget)
    if not budget.is_relative and found.baseline > 1:
        raise ConversionError(
            f"a budget in points needs a share, and {found.name} is {found.baseline:.4g}",
            hint=f"give it in percent: --max-drop {budget.text.removesuffix('pt')}%",
        )
    return found


def judged(record: SearchRecord, cost: Cost, held: Evidence, budget: Budget) -> SearchRecord:
    """`record` with what the chosen candidate lost on the test rows, and whether that holds."""
    measure = measure_of(held, budget)
    worst = measure.worst(cost, budget).name
    if worst != measure.name:
        record = replace(record, measure=f"{measure.name} ({worst})")
    lost, chance = measure.lost(measure.figure(cost), budget), measure.chance(cost, budget)
    holds = lost <= budget.allowed + chance
    return replace(record, final=lost, chance=chance, holds=holds)


def _measures(held: Evidence, figures: Mapping[str, float]) -> Iterator[Measure]:
    """One for each output."""
    classes = labelled(held)
    own = parity.compare(held.original, held.original, labelled=classes)
    for output in own:
        of = f" of {output.name!r}" if len(own) > 1 else ""
        if output.name in classes:
            name = accuracy.metric_of(output.name, held.targets)
            yield Measure(name, figures[name], True, None)
        elif output.top1_agreement is not None:
            yield Measure(f"{AGREEMENT}{of}", 1.0, True, output.name)
        else:
            yield Measure(f"{NOISE}{of}", 0.0, False, output.name)

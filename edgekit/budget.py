"""A budget of accuracy, and what a file has lost against it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from edgekit import accuracy, parity
from edgekit.errors import ConversionError
from edgekit.evidence import Evidence
from edgekit.proof import Proof

AGREEMENT = "top-1 agreement"
NOISE = "noise"
"""Root mean square of the error as a share of the output's own variation: 10^(-SQNR/20)."""


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

    def figure(self, proof: Proof) -> float:
        """That of a file."""
        if self.name == AGREEMENT:
            return min(o.top1_agreement or 0.0 for o in proof.parity.outputs)
        if self.name == NOISE:
            worst = min(o.sqnr_db for o in proof.parity.outputs)
            return float(10 ** (-worst / 20))
        assert proof.accuracy is not None
        return proof.accuracy.metrics[self.name]

    def chance(self, proof: Proof, budget: Budget) -> float:
        """Two standard errors of what is lost on these rows, in the unit of the budget.

        Both models see the same rows, so that only those count on which they disagree: of a
        share p of n rows, the difference of two accuracies has a standard error of sqrt(p / n)
        at most. Nothing is known of other figures: 0.
        """
        agreement = [o.top1_agreement for o in proof.parity.outputs]
        if self.name == NOISE or not self.higher_is_better or None in agreement:
            return 0.0
        flipped = 1 - min(a for a in agreement if a is not None)
        error = 2 * math.sqrt(flipped / proof.parity.rows)
        return error / self.baseline if budget.is_relative and self.baseline else error

    def lost(self, figure: float, budget: Budget) -> float:
        """What is lost by `figure`, in the unit of the budget; negative: it is better."""
        if budget.is_relative:
            return accuracy.drop(self.baseline, figure, higher_is_better=self.higher_is_better)
        return self.baseline - figure if self.higher_is_better else figure - self.baseline


def measure_of(held: Evidence, budget: Budget) -> Measure:
    """The recipe's metric, or the accuracy on labels; without labels, the agreement on the top
    class or, where the outputs are no classes, the noise.

    Raises:
        ConversionError: points are asked of a figure that is no share.
    """
    figures = accuracy.evaluate(held.recipe, held.original, held.targets)
    if held.recipe is not None:
        name, higher = held.recipe.metric, held.recipe.higher_is_better
        found = Measure(name, figures[name], higher)
    elif figures:
        # Of several outputs, the one that has most to lose.
        name = max(figures, key=lambda n: figures[n])
        found = Measure(name, figures[name], True)
    elif _is_classifier(held):
        found = Measure(AGREEMENT, 1.0, True)
    else:
        found = Measure(NOISE, 0.0, False)
    if not budget.is_relative and found.baseline > 1:
        raise ConversionError(
            f"a budget in points needs a share, and {found.name} is {found.baseline:.4g}",
            hint=f"give it in percent: --max-drop {budget.text.removesuffix('pt')}%",
        )
    return found


def _is_classifier(held: Evidence) -> bool:
    own = parity.compare(held.original, held.original, classifier=held.classifier)
    return all(o.top1_agreement is not None for o in own)

"""The task metric: what the recipe says of an artifact's outputs on the whole test split."""

from __future__ import annotations

import math

from edgekit.errors import SourceError
from edgekit.recipe import Recipe
from edgekit.types import Feed, Tolerance


def evaluate(recipe: Recipe | None, outputs: Feed, targets: Feed) -> dict[str, float]:
    """The recipe's metrics; without a recipe, the accuracy of each output that has class labels.

    Raises:
        SourceError: one label per row and several scores per row, but no class numbers.
    """
    if not targets:
        return {}
    if recipe is not None:
        return recipe.evaluate(outputs, targets)
    figures = {}
    for name, labels in targets.items():
        scores = outputs[name]
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if scores.ndim != 2 or scores.shape[1] < 2 or labels.ndim != 1:
            continue  # not classes: nothing is known of what the labels mean
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= scores.shape[1]:
            raise SourceError(
                f"the labels of {name!r} are not classes from 0 to {scores.shape[1] - 1}",
                hint="give y as whole numbers, one per row",
            )
        key = "accuracy" if len(targets) == 1 else f"accuracy_{name}"
        figures[key] = float((scores.argmax(axis=1) == labels).mean())
    return figures


def drop(baseline: float, current: float, *, higher_is_better: bool) -> float:
    """Loss against the baseline as a share of it; negative = better."""
    loss = baseline - current if higher_is_better else current - baseline
    return loss / abs(baseline) if baseline else loss


def violation(
    recipe: Recipe | None,
    baseline: dict[str, float],
    current: dict[str, float],
    rows: int,
    limit: Tolerance,
) -> str | None:
    """The main metric, in words, where it lost more than `limit.max_drop` and chance explain.

    Chance is the standard error of a share of `rows` rows, at most 0.5 / sqrt(rows): on few rows
    a handful of flipped decisions says nothing about the file.
    """
    metric = recipe.metric if recipe else "accuracy"
    if limit.max_drop is None or metric not in baseline or metric not in current:
        return None
    lost = drop(
        baseline[metric],
        current[metric],
        higher_is_better=recipe.higher_is_better if recipe else True,
    )
    allowed = limit.max_drop + 0.5 / math.sqrt(rows)
    if lost <= allowed:
        return None
    return (
        f"{metric} is {current[metric]:.4f}, the Keras model has {baseline[metric]:.4f}: "
        f"{lost:.1%} worse, allowed is {allowed:.1%} on {rows} rows"
    )

"""The task metric: what the recipe, or the labels, say of an artifact's outputs on all rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgekit.errors import SourceError
from edgekit.recipe import Recipe
from edgekit.stats import agreement, decisions
from edgekit.types import Feed, Tolerance

MOST_BY_CHANCE = 0.05
"""Of a figure, what a file may lose more than it is allowed, however few the rows are."""


def evaluate(recipe: Recipe | None, outputs: Feed, targets: Feed, keras: Feed) -> dict[str, float]:
    """The recipe's metrics; without a recipe, the accuracy of each output that has class labels.

    `keras` are the Keras model's own outputs, by which labels are told to be of classes.

    Raises:
        SourceError: as `class_labels`.
    """
    if not targets:
        return {}
    if recipe is not None:
        return recipe.evaluate(outputs, targets)
    return {
        metric_of(name, targets): float((decisions(outputs[name]) == labels).mean())
        for name, labels in class_labels(keras, targets).items()
    }


def metric_of(output: str, targets: Feed) -> str:
    """What the accuracy of an output is called, without a recipe."""
    return "accuracy" if len(targets) == 1 else f"accuracy_{output}"


def class_labels(keras: Feed, targets: Feed) -> dict[str, np.ndarray]:
    """Classes (rows,) by name of the outputs whose labels are classes; see `unused_labels`.

    They are numbers from 0, or one-hot; 0 and 1 where an output is one probability per row.

    Raises:
        SourceError: one label per row and several scores per row, but no class numbers.
    """
    read = _read(keras, targets)
    return {name: labels for name, labels in read.items() if not isinstance(labels, str)}


def unused_labels(recipe: Recipe | None, keras: Feed, targets: Feed) -> tuple[str, ...]:
    """A warning for each output whose labels say nothing of a file's accuracy, and why."""
    if recipe is not None:
        return ()
    return tuple(
        f"the labels of {_given_as(name, keras)!r} are not used: {reason}"
        for name, reason in _read(keras, targets).items()
        if isinstance(reason, str)
    )


def drop(baseline: float, current: float, *, higher_is_better: bool) -> float:
    """Loss against the baseline as a share of it; negative = better."""
    loss = baseline - current if higher_is_better else current - baseline
    return loss / abs(baseline) if baseline else loss


def flipped(recipe: Recipe | None, outputs: Feed, targets: Feed, keras: Feed) -> dict[str, float]:
    """By metric, the share of rows on which the decision is not the Keras model's.

    Only of metrics that are accuracies: nothing of the kind is known of others.
    """
    if recipe is None:
        names = {metric_of(name, targets): [name] for name in class_labels(keras, targets)}
    elif recipe.task == "classification" and recipe.higher_is_better:
        names = {recipe.metric: [n for n, v in keras.items() if v.ndim == 2]}
    else:
        return {}
    return {
        metric: max((1 - agreement(keras[n], outputs[n]) for n in of), default=0.0)
        for metric, of in names.items()
    }


def chance(flipped: float, rows: int) -> float:
    """Two standard errors of the difference of two accuracies on the same `rows` rows.

    Only the share `flipped` of them counts, on which the decisions differ: of a share p of n rows,
    the difference has a standard error of sqrt(p / n) at most.
    """
    return 2 * math.sqrt(flipped / rows)


def violation(
    recipe: Recipe | None,
    baseline: Mapping[str, float],
    current: Mapping[str, float],
    flipped: Mapping[str, float],
    rows: int,
    limit: Tolerance,
) -> str | None:
    """The metric, in words, that lost more than `limit.max_drop` and chance explain.

    The recipe's, or else any accuracy. `flipped` is the share of the `rows` rows, by metric, which
    chance is of.
    """
    if limit.max_drop is None:
        return None
    for name in (recipe.metric,) if recipe else baseline:
        if name not in baseline or name not in current:
            continue
        lost = drop(
            baseline[name],
            current[name],
            higher_is_better=recipe.higher_is_better if recipe else True,
        )
        error = chance(flipped.get(name, 0.0), rows) / (abs(baseline[name]) or 1.0)
        allowed = limit.max_drop + min(error, MOST_BY_CHANCE)
        if lost > allowed:
            return (
                f"{name} is {current[name]:.4f}, the Keras model has {baseline[name]:.4f}: "
                f"{lost:.1%} worse, allowed is {allowed:.1%} on {rows} rows"
            )
    return None


def _read(keras: Feed, targets: Feed) -> dict[str, np.ndarray | str]:
    return {
        name: _classes(_given_as(name, keras), keras[name], labels)
        for name, labels in targets.items()
    }


def _classes(given: str, scores: np.ndarray, labels: np.ndarray) -> np.ndarray | str:
    """The labels of an output as classes (rows,), or why they are not used."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    channels = 1 if scores.ndim == 1 else scores.shape[1]
    if scores.ndim > 2:
        return f"the output has the shape {_shape(scores)}, one decision per row is understood"
    if labels.ndim == 1 and channels == 1:
        if not np.isin(labels, (0, 1)).all():
            return "they are not classes, 0 or 1; the output is held to the Keras model's alone"
        if scores.min() < 0 or scores.max() > 1:
            return "they are 0 and 1, but the output is no probability"
        return labels.astype(np.int64)
    if labels.ndim == 1:
        if not np.isin(labels, np.arange(channels)).all():
            raise SourceError(
                f"the labels of {given!r} are not classes from 0 to {channels - 1}",
                hint="give y as whole numbers, one per row",
            )
        return labels.astype(np.int64)
    if labels.shape != scores.shape:
        return f"their shape is {_shape(labels)}, that of the output {_shape(scores)}"
    if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
        return "they are neither classes nor one-hot"
    return np.asarray(labels.argmax(axis=1))


def _given_as(output: str, keras: Feed) -> str:
    """The name of an output's labels in the samples."""
    return "y" if len(keras) == 1 else f"y_{output}"


def _shape(array: np.ndarray) -> str:
    return f"({', '.join(['rows', *map(str, array.shape[1:])])})"

"""What a file scores on each row of a split, so that two files can be compared row by row.

An accuracy is 1 or 0 in each row. Other metrics say nothing of one row alone, or too much to be
kept of each: theirs are of `GROUPS` groups of rows, always the same ones.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit import accuracy
from edgekit.errors import RecipeError
from edgekit.recipe import Recipe
from edgekit.stats import decisions
from edgekit.types import Feed, RowScores

GROUPS = 256
RESAMPLES = 4000
LEVEL = 95
"""Of the interval, in percent."""


@dataclass(frozen=True)
class Change:
    """Mean of the differences of two files' scores, with its interval; above 0: it is better."""

    mean: float
    low: float
    high: float


def score(
    recipe: Recipe | None, outputs: Feed, targets: Feed, keras: Feed, metrics: Mapping[str, float]
) -> tuple[RowScores, ...]:
    """The scores of `metrics` that a file is judged by: the recipe's own, or each accuracy.

    `metrics` are those of all rows, `keras` the Keras model's own outputs.
    """
    if recipe is None:
        classes = accuracy.class_labels(keras, targets) if targets else {}
        return tuple(
            _packed(accuracy.metric_of(name, targets), True, decisions(outputs[name]) == labels)
            for name, labels in classes.items()
        )
    if recipe.metric not in metrics:
        return ()
    right = _right(outputs, targets, metrics[recipe.metric])
    found = right if right is not None else _by_group(recipe, outputs, targets)
    return () if found is None else (_packed(recipe.metric, recipe.higher_is_better, found),)


def unpack(scores: RowScores) -> np.ndarray:
    """The scores (rows,) or (groups,) as float64."""
    data = np.frombuffer(base64.b64decode(scores.data), np.uint8)
    if scores.dtype == "bit":
        return np.unpackbits(data, count=scores.count).astype(np.float64)
    return data.view(np.dtype(scores.dtype).newbyteorder("<")).astype(np.float64)


def change(baseline: RowScores, current: RowScores) -> Change:
    """What `current` scores more than `baseline` on the same rows, by a paired bootstrap.

    The same rows are drawn for both, so that what is hard for both counts for neither.
    """
    sign = 1.0 if current.higher_is_better else -1.0
    differences = sign * (unpack(current) - unpack(baseline))
    values, counts = np.unique(differences, return_counts=True)
    random = np.random.default_rng(0)
    drawn = random.multinomial(len(differences), counts / len(differences), RESAMPLES)
    means = drawn @ values / len(differences)
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Change(float(differences.mean()), float(low), float(high))


def _right(outputs: Feed, targets: Feed, accuracy: float) -> np.ndarray | None:
    """Whether each row is decided rightly, if that is what the metric is the mean of."""
    for name, labels in targets.items():
        scores = outputs.get(name)
        if scores is None or scores.ndim > 2 or labels.size != len(scores):
            continue
        right = decisions(scores) == labels.reshape(-1)
        if abs(right.mean() - accuracy) < 1e-9:
            return np.asarray(right)
    return None


def _by_group(recipe: Recipe, outputs: Feed, targets: Feed) -> np.ndarray | None:
    """The metric of each group of rows; None where it is none of so few rows."""
    rows = len(next(iter(targets.values())))
    found = []
    for group in np.array_split(np.arange(rows), min(rows, GROUPS)):
        part = slice(group[0], group[-1] + 1)
        try:
            with np.errstate(all="ignore"):
                figures = recipe.evaluate(
                    {name: value[part] for name, value in outputs.items()},
                    {name: value[part] for name, value in targets.items()},
                )
        except RecipeError:
            return None
        found.append(figures[recipe.metric])
    return np.asarray(found)


def _packed(metric: str, higher_is_better: bool, scores: np.ndarray) -> RowScores:
    is_bit = scores.dtype == bool
    data = np.packbits(scores) if is_bit else scores.astype("<f4")
    text = base64.b64encode(data.tobytes()).decode()
    return RowScores(metric, higher_is_better, "bit" if is_bit else "float32", len(scores), text)

from __future__ import annotations

import numpy as np
import pytest

from edgekit import accuracy
from edgekit.errors import SourceError
from edgekit.recipe import load_recipe
from edgekit.types import Tolerance

SCORES = {"y": np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]}
LABELS = {"y": np.array([0, 1, 2, 3, 0, 1, 0, 0])}


def test_labels_give_an_accuracy_without_a_recipe():
    assert accuracy.evaluate(None, SCORES, LABELS) == {"accuracy": 0.75}


@pytest.mark.parametrize(
    "targets",
    [{}, {"y": np.eye(4)[:1].repeat(8, 0)}],
)
def test_other_targets_give_no_figure(targets):
    assert accuracy.evaluate(None, SCORES, targets) == {}


def test_a_column_of_labels_is_a_list_of_labels():
    assert accuracy.evaluate(None, SCORES, {"y": LABELS["y"][:, None]}) == {"accuracy": 0.75}


@pytest.mark.parametrize("labels", [[0.5] * 8, ["cat"] * 8, [4] * 8, [-1] * 8])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(SourceError, match="the labels of 'y' are not classes from 0 to 3"):
        accuracy.evaluate(None, SCORES, {"y": np.array(labels)})


def test_drop_is_a_share_in_the_direction_that_is_worse():
    assert accuracy.drop(0.8, 0.6, higher_is_better=True) == pytest.approx(0.25)
    assert accuracy.drop(0.8, 0.6, higher_is_better=False) == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("current", "rows", "is_violation"),
    [
        (0.90, 10_000, False),
        (0.86, 10_000, False),  # 4.4 % lost, 5 % allowed
        (0.83, 10_000, True),
        (0.83, 100, False),  # chance, on so few rows
        (0.70, 100, True),
    ],
)
def test_what_chance_does_not_explain_is_a_violation(current, rows, is_violation):
    found = accuracy.violation(
        None, {"accuracy": 0.9}, {"accuracy": current}, rows, Tolerance(max_drop=0.05)
    )
    assert bool(found) == is_violation
    if found:
        assert f"accuracy is {current:.4f}, the Keras model has 0.9000" in found


@pytest.mark.parametrize(
    ("current", "is_violation"), [(60.0, False), (80.0, False), (84.0, False), (86.0, True)]
)
def test_a_metric_that_should_be_low_is_violated_by_a_high_one(current, is_violation):
    recipe = load_recipe("imdb_gru_lm")
    found = accuracy.violation(
        recipe, {"perplexity": 80.0}, {"perplexity": current}, 10_000, Tolerance(max_drop=0.05)
    )
    assert bool(found) == is_violation
    if found:
        assert "perplexity is 86.0000, the Keras model has 80.0000: 7.5% worse" in found

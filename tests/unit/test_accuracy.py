from __future__ import annotations

import re

import numpy as np
import pytest

from edgekit import accuracy
from edgekit.errors import SourceError
from edgekit.parity import TOLERANCES
from edgekit.recipe import load_recipe
from edgekit.types import Tolerance

SCORES = {"y": np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]]}
LABELS = {"y": np.array([0, 1, 2, 3, 0, 1, 0, 0])}
CHANCES = {"y": np.array([[0.1], [0.2], [0.3], [0.4], [0.6], [0.7], [0.8], [0.9]])}
BINARY = np.array([0, 0, 0, 1, 1, 1, 1, 0])


def evaluate(scores, labels):
    """The figures of the Keras model's own outputs, where nothing is left unused."""
    targets = {"y": np.asarray(labels)}
    assert accuracy.unused_labels(None, scores, targets) == ()
    return accuracy.evaluate(None, scores, targets, scores)


def test_labels_give_an_accuracy_without_a_recipe():
    assert evaluate(SCORES, LABELS["y"]) == {"accuracy": 0.75}
    assert accuracy.evaluate(None, SCORES, {}, SCORES) == {}


@pytest.mark.parametrize(
    "labels",
    [
        LABELS["y"][:, None],
        LABELS["y"].astype(np.float32),
        LABELS["y"].astype(np.uint8),
        np.eye(4)[LABELS["y"]],
        np.eye(4, dtype=bool)[LABELS["y"]],
    ],
)
def test_classes_may_come_as_a_column_as_floats_or_one_hot(labels):
    assert evaluate(SCORES, labels) == {"accuracy": 0.75}


@pytest.mark.parametrize("labels", [BINARY, BINARY[:, None], BINARY.astype(float), BINARY == 1])
@pytest.mark.parametrize("shape", [(8, 1), (8,)])
def test_one_probability_per_row_is_right_on_its_side_of_a_half(labels, shape):
    assert evaluate({"y": CHANCES["y"].reshape(shape)}, labels) == {"accuracy": 0.75}


def test_what_labels_mean_does_not_depend_on_the_file():
    """A probability that a file computes as -0.01 is still one."""
    outputs = {"y": np.concatenate([[[-0.01]], CHANCES["y"][1:]])}
    assert accuracy.evaluate(None, outputs, {"y": BINARY}, CHANCES) == {"accuracy": 0.75}


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        (CHANCES["y"], [1.5, 2, 3, 4, 5, 6, 7, 8], "they are not classes, 0 or 1"),
        (CHANCES["y"], [np.nan, 1, 0, 1, 0, 1, 0, 1], "they are not classes, 0 or 1"),
        (CHANCES["y"] * 9, BINARY, "0 and 1, but the output is no probability"),
        (SCORES["y"], np.full((8, 4), 0.25), "neither classes nor one-hot"),
        (SCORES["y"], np.ones((8, 4)), "neither classes nor one-hot"),
        (SCORES["y"], np.ones((8, 3)), r"their shape is \(rows, 3\), that of the output"),
        (SCORES["y"][:, None], LABELS["y"], r"has the shape \(rows, 1, 4\)"),
    ],
)
def test_labels_that_say_nothing_are_named_with_the_reason(scores, labels, reason):
    keras, targets = {"y": scores}, {"y": np.asarray(labels)}
    assert accuracy.evaluate(None, keras, targets, keras) == {}
    [warning] = accuracy.unused_labels(None, keras, targets)
    assert re.match(f"the labels of 'y' are not used: .*{reason}", warning)
    assert accuracy.unused_labels(load_recipe("digits_mlp"), keras, targets) == ()


def test_labels_are_called_as_they_were_given():
    keras = {"kind": SCORES["y"], "value": CHANCES["y"] * 9}
    targets = {"kind": LABELS["y"], "value": np.arange(8.0)}
    assert accuracy.evaluate(None, keras, targets, keras) == {"accuracy_kind": 0.75}
    [warning] = accuracy.unused_labels(None, keras, targets)
    assert warning.startswith("the labels of 'y_value' are not used")
    [warning] = accuracy.unused_labels(None, {"dense_3": CHANCES["y"] * 9}, {"dense_3": BINARY})
    assert warning.startswith("the labels of 'y' are not used")


@pytest.mark.parametrize("labels", [[0.5] * 8, ["cat"] * 8, [4] * 8, [-1] * 8, [np.nan] * 8])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(SourceError, match="the labels of 'y' are not classes from 0 to 3"):
        accuracy.evaluate(None, SCORES, {"y": np.array(labels)}, SCORES)


def test_only_rows_that_are_decided_otherwise_may_be_lost_by_chance():
    other = {"y": SCORES["y"][[1, 1, 2, 3, 0, 1, 2, 3]]}
    assert accuracy.flipped(None, other, LABELS, SCORES) == {"accuracy": 0.125}
    recipe = load_recipe("digits_mlp")
    assert accuracy.flipped(recipe, other, LABELS, SCORES) == {"accuracy": 0.125}
    assert accuracy.flipped(load_recipe("imdb_gru_lm"), other, LABELS, SCORES) == {}
    assert accuracy.chance(0.04, 100) == pytest.approx(0.04)


def test_drop_is_a_share_in_the_direction_that_is_worse():
    assert accuracy.drop(0.8, 0.6, higher_is_better=True) == pytest.approx(0.25)
    assert accuracy.drop(0.8, 0.6, higher_is_better=False) == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("current", "flipped", "rows", "is_violation"),
    [
        (0.90, 0.0, 10_000, False),
        (0.86, 0.04, 10_000, False),  # 4.4 % lost, 5 % allowed
        (0.83, 0.07, 10_000, True),
        (0.83, 0.07, 100, False),  # 7.8 %: chance, on so few rows
        (0.83, 0.0, 100, True),
        (0.80, 0.10, 10, True),  # however few the rows are
    ],
)
def test_what_chance_does_not_explain_is_a_violation(current, flipped, rows, is_violation):
    found = accuracy.violation(
        None,
        {"accuracy": 0.9},
        {"accuracy": current},
        {"accuracy": flipped},
        rows,
        Tolerance(max_drop=0.05),
    )
    assert bool(found) == is_violation
    if found:
        assert f"accuracy is {current:.4f}, the Keras model has 0.9000" in found


def test_one_row_of_many_on_the_edge_of_two_classes_is_chance_in_fp32_too():
    figures = {"accuracy": 0.9}, {"accuracy": 0.89}, {"accuracy": 0.01}
    assert accuracy.violation(None, *figures, 100, TOLERANCES["fp32"]) is None


def test_each_accuracy_of_several_is_held():
    baseline = {"accuracy_a": 0.9, "accuracy_b": 0.9}
    current = {"accuracy_a": 0.9, "accuracy_b": 0.6}
    found = accuracy.violation(None, baseline, current, {}, 1000, Tolerance(max_drop=0.05))
    assert "accuracy_b is 0.6000" in found


@pytest.mark.parametrize(
    ("current", "is_violation"), [(60.0, False), (80.0, False), (84.0, False), (86.0, True)]
)
def test_a_metric_that_should_be_low_is_violated_by_a_high_one(current, is_violation):
    recipe = load_recipe("imdb_gru_lm")
    found = accuracy.violation(
        recipe, {"perplexity": 80.0}, {"perplexity": current}, {}, 10_000, Tolerance(max_drop=0.05)
    )
    assert bool(found) == is_violation
    if found:
        assert "perplexity is 86.0000, the Keras model has 80.0000: 7.5% worse" in found

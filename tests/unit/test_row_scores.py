from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgekit import row_scores
from edgekit.recipe import load_recipe

ROWS = 10_000


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 10, ROWS)


def decided(classes):
    return np.eye(10, dtype=np.float32)[classes]


def scored(classes, labels):
    """Without a recipe, by labels."""
    outputs = {"label": decided(classes)}
    [found] = row_scores.score(None, outputs, {"label": labels}, outputs, {})
    return found


def wrong(labels, rows):
    return np.where(np.isin(np.arange(ROWS), rows), (labels + 1) % 10, labels)


def test_an_accuracy_is_a_bit_for_each_row(labels):
    found = scored(wrong(labels, range(0, ROWS, 4)), labels)
    assert (found.metric, found.dtype, found.count) == ("accuracy", "bit", ROWS)
    assert len(found.data) < ROWS / 5
    np.testing.assert_array_equal(row_scores.unpack(found), np.arange(ROWS) % 4 != 0)


def test_the_accuracy_of_a_recipe_is_recognized():
    recipe = load_recipe("digits_mlp")
    labels = np.arange(100) % 10
    outputs = {"label": decided(np.where(np.arange(100) < 7, 0, labels))}
    targets = {"label": labels}
    metrics = recipe.evaluate(outputs, targets)
    [found] = row_scores.score(recipe, outputs, targets, outputs, metrics)
    assert found.dtype == "bit"
    assert row_scores.unpack(found).mean() == pytest.approx(metrics["accuracy"])


def test_another_metric_is_of_groups_of_rows():
    recipe = load_recipe("california_mlp")
    random = np.random.default_rng(0)
    targets = {"price": random.random((1000, 1))}
    outputs = {"price": targets["price"] + random.normal(0, 0.1, (1000, 1))}
    metrics = recipe.evaluate(outputs, targets)
    [found] = row_scores.score(recipe, outputs, targets, outputs, metrics)
    assert (found.metric, found.higher_is_better, found.dtype) == ("rmse", False, "float32")
    assert found.count == row_scores.GROUPS
    assert row_scores.unpack(found).mean() == pytest.approx(metrics["rmse"], rel=0.1)


def test_one_point_of_ten_thousand_rows_is_seen_and_nothing_is_nothing(labels):
    """Both files are wrong in 8 % of the rows; 2 % are decided otherwise, either way."""
    seen = alarms = 0
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(ROWS)
        before = scored(wrong(labels, order[:800]), labels)
        same = scored(wrong(labels, order[100:900]), labels)  # 100 mended, 100 spoilt
        worse = scored(wrong(labels, order[50:950]), labels)  # 50 mended, 150 spoilt: one point
        seen += row_scores.change(before, worse).high < 0
        alarms += row_scores.change(before, same).high < 0
    assert seen >= 190
    assert alarms == 0


def test_less_of_an_error_is_better():
    random = np.random.default_rng(0)
    [high] = random.random((1, 50))
    low = high - 0.1
    packed = [row_scores._packed("rmse", False, v) for v in (high, low)]
    change = row_scores.change(*packed)
    assert 0 < change.low <= change.mean == pytest.approx(0.1, abs=1e-6)
    assert row_scores.change(packed[0], dataclasses.replace(packed[0])).mean == 0

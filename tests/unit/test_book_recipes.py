"""The recipes of tables and digits: which rows each split has, and what their figures are."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.recipe import SPLITS, load_recipe
from tests.recipe_splits import splits_of

CALIFORNIA = [
    "california_mlp",
    "wide_deep",
    "wide_deep_multi_input",
    "wide_deep_multi_output",
    "wide_deep_subclassed",
    "mlp_search",
]
MNIST = ["mnist_mlp", "mnist_functional"]


@pytest.mark.parametrize("name", CALIFORNIA)
def test_california_splits(name, tmp_path, monkeypatch):
    # Each district has its number in every feature but the fifth, and in its price.
    rows = 1_600
    x = np.repeat(np.arange(rows, dtype=np.float64)[:, np.newaxis], 8, axis=1)
    x[:, 5] = np.where(np.arange(rows) % 10 == 0, 500, 3)
    np.savez(tmp_path / "california_housing.npz", x=x, y=np.arange(rows, dtype=np.float64))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    crowded = {}

    def row_of(feed, targets):
        assert all(a.dtype == np.float32 for a in [*feed.values(), *targets.values()])
        assert all(price.shape == (len(price), 1) for price in targets.values())
        [first, *others] = feed.values()
        if others:
            assert list(feed) == ["wide", "deep"]
            assert feed["wide"].shape[1:] == (5,)
            assert feed["deep"].shape[1:] == (6,)
            np.testing.assert_array_equal(feed["deep"][:, 0], feed["wide"][:, 2])
            people = feed["deep"][:, 3]
        else:
            assert feed["district"].shape[1:] == (8,)
            people = feed["district"][:, 5]
        for price in targets.values():
            np.testing.assert_array_equal(price[:, 0], first[:, 0])
        crowded[len(crowded)] = (people == 500).any()
        return [int(number) for number in first[:, 0]]

    ids = splits_of(name, row_of)
    assert {k: len(v) for k, v in ids.items() if k != "validation"} == {
        "train": 900,
        "calibration": 500,
        "test": 400,
    }
    everything = ids["train"] | ids["validation"] | ids["test"]
    assert all(number % 10 == 0 for number in set(range(rows)) - everything)
    assert list(crowded.values()) == [split != "validation" for split in SPLITS]


@pytest.mark.parametrize("name", CALIFORNIA)
def test_prices_are_judged_by_the_root_mean_square(name):
    recipe = load_recipe(name)
    assert (recipe.task, recipe.metric, recipe.higher_is_better) == ("regression", "rmse", False)
    wanted = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    off = wanted + np.array([[3], [-3], [3], [5]], np.float32)
    outputs = {"price": off, "deep_price": wanted + 2}
    targets = {"price": wanted, "deep_price": wanted}
    figures = recipe.evaluate(outputs, targets)
    assert figures["rmse"] == pytest.approx(np.sqrt(13))
    assert figures.get("rmse_deep", 2) == pytest.approx(2)
    has_two = name in ("wide_deep_multi_output", "wide_deep_subclassed")
    assert ("rmse_deep" in figures) is has_two


def test_boston_splits_are_those_of_the_books(tmp_path, monkeypatch):
    x = np.repeat(np.arange(506.0)[:, np.newaxis], 13, axis=1)
    np.savez(tmp_path / "boston_housing.npz", x=x, y=np.arange(506.0))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        np.testing.assert_array_equal(feed["house"][:, :1], targets["price"])
        assert feed["house"].shape[1:] == (13,)
        return [int(number) for number in targets["price"][:, 0]]

    ids = splits_of("boston_kfold", row_of)
    assert {k: len(v) for k, v in ids.items()} == {
        "train": 360,
        "validation": 44,
        "calibration": 360,
        "test": 102,
    }
    indices = np.arange(506)
    np.random.RandomState(113).shuffle(indices)  # keras.datasets.boston_housing.load_data()
    assert ids["test"] == set(indices[404:])


def test_boston_is_judged_by_the_mean_absolute_error():
    recipe = load_recipe("boston_kfold")
    assert (recipe.task, recipe.metric, recipe.higher_is_better) == ("regression", "mae", False)
    outputs, targets = {"price": np.array([[1.0], [5.0]])}, {"price": np.array([[3.0], [4.0]])}
    assert recipe.evaluate(outputs, targets) == {"mae": 1.5}


def test_single_epochs_do_not_decide_how_long_is_trained():
    smooth = load_recipe("boston_kfold").module._smooth
    errors = np.abs(np.arange(100) - 60) / 10 + 3
    assert np.argmin(smooth(errors)) == 60
    errors[20] = 2  # a lucky one
    assert np.argmin(errors) == 20
    assert np.argmin(smooth(errors)) == 60
    assert len(smooth(errors)) == 100
    for few in (1, 2, 5):
        assert len(smooth(errors[:few])) == few


@pytest.mark.parametrize("name", MNIST)
def test_mnist_splits(name, tmp_path, monkeypatch):
    # Each image tells its part, 0 for training and 1 for the test, and its row.
    arrays = {}
    for is_test, (part, rows) in enumerate({"train": 10_020, "test": 30}.items()):
        images = np.zeros((rows, 28, 28), np.uint8)
        images[:, 0, 0] = is_test
        images[:, 0, 1], images[:, 0, 2] = np.divmod(np.arange(rows), 256)
        arrays |= {f"x_{part}": images, f"y_{part}": (np.arange(rows) % 10).astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        assert feed["image"].shape[1:] == (28, 28)
        assert feed["image"].dtype == np.float32
        ids = feed["image"][:, 0, :3].astype(int)
        np.testing.assert_array_equal((256 * ids[:, 1] + ids[:, 2]) % 10, targets["digit"])
        return [tuple(row) for row in ids]

    assert {k: len(v) for k, v in splits_of(name, row_of).items()} == {
        "train": 9_000,
        "validation": 1_000,
        "calibration": 500,
        "test": 30,
    }


@pytest.mark.parametrize("name", MNIST)
def test_digits_are_judged_by_their_accuracy(name):
    outputs = {"digit": np.eye(10, dtype=np.float32)}
    targets = {"digit": np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])}
    figures = load_recipe(name).evaluate(outputs, targets)
    assert figures["accuracy"] == 0.8
    if name == "mnist_functional":  # two rows of ten have two of ten probabilities off by 1
        assert figures["rmse"] == pytest.approx(np.sqrt(4 / 100))


def test_the_drawn_loss_rises_and_falls():
    blocks = load_recipe("mnist_functional").module.blocks
    assert blocks([8.0, 4.0, 0.0]) == "█▄▁"
    assert blocks([8.0] * 80 + [0.0] * 80, width=4) == "██▁▁"


def test_iris_flowers_with_the_same_petals_stay_together():
    def row_of(feed, targets):
        assert targets["setosa"].shape == (len(feed["petal"]), 1)
        # Of the three kinds, setosa alone has petals shorter than 2.5 cm.
        np.testing.assert_array_equal(feed["petal"][:, :1] < 2.5, targets["setosa"] == 1)
        assert 0 < targets["setosa"].mean() < 1
        rows[len(rows)] = len(feed["petal"])
        return [tuple(petal) for petal in feed["petal"].tolist()]

    rows = {}
    splits_of("perceptron_iris", row_of)
    counts = dict(zip(SPLITS, rows.values(), strict=True))
    assert counts["train"] + counts["validation"] + counts["test"] == 150
    assert counts["test"] >= 30


def test_two_clouds():
    def row_of(feed, targets):
        assert feed["point"].dtype == np.float32
        assert 0.4 < targets["cloud"].mean() < 0.6
        second = targets["cloud"][:, 0] == 1
        assert feed["point"][second].mean(axis=0) == pytest.approx([3, 0], abs=0.3)
        assert feed["point"][~second].mean(axis=0) == pytest.approx([0, 3], abs=0.3)
        return [tuple(point) for point in feed["point"].tolist()]

    assert {k: len(v) for k, v in splits_of("linear_2d", row_of).items()} == {
        "train": 1_300,
        "validation": 200,
        "calibration": 300,
        "test": 500,
    }


@pytest.mark.parametrize("split", SPLITS)
def test_xor_is_exclusive_or(split):
    feed, targets = load_recipe("xor_mlp").data(split)
    a, b = feed["bits"].astype(bool).T
    np.testing.assert_array_equal(targets["xor"][:, 0], a ^ b)
    assert {tuple(bits) for bits in feed["bits"]} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("perceptron_iris", "setosa"),
        ("xor_mlp", "xor"),
        ("linear_2d", "cloud"),
        ("imdb_mlp", "good"),
    ],
)
def test_one_score_is_for_the_second_class_from_a_half_on(name, output):
    recipe = load_recipe(name)
    assert (recipe.task, recipe.metric) == ("classification", "accuracy")
    scores = np.array([[0.5], [0.49], [1.2], [-0.3]], np.float32)
    targets = np.array([[1], [0], [1], [1]])
    assert recipe.evaluate({output: scores}, {output: targets}) == {"accuracy": 0.75}

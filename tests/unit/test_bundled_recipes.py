"""The recipes that come with edgekit: what they promise about figures and splits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgekit.recipe import SPLITS, load_recipe, recipe_names


def test_bundled_names():
    assert recipe_names() == [
        "boston_kfold",
        "california_mlp",
        "digits_mlp",
        "fashion_mnist_cnn",
        "fashion_mnist_mlp",
        "imdb_gru_lm",
        "imdb_mlp",
        "imdb_transformer",
        "linear_2d",
        "loudness_gru",
        "mlp_search",
        "mnist_functional",
        "mnist_mlp",
        "perceptron_iris",
        "reuters_mlp",
        "reuters_transformer",
        "spoken_digits_dscnn",
        "tickets",
        "wide_deep",
        "wide_deep_multi_input",
        "wide_deep_multi_output",
        "wide_deep_subclassed",
        "xor_mlp",
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipe_is_complete(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.sha256 == hashlib.sha256(recipe.path.read_bytes()).hexdigest()
    assert recipe.task in ("classification", "regression")
    assert recipe.labels is None or len(set(recipe.labels)) == len(recipe.labels) > 1
    assert "\n" not in recipe.description


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("digits_mlp", "label"),
        ("fashion_mnist_mlp", "label"),
        ("fashion_mnist_cnn", "label"),
        ("reuters_mlp", "topic"),
        ("reuters_transformer", "topic"),
    ],
)
def test_bundled_classifiers_are_judged_by_their_accuracy(name, output):
    outputs = {output: np.eye(10, dtype=np.float32)}
    targets = {output: np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])}
    assert load_recipe(name).evaluate(outputs, targets) == {"accuracy": 0.8}


def test_a_language_model_is_judged_by_its_perplexity():
    recipe = load_recipe("imdb_gru_lm")
    assert (recipe.metric, recipe.higher_is_better) == ("perplexity", False)
    targets = {"next_word": np.array([0, 1, 1, 1])}
    unsure = {"next_word": np.full((4, 8), 5, np.float32)}
    assert recipe.evaluate(unsure, targets) == pytest.approx({"perplexity": 8, "accuracy": 0.25})
    sure = {"next_word": 1000 * np.eye(8, dtype=np.float32)[[0, 1, 1, 1]]}
    assert recipe.evaluate(sure, targets) == {"perplexity": 1, "accuracy": 1}
    sure["next_word"][3] = 8 * np.eye(8)[0]  # off by 8 nats in one of four
    figures = recipe.evaluate(sure, targets)
    assert figures == pytest.approx({"perplexity": np.exp(2), "accuracy": 0.75}, rel=1e-3)


def test_digits_splits_are_whole_and_disjoint():
    from sklearn.datasets import load_digits

    recipe = load_recipe("digits_mlp")
    images = {}
    for split in SPLITS:
        feed, targets = recipe.data(split)
        assert feed["image"].shape == (len(targets["label"]), 8, 8)
        assert feed["image"].dtype == np.float32
        assert set(targets["label"]) == set(range(10))
        np.testing.assert_array_equal(recipe.data(split)[0]["image"], feed["image"])
        images[split] = [image.tobytes() for image in feed["image"]]
    assert {k: len(v) for k, v in images.items()} == {
        "train": 1257,
        "validation": 180,
        "calibration": 300,
        "test": 360,
    }
    everything = images["train"] + images["validation"] + images["test"]
    assert len(set(everything)) == len(everything) == 1797
    assert set(everything) == {i.tobytes() for i in load_digits().images.astype(np.float32)}
    assert set(images["calibration"]) <= set(images["train"])


@pytest.mark.parametrize(
    ("name", "shape"), [("fashion_mnist_mlp", (28, 28)), ("fashion_mnist_cnn", (28, 28, 1))]
)
def test_fashion_splits_are_disjoint(name, shape, tmp_path, monkeypatch):
    # Each image tells where it comes from: 0 in the training set, 1 in the test set, and its row.
    for_rows = {"train": 5600, "test": 20}
    arrays = {}
    for is_test, (part, rows) in enumerate(for_rows.items()):
        images = np.zeros((rows, 28, 28), np.uint8)
        images[:, 0, 0] = is_test
        images[:, 0, 1], images[:, 0, 2] = np.divmod(np.arange(rows), 256)
        arrays |= {f"x_{part}": images, f"y_{part}": (np.arange(rows) % 10).astype(np.uint8)}
    np.savez(tmp_path / "fashion_mnist.npz", **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    seen = {}
    for split in SPLITS:
        feed, targets = load_recipe(name).data(split)
        assert feed["image"].shape[1:] == shape
        assert feed["image"].dtype == np.float32
        ids = feed["image"].reshape(-1, 784)[:, :3].astype(int)
        np.testing.assert_array_equal((256 * ids[:, 1] + ids[:, 2]) % 10, targets["label"])
        seen[split] = {tuple(row) for row in ids}
    assert {k: len(v) for k, v in seen.items()} == {
        "train": 600,
        "validation": 5000,
        "calibration": 500,
        "test": 20,
    }
    assert not seen["train"] & seen["validation"]
    assert not seen["test"] & (seen["train"] | seen["validation"])
    assert seen["calibration"] <= seen["train"]


def test_reuters_splits_are_disjoint(tmp_path, monkeypatch):
    # The second word of a text tells its row, the third its part.
    rows = {"train": 1_010, "test": 3}
    arrays = {}
    for is_test, (part, count) in enumerate(rows.items()):
        lengths = np.full(count, 5)
        lengths[-1] = 300
        texts = [np.full(length, 10_000, np.uint16) for length in lengths]
        for row, text in enumerate(texts):
            text[:4] = 1, 100 + row, 10 + is_test, 9_999
        arrays |= {
            f"{part}_tokens": np.concatenate(texts),
            f"{part}_lengths": lengths,
            f"{part}_labels": (np.arange(count) % 44).astype(np.uint8),
        }
    np.savez(tmp_path / "reuters.npz", **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    seen = {}
    for split in SPLITS:
        feed, targets = load_recipe("reuters_transformer").data(split)
        tokens = feed["tokens"]
        assert tokens.shape == (len(targets["topic"]), 160)
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal((tokens[:, 1] - 100) % 44, targets["topic"])
        np.testing.assert_array_equal(tokens[0, 3:8], [9_999, 2, 0, 0, 0])
        seen[split] = {tuple(row[:3]) for row in tokens}
    assert set(tokens[-1, 4:]) == {2}  # the long one: the test split comes last
    assert {k: len(v) for k, v in seen.items()} == {
        "train": 510,
        "validation": 500,
        "calibration": 500,
        "test": 3,
    }
    assert not seen["train"] & seen["validation"]
    assert not seen["test"] & (seen["train"] | seen["validation"])
    assert seen["calibration"] <= seen["train"]


def test_language_model_splits_are_disjoint(tmp_path, monkeypatch):
    # Training windows start with their number in two words; test reviews count in other words.
    windows = np.tile(np.arange(3, 34), (2_600, 1))
    windows[:, 0], windows[:, 1] = np.divmod(np.arange(2_600), 1_000)
    windows[:, 1] += 3
    windows[:, 29] = 2_000
    reviews = {"train": windows.reshape(-1), "test": 1_500 + np.arange(20_000) % 500}
    arrays = {}
    for part, tokens in reviews.items():
        arrays |= {
            f"{part}_tokens": tokens.astype(np.uint16),
            f"{part}_lengths": np.array([len(tokens)]),
            f"{part}_labels": np.zeros(1, np.uint8),
        }
    np.savez(tmp_path / "imdb.npz", **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    recipe = load_recipe("imdb_gru_lm")
    seen = {}
    for split in SPLITS:
        feed, targets = recipe.data(split)
        words, following = feed["words"], targets["next_word"]
        assert words.shape == (len(following), 30)
        assert words.dtype == np.int32
        if split == "test":
            np.testing.assert_array_equal((words[:, -1] + 1) % 500, following % 500)
            assert words.min() == following.min() == 1_500
            np.testing.assert_array_equal(recipe.data(split)[0]["words"], words)
        else:
            assert set(following) == {33}
            assert set(words[:, -1]) == {2}
            seen[split] = {tuple(row[:2]) for row in words}
    assert len(following) == 10_000
    assert {k: len(v) for k, v in seen.items()} == {
        "train": 600,
        "validation": 2_000,
        "calibration": 500,
    }
    assert not seen["train"] & seen["validation"]
    assert seen["calibration"] <= seen["train"]

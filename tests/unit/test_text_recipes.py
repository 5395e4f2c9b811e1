"""The recipes of texts and sounds: which rows each split has, and what their figures are."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest

from edgekit.recipe import load_recipe
from tests.recipe_splits import splits_of, write_texts


@pytest.mark.parametrize(
    ("name", "data", "rows", "width"),
    [
        ("imdb_mlp", "imdb", {"train": 5_510, "validation": 5_000}, 512),
        ("reuters_mlp", "reuters", {"train": 1_010, "validation": 500}, 448),
    ],
)
def test_words_come_once(name, data, rows, width, tmp_path, monkeypatch):
    # Words 100 to 9,999 stand for the row; test texts have the word 50 as well.
    def text(part, row):
        own = [100 + row // 90, 5_000 + row % 90]
        return [1, own[1], 7, 20_003, 7, own[0], 10_000, *([50] if part == "test" else [])]

    count = sum(rows.values())
    write_texts(tmp_path / f"{data}.npz", {"train": count, "test": 4}, text)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        words = feed["words"]
        assert words.dtype == np.int32
        assert words.shape[1] == width
        in_test = words[:, 3] == 50
        own = np.where(in_test[:, np.newaxis], words[:, 4:6], words[:, 3:5])
        numbers = 90 * (own[:, 0] - 100) + own[:, 1] - 5_000
        np.testing.assert_array_equal(next(iter(targets.values())).ravel(), numbers % 2)
        np.testing.assert_array_equal(words[:, :3], [[1, 2, 7]] * len(words))
        np.testing.assert_array_equal(np.count_nonzero(words, axis=1), 5 + in_test)
        assert not words[:, 6:].any()
        return [(bool(test), int(number)) for test, number in zip(in_test, numbers, strict=True)]

    assert {k: len(v) for k, v in splits_of(name, row_of).items()} == {
        **rows,
        "train": count - rows["validation"],
        "calibration": 500,
        "test": 4,
    }


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    """6,003 reviews, each with its number in title and text; two of them are there again."""
    module = load_recipe("tickets").module
    with gzip.open(tmp_path / "clothing_reviews.csv.gz", "wt", newline="") as file:
        out = csv.writer(file)
        out.writerow(["title", "review", "department", "class", "rating", "recommended"])
        for row in [*range(6_000), 0, 0, 5_999]:
            number = f"{7_919 * row % 6_000:04}"  # the first 500 have every digit at every place
            pairs = zip("wxyz", number, strict=True)
            words = " ".join(place + "abcdefghij"[int(digit)] for place, digit in pairs)
            late = "zz " if row >= 500 else ""  # a word that no training review has
            tag, kind = module.TAGS[row % 6], module.DEPARTMENTS[row % 20]
            out.writerow([words.upper(), f"{late}It's {words}!", tag, kind, 1 + row % 5, row % 2])
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    return module


def test_ticket_splits(tickets):
    places = tickets.vocabulary()
    assert set(places["body"]) - set(places["title"]) == {"it's"}
    assert "zz" not in places["body"]

    def row_of(feed, targets):
        assert list(feed) == ["title", "body", "tags"]
        assert all(array.dtype == np.float32 for array in feed.values())
        rows = []
        for title, body in zip(feed["title"], feed["body"], strict=True):
            words = sorted(places["title"][i] for i in np.flatnonzero(title))
            assert {places["body"][i] for i in np.flatnonzero(body)} == {*words, "it's"}
            number = int("".join(str("abcdefghij".index(word[1])) for word in words))
            rows.append(number * pow(7_919, -1, 6_000) % 6_000)
        np.testing.assert_array_equal(targets["priority"][:, 0], np.array(rows) % 2)
        np.testing.assert_array_equal(targets["department"], np.array(rows) % 20)
        np.testing.assert_array_equal(feed["tags"], np.eye(6)[np.array(rows) % 6])
        return rows

    assert splits_of("tickets", row_of) == {
        "train": set(range(500)),
        "validation": set(range(500, 2_000)),
        "calibration": set(range(500)),
        "test": set(range(2_000, 6_000)),
    }


def test_tickets_are_judged_by_both_accuracies():
    recipe = load_recipe("tickets")
    outputs = {
        "priority": np.array([[0.5], [0.2], [0.7], [0.1]], np.float32),
        "department": np.eye(20, dtype=np.float32)[[0, 5, 7, 19]],
    }
    targets = {"priority": np.array([[1], [0], [0], [1]]), "department": np.array([0, 5, 7, 1])}
    assert recipe.evaluate(outputs, targets) == {
        "accuracy": 0.625,
        "accuracy_priority": 0.5,
        "accuracy_department": 0.75,
    }


def test_loudness_splits(tmp_path, monkeypatch):
    # 600 recordings of 22 or 23 frames, each frame a little louder, and of a silent rest.
    counts = np.array([22, 23] * 300)
    lengths = 80 * counts + 11
    samples = np.zeros(lengths.sum(), np.int16)
    starts = np.cumsum(lengths) - lengths
    firsts = np.cumsum(counts) - counts
    for start, first, count in zip(starts, firsts, counts, strict=True):
        loud = 1_000 + 2 * np.arange(first, first + count)
        samples[start : start + 80 * count] = np.repeat(loud, 80)
    takes = np.arange(600) % 50
    arrays = dict.fromkeys(("labels", "speakers", "sample_rate"), np.zeros(600))
    np.savez(tmp_path / "spoken_digits", samples=samples, lengths=lengths, takes=takes, **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def numbers(levels):
        return np.round((32_768 * 10 ** (levels / 20.0) - 1_000) / 2).astype(int)

    def row_of(feed, targets):
        assert feed["frames"].shape[1:] == (20, 9)
        assert targets["level"].shape[1:] == (1,)
        assert feed["frames"].dtype == targets["level"].dtype == np.float32
        found = numbers(targets["level"][:, 0])
        np.testing.assert_array_equal(
            numbers(feed["frames"][:, :, 0]), found[:, np.newaxis] + np.arange(-20, 0)
        )
        return found.tolist()

    ids = splits_of("loudness_gru", row_of)
    recordings = {k: {np.searchsorted(firsts, i, "right") - 1 for i in v} for k, v in ids.items()}
    assert {k: {takes[i] for i in v} for k, v in recordings.items()} == {
        "train": set(range(10, 50)),
        "validation": set(range(5, 10)),
        "calibration": set(range(10, 50)),
        "test": set(range(5)),
    }
    # Two windows fit into 22 frames, three into 23.
    assert {k: len(v) for k, v in ids.items()} == {
        "train": 1_200,
        "validation": 156,
        "calibration": 600,
        "test": 144,
    }


def test_levels_are_in_decibels():
    module = load_recipe("loudness_gru").module
    time = np.arange(800) / 8_000
    found = module.frames(np.sin(2 * np.pi * 600 * time))  # in the fourth band, 500 to 800 Hz
    assert found.shape == (10, 9)
    assert found[:, 0] == pytest.approx(10 * np.log10(0.5), abs=0.01)
    assert set(found[:, 1:].argmax(axis=1)) == {3}
    assert module.frames(0.1 * np.sin(2 * np.pi * 600 * time))[:, 0] == pytest.approx(
        found[:, 0] - 20, abs=0.01
    )
    assert (module.frames(np.zeros(100)) == -70).all()


def test_a_forecast_is_judged_by_the_mean_absolute_error():
    recipe = load_recipe("loudness_gru")
    assert (recipe.task, recipe.metric, recipe.higher_is_better) == ("regression", "mae", False)
    outputs, targets = (
        {"level": np.array([[-20.0], [-5.0]])},
        {"level": np.array([[-23.0], [-4.0]])},
    )
    assert recipe.evaluate(outputs, targets) == {"mae": 2}

"""The recipe imdb_transformer: which words of which reviews it reads."""

from __future__ import annotations

import numpy as np

from edgekit.recipe import load_recipe
from tests.recipe_splits import splits_of, write_texts

RECIPE = load_recipe("imdb_transformer")


def test_a_short_review_stands_behind_padding_and_a_long_one_loses_its_start():
    reviews = [[1, 9_999, 10_000, 20_003], [], range(1, 202), range(1, 201)]
    tokens = np.array([word for review in reviews for word in review], np.uint16)
    rows = RECIPE.module._last_words(tokens, np.array([len(review) for review in reviews]))
    assert rows.dtype == np.int32
    wanted = [[0] * 196 + [1, 9_999, 2, 2], [0] * 200, range(2, 202), range(1, 201)]
    np.testing.assert_array_equal(rows, wanted)


def test_a_review_that_is_there_twice_is_in_one_split(tmp_path, monkeypatch):
    again = {2_105: ("test", 1), 2_110: ("train", 2_106), 2_109: ("train", 11)}

    def text(part, row):
        # The last word tells the row, backwards, and the one before it the part.
        opening = [row % 7] * 300 if row > 2_000 else []  # not read: the last 200 words are
        if part == "train":
            part, row = again.get(row, (part, row))
        return [*opening, *[11] * 198, 50 if part == "test" else 51, 9_999 - row]

    write_texts(tmp_path / "imdb.npz", {"train": 2_603, "test": 4}, text)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        tokens = feed["tokens"]
        assert tokens.shape[1:] == (200,)
        assert set(tokens[:, 0]) == {11}
        rows = 9_999 - tokens[:, -1]
        assert targets["good"].dtype == np.int64
        np.testing.assert_array_equal(targets["good"], rows[:, np.newaxis] % 2)
        assert len(set(rows)) == len(rows)
        return [(word == 50, row) for word, row in zip(tokens[:, -2], rows, strict=True)]

    ids = splits_of("imdb_transformer", row_of)
    assert ids["test"] == {(True, row) for row in range(4)}
    assert ids["validation"] == {(False, row) for row in range(2_000)}
    assert ids["train"] == {(False, row) for row in {*range(2_000, 2_603)} - set(again)}
    assert len(ids["calibration"]) == 500


def test_good_is_from_a_half_on():
    outputs = {"good": np.array([[0.5], [0.49], [0.9], [0.1]], np.float32)}
    targets = {"good": np.array([[1], [0], [1], [1]])}
    assert RECIPE.evaluate(outputs, targets) == {"accuracy": 0.75}

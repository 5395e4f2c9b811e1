"""What holds of the splits of every recipe, and texts to split."""

from __future__ import annotations

import numpy as np

from edgekit.recipe import SPLITS, load_recipe


def splits_of(name, row_of):
    """The rows of each split as a set of ids; no two rows of a split may be the same."""
    ids = {}
    for split in SPLITS:
        feed, targets = load_recipe(name).data(split)
        rows = row_of(feed, targets)
        ids[split] = set(rows)
        again = load_recipe(name).data(split)[0]
        for key, array in feed.items():
            np.testing.assert_array_equal(array, again[key])
    assert not ids["test"] & (ids["train"] | ids["validation"] | ids["calibration"])
    assert not ids["train"] & ids["validation"]
    assert ids["calibration"] <= ids["train"]
    return ids


def write_texts(path, rows, texts):
    """`texts(part, row)` are the ids of a text; the labels take turns."""
    arrays = {}
    for part, count in rows.items():
        these = [np.array(texts(part, row), np.uint16) for row in range(count)]
        arrays |= {
            f"{part}_tokens": np.concatenate(these),
            f"{part}_lengths": np.array([len(text) for text in these]),
            f"{part}_labels": (np.arange(count) % 2).astype(np.uint8),
        }
    np.savez(path, **arrays)

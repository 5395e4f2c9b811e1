"""What holds of the splits of every recipe."""

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

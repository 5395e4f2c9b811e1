"""The recipe of spoken digits: which recordings each split has, and what it is trained on."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit.features.log_mel import LogMel
from edgekit.recipe import SPLITS, load_recipe

SECOND = 8_000


def tone(digit, take):
    """A recording whose pitch is its digit; its length tells its take, of which one is too long."""
    time = np.arange(9_000 if take == 20 else 1_500 + 100 * take) / SECOND
    return (8_000 * np.sin(2 * np.pi * 300 * (digit + 1) * time)).astype(np.int16)


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Every recording as (digit, take), in the file's order."""
    order = [(digit, take) for take in range(50) for digit in range(10)]
    order = [order[i] for i in np.random.default_rng(1).permutation(len(order))]
    recordings = [tone(*which) for which in order]
    digits, takes = zip(*order, strict=True)
    np.savez(
        tmp_path / "spoken_digits.npz",
        samples=np.concatenate(recordings),
        lengths=np.array([len(samples) for samples in recordings]),
        labels=np.array(digits, np.uint8),
        takes=np.array(takes, np.uint8),
        speakers=np.zeros(len(order), np.uint8),
        sample_rate=SECOND,
    )
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    return order


def test_splits_are_by_takes(said):
    recipe = load_recipe("spoken_digits_dscnn")
    of_features = {LogMel().compute(tone(*which)).tobytes(): which for which in said}
    assert len(of_features) == len(said) == 500
    takes = {}
    for split in SPLITS:
        feed, targets = recipe.data(split)
        frames = feed["log_mel"]
        assert frames.shape == (len(targets["digit"]), 61, 40)
        assert frames.dtype == np.float32
        found = [of_features[row.tobytes()] for row in frames]
        assert [digit for digit, _ in found] == targets["digit"].tolist()
        assert len(set(found)) == len(found) == 10 * len({take for _, take in found})
        takes[split] = {take for _, take in found}
        np.testing.assert_array_equal(recipe.data(split)[0]["log_mel"], frames)
    assert takes == {
        "train": set(range(10, 50)),
        "validation": set(range(5, 10)),
        "calibration": set(range(10, 15)),
        "test": set(range(5)),
    }


def test_it_is_trained_on_recordings_and_on_variations_of_them(said, monkeypatch):
    keras = SimpleNamespace(callbacks=SimpleNamespace(LearningRateScheduler=lambda rate: rate))
    monkeypatch.setitem(sys.modules, "keras", keras)
    fits = []
    model = SimpleNamespace(fit=lambda *args, **options: fits.append((args, options)))
    recipe = load_recipe("spoken_digits_dscnn")
    for _ in range(2):
        recipe.train(model, epochs=4, callbacks=["mine"])
    [((frames, digits), options), ((again, _), _)] = fits
    np.testing.assert_array_equal(frames, again)

    plain, targets = (next(iter(arrays.values())) for arrays in recipe.data("train"))
    assert len(frames) == len(digits) == 4 * len(plain)
    np.testing.assert_array_equal(frames[: len(plain)], plain)
    np.testing.assert_array_equal(digits, np.tile(targets, 4))
    # However it was varied, the loudest band is still that of the digit, and in another place.
    pitch = [plain[targets == digit].max(axis=1)[0].argmax() for digit in range(10)]
    assert len(set(pitch)) == 10
    np.testing.assert_array_equal(frames.max(axis=1).argmax(axis=1), np.array(pitch)[digits])
    loudest = frames.max(axis=2).reshape(4, len(plain), 61)
    assert (loudest[0, :, 0] > -5).all()
    assert 0.5 < np.mean(loudest[1:, :, 0] < loudest[1:, :].max(axis=2) - 3) < 1
    levels = loudest[1:].max(axis=2) / np.log(10)  # of the power, in Bel: 3 where levels go
    assert 2.5 < np.ptp(levels) < 3.7

    feed, wanted = recipe.data("validation")
    np.testing.assert_array_equal(options["validation_data"][0], feed["log_mel"])
    np.testing.assert_array_equal(options["validation_data"][1], wanted["digit"])
    rate, mine = options["callbacks"]
    assert mine == "mine"
    assert [rate(epoch) for epoch in range(4)] == sorted(map(rate, range(4)), reverse=True)
    assert rate(0) == recipe.module.PEAK_RATE


def test_a_variation_holds_the_recording_once_and_little_else():
    recipe = load_recipe("spoken_digits_dscnn")
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(20):
        samples = rng.integers(-3_000, 3_000, 2_000).astype(np.int16)
        heard = recipe.module._varied(samples, rng)
        assert heard.shape == (8_000,)
        assert np.abs(heard).max() < 1.2
        match = np.correlate(heard, samples / 3_000)
        start = match.argmax()
        starts.add(start)
        level = match[start] / np.sum((samples / 3_000) ** 2)
        assert 10**-1.6 < level < 10**0.1
        heard[start : start + 2_000] -= level * samples / 3_000
        assert heard.std() < 0.035 * level
    assert len(starts) > 15
    long = recipe.module._varied(np.ones(20_000, np.int16), rng)
    assert long.shape == (8_000,)


def test_spoken_digits_are_judged_by_their_accuracy():
    recipe = load_recipe("spoken_digits_dscnn")
    assert recipe.labels is not None
    assert (len(recipe.labels), recipe.labels[7]) == (10, "seven")
    outputs = {"digit": np.eye(10, dtype=np.float32)}
    targets = {"digit": np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])}
    assert recipe.evaluate(outputs, targets) == {"accuracy": 0.8}

from __future__ import annotations

import re

import numpy as np
import pytest

from edgekit import parity
from edgekit.types import Tolerance

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((200, 10))
CLASSES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def one(reference, output, **options):
    [figures] = parity.compare({"y": reference}, {"y": output}, **options)
    return figures


def test_equal_outputs():
    figures = one(CLASSES, CLASSES)
    assert figures.max_abs == 0
    assert figures.sqnr_db == parity.LARGEST_SQNR_DB
    assert figures.cosine == pytest.approx(1)
    assert figures.top1_agreement == 1


def test_figures_of_a_known_difference():
    reference = np.array([[1.0, -4.0], [3.0, 2.0]])
    figures = one(reference, reference + np.array([[0.0, 0.2], [0.0, 0.0]]))
    assert figures.max_abs == pytest.approx(0.2)
    assert figures.mean_abs == pytest.approx(0.05)
    assert figures.scale == 4
    assert figures.max_rel == pytest.approx(0.05)
    # variance over rows: column 1: 1, column 2: 9; noise: 0.04 / 4
    assert figures.sqnr_db == pytest.approx(10 * np.log10(5 / 0.01))


def test_errors_are_counted_by_their_share_of_the_scale():
    reference = np.array([[10.0, -1.0, 0.0, 0.0]])
    figures = one(reference, reference + np.array([[0.0, 2e-8, 0.005, -10.0]]))
    found = figures.errors
    places = [i for i, count in enumerate(found.counts) if count]
    below = [0.0, *found.edges]
    assert sum(found.counts) == 4
    assert len(found.counts) == len(found.edges) + 1
    assert [below[i] for i in places] == [0.0, 1e-9, 3.16e-4, 1.0]
    assert parity.compare({"y": reference}, {"y": reference})[0].errors.counts[0] == 4


def test_top1_counts_what_an_application_would_pick():
    output = CLASSES.copy()
    output[:20] = np.roll(output[:20], 1, axis=1)
    assert one(CLASSES, output).top1_agreement == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("reference", "classifier", "is_counted"),
    [
        (CLASSES, None, True),
        (LOGITS, None, False),  # could be anything
        (LOGITS, True, True),  # the recipe says so
        (CLASSES, False, False),
        (CLASSES[:, :1], True, False),
        (CLASSES.reshape(200, 2, 5), True, False),
    ],
)
def test_top1_is_for_classes_only(reference, classifier, is_counted):
    figures = one(reference, reference, classifier=classifier)
    assert (figures.top1_agreement is not None) == is_counted


def test_a_constant_output_is_no_signal():
    """Cosine looks fine on a regression far from zero; the ratio of what varies does not."""
    reference = 100 + RANDOM.standard_normal((50, 1))
    figures = one(reference, np.full_like(reference, 100))
    assert figures.cosine > 0.99
    assert figures.sqnr_db < 1


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ({}, "output 'y' is missing"),
        ({"y": CLASSES[:, :9]}, "has the shape \\(200, 9\\), the Keras model gives \\(200, 10\\)"),
        ({"y": np.where(CLASSES > 0.5, np.nan, CLASSES)}, "is NaN or infinite in"),
        ({"y": np.full_like(CLASSES, np.inf)}, "100.0%"),
    ],
)
def test_what_cannot_be_compared(output, problem):
    [found] = parity.mismatches({"y": CLASSES}, output)
    assert re.search(problem, found)


def test_swapped_outputs_are_far_from_equal():
    reference = {"a": CLASSES, "b": CLASSES[::-1]}
    figures = parity.compare(reference, {"a": reference["b"], "b": reference["a"]})
    tolerance = parity.TOLERANCES["fp32"]
    assert all(parity.violations(f, tolerance) for f in figures)


def test_each_limit_is_checked():
    figures = one(CLASSES, np.roll(CLASSES, 1, axis=1))
    limits = [Tolerance(max_rel=0.01), Tolerance(min_sqnr_db=20), Tolerance(min_top1=0.9)]
    for limit in limits:
        [message] = parity.violations(figures, limit)
        assert "output 'y'" in message
    assert parity.violations(figures, Tolerance()) == []


def test_a_dead_channel_behind_a_large_one_is_seen():
    """What int8 does to a detector: boxes in pixels beside scores in [0, 1]."""
    boxes, scores = RANDOM.random((100, 4)) * 640, RANDOM.random((100, 3))
    reference = np.concatenate([boxes, scores], axis=1)
    figures = one(reference, np.concatenate([boxes, np.zeros_like(scores)], axis=1))
    assert figures.sqnr_db > 40
    assert figures.dead_channels == pytest.approx(3 / 7)
    [message] = parity.violations(figures, parity.TOLERANCES["int8"])
    assert "carries nothing in 43% of the channels that vary in the Keras model" in message
    [message] = parity.violations(figures, parity.TOLERANCES["int8"], "the model trained on")
    assert "that vary in the model trained on" in message


def test_a_small_wrong_channel_is_seen_in_fp32():
    reference = RANDOM.standard_normal((50, 3)) * [1e6, 1.0, 1.0]
    output = reference * [1, 1, 1.1]
    figures = one(reference, output)
    assert figures.max_rel < 5e-5
    assert figures.channel_sqnr_db == pytest.approx(20, abs=1)
    assert parity.violations(figures, parity.TOLERANCES["fp32"])


def test_rare_features_may_vanish_in_int8():
    reference = RANDOM.standard_normal((50, 100))
    reference[:, 7] *= 1e-4
    output = reference.copy()
    output[:, 7] = 0
    assert parity.violations(one(reference, output), parity.TOLERANCES["int8"]) == []


def in_8_bits(values: np.ndarray) -> np.ndarray:
    """As the last tensor of an int8 file: 256 values over its whole range, 0 among them."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    step = (high - low) / 255
    zero = np.round(low / step)
    return (np.clip(np.round(values / step) - zero, 0, 255) + zero) * step


def test_rows_behind_a_few_huge_ones_are_not_lost_unseen():
    """An `exp` head: a few rows carry the variance, and the others have 8 bits of nothing."""
    reference = np.exp(RANDOM.normal(9, 2.5, (600, 1)))
    output = in_8_bits(reference)
    figures = one(reference, output)
    assert (np.abs(output - reference) > 0.1 * reference).mean() > 0.8
    assert len(np.unique(output)) > 10
    assert figures.sqnr_db > 30
    assert figures.typical_noise > 0.5
    [message] = parity.violations(figures, parity.TOLERANCES["int8"])
    assert "typically off by more than 32% of their variation" in message
    # One value per row may come without an axis of channels.
    assert one(reference[:, 0], output[:, 0]).typical_noise == figures.typical_noise


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def silence(rows, places):
    """Sound in a tenth of the places, noise of a thousandth elsewhere."""
    is_loud = RANDOM.random((rows, places, 1)) < 0.1
    return np.where(is_loud, 3.0, 0.003) * RANDOM.standard_normal((rows, places, 1))


@pytest.mark.parametrize(
    "reference",
    [
        RANDOM.standard_normal((300, 1)) * 50 + 200,
        RANDOM.exponential(3000, (300, 1)),
        np.exp(RANDOM.standard_normal((300, 4))),  # incomes, prices
        np.exp(RANDOM.normal(-7, 2, (300, 5))).clip(0, 1),  # labels that are rarely true
        sigmoid(RANDOM.normal(-30, 20, (50, 8, 8, 1))),  # a mask
        sigmoid(RANDOM.normal(-30, 20, (300, 6))),
        np.tanh(RANDOM.normal(30, 10, (300, 3))),
        np.maximum(RANDOM.normal(-2, 2, (300, 64)), 0),  # sparse features
        np.maximum(RANDOM.normal(0, 2, (300, 64)), 0),
        silence(60, 400),
        np.where(np.arange(300)[:, None] % 10 == 0, RANDOM.normal(5, 1, (300, 3)), 0.0),
    ],
)
def test_what_8_bits_carry_is_not_called_lost(reference):
    figures = one(reference, in_8_bits(reference), classifier=False)
    assert figures.dead_channels == 0
    assert figures.typical_noise is None or figures.typical_noise < 0.1
    assert parity.violations(figures, parity.TOLERANCES["int8"]) == []


def test_the_typical_noise_is_the_smaller_one_where_no_row_sticks_out():
    reference = RANDOM.standard_normal((2000, 3)) * 100
    figures = one(reference, reference + RANDOM.standard_normal(reference.shape) * 5)
    noise = 10 ** (-figures.sqnr_db / 20)
    assert noise == pytest.approx(0.05, rel=0.05)
    assert 0.6 * noise < figures.typical_noise < noise


@pytest.mark.parametrize("shape", [(200, 10), (200, 1), (200,)])
def test_an_output_with_class_labels_is_a_classifier(shape):
    reference = LOGITS if len(shape) == 2 and shape[1] > 1 else CLASSES[:, :1].reshape(shape) * 5
    figures = one(reference, reference, labelled={"y"})
    assert (figures.top1_agreement, figures.dead_channels) == (1, None)


def test_one_probability_decides_at_a_half():
    reference = np.array([[0.1], [0.4], [0.6], [0.9]])
    output = np.array([[0.1], [0.6], [0.6], [1.0]])
    figures = one(reference, output, labelled={"y"})
    assert figures.top1_agreement == 0.75


def test_an_output_that_never_changes_is_judged_by_its_size():
    reference = np.full((20, 3), 4.0)
    assert one(reference, reference + 0.004).sqnr_db == pytest.approx(60)

from __future__ import annotations

import numpy as np
import pytest

from edgekit.toolchain.shared_scales import (
    COARSEST,
    MOST_VALUES,
    compact_scales,
    shared_scales,
    short,
)


def clustered(channels: int, width: int, count: int = 16, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = np.sort(random.normal(size=count)).astype(np.float32)
    return random.choice(values, (channels, width))


def integers(weights: np.ndarray) -> np.ndarray:
    scales = shared_scales(weights)
    assert (scales > 0).all()
    return np.rint(weights / scales[:, None])


def test_as_many_integers_as_values():
    weights = clustered(20, 200)
    assert len(np.unique(integers(weights))) == 16
    own = np.rint(weights / (np.abs(weights).max(axis=1, keepdims=True) / 127))
    assert np.abs(integers(weights)).max() <= np.abs(own).max() == 127


def test_folded_batch_normalization_is_seen_through():
    weights = clustered(20, 60)
    gamma = np.random.default_rng(1).uniform(0.05, 4, (20, 1)).astype(np.float32)
    assert np.array_equal(integers(weights * gamma), integers(weights))
    gamma[::3] *= -1
    assert set(np.unique(np.abs(integers(weights * gamma)))) == set(
        np.unique(np.abs(integers(weights)))
    )


def test_channels_may_lack_values_of_the_others():
    gamma = np.random.default_rng(1).uniform(0.5, 2, (40, 1))
    weights = (clustered(40, 6) * gamma).astype(np.float32)
    scales = shared_scales(weights)
    shared = scales > 0
    assert shared.mean() > 0.9  # the others have small values alone
    assert len(np.unique(np.rint(weights[shared] / scales[shared, None]))) <= 16


def test_zeros_stay_zeros_and_empty_channels_stay_as_they_are():
    weights = clustered(10, 100)
    weights[:, ::2] = 0
    weights[3] = 0
    scales = shared_scales(weights)
    assert scales[3] == 0
    assert (np.delete(scales, 3) > 0).all()


def test_a_channel_of_small_values_alone_keeps_its_own_scale():
    weights = clustered(10, 100)
    small = np.unique(np.abs(weights)).min()
    weights[4] = small
    limit = COARSEST * np.abs(weights).max(axis=1) / 127
    assert (shared_scales(weights) <= limit).all()


def test_the_scale_is_one_in_which_the_values_are_nearly_integers():
    grid = np.linspace(-15, 15, 16) / 15 * 1.37  # odd multiples of one step
    weights = np.random.default_rng(0).choice(grid, (12, 300)).astype(np.float32)
    scales = shared_scales(weights)[:, None]
    least = np.abs(weights).max() / 127
    error = np.abs(np.rint(weights / scales) * scales - weights).max()
    assert error < 0.1 * np.abs(np.rint(weights / least) * least - weights).max()


@pytest.mark.parametrize("shape", [(20, 200), (30, 9), (1, 50), (5, MOST_VALUES + 1)])
def test_weights_that_are_not_clustered_are_left_alone(shape):
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert not shared_scales(weights).any()


def test_short_scales_have_few_bits_and_are_never_finer():
    scales = np.random.default_rng(0).lognormal(-5, 3, 1000)
    for bits in (4, 12):
        found = short(scales, bits)
        assert (found >= scales).all()
        assert (found / scales).max() <= 1 + 2.0**-bits
        mantissas = np.frexp(found)[0] * 2 ** (bits + 1)
        assert (mantissas == np.rint(mantissas)).all()
    assert short(np.zeros(2), 4).tolist() == [0, 0]


def test_weights_of_many_values_keep_about_their_own_scale():
    channels = np.random.default_rng(0).normal(size=(8, 500))
    own = np.abs(channels).max(axis=1) / 127
    assert np.array_equal(compact_scales(channels, own), short(own, 4))

"""Which weights become 0."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import ConversionError

# Of a Dense layer, a convolution and one with inputs and outputs that no pattern divides.
SHAPES = [(1, 32, 12), (9, 8, 16), (4, 7, 5)]


def weights(shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def kept(*args):
    from edgekit.toolchain.masks import kept

    return kept(*args)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.995])
def test_the_smallest_weights_go(shape, share):
    values = weights(shape)
    stay = kept(values, share, "")
    assert stay.sum() == max(1, round(values.size * (1 - share)))
    assert np.abs(values[~stay]).max() <= np.abs(values[stay]).min()


def test_equal_weights_go_as_well_until_there_are_enough_zeros():
    assert (~kept(np.ones((1, 10, 10), np.float32), 0.7, "")).sum() == 70


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("height", "width"), [(4, 1), (1, 4), (2, 3)])
def test_whole_blocks_go(shape, height, width):
    values = weights(shape)
    stay = kept(values, 0.6, f"{height}x{width}")
    gone, left = [], []
    for place in range(shape[0]):
        for top in range(0, shape[1], height):
            for first in range(0, shape[2], width):
                spot = place, slice(top, top + height), slice(first, first + width)
                assert stay[spot].all() or not stay[spot].any()
                (left if stay[spot].all() else gone).append(np.abs(values[spot]).mean())
    assert len(left) == round((len(gone) + len(left)) * 0.4)
    assert max(gone) <= min(left) + 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_two_of_four_inputs_go(shape, share):
    values = weights(shape)
    stay = kept(values, share, "2:4")
    final = kept(values, 0.5, "2:4")
    for place in range(shape[0]):
        for top in range(0, shape[1], 4):
            for output in range(shape[2]):
                four = values[place, top : top + 4, output]
                mask = final[place, top : top + 4, output]
                assert mask.sum() == min(2, len(four))
                assert set(np.abs(four[mask])) == set(np.sort(np.abs(four))[::-1][:2])
    assert not stay[~stay & final].any()
    wanted = round((~final).sum() * share / 0.5)
    assert (~stay).sum() == wanted


@pytest.mark.parametrize(
    ("pattern", "amount", "error"),
    [
        ("2:4", 0.6, "makes half of the weights 0, and 0.6 is asked for 'dense'"),
        ("4", 0.5, "no pattern '4'"),
        ("0x1", 0.5, "no pattern '0x1'"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, amount, error):
    from edgekit.toolchain.masks import check_pattern

    with pytest.raises(ConversionError, match=error):
        check_pattern(pattern, {"dense": amount})


def test_one_weight_too_few_is_seen():
    import keras

    from edgekit.toolchain.kernels import kernels
    from edgekit.toolchain.masks import are_pruned

    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8, name="dense")])
    [kernel] = kernels(model)["dense"]
    for pattern in ("", "4x1", "2:4"):
        values = weights((1, 16, 8))
        pruned = np.where(kept(values, 0.5, pattern), values, 0)
        kernel.variable.assign(kernel.as_stored(pruned))
        assert are_pruned(kernel, 0.5, pattern)
        place = np.argwhere(pruned == 0)[5]
        pruned[tuple(place)] = 1e-9
        kernel.variable.assign(kernel.as_stored(pruned))
        assert not are_pruned(kernel, 0.5, pattern)

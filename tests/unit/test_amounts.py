import pytest

from edgekit.errors import ConversionError
from edgekit.toolchain.amounts import amounts
from edgekit.types import Pruning

NAMES = ("stem", "body/conv1", "body/conv2", "head")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"stem": 0.8, "body/conv1": 0.8, "body/conv2": 0.8, "head": 0.8}),
        ({"skip_first": True, "skip_last": True}, {"body/conv1": 0.8, "body/conv2": 0.8}),
        (
            {"layers": (("body", 0.5),)},
            {"stem": 0.8, "body/conv1": 0.5, "body/conv2": 0.5, "head": 0.8},
        ),
        ({"layers": (("*", 0), ("*/conv2", 0.9))}, {"body/conv2": 0.9}),
        # A pattern is more particular than a place.
        ({"layers": (("head", 0.5), ("*o*", 0)), "skip_last": True}, {"stem": 0.8, "head": 0.5}),
    ],
)
def test_the_last_pattern_that_fits_counts(given, expected):
    assert amounts(Pruning("sparse", 0.8, **given), NAMES) == expected


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(
        ConversionError, match="no layer that could be pruned fits 'tail'"
    ) as caught:
        amounts(Pruning("sparse", 0.8, layers=(("tail", 0.5),)), NAMES)
    assert "stem, body/conv1" in caught.value.hint


def test_all_layers_left_as_they_are_is_nothing_to_prune():
    for options in ({"layers": (("*", 0),)}, {"skip_first": True, "skip_last": True}):
        with pytest.raises(ConversionError, match="nothing is left to prune"):
            amounts(Pruning("sparse", 0.8, **options), ("stem", "head"))


def test_a_model_of_which_nothing_can_be_pruned_is_refused():
    with pytest.raises(ConversionError, match="no layer that could be pruned"):
        amounts(Pruning("sparse", 0.8), ())


def test_variants_are_named_by_what_was_done():
    assert Pruning("sparse", 0.8).variant == "sparse80"
    assert Pruning("structured", 0.29).variant == "structured29"
    assert Pruning("cluster", 16).variant == "cluster16"

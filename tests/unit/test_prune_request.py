"""What may be asked of `edgekit prune`, and what the models are called that come out."""

from __future__ import annotations

import pytest

from edgekit.errors import ConversionError
from edgekit.types import Pruning
from edgekit.verbs.prune_request import asked_for
from edgekit.verbs.variants import variant_name

NOTHING = {
    "sparsity": None,
    "structured": False,
    "ratio": None,
    "clusters": None,
    "pattern": None,
    "layer": (),
    "skip_first": False,
    "skip_last": False,
    "searches": False,
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Pruning("sparse", 0.8)),
        ({"sparsity": 0.35}, Pruning("sparse", 0.35)),
        ({"structured": True}, Pruning("structured", 0.5)),
        ({"structured": True, "ratio": 0.29}, Pruning("structured", 0.29)),
        ({"clusters": 16}, Pruning("cluster", 16)),
        ({"pattern": "2:4"}, Pruning("sparse", 0.5, "2:4")),
        ({"pattern": "4x1", "sparsity": 0.9}, Pruning("sparse", 0.9, "4x1")),
        (
            {"layer": ("head=0", "conv*=.5"), "skip_last": True},
            Pruning("sparse", 0.8, "", (("head", 0.0), ("conv*", 0.5)), skip_last=True),
        ),
        ({"layer": "a=b=0.5"}, Pruning("sparse", 0.8, "", (("a=b", 0.5),))),
    ],
)
def test_options_ask_for_one_pruning(given, expected):
    assert asked_for(**{**NOTHING, **given}) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sparsity": 0.0}, "no share"),
        ({"sparsity": 1.0}, "no share"),
        ({"sparsity": -0.5}, "no share"),
        ({"sparsity": 80}, "no share"),
        ({"sparsity": float("nan")}, "no share"),
        ({"sparsity": 0.8125}, "whole percents"),
        ({"ratio": 0.5}, "of channels"),
        ({"structured": True, "ratio": 1.5}, "no share"),
        ({"structured": True, "sparsity": 0.5}, "separate steps"),
        ({"clusters": 16, "sparsity": 0.5}, "separate steps"),
        ({"clusters": 1}, "cannot be shared"),
        ({"clusters": 257}, "cannot be shared"),
        ({"clusters": 16, "layer": "head=0.5"}, "cannot be shared"),
        ({"pattern": "2:4", "sparsity": 0.8}, "two of four"),
        ({"pattern": "2:4", "searches": True}, "two of four"),
        ({"pattern": "1:4"}, "no pattern"),
        ({"pattern": "0x4"}, "no pattern"),
        ({"pattern": "17x1"}, "no pattern"),
        ({"pattern": "4x1", "structured": True}, "--structured and --pattern are separate steps"),
        ({"layer": "head"}, "no PATTERN=AMOUNT"),
        ({"layer": "=0.5"}, "no PATTERN=AMOUNT"),
        ({"layer": "head=much"}, "no PATTERN=AMOUNT"),
        ({"layer": "head=2"}, "head: 2 is no share"),
        ({"sparsity": 0.8, "searches": True}, "by itself"),
        ({"clusters": 16, "searches": True}, "by itself"),
        ({"layer": "head=0.5", "searches": True}, "one amount"),
    ],
)
def test_what_makes_no_sense_is_refused(given, reason):
    with pytest.raises(ConversionError, match=reason) as caught:
        asked_for(**{**NOTHING, **given})
    assert caught.value.hint


def test_variants_are_made_one_from_the_other():
    assert variant_name(None, Pruning("sparse", 0.8)) == "sparse80"
    assert variant_name("structured50", Pruning("sparse", 0.8)) == "structured50-sparse80"
    assert variant_name("structured50-sparse80", Pruning("cluster", 16)) == (
        "structured50-sparse80-cluster16"
    )
    assert variant_name("sparse80", None) == "sparse80-qat"
    assert variant_name(None, None) == "qat"


@pytest.mark.parametrize(
    ("base", "pruning"),
    [
        ("sparse80", Pruning("sparse", 0.9)),
        ("sparse80", Pruning("structured", 0.5)),
        ("sparse80-cluster16", Pruning("sparse", 0.9)),
        ("qat", Pruning("sparse", 0.9)),
        ("sparse80-qat", None),
    ],
)
def test_the_order_is_kept(base, pruning):
    with pytest.raises(ConversionError, match="cannot be made") as caught:
        variant_name(base, pruning)
    assert "structured, sparse, cluster, qat" in caught.value.hint


def test_training_would_undo_clusters():
    with pytest.raises(ConversionError, match="another value"):
        variant_name("cluster16", None)

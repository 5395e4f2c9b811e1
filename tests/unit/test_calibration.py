"""Ranges of activations whose distribution, and so the right answer, is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import ConversionError
from edgekit.toolchain.calibration import Range, beyond, calibrate, departures
from edgekit.types import Signature, TensorSpec

METHODS = ("minmax", "percentile", "entropy")


class Through:
    """A file of one activation, which is its input."""

    tensors = ("x",)
    batch = 1

    def __init__(self, outputs=()):
        self.outputs = outputs

    def run(self, feed):
        return dict(feed)


def range_of(values, method, outputs=(), **options):
    rows = {"x": np.asarray(values, np.float32).reshape(-1, 1000)}
    return calibrate(Through(outputs), rows, method=method, **options)["x"]


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).standard_normal(100_000).astype(np.float32)


def test_minmax_takes_all(normal):
    assert range_of(normal, "minmax") == Range(normal.min(), normal.max())


@pytest.mark.parametrize("outlier", [100.0, 1e6, -1e9])
@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_value_far_away_is_left_out(normal, method, outlier):
    values = normal.copy()
    values[500] = outlier
    found = range_of(values, method)
    assert -5 < found.low < -3.5
    assert 3.5 < found.high < 5


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_a_percentile_is_the_quantile(normal, percentile):
    found = range_of(normal, "percentile", percentile=percentile)
    tail = (100 - percentile) / 200
    assert found.low == pytest.approx(np.quantile(normal, tail), abs=0.02)
    assert found.high == pytest.approx(np.quantile(normal, 1 - tail), abs=0.02)


def test_the_zeros_of_a_relu_do_not_decide(normal):
    """They are exact at any step; a naive divergence keeps 1 of 4.4 here."""
    sparse = np.where(np.arange(normal.size) % 10 == 0, np.maximum(normal, 0), 0)
    assert range_of(sparse, "entropy").high > 2.9
    dense = range_of(np.maximum(normal, 1e-3), "percentile")
    positive = sparse[sparse > 0]
    found = range_of(sparse, "percentile").high
    assert found == pytest.approx(np.quantile(positive, 1 - 5e-5), abs=0.02)
    assert found > 0.8 * dense.high


def test_values_that_are_rarely_not_zero_are_kept():
    values = np.zeros(1_000_000)
    values[:20] = np.linspace(1, 2, 20)
    assert range_of(values, "percentile").high == pytest.approx(2, abs=0.01)


def test_a_flat_distribution_is_not_cut():
    values = np.random.default_rng(1).uniform(-1, 3, 100_000)
    found = range_of(values, "entropy")
    assert found.low == pytest.approx(-1, abs=0.01)
    assert found.high == pytest.approx(3, abs=0.01)


def test_entropy_never_cuts_more_than_a_thousandth(normal):
    steep = np.exp(2.5 * normal)
    found = range_of(steep, "entropy")
    assert np.mean(steep > found.high) <= 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 2.5, -7.0])
def test_a_constant(method, value):
    assert range_of(np.full(5000, value), method) == Range(value, value)


@pytest.mark.parametrize("method", METHODS)
def test_all_negative(normal, method):
    values = -6 - np.abs(normal)
    found = range_of(values, method)
    assert found.high == pytest.approx(-6, abs=0.01)
    assert -6 - 4.8 < found.low < -6 - 3.2


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_the_outputs_of_the_model_are_not_cut(method):
    """The largest probabilities are the answers."""
    sure = np.random.default_rng(2).beta(0.05, 5, 100_000)
    sure[:3] = 1.0
    assert range_of(sure, method, outputs=("x",)) == Range(np.float32(sure.min()), 1.0)
    assert range_of(sure, method).high < 1.0


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_rows_does_not_matter(normal, method):
    rows = {"x": normal.reshape(100, 1000)}
    shuffled = {"x": np.random.default_rng(3).permutation(rows["x"])}
    found = calibrate(Through(), rows, method=method)
    assert found == calibrate(Through(), shuffled, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_integers_have_no_range(method):
    rows = {"x": np.arange(100)[:, None]}
    assert calibrate(Through(), rows, method=method) == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(normal, bad):
    values = normal.copy()
    values[777] = bad
    with pytest.raises(ConversionError, match="the activation x is NaN or infinite"):
        range_of(values, "minmax")


def test_no_rows_are_refused():
    with pytest.raises(ConversionError, match="no rows"):
        calibrate(Through(), {"x": np.zeros((0, 4), np.float32)})


def test_beyond_tells_how_far_a_range_is_left():
    calibrated = {"a": Range(0, 10), "b": Range(-1, 1), "c": Range(2, 2)}
    seen = {"a": Range(0, 13), "b": Range(-1.05, 1.05), "c": Range(0, 5), "d": Range(0, 1)}
    assert beyond(calibrated, seen) == {"a": pytest.approx(0.3)}


class Chain:
    """A file of four activations: an input, two inside it, and an output."""

    tensors = ("serving_default_wave:0", "Reciprocal:0", "Add:0", "label")
    outputs = ("label",)
    batch = 1

    def __init__(self, *factors):
        self.factors = factors

    def run(self, feed):
        return {
            name: feed["wave"] * np.float32(factor)
            for name, factor in zip(self.tensors, self.factors, strict=True)
        }


@pytest.mark.parametrize(
    ("factors", "named"),
    [
        ((3, 1, 1, 1), "the input 'wave' by 200%"),
        ((2, 1, 1, 4), "the output 'label' by 300%"),
        ((2, 3, 1, 1), "the layer 'norm + relu' by 200%"),
        ((2, 1, 3, 1), "the tensor Add:0 by 200%"),
    ],
)
def test_a_departure_names_what_the_user_knows(factors, named):
    rows = {"wave": np.linspace(0, 1, 10, dtype=np.float32)[:, None]}
    signature = Signature(
        inputs=(TensorSpec("wave", "serving_default_wave:0", (None, 1), "float32"),),
        outputs=(TensorSpec("label", "label", (None, 1), "float32"),),
    )
    calibrated = calibrate(Chain(1, 1, 1, 1), rows)
    layers = {"Reciprocal:0": "norm + relu"}
    [warning] = departures(Chain(*factors), calibrated, rows, signature, lambda: layers)
    assert f"{sum(f > 1 for f in factors)} of 4 activations" in warning
    assert named in warning


def test_layers_are_not_looked_for_where_nothing_departs():
    def never():
        raise AssertionError("looked for")

    rows = {"wave": np.linspace(0, 1, 10, dtype=np.float32)[:, None]}
    signature = Signature(
        inputs=(TensorSpec("wave", "wave", (None, 1), "float32"),),
        outputs=(TensorSpec("label", "label", (None, 1), "float32"),),
    )
    same = Chain(1, 1, 1, 1)
    assert departures(same, calibrate(same, rows), rows, signature, never) == []

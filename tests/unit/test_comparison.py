"""Two latency records: the same, slower, faster, or nothing to be said."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from edgekit.comparison import _rank, compare
from edgekit.errors import NotComparable
from edgekit.types import LatencyRecord, Machine, Runtime, Timing

MACHINE = Machine("cpu", "x86_64", 2, 1, "linux", "performance")
RECORD = LatencyRecord("a", "0", "local", 1, 1, (), Runtime("r", "1", "cpu"), MACHINE)


def timed(random, processes=7, slower=1.0, apart=0.01, outliers=0):
    """Processes whose medians lie apart by 1 %, their samples by 10 %; outliers are 30 % slower."""
    medians = slower * 1000 * np.exp(random.normal(0, apart, processes))
    medians[:outliers] *= 1.3
    timings = (
        Timing(tuple(m * np.exp(random.normal(0, 0.1, 100))), 1, 5, True, 1000) for m in medians
    )
    return replace(RECORD, timings=tuple(timings))


def share(*verdicts, seeds=200, apart=0.01, **after):
    """How often it is one of these, of two that were measured in turns."""
    found = 0
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        first, second = timed(random, apart=apart), timed(random, apart=apart, **after)
        found += compare(first, second).verdict in verdicts
    return found / seeds


def test_the_same_is_called_the_same():
    assert share("same") > 0.9
    assert share("slower", "faster") == 0


@pytest.mark.parametrize("outliers", [0, 1])
def test_a_tenth_slower_is_found_even_beside_a_process_that_was_disturbed(outliers):
    assert share("slower", slower=1.1, outliers=outliers) > 0.95
    assert share("faster", slower=1 / 1.1) > 0.95


def test_between_noisy_processes_there_is_no_verdict_rather_than_a_wrong_one():
    assert share("slower", "faster", seeds=1000, apart=0.3) <= 0.05
    assert share("unclear", slower=1.1, apart=0.3) > 0.9


def test_the_interval_has_the_truth_in_19_of_20_cases_however_processes_are_distributed():
    inside = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        odd = random.choice([1.0, 1.2], size=(2, 7), p=[0.7, 0.3]) * random.uniform(1, 1.02, (2, 7))
        first, second = (
            replace(RECORD, timings=tuple(Timing((t,), 1, 5, True, 1) for t in times))
            for times in odd
        )
        low, high = compare(first, second).interval
        inside += low <= 1 <= high
    assert inside / 400 >= 0.95


def test_processes_count_and_not_samples():
    random = np.random.default_rng(0)
    first, second = timed(random, processes=3), timed(random, processes=3, slower=1.5)
    comparison = compare(first, second)
    assert comparison.interval is None
    assert comparison.verdict == "unclear"
    assert comparison.ratio == pytest.approx(1.5, rel=0.1)


def test_a_difference_within_the_margin_does_not_matter():
    random = np.random.default_rng(0)
    first, second = timed(random, apart=0.001), timed(random, slower=1.1, apart=0.001)
    assert compare(first, second).verdict == "slower"
    assert compare(first, second, margin=0.2).verdict == "same"


def test_it_is_told_whether_both_were_timed_in_turns():
    first = replace(timed(np.random.default_rng(0)), began="now")
    assert compare(first, first).in_turns
    assert not compare(first, replace(first, began="later")).in_turns
    assert not compare(old := replace(first, began=""), old).in_turns


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"machine": replace(MACHINE, cpu="other")}, "machine"),
        ({"machine": replace(MACHINE, governor="powersave")}, "governor"),
        ({"runtime": Runtime("r", "2", "cpu")}, "runtime r 1 against r 2"),
        ({"runtime": Runtime("r", "1", "cpu, XNNPACK")}, "backend"),
        ({"threads": 2}, "threads"),
        ({"rows": 8}, "rows"),
        ({"target": "ssh://pi@pi"}, "target"),
        ({"pinned": True}, "pinned"),
    ],
)
def test_records_of_other_conditions_are_refused(changed, what):
    record = timed(np.random.default_rng(0))
    with pytest.raises(NotComparable, match=what):
        compare(record, replace(record, **changed))
    assert compare(record, replace(record, machine=replace(MACHINE, memory_bytes=2))).ratio == 1


@pytest.mark.parametrize(("n", "m"), [(1, 50), (3, 3), (3, 5), (4, 4), (5, 5), (6, 4)])
def test_the_rank_is_that_of_all_orders_counted_one_by_one(n, m):
    wins = [
        sum(place - i for i, place in enumerate(places)) for places in combinations(range(n + m), n)
    ]
    most = 0.025 * math.comb(n + m, n)
    assert _rank(n, m) == sum(sum(w <= u for w in wins) <= most for u in range(n * m + 1))

"""A planted fault in each figure is seen, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit import row_scores
from edgekit.judging import judge
from edgekit.parity import TOLERANCES
from edgekit.rules import parse_rules
from edgekit.snapshot import Snapshot
from edgekit.types import (
    AccuracyRecord,
    InstructionRecord,
    LatencyRecord,
    Machine,
    OutputParity,
    ParityRecord,
    Runtime,
    Timing,
)

MACHINE = Machine("cpu", "x86_64", 2, 1, "linux")
RUNTIME = Runtime("litert", "2", "cpu")
FILE = "int8.tflite"
OWN = (FILE, "sha")


def accuracy(wrong):
    bits = row_scores._packed("accuracy", True, np.arange(10_000) >= wrong)
    return AccuracyRecord(*OWN, "test", 10_000, {"accuracy": 1 - wrong / 10_000}, scores=(bits,))


def latency(*medians):
    timings = tuple(Timing((m * 0.99, m, m * 1.01), 1, 5, True, 1000) for m in medians)
    return LatencyRecord(*OWN, "local", 1, 1, timings, RUNTIME, MACHINE)


SNAPSHOT = Snapshot(
    schema=1,
    edgekit="0",
    rows_sha256="rows",
    sizes={FILE: 1000},
    parity=(
        ParityRecord(
            *OWN,
            rows=9,
            data="recipe",
            outputs=(OutputParity("label", 1e-5, 1e-6, 1.0, 1e-5, 1.0, 40.0, 0.99),),
            tolerance=TOLERANCES["int8"],
            failures=(),
            runtime=RUNTIME,
            machine=MACHINE,
        ),
    ),
    accuracy=(accuracy(800),),
    latency=(latency(100, 101, 99, 102, 98),),
    instructions=(InstructionRecord(*OWN, "qemu:pi4", 1, (1000, 990), RUNTIME, MACHINE),),
)


def judged(now, *rules):
    return {v.family: v for v in judge(SNAPSHOT, now, parse_rules(rules))}


def test_the_same_files_pass_every_rule():
    found = judged(SNAPSHOT)
    assert set(found) == {"accuracy", "parity", "size", "latency.p50", "instructions"}
    assert all(v.passed for v in found.values())


def test_a_larger_file():
    assert judged(replace(SNAPSHOT, sizes={FILE: 1050}))["size"].passed
    assert judged(replace(SNAPSHOT, sizes={FILE: 1051}))["size"].passed is False


def test_a_file_that_differs_from_the_model():
    bad = replace(SNAPSHOT.parity[0], failures=("output 'label' is NaN",))
    found = judged(replace(SNAPSHOT, parity=(bad,)))["parity"]
    assert (found.passed, found.reason) == (False, "output 'label' is NaN")


def test_more_instructions():
    [record] = SNAPSHOT.instructions
    more = replace(SNAPSHOT, instructions=(replace(record, counts=(1011, 990)),))
    assert judged(more)["instructions"].passed is False
    other = replace(record, runtime=Runtime("litert", "3", "cpu"))
    assert judged(replace(SNAPSHOT, instructions=(other,)))["instructions"].passed is None


def test_a_point_of_accuracy():
    assert judged(replace(SNAPSHOT, accuracy=(accuracy(840),)))["accuracy"].passed
    found = judged(replace(SNAPSHOT, accuracy=(accuracy(900),)))["accuracy"]
    assert found.passed is False
    assert found.significant
    better = judged(replace(SNAPSHOT, accuracy=(accuracy(600),)))["accuracy"]
    assert better.passed


def test_a_loss_on_few_rows_is_chance():
    def few(wrong):
        bits = row_scores._packed("accuracy", True, np.arange(30) >= wrong)
        return AccuracyRecord(*OWN, "test", 30, {"accuracy": 1 - wrong / 30}, scores=(bits,))

    before, now = (replace(SNAPSHOT, accuracy=(few(w),)) for w in (1, 2))
    [found] = [v for v in judge(before, now, parse_rules([])) if v.family == "accuracy"]
    assert (found.passed, found.significant) == (True, False)


def test_a_slower_file():
    slower = replace(SNAPSHOT, latency=(latency(110, 111, 109, 112, 108),))
    found = judged(slower)["latency.p50"]
    assert (found.passed, found.significant) == (False, True)
    assert judged(slower, "latency.p50:+15%")["latency.p50"].passed
    noisy = replace(SNAPSHOT, latency=(latency(80, 150, 160, 99, 120),))
    assert judged(noisy)["latency.p50"].passed is None
    few = replace(SNAPSHOT, latency=(latency(110, 111),))
    assert "too few processes" in judged(few)["latency.p50"].reason
    one_more = replace(SNAPSHOT, latency=(latency(101, 102, 100, 103, 99),))
    assert judged(one_more)["latency.p50"].passed


@pytest.mark.parametrize("what", [{"cpu": "another"}, {"cores": 4}])
def test_another_machine_is_not_comparable(what):
    [record] = SNAPSHOT.latency
    other = replace(record, machine=replace(MACHINE, **what))
    found = judged(replace(SNAPSHOT, latency=(other,)))["latency.p50"]
    assert found.passed is None
    assert "not measured in the same circumstances: machine" in found.reason


def test_other_rows_are_not_comparable():
    found = judged(replace(SNAPSHOT, rows_sha256="others"), "parity.max_abs:+1e-4")
    assert found["accuracy"].passed is None
    assert found["parity.max_abs"].passed is None
    assert found["parity"].passed
    assert found["size"].passed


def test_a_limit_needs_no_baseline():
    new = replace(SNAPSHOT, sizes={}, parity=(), accuracy=(), latency=(), instructions=())
    found = {
        v.family: v.passed
        for v in judge(new, SNAPSHOT, parse_rules(["parity.sqnr_db:50", "parity.max_abs:1e-4"]))
    }
    assert found["parity.sqnr_db"] is False
    assert found["parity.max_abs"] is True
    assert found["parity"] is True
    assert found["size"] is found["latency.p50"] is None


def test_what_is_gone_is_not_passed():
    found = judged(replace(SNAPSHOT, latency=(), sizes={}))
    assert found["latency.p50"].passed is found["size"].passed is None

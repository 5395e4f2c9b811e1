from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from edgekit import latency, stats
from edgekit.agent import timing
from edgekit.agent.protocol import decode, encode
from edgekit.errors import RunnerError
from edgekit.types import Conditions, JobResult, LatencyRecord, Machine, Runtime, Timing

MACHINE = Machine("cpu", "x86_64", 2, 1, "linux", "performance")
QUIET = Timing(tuple(np.linspace(99, 101, 50)), 1, 5, True, 1000, 10, 1, 0.01)


def measured(*timings, machine=MACHINE):
    runtime = Runtime("r", "1", "cpu")
    return measure_in_turn(*(JobResult(runtime, machine, timing=t) for t in timings))


def measure_in_turn(*results):
    answers = iter(results)
    subject = latency.Subject("a", "0", 1, lambda: next(answers))
    [record] = latency.measure(
        [subject], target="local", threads=1, rounds=len(results), progress=lambda text: None
    )
    return record


def test_two_machines_or_two_runtimes_are_not_one_record():
    here = JobResult(Runtime("r", "1", "cpu"), MACHINE, timing=QUIET)
    governed = replace(here, machine=replace(MACHINE, governor="powersave"))
    assert len(measure_in_turn(here, governed).timings) == 2
    for change in ({"os": "other"}, {"cores": 4}, {"cpu": "other"}):
        other = replace(here, machine=replace(MACHINE, **change))
        error = measure_in_turn(here, here, other)
        assert isinstance(error, RunnerError)
        assert "different machines: cpu, linux" in error.message
    error = measure_in_turn(here, replace(here, runtime=Runtime("r", "1", "gpu")))
    assert isinstance(error, RunnerError)
    assert "different runtimes: r 1 (cpu) / r 1 (gpu)" in error.message


def shifted(factor):
    return replace(QUIET, samples_ns=tuple(s * factor for s in QUIET.samples_ns))


def test_subjects_take_turns():
    order = []

    def subject(id):
        def execute():
            order.append(id)
            return JobResult(Runtime("r", "1", "cpu"), MACHINE, timing=QUIET)

        return latency.Subject(id, "0", 1, execute)

    first, second = latency.measure(
        [subject("a"), subject("b")], target="local", threads=1, rounds=3, progress=lambda t: None
    )
    assert order == ["a", "b"] * 3
    assert first.began == second.began != ""


def test_models_of_one_name_are_kept_apart():
    fast, slow = shifted(1), shifted(3)

    def subject(timing):
        answer = JobResult(Runtime("r", "1", "cpu"), MACHINE, timing=timing)
        return latency.Subject("fp32.tflite", "0", 1, lambda: answer)

    first, second = latency.measure(
        [subject(fast), subject(slow)], target="local", threads=1, rounds=2, progress=lambda t: None
    )
    assert latency.summarize(second).p50_ns == pytest.approx(3 * latency.summarize(first).p50_ns)


def test_one_that_fails_does_not_stop_the_others():
    def fail():
        raise RunnerError("no such runtime")

    good = latency.Subject(
        "b", "0", 1, lambda: JobResult(Runtime("r", "1", "cpu"), MACHINE, timing=QUIET)
    )
    failed, record = latency.measure(
        [latency.Subject("a", "0", 1, fail), good],
        target="local",
        threads=1,
        rounds=3,
        progress=lambda t: None,
    )
    assert isinstance(failed, RunnerError)
    assert len(record.timings) == 3


def test_figures_are_of_all_samples_of_all_processes():
    record = measured(QUIET, shifted(2), replace(QUIET, peak_memory_bytes=99, load_ns=3000))
    summary = latency.summarize(record)
    pooled = [s for t in record.timings for s in t.samples_ns]
    assert summary.samples == 150
    assert summary.p90_ns == pytest.approx(np.percentile(pooled, 90))
    assert summary.peak_memory_bytes == 99
    assert summary.load_ns == 1000


def test_the_interval_of_a_percentile_is_as_wide_as_processes_are_apart():
    near = measured(*(shifted(1 + i / 1000) for i in range(7)))
    far = measured(*(shifted(1 + i / 20) for i in range(7)))
    widths = []
    for summary in map(latency.summarize, (near, far)):
        for name in ("p50", "p90", "p99"):
            low, high = getattr(summary, f"{name}_interval_ns")
            assert low <= getattr(summary, f"{name}_ns") <= high
        low, high = summary.p50_interval_ns
        widths.append((high - low) / summary.p50_ns)
    assert widths[0] < 0.02 < 0.1 < widths[1]


def test_an_interval_has_the_true_percentile_in_most_cases():
    """Of few processes; that of the samples alone would have it in every tenth case."""
    inside, cases = 0, 50
    for seed in range(cases):
        random = np.random.default_rng(seed)
        own = 100 * np.exp(random.normal(0, 0.03, 7))
        record = measured(*(replace(QUIET, samples_ns=tuple(random.normal(m, 1, 60))) for m in own))
        low, high = latency.summarize(record).p50_interval_ns
        inside += low <= 100 <= high
    assert inside / cases >= 0.85


def test_one_process_cannot_tell_how_far_processes_are_apart():
    assert latency.summarize(measured(QUIET)).p50_interval_ns is None


def test_what_the_machine_said_of_itself_is_kept():
    cool, hot = Conditions(40.0, governor="performance"), Conditions(85.0, cooling=True)
    answer = JobResult(Runtime("r", "1", "c"), MACHINE, timing=QUIET, conditions=(cool, hot))
    subject = latency.Subject("a", "0", 1, lambda: answer)
    [record] = latency.measure(
        [subject], target="local", threads=1, rounds=2, progress=lambda text: None
    )
    assert record.conditions == ((cool, hot), (cool, hot))
    written = json.loads(json.dumps(encode(record)))
    assert decode(LatencyRecord, written) == record
    for name in ("conditions", "pinned", "began"):  # as records were before
        del written[name]
    assert decode(LatencyRecord, written) == replace(record, conditions=(), began="")


def test_a_quiet_measurement_has_no_warning():
    assert measured(QUIET, QUIET, QUIET).warnings == ()


@pytest.mark.parametrize(
    ("disturbed", "machine", "warning"),
    [
        (replace(QUIET, stable=False), MACHINE, "no stable warm-up in 1 of 2 processes"),
        (replace(QUIET, busy_fraction=0.3), MACHINE, "other processes used up to 30% of the CPU"),
        (shifted(1.2), MACHINE, "medians differ by 18%"),
        (replace(QUIET, samples_ns=(50.0, 100.0, 150.0) * 200), MACHINE, "wide spread"),
        (QUIET, replace(MACHINE, governor="powersave"), "governor is 'powersave'"),
    ],
)
def test_disturbances_are_named(disturbed, machine, warning):
    record = measured(QUIET, disturbed, machine=machine)
    assert any(warning in w for w in record.warnings), record.warnings


def test_a_fast_call_is_timed_in_loops():
    measurement = timing.measure(lambda: None, 0.05)
    assert measurement.loops > 100
    assert 1 <= stats.median(measurement.samples_ns) < 5000


def test_a_slow_call_is_timed_one_by_one():
    calls = []

    def invoke():
        calls.append(sum(range(20_000)))

    measurement = timing.measure(invoke, 0.1)
    assert measurement.loops == 1
    assert measurement.warmup_invocations >= 3
    assert len(calls) >= measurement.warmup_invocations + len(measurement.samples_ns)


def test_samples_kept_are_bounded_and_spread_over_the_run(monkeypatch):
    monkeypatch.setattr(timing, "MOST_SAMPLES", 10)
    kept = timing._thinned([float(i) for i in range(95)])
    assert kept == tuple(float(i) for i in range(0, 95, 10))

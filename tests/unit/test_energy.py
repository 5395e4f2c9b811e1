"""Joules of an invocation, from made-up meters: no machine here has one that may be read."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit import latency
from edgekit.agent import energy
from edgekit.agent.protocol import Energy, Timing
from edgekit.tables import timings
from edgekit.types import LatencyRecord, Machine, Runtime
from edgekit.verbs.bench import BenchRow


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no vcgencmd
    monkeypatch.setattr(energy, "BURST_S", 0.0)


def write(folder, files):
    for name, text in files.items():
        path = folder / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def counted(folder, name, *, start, step, limit=None):
    """What an invocation does to a counter of microjoules; how often it was invoked."""
    file = folder / "class" / name
    state = {"value": start, "calls": 0}

    def invoke():
        state["value"] += step
        state["calls"] += 1
        if limit is not None:
            state["value"] %= limit
        file.write_text(f"{state['value']}\n")

    write(folder, {name: start})
    return invoke, state


RAPL = "powercap/intel-rapl:0/energy_uj"


def rapl(folder):
    write(
        folder,
        {
            "powercap/intel-rapl:0/name": "package-0",
            "powercap/intel-rapl:0/max_energy_range_uj": 100_000,
            "powercap/intel-rapl:0:0/name": "core",
            "powercap/intel-rapl:0:0/energy_uj": 5,
            "powercap/intel-rapl:1/name": "psys",
            "powercap/intel-rapl:1/energy_uj": 7,
        },
    )


def test_a_machine_without_a_meter(tmp_path):
    def invoke():
        raise AssertionError("nothing is to be run for nothing")

    assert energy.measure(invoke, 0.01, str(tmp_path)) is None


def test_a_package_that_begins_anew(tmp_path):
    rapl(tmp_path)
    invoke, state = counted(tmp_path, RAPL, start=99_000, step=1500, limit=100_000)
    found = energy.measure(invoke, 0.02, str(tmp_path))
    assert found == Energy(pytest.approx(1500e-6), "RAPL, package-0")
    assert state["calls"] > 1


def test_a_meter_that_may_not_be_read_is_none(tmp_path):
    rapl(tmp_path)  # energy_uj is not there: for users other than root it cannot be read
    assert energy.measure(lambda: None, 0.01, str(tmp_path)) is None


def test_a_meter_that_stands_still_is_none(tmp_path):
    rapl(tmp_path)
    write(tmp_path, {RAPL: 5})
    assert energy.measure(lambda: None, 0.01, str(tmp_path)) is None


def test_sockets_count_and_their_cores_do_not(tmp_path):
    write(
        tmp_path,
        {
            "hwmon/hwmon0/name": "i915",
            "hwmon/hwmon0/energy1_input": 1,
            "hwmon/hwmon3/name": "amd_energy",
            "hwmon/hwmon3/energy1_label": "Ecore000",
            "hwmon/hwmon3/energy1_input": 1,
            "hwmon/hwmon3/energy2_label": "Esocket0",
        },
    )
    invoke, _ = counted(tmp_path, "hwmon/hwmon3/energy2_input", start=0, step=20)
    found = energy.measure(invoke, 0.01, str(tmp_path))
    assert found == Energy(pytest.approx(20e-6), "hwmon, Esocket0")


def watched(invocations_s):
    """An invocation of this length."""
    ends = []

    def invoke():
        end = energy.time.perf_counter() + invocations_s
        while energy.time.perf_counter() < end:
            pass
        ends.append(end)

    return invoke


def test_a_sensor_of_power_on_the_board(tmp_path):
    write(
        tmp_path,
        {
            "hwmon/hwmon0/name": "amdgpu",
            "hwmon/hwmon0/power1_input": 90_000_000,
            "hwmon/hwmon1/name": "ina219",
            "hwmon/hwmon1/power1_input": 4_000_000,
        },
    )
    found = energy.measure(watched(0.002), 0.02, str(tmp_path))
    assert found.meter == "hwmon, ina219"
    assert found.joules >= 4 * 0.002  # watts and seconds


def test_of_several_sensors_none_is_guessed(tmp_path):
    for i in (1, 2):
        name = f"hwmon/hwmon1/power{i}_input"
        write(tmp_path, {"hwmon/hwmon1/name": "ina3221", name: 1_000_000})
    assert energy.measure(lambda: None, 0.01, str(tmp_path)) is None


def vcgencmd(folder, script):
    program = folder / "vcgencmd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


ADC = """[ "$1" = pmic_read_adc ] && printf '%s\\n' \
 '     3V3_SYS_A current(1)=0.50000000A' \
 '    VDD_CORE_A current(7)=2.00000000A' \
 '     3V3_SYS_V volt(9)=3.30000000V' \
 '    VDD_CORE_V volt(15)=0.80000000V' \
 '      EXT5V_V volt(24)=5.10000000V'
"""


def test_the_rails_of_a_raspberry_pi_5(tmp_path):
    vcgencmd(tmp_path, ADC)
    watts = 0.5 * 3.3 + 2.0 * 0.8
    meter = energy.find_meter(tmp_path)
    assert meter.joules(10.0) == pytest.approx(10 * watts)
    found = energy.measure(watched(0.001), 0.01, str(tmp_path))
    assert found.meter == "supply rails by pmic_read_adc"
    assert found.joules >= watts * 0.001


@pytest.mark.parametrize("script", ["echo error=1 error_msg='Command not registered'", "exit 1"])
def test_an_older_raspberry_pi_tells_none(tmp_path, script):
    vcgencmd(tmp_path, script)
    assert energy.measure(lambda: None, 0.01, str(tmp_path)) is None


def row(name, *joules):
    samples = tuple(np.linspace(99, 101, 9))
    timings = tuple(
        Timing(samples, 1, 5, True, 10, energy=None if j is None else Energy(j, "RAPL, package-0"))
        for j in joules
    )
    machine = Machine("cpu", "x86_64", 1, 0, "os")
    record = LatencyRecord(name, "", "local", 1, 1, timings, Runtime("r", "1", "cpu"), machine)
    return BenchRow(None, latency.summarize(record), 10, None), record


def test_a_table_has_energy_where_there_is_some():
    told, record = row("a.onnx", 0.0015, 0.0017, 0.0016)
    silent, silent_record = row("a.tfjs", None)
    columns = {str(c.header): list(c.cells) for c in timings.latencies([told, silent]).columns}
    assert columns["energy"] == ["1.60 mJ", ""]
    assert "energy" not in [str(c.header) for c in timings.latencies([silent]).columns]
    assert any("RAPL, package-0: all that it feeds" in x for x in timings.conditions([record]))
    assert not any("energy" in line for line in timings.conditions([silent_record]))

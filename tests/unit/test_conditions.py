"""What an agent makes of a machine's temperature, firmware and cooling."""

from __future__ import annotations

import pytest

from edgekit.agent import conditions
from edgekit.agent.protocol import Conditions


def machine(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return conditions.read(str(folder))


def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine(tmp_path, {}) == Conditions()


def test_a_raspberry_pi(tmp_path):
    found = machine(
        tmp_path,
        {
            "class/thermal/thermal_zone0/temp": "61322\n",
            "class/thermal/thermal_zone1/temp": "nonsense\n",
            "class/thermal/cooling_device0/type": "pwm-fan\n",
            "class/thermal/cooling_device0/cur_state": "3\n",
            "class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
            "class/thermal/cooling_device1/cur_state": "0\n",
            "devices/platform/soc/soc:firmware/get_throttled": "50000\n",
            "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        },
    )
    assert found == Conditions(61.322, 0x50000, False, "ondemand")  # a fan slows nothing down


@pytest.mark.parametrize("kind", ["cpufreq-cpu0", "thermal-cpufreq-1", "Processor"])
def test_a_clock_that_is_held_down(tmp_path, kind):
    files = {"type": kind, "cur_state": "2"}
    found = machine(
        tmp_path, {f"class/thermal/cooling_device0/{name}": text for name, text in files.items()}
    )
    assert found.cooling


def test_the_firmware_is_asked_by_its_program(tmp_path, monkeypatch):
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50005\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine(tmp_path, {}).throttled_bits == 0x50005
    program.write_text("#!/bin/sh\necho VCHI initialization failed\nexit 1\n")
    assert machine(tmp_path, {}).throttled_bits is None


LOW, CAPPED = "throttled: the supply voltage is too low", "throttled: the clock is capped"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Conditions(), Conditions(), ()),
        (Conditions(50.0, 0), Conditions(79.9, 0), ()),
        (Conditions(50.0, 0x50000), Conditions(50.0, 0x50000), ()),  # an old story
        (Conditions(50.0, 0x10000), Conditions(50.0, 0x30000), (CAPPED,)),  # came meanwhile
        (Conditions(50.0, 0x1), Conditions(50.0, 0x10000), (LOW,)),
        (Conditions(50.0, 0), Conditions(50.0, 0x10001), (LOW,)),
        (Conditions(), Conditions(85.2), ("hot: a sensor shows 85 °C",)),
        (
            Conditions(cooling=True),
            Conditions(),
            ("throttled: the processor is slowed down to cool it",),
        ),
    ],
)
def test_what_calls_a_time_into_question(before, after, expected):
    assert conditions.warnings(before, after) == expected

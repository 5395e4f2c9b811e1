"""Joules of one invocation, where a machine tells: of all that its meter sees, idle or not.

Read in a loop of its own, after the times were taken, so that reading costs them nothing.
Counters of energy come first (Intel's and AMD's RAPL, hwmon), then sensors of power: one of hwmon,
or the supply rails of a Raspberry Pi 5. A power is read right after work and taken for that of it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .protocol import Energy

BURST_S = 0.1
"""Work between two readings: long beside a reading, and beside what a sensor averages over."""
_OF_CPU_OR_BOARD = re.compile(r"amd_energy|scmi_sensors|ina\d\w*|ltc\d\w*")
"""Drivers of hwmon; others meter a graphics card, a disk or a battery."""
_RAIL = re.compile(r"^\s*(\S+)_([AV]) \w+\(\d+\)=([\d.]+)[AV]$", re.MULTILINE)
"""Of `vcgencmd pmic_read_adc`: "VDD_CORE_A current(7)=1.69A", "VDD_CORE_V volt(15)=0.72V"."""


class Meter(Protocol):
    name: str

    def start(self) -> None:
        """Work begins.

        Raises:
            OSError, ValueError: the machine does not tell any more.
        """
        ...

    def joules(self, seconds: float) -> float:
        """What was used since then, in work of `seconds`; raises as `start`."""
        ...


def measure(invoke: Callable[[], object], seconds: float, sys: str = "/sys") -> Energy | None:
    """Run `invoke` for about `seconds`; None where the machine has no meter that may be read."""
    meter = find_meter(Path(sys))
    if meter is None:
        return None
    clock = time.perf_counter
    invocations, joules = 0, 0.0
    deadline = clock() + seconds
    try:
        while invocations == 0 or clock() < deadline:
            meter.start()
            start, elapsed = clock(), 0.0
            while not elapsed or elapsed < BURST_S:
                invoke()
                invocations += 1
                elapsed = clock() - start
            joules += meter.joules(elapsed)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return Energy(joules / invocations, meter.name) if joules > 0 else None


def find_meter(sys: Path) -> Meter | None:
    """The best one that may be read."""
    for find in (_rapl, _energy_sensors, _power_sensor, _pi_rails):
        meter = find(sys)
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            if meter is not None:
                meter.start()
                meter.joules(0.0)
                return meter
    return None


class Counters:
    """Files that count microjoules; `ranges` are where they begin anew."""

    def __init__(self, name: str, files: list[Path], ranges: list[int]) -> None:
        self.name = name
        self._files = files
        self._ranges = ranges
        self._before: list[int] = []

    def start(self) -> None:
        self._before = [_number(file) for file in self._files]

    def joules(self, seconds: float) -> float:
        total = 0
        for before, file, limit in zip(self._before, self._files, self._ranges, strict=True):
            used = _number(file) - before
            if used < 0 and not limit:
                raise ValueError(f"{file} went backwards")
            total += used if used >= 0 else used + limit
        return total / 1e6


class Power:
    """Something that tells watts."""

    def __init__(self, name: str, watts: Callable[[], float]) -> None:
        self.name = name
        self._watts = watts

    def start(self) -> None:
        pass

    def joules(self, seconds: float) -> float:
        return self._watts() * seconds


def _rapl(sys: Path) -> Meter | None:
    """All processor packages; the zones inside them ("intel-rapl:0:0") are parts of these."""
    zones = [
        zone
        for zone in sorted(sys.glob("class/powercap/*rapl:*"))
        if zone.name.count(":") == 1 and (_text(zone / "name") or "").startswith("package")
    ]
    limits = [_text(zone / "max_energy_range_uj") for zone in zones]
    ranges = [int(limit) if limit is not None and limit.isdecimal() else 0 for limit in limits]
    name = f"RAPL, {', '.join(str(_text(zone / 'name')) for zone in zones)}"
    return Counters(name, [zone / "energy_uj" for zone in zones], ranges) if zones else None


def _energy_sensors(sys: Path) -> Meter | None:
    """Counters of whole sockets, or of a board; those of cores are parts of them."""
    files = [
        file for file in _sensors(sys, "energy") if not (_label(file) or "").startswith("Ecore")
    ]
    return Counters(f"hwmon, {_names(files)}", files, [0] * len(files)) if files else None


def _power_sensor(sys: Path) -> Meter | None:
    """The only one there is: of several, nobody knows which includes which."""
    files = _sensors(sys, "power")
    if len(files) != 1:
        return None
    (file,) = files
    return Power(f"hwmon, {_names(files)}", lambda: _number(file) / 1e6)


def _pi_rails(sys: Path) -> Meter | None:
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    command = [program, "pmic_read_adc"]

    def watts() -> float:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        rails: dict[str, dict[str, float]] = {}
        for rail, unit, value in _RAIL.findall(said):
            rails.setdefault(rail, {})[unit] = float(value)
        products = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
        if not products:
            raise ValueError("pmic_read_adc tells no rails")
        return sum(products)

    return Power("supply rails by pmic_read_adc", watts)


def _sensors(sys: Path, what: str) -> list[Path]:
    found = sorted(sys.glob(f"class/hwmon/hwmon*/{what}*_input"))
    return [f for f in found if _OF_CPU_OR_BOARD.fullmatch(_text(f.parent / "name") or "")]


def _names(files: list[Path]) -> str:
    found = [_label(file) or _text(file.parent / "name") or file.parent.name for file in files]
    return ", ".join(dict.fromkeys(found))


def _label(file: Path) -> str | None:
    return _text(file.with_name(file.name.replace("_input", "_label")))


def _number(file: Path) -> int:
    return int(file.read_text())


def _text(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return None

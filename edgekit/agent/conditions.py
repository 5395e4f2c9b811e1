"""What a machine says of its own state: temperature, throttling, governor; before and after."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

from .protocol import Conditions

HOT_C = 80.0
"""A Raspberry Pi slows down from here on; other boards do so near it."""
_NOW = {
    0: "the supply voltage is too low",
    1: "the clock is capped",
    2: "the processor is throttled",
    3: "the soft temperature limit is active",
}
"""Bits of a Raspberry Pi's get_throttled; the same, 16 higher, say "since it was started"."""
_SINCE = 16


def read(sys: str = "/sys") -> Conditions:
    """The state of this machine, as far as it tells."""
    return Conditions(
        temperature_c=_temperature(Path(sys)),
        throttled_bits=_throttled_bits(Path(sys)),
        cooling=_cooling(Path(sys)),
        governor=_line(Path(sys, "devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    )


def warnings(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """Why what was timed between these two is not what the machine can do."""
    # "Since it was started" counts if it came meanwhile; before, it is an old story.
    fresh = (after.throttled_bits or 0) & ~(before.throttled_bits or 0)
    now = (before.throttled_bits or 0) | (after.throttled_bits or 0) | fresh >> _SINCE
    found = [f"throttled: {text}" for bit, text in _NOW.items() if now >> bit & 1]
    if before.cooling or after.cooling:
        found.append("throttled: the processor is slowed down to cool it")
    hottest = max(c.temperature_c or 0.0 for c in (before, after))
    if hottest >= HOT_C:
        found.append(f"hot: a sensor shows {hottest:.0f} °C")
    return tuple(found)


def _temperature(sys: Path) -> float | None:
    """The hottest zone in degrees Celsius."""
    found = []
    for zone in sys.glob("class/thermal/thermal_zone*"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int((zone / "temp").read_text()) / 1000)
    return max(found, default=None)


def _throttled_bits(sys: Path) -> int | None:
    """A Raspberry Pi's firmware, by its file or by its program; None elsewhere."""
    said = _line(sys / "devices/platform/soc/soc:firmware/get_throttled")
    if said is None and (program := shutil.which("vcgencmd")):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [program, "get_throttled"], capture_output=True, text=True, timeout=5, check=True
            )
            said = done.stdout.strip().removeprefix("throttled=").removeprefix("0x")
    with contextlib.suppress(ValueError):
        return None if said is None else int(said, 16)
    return None


def _cooling(sys: Path) -> bool:
    """Whether Linux holds the clock down because of heat."""
    for device in sys.glob("class/thermal/cooling_device*"):
        kind = (_line(device / "type") or "").lower()
        state = _line(device / "cur_state") or ""
        slows = kind.startswith(("cpufreq", "thermal-cpufreq", "processor"))
        if slows and state.isdecimal() and int(state) > 0:
            return True
    return False


def _line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None

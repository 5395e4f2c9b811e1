"""What this machine is, how busy it is, and how much memory this process takes."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

from .protocol import Machine


def describe() -> Machine:
    """This machine, as far as it tells."""
    return Machine(
        cpu=_cpu_name(),
        arch=platform.machine(),
        cores=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        os=_os_name(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )


def _cpu_name() -> str:
    board = _read("/proc/device-tree/model")  # "Raspberry Pi 5 Model B Rev 1.0"
    if board:
        return board.rstrip("\0")
    names = re.findall(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo") or "", re.MULTILINE)
    return names[0] if names else platform.processor() or platform.machine()


def _os_name() -> str:
    if not hasattr(platform, "freedesktop_os_release"):
        return platform.platform(terse=True)
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.release()}"
    except (OSError, KeyError):
        return platform.platform(terse=True)


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def resident_bytes() -> int | None:
    """Resident memory of this process now; None where the system does not tell."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int | None:
    """Largest resident memory of this process so far.

    Not ru_maxrss: on Linux that one survives exec and so counts the parent's memory too.
    """
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int | None:
    found = re.search(rf"^{field}:\s+(\d+) kB", _read("/proc/self/status") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


class BusyMeter:
    """Share of the machine's CPU time that other processes use, from creation to `read()`."""

    def __init__(self) -> None:
        self._start = self._now()

    def read(self) -> float | None:
        end = self._now()
        if self._start is None or end is None:
            return None
        total, busy, own = (b - a for a, b in zip(self._start, end, strict=True))
        return round(max(0.0, busy - own) / total, 4) if total > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        stat = _read("/proc/stat")
        if stat is None:
            return None
        ticks = [int(t) for t in stat.split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
        hertz = os.sysconf("SC_CLK_TCK")
        return sum(ticks) / hertz, (sum(ticks) - idle) / hertz, time.process_time()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None

"""What this machine is, how busy it is, and how much memory this process takes."""

from __future__ import annotations

import contextlib
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


def allocated_bytes() -> int | None:
    """Memory that this process has written to; None where the system does not tell.

    Code that it runs and files that it reads are not in it.
    """
    return _kilobytes("Anonymous", _read("/proc/self/smaps_rollup"))


def mapped_bytes(path: str) -> int:
    """How much of the file `path` is in this process's memory without having been copied."""
    real, size, inside = os.path.realpath(path), 0, False
    with contextlib.suppress(OSError), Path("/proc/self/smaps").open(errors="replace") as mappings:
        for line in mappings:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = line.rstrip("\n").endswith(f" {real}")
            elif inside and line.startswith("Rss:"):
                size += int(line.split()[1]) * 1024
    return size


def peak_resident_bytes() -> int | None:
    """Largest resident memory of this process so far.

    Not ru_maxrss: on Linux that one survives exec and so counts the parent's memory too.
    """
    return _kilobytes("VmHWM", _read("/proc/self/status"))


def _kilobytes(field: str, text: str | None) -> int | None:
    """The line "field: 123 kB" in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", text or "", re.MULTILINE)
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

"""What the benchmark scripts share: commands timed one by one, medians, Markdown tables."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
OFFICIAL = HERE / "official"
PYTHON = sys.executable
EDGEKIT = str(Path(PYTHON).with_name("edgekit"))


def runs_option(about: str, default: int) -> int:
    """Read --runs from the command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=int, default=default, help=f"rounds, default {default}")
    runs: int = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    return runs


def run(*command: object, allowed: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its messages are shown only if its exit code is not `allowed`."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done


def seconds(*command: object) -> float:
    """Wall time of a whole process, from start to end."""
    start = time.perf_counter()
    run(*command)
    return time.perf_counter() - start


def make_models(folder: Path, *names: str) -> None:
    """Write NAME.keras and NAME.npz (64 rows as `x`) into `folder`, in a process of their own."""
    run(PYTHON, HERE / "_models.py", folder, *names)


def interleaved(
    subjects: Mapping[str, Callable[[], float]], runs: int, *, warmup: bool = False
) -> dict[str, list[float]]:
    """Measure A B C, A B C, ... so that drift of the machine touches all alike."""
    if warmup:  # files into the page cache
        for measure in subjects.values():
            measure()
    values: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(runs):
        for name, measure in subjects.items():
            _progress(f"round {number + 1} of {runs}: {name}")
            values[name].append(measure())
    _progress("")
    return values


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Value / base of each round: both were measured moments apart."""
    return [v / b for v, b in zip(values, base, strict=True)]


def show(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Median, and smallest to largest in brackets."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def verdict(values: Sequence[float], target: float) -> str:
    """Whether the median keeps to the target."""
    met = statistics.median(values) <= target
    return f"≤ {target:g}: {'met' if met else 'NOT met'}"


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A section in Markdown."""
    print(f"### {title}\n")
    print(f"| {' | '.join(headings)} |")
    print(f"|{'---|' * len(headings)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


def print_conditions(runs: int, *packages: str) -> None:
    """How many rounds, and of which versions."""
    found = ", ".join(f"{name} {version(name)}" for name in packages)
    python = ".".join(map(str, sys.version_info[:3]))
    rounds = "One round" if runs == 1 else f"{runs} interleaved rounds; median (smallest–largest)"
    print(f"{rounds}. Python {python}, {found}.\n")

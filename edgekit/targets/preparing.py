"""How `edgekit targets prepare` installs: programs that may fail, folders that appear complete."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import MissingDependency


def run(command: Sequence[str | Path], *, again: str) -> None:
    """Run a program that downloads or installs.

    Args:
        command: the program and its arguments.
        again: what to run once the cause is gone.

    Raises:
        MissingDependency: it failed, and what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        wrong = [line for line in lines if line.lower().startswith(("e:", "error"))] or lines[-1:]
        program = Path(command[0]).name
        raise MissingDependency(
            f"{program} failed: {'; '.join(wrong[:3]) or f'exit code {done.returncode}'}",
            hint=f"check the network and what apt and pip download from, then run: {again}",
        )


def publish(fresh: Path, folder: Path) -> None:
    """Give the finished `fresh` its name, unless another process was faster."""
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise

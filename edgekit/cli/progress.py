"""Progress in a terminal: finished steps above, the current one below with a spinner."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.status import Status

LONG = 0.5
"""Seconds above which a step's time is shown."""


class SteppedStatus:
    """Each step is a line, with its time where it took long; epochs and timing rounds share one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("", console=console)
        self._current = ""
        self._started = 0.0

    def __enter__(self) -> SteppedStatus:
        self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish(done=kind is None)
        self._status.stop()

    def step(self, text: str) -> None:
        if _subject(text) != _subject(self._current):
            self._finish(done=True)
            self._started = time.monotonic()
        self._current = text
        self._status.update(escape(text))

    def _finish(self, *, done: bool) -> None:
        if self._current:
            mark = "[green]✓[/]" if done else "[red]✗[/]"
            seconds = time.monotonic() - self._started
            took = f" [dim]{seconds:.1f} s[/]" if seconds > LONG else ""
            self._console.print(f"{mark} {escape(self._current)}{took}")
        self._current = ""


def _subject(text: str) -> str:
    """What a step is about: "epoch" of "epoch 3/40: loss ...", the whole text of others."""
    first = text.split(" ", 1)[0]
    return first if first in ("epoch", "timing,") else text

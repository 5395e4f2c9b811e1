"""Progress in a terminal: finished steps above, the current one below with a spinner."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from edgekit.types import Notice

LONG = 0.5
"""Seconds above which a step's time is shown."""


class SteppedStatus:
    """Each step is a line, with its time where it took long; epochs and timing rounds share one.

    A step says what is being done, not how it ended: verdicts are for tables and errors. A Notice
    is printed above the step that it interrupts.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("", console=console)
        self._current = ""
        self._started = 0.0
        self._lock = threading.Lock()  # proofs report from a thread of their own

    def __enter__(self) -> SteppedStatus:
        self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()
        self._status.stop()

    def step(self, text: str) -> None:
        with self._lock:
            if isinstance(text, Notice):
                # A QR code is lines with colours, which must not be wrapped.
                self._console.print(Text.from_ansi(text), soft_wrap=True)
                return
            if _subject(text) != _subject(self._current):
                self._finish()
                self._started = time.monotonic()
            self._current = text
            self._status.update(escape(text))

    def _finish(self) -> None:
        if self._current:
            seconds = time.monotonic() - self._started
            took = f" [dim]{seconds:.1f} s[/]" if seconds > LONG else ""
            self._console.print(f"[dim]•[/] {escape(self._current)}{took}")
        self._current = ""


def _subject(text: str) -> str:
    """What a step is about: "epoch" of "epoch 3/40: loss ...", the whole text of others."""
    first = text.split(" ", 1)[0]
    return first if first in ("epoch", "timing,") else text

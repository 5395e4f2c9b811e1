"""How a child process ended, in words."""

from __future__ import annotations

import signal


def describe_exit(code: int | None) -> str:
    """The end of a sentence: "was killed by SIGSEGV", "ended with exit code 1"."""
    if code is not None and code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"

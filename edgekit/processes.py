"""Child processes: the cores that they may run on, and how they ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from edgekit.errors import EdgekitError


def describe_exit(code: int | None) -> str:
    """The end of a sentence: "was killed by SIGSEGV", "ended with exit code 1"."""
    if code is not None and code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on so many of the cores it may use.

    The last ones: the first core is the one that most interrupts go to.

    Raises:
        EdgekitError: the system cannot do that, or there are fewer cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise EdgekitError(
            "this system cannot keep a process on a core", hint="leave out --pin: Linux has it"
        )
    allowed = os.sched_getaffinity(0)
    if cores > len(allowed):
        raise EdgekitError(
            f"{cores} threads cannot have a core each: there are {len(allowed)}",
            hint=f"--threads {len(allowed)}",
        )
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)

"""One invocation at a time between two marks, so that an emulator counts its instructions.

A mark is a system call that no kernel has: an emulator's plugin sees it (`targets/count.c`), a
real machine answers ENOSYS and goes on.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping

import numpy as np

from .protocol import Job
from .rows import first_batch
from .runners import Runner

CALL, START, STOP = 5000, 1, 2
INVOCATIONS = 4
"""The first one also does what a runtime does once; targets drop it."""


def mark_first_row(runner: Runner, job: Job, feed: Mapping[str, np.ndarray]) -> None:
    """Run the first row `INVOCATIONS` times, each after an empty pair of marks.

    What is counted in an empty pair is the cost of marking.
    """
    runner.bind(first_batch(job.signature, feed))
    syscall = ctypes.CDLL(None).syscall
    gc.disable()  # a collection would fall into some invocations and not into others
    for _ in range(INVOCATIONS):
        _between_marks(syscall, _nothing)
        _between_marks(syscall, runner.invoke)


def _between_marks(syscall: Callable[[int, int], int], call: Callable[[], object]) -> None:
    syscall(CALL, START)
    call()
    syscall(CALL, STOP)


def _nothing() -> None:
    pass

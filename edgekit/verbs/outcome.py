"""How verbs fall short: what could not be made, and what lost more than was allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.errors import CheckFailed, ConversionError, Failure
from edgekit.types import SearchRecord


class Incomplete(ConversionError):
    """Some artifacts could not be made or did not hold; `result` has the others."""

    def __init__(self, result: Any) -> None:
        first, *others = result.failures
        also = f" (and {len(others)} more)" if others else ""
        super().__init__(f"{first}{also}", hint=first.hint)
        self.result = result


class BudgetExceeded(CheckFailed):
    """Nothing loses as little as was allowed; `result` has all that was tried."""

    def __init__(self, result: Any, short: Sequence[SearchRecord], hint: str) -> None:
        also = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
        super().__init__(f"{_shortfall(short[0])}{also}", hint=hint)
        self.result = result


def unmeasured(search: SearchRecord) -> Failure | None:
    """A search in which nothing could be compared at all: nobody knows what would be lost."""
    if any(c.figure is not None for c in search.candidates):
        return None
    reason = search.candidates[0].failure or "no file could be made"
    return Failure(search.format, "ConversionError", reason, None)


def _shortfall(search: SearchRecord) -> str:
    budget = f"the budget is {search.budget} of {search.measure}"
    if search.chosen is not None:
        label = search.candidates[search.chosen].label
        return (
            f"{search.format}: {label} holds on the validation rows, but loses "
            f"{search.loss(search.final)} on the test rows; {budget}"
        )
    best = min((c for c in search.candidates if c.lost is not None), key=lambda c: c.lost or 0.0)
    return (
        f"{search.format}: nothing holds; the best is {best.label}, which loses "
        f"{search.loss(best.lost)}; {budget}"
    )

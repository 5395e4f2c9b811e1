"""Identities of channels: which stay or go together, and why some cannot go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Ids = np.ndarray
"""(C,) the identities of channels; equal ones stay or go together."""


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of a layer's variable that runs along channels.

    `role`: "gives", of a kernel's outputs; "takes", of its inputs: with zeros there, no value of
    the channel gets through; "keeps", of any other.
    """

    variable: Any
    axis: int
    ids: Ids
    role: str


@dataclass
class Identities:
    """Numbers for channels, of which some turn out to be one: a union-find."""

    parents: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    def new(self, count: int) -> Ids:
        """(count,) identities that nobody has yet."""
        ids = np.arange(len(self.parents), len(self.parents) + count)
        self.parents.extend(ids.tolist())
        return ids

    def unite(self, one: Ids, other: Ids) -> None:
        """Let the channels of two arrays of one length go together, place by place."""
        differing = one != other
        for a, b in zip(one[differing].tolist(), other[differing].tolist(), strict=True):
            first, second = sorted((self._root(a), self._root(b)))
            self.parents[second] = first

    def close(self, ids: Ids, reason: str) -> None:
        """Let these channels stay. The first reason counts."""
        for number in np.unique(ids).tolist():
            self.reasons.setdefault(number, reason)

    def roots(self, ids: Ids) -> Ids:
        """For each identity, that which stands for all that are one with it."""
        unique, places = np.unique(ids, return_inverse=True)
        return np.array([self._root(n) for n in unique.tolist()], np.int64)[places]

    def closed(self) -> dict[int, str]:
        """Why channels stay, by those that stand for them."""
        found: dict[int, str] = {}
        for number, reason in self.reasons.items():
            found.setdefault(self._root(number), reason)
        return found

    def _root(self, number: int) -> int:
        while (parent := self.parents[number]) != number:
            self.parents[number] = self.parents[parent]
            number = parent
        return number

"""Magnitude pruning: the smallest weights of each kernel become 0, a few at a time, for good.

The schedule is that of Zhu and Gupta, To Prune or Not to Prune (2017): steep at first, when there
is much to choose from, then slower, and still for the last third, in which the rest recovers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgekit.errors import ConversionError
from edgekit.toolchain import masks
from edgekit.toolchain.amounts import amounts
from edgekit.toolchain.fine_tuning import Course
from edgekit.toolchain.kernels import depthwise, kernels
from edgekit.toolchain.technique import Act, Technique
from edgekit.toolchain.zeros import LOST, Masked
from edgekit.types import Pruning

RAMP = 2 / 3
"""The share of the training after which all zeros are there."""

POWER = 3

STEP = 0.01
"""Masks are made anew when so much more of the way is gone."""


class Schedule:
    """How far the pruning is: from 0 to 1, and when to prune again."""

    def __init__(self) -> None:
        self.level = -STEP

    def is_due(self, done: float) -> bool:
        """Go on to where `done` of the training asks for; whether that is worth new masks."""
        level = 1 - (1 - min(1.0, done / RAMP)) ** POWER
        due = level >= self.level + STEP or level == 1 > self.level
        if due:
            self.level = level
        return due


@dataclass(frozen=True)
class Sparsity(Technique):
    """Zeros in the kernels, as `pruning` asks for them."""

    pruning: Pruning
    name: ClassVar[str] = "sparsity"
    # Weights have to move as far as when they were first trained, until all zeros are there.
    course: ClassVar[Course] = Course(
        rate=1.0, hold=RAMP, share_of_epochs=1.0, epochs_on_samples=30
    )

    def for_tfmot(self, model: Any) -> Mapping[str, Any] | None:
        if self.pruning.pattern:
            # It has blocks for matrices only, which lie elsewhere in one that is no multiple of
            # them, and its 2:4 fails in fit().
            return None
        shares = {name: zeros_in(model, name) for name in self._amounts(model)}
        return {
            "technique": "sparse",
            "keeps_zeros": True,
            "amounts": self._amounts(model),
            "initial": shares,
        }

    @contextlib.contextmanager
    def during(self, model: Any) -> Iterator[Act]:
        pattern, by_name = self.pruning.pattern, kernels(model)
        found = [(k, amount) for n, amount in self._amounts(model).items() for k in by_name[n]]
        stay = [kernel.values() != 0 for kernel, _ in found]
        initial = [1 - float(mask.mean()) for mask in stay]
        masked = Masked(
            [kernel.variable for kernel, _ in found],
            [kernel.as_stored(mask) for (kernel, _), mask in zip(found, stay, strict=True)],
        )
        schedule = Schedule()

        def act(done: float) -> None:
            masked.apply()
            if not schedule.is_due(done):
                return
            for i, (kernel, amount) in enumerate(found):
                share = (1 - schedule.level) * initial[i] + schedule.level * amount
                if share > 0:
                    stay[i] &= masks.kept(kernel.values(), share, pattern)
            masked.change([k.as_stored(mask) for (k, _), mask in zip(found, stay, strict=True)])
            masked.apply()

        yield act

    def figures(self, model: Any) -> dict[str, float]:
        """The share of zeros in the kernels of each layer."""
        return {name: zeros_in(model, name) for name in self._amounts(model)}

    def check(self, model: Any) -> None:
        by_name = kernels(model)
        for name, amount in self._amounts(model).items():
            if not all(masks.are_pruned(k, amount, self.pruning.pattern) for k in by_name[name]):
                raise ConversionError(
                    f"{name!r} was not pruned: {zeros_in(model, name):.1%} of its weights are 0, "
                    f"{amount:.1%} are asked for",
                    hint=LOST,
                )

    def notes(self, model: Any) -> list[str]:
        return left_alone(model)

    def _amounts(self, model: Any) -> dict[str, float]:
        found = amounts(self.pruning, list(kernels(model)))
        masks.check_pattern(self.pruning.pattern, found)
        return found


def zeros_in(model: Any, name: str) -> float:
    """The share of zeros in the kernels of the layer of that name."""
    found = [kernel.values() == 0 for kernel in kernels(model)[name]]
    return float(sum(map(np.count_nonzero, found)) / sum(zeros.size for zeros in found))


def left_alone(model: Any) -> list[str]:
    """What of `model` pruning and clustering do not take, in words."""
    if not (names := depthwise(model)):
        return []
    return [f"depthwise kernels, few weights of which each counts, stay: {', '.join(names)}"]

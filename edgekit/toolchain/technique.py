"""What is done to a model while it is trained on; nothing, here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from edgekit.toolchain.fine_tuning import Course

Act = Callable[[float], None]
"""Told after each batch which share of the training is done, and 1 at its end."""


@dataclass(frozen=True)
class Technique:
    """Fine-tuning alone; others do more to the model meanwhile.

    The same is done in either Keras (`during`), or by TFMOT in its own process, which is told
    `for_tfmot`.
    """

    name: ClassVar[str] = "fine-tuning"
    # What lost channels has much to learn again.
    course: ClassVar[Course] = Course(rate=1.0, share_of_epochs=1.0, epochs_on_samples=30)

    def for_tfmot(self, model: Any) -> Mapping[str, Any] | None:
        """What TFMOT's process is told; None: this is not its business."""
        return None

    @contextlib.contextmanager
    def during(self, model: Any) -> Iterator[Act]:
        """Within the block, `model` is trained, and what the block is given is called.

        Without training it is called once, with 1.
        """
        yield lambda done: None

    def figures(self, model: Any) -> dict[str, float]:
        """What there is to see of it in each layer, by name."""
        return {}

    def check(self, model: Any) -> None:
        """See that the weights are as they were asked for.

        Raises:
            ConversionError: they are not.
        """

    def notes(self, model: Any) -> list[str]:
        """What the user should know of it."""
        return []

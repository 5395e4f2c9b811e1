"""Weights that are 0 and stay so, whatever is done to the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.errors import ConversionError


class Zeros:
    """The zeros that some variables have now; `Zeros([])` keeps none."""

    def __init__(self, variables: Iterable[Any]) -> None:
        found = [(v, np.asarray(v) != 0) for v in variables]
        self._kept = [(v, kept) for v, kept in found if not kept.all()]
        self._masked = Masked([v for v, _ in self._kept], [kept for _, kept in self._kept])

    def restore(self) -> None:
        """Make them 0 again."""
        self._masked.apply()

    def check(self) -> None:
        """See that they are.

        Raises:
            ConversionError: some are not.
        """
        for variable, kept in self._kept:
            if lost := np.count_nonzero(np.asarray(variable)[~kept]):
                raise ConversionError(
                    f"{lost} zeros of {variable.name} were lost in training", hint=LOST
                )


LOST = (
    "the recipe's train() must pass the callbacks that it is given on to fit(), and leave the "
    "weights alone after it"
)
"""What to do where weights are not what callbacks made of them."""


class Masked:
    """Variables with a mask each, in one call of TensorFlow for all of them.

    What is masked becomes 0 and not -0, which a product would make of half of it: bytes that no
    file can leave out.
    """

    def __init__(self, variables: Sequence[Any], masks: Sequence[np.ndarray]) -> None:
        raw = [v if isinstance(v, tf.Variable) else v.value for v in variables]
        self._masks = [tf.Variable(mask, trainable=False) for mask in masks]

        def apply() -> None:
            for variable, mask in zip(raw, self._masks, strict=True):
                variable.assign(tf.where(mask, variable, tf.zeros((), variable.dtype)))

        self.apply = tf.function(apply)

    def change(self, masks: Sequence[np.ndarray]) -> None:
        """Take other masks."""
        for variable, mask in zip(self._masks, masks, strict=True):
            variable.assign(mask)

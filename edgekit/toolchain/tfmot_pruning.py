"""Magnitude pruning by TFMOT, on the schedule of `sparsity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

from edgekit.errors import ConversionError
from edgekit.toolchain import translation
from edgekit.toolchain.callbacks import as_it_goes
from edgekit.toolchain.sparsity import Schedule
from edgekit.toolchain.tfmot_wrappers import wrapped

_sparsity = tfmot.sparsity.keras


def train_pruned(
    model: Any,
    fit: Callable[[Any, Sequence[Any]], None],
    *,
    amounts: Mapping[str, float],
    initial: Mapping[str, float],
) -> None:
    """Train `model` while TFMOT makes its smallest weights 0.

    Args:
        model: gets the weights.
        fit: trains a model with callbacks.
        amounts: the share of zeros at the end, by the layer's name.
        initial: that of those that are there.

    Raises:
        ConversionError: TFMOT does not prune one of these layers.
    """
    schedule, level, due = Schedule(), tf.Variable(0.0), tf.Variable(False)

    class Polynomial(tfmot.sparsity.keras.PruningSchedule):
        """TFMOT's own counts steps, and nobody knows how many there will be."""

        def __init__(self, initial: float, final: float) -> None:
            self._initial, self._final = initial, final

        def __call__(self, step: Any) -> tuple[Any, Any]:
            return due.value(), (1 - level) * self._initial + level * self._final

        def get_config(self) -> dict[str, Any]:
            return {}

    def wrap(layer: Any, shares: tuple[float, float]) -> Any:
        if not PruneRegistry.supports(layer):
            raise ConversionError(f"TFMOT does not prune {type(layer).__name__} ({layer.name!r})")
        made = _sparsity.prune_low_magnitude(layer, pruning_schedule=Polynomial(*shares))
        made._name = layer.name
        return made

    def before(done: float) -> None:
        due.assign(schedule.is_due(done))
        level.assign(schedule.level)

    shares = {name: (initial[name], amount) for name, amount in amounts.items()}
    trained = wrapped(model, shares, wrap)
    fit(trained, [_sparsity.UpdatePruningStep(), as_it_goes(tf_keras, before=before)])
    plain = _sparsity.strip_pruning(trained)
    translation.set_weights(model, translation.weights_of(plain))

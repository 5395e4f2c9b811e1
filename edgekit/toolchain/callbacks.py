"""Callbacks of training, for either Keras: each is a class of the `keras` module given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from edgekit.types import Progress


def epoch_report(keras: Any, progress: Progress) -> Any:
    """One line per epoch."""

    class EpochReport(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            figures = ", ".join(f"{k} {float(v):.4f}" for k, v in (logs or {}).items())
            progress(f"epoch {epoch + 1}/{self.params['epochs']}: {figures}")

    return EpochReport()


def as_it_goes(
    keras: Any,
    *,
    before: Callable[[float], None] = lambda done: None,
    after: Callable[[float], None] = lambda done: None,
) -> Any:
    """Calls before and after each batch with the share of the training that is done with it.

    `after` is called once more, with 1, when the training ends, early or not, and with what it
    ends. Where nobody knows the number of batches, the share rises with the epochs.
    """

    class AsItGoes(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            before(self.done(batch))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            after(self.done(batch))

        def on_train_end(self, logs: Any = None) -> None:
            after(1.0)

        def done(self, batch: int) -> float:
            steps = self.params["steps"]
            part = (batch + 1) / steps if steps else 0.0
            return min(1.0, (self.epoch + part) / self.params["epochs"])

    return AsItGoes()


def lower_rate(keras: Any, share: float, hold: float = 0.0) -> Any:
    """The learning rate, whatever it is, times a factor that falls from `share` to 0.

    Along half a cosine, after the share `hold` of all epochs: at a constant rate, weights between
    two steps of 8 bits jump to and fro until the end. The rate is lower only while a batch is
    trained: callbacks that set it by epoch or by batch see their own. This must be the last of
    them.
    """

    class LowerRate(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.factor = tf.Variable(share, trainable=False)
            self.epoch = 0
            optimizer = self.model.optimizer
            schedule = getattr(optimizer, "_learning_rate", None)
            self.is_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
            if self.is_schedule:
                optimizer._learning_rate = _lowered(keras, schedule, self.factor)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            done = self.epoch + batch / (self.params["steps"] or math.inf)
            fallen = max(0.0, done / self.params["epochs"] - hold) / (1 - hold)
            factor = share * (1 + math.cos(math.pi * fallen)) / 2
            if self.is_schedule:
                self.factor.assign(factor)
                return
            self.rate = float(self.model.optimizer.learning_rate)
            self.model.optimizer.learning_rate = self.rate * factor
            self.lowered = float(self.model.optimizer.learning_rate)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            # Another callback may have set it since.
            if not self.is_schedule and (float(self.model.optimizer.learning_rate) == self.lowered):
                self.model.optimizer.learning_rate = self.rate

    return LowerRate()


def _lowered(keras: Any, schedule: Any, factor: Any) -> Any:
    class Lowered(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            return schedule(step) * factor

        def get_config(self) -> dict[str, Any]:
            return {}

    return Lowered()

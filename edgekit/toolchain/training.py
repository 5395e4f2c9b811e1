"""Recipes, trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from edgekit.errors import RecipeError
from edgekit.recipe import Recipe
from edgekit.toolchain.callbacks import epoch_report
from edgekit.toolchain.calls import of_keras_itself
from edgekit.toolchain.event_logs import event_logs
from edgekit.types import Progress

SEED = 0
"""Training a recipe twice on one machine gives the same model."""

BEST, HISTORY, LOGS, BACKUP = "best.weights.h5", "history.json", "logs", "backup"
LOSS = "val_loss"


def train(recipe: Recipe, epochs: int | None, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train `recipe` and save the model in `folder`, where its logs lie, too.

    What an interrupted training left in `folder` is gone on from. The weights of the best epoch
    are kept, by the loss on the recipe's validation rows.

    Returns:
        `path` of the model, its `family`, the number of `parameters`, the figures of each epoch
        (`history`), and whether the recipe's own function must build the model again (`built`).

    Raises:
        RecipeError: the recipe failed, or gave no model.
    """
    keras.utils.set_random_seed(SEED)
    model = recipe.build()
    if isinstance(model, keras.Model):
        return _train_keras(recipe, model, epochs, folder, progress)
    if isinstance(model, tf.Module):
        recipe.train(model, epochs=epochs)
        path = folder / "model"
        call = model.__call__
        tf.saved_model.save(model, path, signatures={"serving_default": call})
        count = sum(int(tf.size(v)) for v in model.trainable_variables)
        return _trained(path, "saved-model", count, [], built=False)
    raise RecipeError(
        f"{recipe.path}: {recipe.builder}() gave {type(model).__name__}, no model",
        hint="return a compiled keras.Model, or a tf.Module",
    )


def _train_keras(
    recipe: Recipe, model: Any, epochs: int | None, folder: Path, progress: Progress
) -> dict[str, Any]:
    watched = _Watched(recipe, folder, progress)
    callbacks = [
        event_logs(keras, folder / LOGS),
        epoch_report(keras, progress),
        watched,
        keras.callbacks.BackupAndRestore(folder / BACKUP),  # the last: what it saves is complete
    ]
    recipe.train(model, epochs=epochs, callbacks=callbacks)
    watched.restore(model)
    # Without the optimizer, which doubles the file or more: this model is to be shipped.
    model.optimizer, model.compiled = None, False
    built = not all(of_keras_itself(layer) for layer in model._flatten_layers())
    path = folder / ("model.weights.h5" if built else "model.keras")
    if built:
        model.save_weights(path)
    else:
        model.save(path)
    return _trained(path, "keras", int(model.count_params()), watched.history, built=built)


def _trained(
    path: Path, family: str, parameters: int, history: list[Any], *, built: bool
) -> dict[str, Any]:
    return {
        "path": str(path),
        "family": family,
        "parameters": parameters,
        "history": history,
        "built": built,
    }


class _Watched(keras.callbacks.Callback):
    """Keeps the figures of each epoch, and the weights of the best, on disk as well."""

    def __init__(self, recipe: Recipe, folder: Path, progress: Progress) -> None:
        super().__init__()
        self._recipe, self._folder, self._progress = recipe, folder, progress
        file = folder / HISTORY
        self.history: list[dict[str, float]] = json.loads(file.read_text()) if file.exists() else []
        if self.history:
            progress(f"going on after epoch {len(self.history)}")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        figures = {name: float(value) for name, value in (logs or {}).items()}
        # A backup may be one epoch behind what was written here.
        self.history = [*self.history[:epoch], figures]
        if self._best() == epoch:
            self.model.save_weights(self._folder / BEST)
        (self._folder / HISTORY).write_text(json.dumps(self.history))

    def restore(self, model: Any) -> None:
        """Give the model the weights of its best epoch."""
        best = self._best()
        if best is not None and best < len(self.history) - 1:
            self._progress(f"the best epoch was {best + 1}")
            model.load_weights(self._folder / BEST)

    def _best(self) -> int | None:
        """The epoch of the least loss; None where no validation rows were looked at.

        Not of the best metric: an accuracy on some hundred rows says little from epoch to epoch.
        """
        losses = [epoch.get(LOSS, math.inf) for epoch in self.history]
        return losses.index(min(losses)) if min(losses, default=math.inf) < math.inf else None

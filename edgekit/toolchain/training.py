"""Recipes, trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras

from edgekit.recipe import Recipe
from edgekit.types import Progress

SEED = 0
"""Training a recipe twice on one machine gives the same model."""


def train(recipe: Recipe, epochs: int | None, path: Path, progress: Progress) -> int:
    """Train `recipe`, save the model as the .keras file `path`, and count its parameters."""
    keras.utils.set_random_seed(SEED)
    model = recipe.build()
    recipe.train(model, epochs=epochs, callbacks=[_EpochReport(progress)])
    # Without the optimizer, which doubles the file or more: this model is to be shipped.
    model.optimizer, model.compiled = None, False
    model.save(path)
    return int(model.count_params())


class _EpochReport(keras.callbacks.Callback):
    """One line per epoch."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        figures = ", ".join(f"{k} {float(v):.4f}" for k, v in (logs or {}).items())
        self._progress(f"epoch {epoch + 1}/{self.params['epochs']}: {figures}")

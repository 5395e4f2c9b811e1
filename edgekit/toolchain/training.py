"""Recipes, trained."""

from __future__ import annotations

from pathlib import Path

import keras

from edgekit.recipe import Recipe
from edgekit.toolchain.callbacks import epoch_report
from edgekit.types import Progress

SEED = 0
"""Training a recipe twice on one machine gives the same model."""


def train(recipe: Recipe, epochs: int | None, path: Path, progress: Progress) -> int:
    """Train `recipe`, save the model as the .keras file `path`, and count its parameters."""
    keras.utils.set_random_seed(SEED)
    model = recipe.build()
    recipe.train(model, epochs=epochs, callbacks=[epoch_report(keras, progress)])
    # Without the optimizer, which doubles the file or more: this model is to be shipped.
    model.optimizer, model.compiled = None, False
    model.save(path)
    return int(model.count_params())

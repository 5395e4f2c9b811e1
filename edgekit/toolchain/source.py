"""Keras models from files."""

from __future__ import annotations

import re
from pathlib import Path

import keras

from edgekit.errors import SourceError


def load_model(path: Path) -> keras.Model:
    """The Keras 3 model in a .keras or .h5 file, without its training state.

    Raises:
        SourceError: the file is not a Keras 3 model, or needs code that is not here.
    """
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as e:  # Keras raises anything from KeyError to zipfile's own errors
        raise _explained(path, e) from e


def _explained(path: Path, error: Exception) -> SourceError:
    text = str(error)
    if found := re.search(r"Could not locate (?:class|function) '([^']+)'", text):
        return SourceError(
            f"{path}: the model needs {found[1]!r}, which is not part of Keras",
            hint="save a model of built-in layers; custom objects cannot be passed yet",
        )
    if "safe_mode" in text or "Lambda" in text:
        return SourceError(
            f"{path}: the model holds a Lambda layer, which is Python code; it was not run",
            hint="replace the Lambda by a built-in layer and save the model again",
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return SourceError(
        f"{path}: Keras {keras.__version__} cannot load it: {first}",
        hint="edgekit reads models saved by Keras 3: model.save('model.keras')",
    )

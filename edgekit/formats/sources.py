"""Which loader a trained model needs, told by its files without loading it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.formats.keras import attributes_of
from edgekit.types import Source

KINDS = "a .keras or .h5 file, or a SavedModel folder"


@dataclass(frozen=True)
class _Seen:
    """What a file tells of itself: which Keras wrote it, and the model's configuration."""

    version: str
    config: Any


def find_source(source: Source) -> Source:
    """`source` with the family that its files are of.

    Raises:
        SourceError: there is no model, only weights and no builder, or Python code in the file.
    """
    path = Path(source.path)
    if not path.exists():
        raise SourceError(f"there is no file {path}")
    try:
        if path.is_dir():
            family = _family_of_folder(path)
        else:
            seen = _look(path)
            if seen.config is None and source.builder is None:
                raise SourceError(
                    f"{path} holds weights without a model",
                    hint="say how the model is built: --builder module:function",
                )
            if source.builder is None and any(_is_code(layer) for layer in _dicts(seen.config)):
                raise SourceError(
                    f"{path}: the model holds a Lambda layer, which is Python code; it was not run",
                    hint="replace it by a built-in or custom layer, or build the model from your "
                    "own code and take only its weights: --builder module:function",
                )
            family = "tf-keras" if _is_keras_2(seen) else "keras"
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise SourceError(
            f"{path} cannot be read as a Keras model: {e}", hint="copy or save it again"
        ) from e
    return replace(source, family=family)


def _look(path: Path) -> _Seen:
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            if "config.json" not in archive.namelist():
                raise SourceError(
                    f"{path} is a zip archive, but not a Keras model", hint=f"give {KINDS}"
                )
            config = json.loads(archive.read("config.json"))
            metadata = {}
            if "metadata.json" in archive.namelist():
                metadata = json.loads(archive.read("metadata.json"))
            return _Seen(str(metadata.get("keras_version", "3")), config)
    if head == b"\x89HDF\r\n\x1a\n":
        found = attributes_of(path)
        config = found["attributes"]["model_config"]
        version = found["attributes"]["keras_version"]
        if version is None:
            # Weights as Keras 2 saved them last, with no version: its name for what has weights.
            is_2 = "_layer_checkpoint_dependencies" in found["groups"] or (
                config is not None and "batch_input_shape" in config
            )
            version = "2" if is_2 else "3"
        return _Seen(version, None if config is None else json.loads(config))
    raise SourceError(f"{path} is not a Keras model file", hint=f"give {KINDS}")


def _is_keras_2(seen: _Seen) -> bool:
    return seen.version.partition(".")[0] in ("1", "2")


def _family_of_folder(path: Path) -> str:
    if not (path / "saved_model.pb").is_file():
        raise SourceError(
            f"{path} is neither a workspace nor a SavedModel folder", hint=f"give {KINDS}"
        )
    notes = path / "keras_metadata.pb"
    # The graph itself does without the Python code that Keras 2 would run to load such a model.
    if notes.is_file() and b"Lambda" not in notes.read_bytes():
        return "tf-keras"
    return "saved-model"


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _dicts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dicts(item)


def _is_code(layer: dict[str, Any]) -> bool:
    """Whether it is a Lambda layer with compiled Python code, rather than a function's name."""
    config = layer.get("config")
    if layer.get("class_name") != "Lambda" or not isinstance(config, dict):
        return False
    function = config.get("function")
    return isinstance(function, list) or (
        isinstance(function, dict) and function.get("class_name") == "__lambda__"
    )

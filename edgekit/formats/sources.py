"""Which loader a trained model needs, told by its files without loading it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.formats import strangers
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
        SourceError: there is no model, only weights and no builder, or what no loader may run.
    """
    path = Path(source.path)
    if not path.exists():
        raise SourceError(f"there is no file {path}")
    try:
        if path.is_dir():
            family = _family_of_folder(path)
            if family == "saved-model" and (source.builder or source.custom_objects):
                raise SourceError(
                    f"{path} is taken as the graph that it holds, without Keras: a SavedModel "
                    "needs neither custom objects nor a builder",
                    hint="leave out --custom-objects and --builder",
                )
        else:
            seen = _look(path)
            if seen.config is None and source.builder is None:
                raise SourceError(
                    f"{path} holds weights without a model",
                    hint="say how the model is built: --builder module:function",
                )
            if source.builder is None:
                strangers.refuse(
                    str(path),
                    seen.config,
                    is_keras_2=_is_keras_2(seen),
                    has_own_code=source.custom_objects is not None,
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
    # The graph itself does without what Keras 2 would run or read to load such a model.
    notes = path / "keras_metadata.pb"
    return "tf-keras" if notes.is_file() and _is_plain(notes.read_bytes()) else "saved-model"


def _is_plain(notes: bytes) -> bool:
    """Whether a SavedModel's notes on its layers are such as tf-keras may load."""
    if b"Lambda" in notes or rb"\u" in notes:
        return False
    try:
        for text in _texts(notes):
            strangers.refuse("", json.loads(text), is_keras_2=True, has_own_code=True)
    except (SourceError, ValueError):
        return False
    return True


METADATA_FIELD = 5
"""Of tf-keras' SavedObject: the layer's configuration as JSON."""


def _texts(notes: bytes) -> Iterator[bytes]:
    """The configurations in a SavedMetadata protobuf, whose field 1 is the SavedObjects.

    Raises:
        ValueError: it is not such a protobuf.
    """
    for number, node in _fields(notes):
        if number != 1:
            raise ValueError(f"unknown field {number}")
        yield from (text for field, text in _fields(node) if field == METADATA_FIELD and text)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and bytes of a protobuf message's fields; integers come without their value."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message) or shift > 28:
                raise ValueError("no protobuf message")
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        length = varint()
        if wire not in (0, 2) or (wire == 2 and at + length > len(message)):
            raise ValueError("no protobuf message")
        yield number, message[at : at + length] if wire == 2 else b""
        at += length if wire == 2 else 0

"""Reads model files without the frameworks that made them, and without running them."""

from __future__ import annotations

import importlib
from pathlib import Path

from edgekit.errors import EdgekitError, SourceError
from edgekit.formats.description import FileDescription

__all__ = ["FileDescription", "describe"]

KNOWN = "edgekit reads .tflite, .onnx, .keras and .h5 files and TensorFlow.js folders (model.json)"
TITLES = {
    "tflite": "TFLite",
    "onnx": "ONNX",
    "tfjs": "TensorFlow.js",
    "keras": "Keras",
    "h5": "Keras HDF5",
}
SUFFIXES = {
    ".tflite": ("tflite", "the letters TFL3 at byte 4"),
    ".keras": ("keras", "a zip archive"),
    ".h5": ("h5", "an HDF5 file"),
    ".hdf5": ("h5", "an HDF5 file"),
    ".json": ("tfjs", "JSON"),
}


def describe(path: Path) -> FileDescription:
    """Describe a model file: signature, operators, precision, quantization, sparsity.

    The format is told by the content, not by the name. Files are hostile until proven otherwise:
    sizes and offsets are checked before memory is taken.

    Args:
        path: a .tflite, .onnx, .keras or .h5 file, or a TensorFlow.js folder or its model.json.

    Raises:
        SourceError: there is no such file, it is no model, or it is broken.
    """
    try:
        format = _format(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    reader = importlib.import_module(f"edgekit.formats.{'keras' if format == 'h5' else format}")
    try:
        description: FileDescription = reader.read(path)
    except EdgekitError:
        raise
    except Exception as error:  # whatever a parser says to bytes that no writer wrote
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{path} is a broken or incomplete {TITLES[format]} file: {cause}",
            hint="copy or export it again, and compare the sizes",
        ) from error
    return description


def _format(path: Path) -> str:
    if path.is_dir():
        if not (path / "model.json").is_file():
            raise _not_a_model(path, "is a folder without a model.json", _folder_hint(path))
        return "tfjs"
    if not path.exists():
        raise SourceError(f"{path} does not exist", hint="check the path")
    if not path.is_file():
        raise _not_a_model(path, "is not a regular file")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise _not_a_model(path, "is empty", "export it again")
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[:4] == b"PK\x03\x04":
        return "keras"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "h5"
    if head.lstrip()[:1] == b"{":
        return "tfjs"
    if path.suffix.lower() in SUFFIXES:
        format, sign = SUFFIXES[path.suffix.lower()]
        raise _not_a_model(path, f"is named like {TITLES[format]}, but is not {sign}")
    return "onnx"  # protobuf has no magic number; the ONNX reader says if it is something else


def _not_a_model(path: Path, what: str, hint: str = KNOWN) -> SourceError:
    return SourceError(f"{path} {what}", hint=hint)


def _folder_hint(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return "this looks like a workspace: inspect one of the model files in it"
    if (path / "saved_model.pb").is_file():
        return "this is a SavedModel: export it, then inspect the exported file"
    return KNOWN

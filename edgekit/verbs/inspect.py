"""`edgekit inspect`: what is in a model file, read without TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit import formats
from edgekit.formats.description import FileDescription


def inspect(*, source: str | os.PathLike[str]) -> FileDescription:
    """Describe a TFLite, ONNX, TF.js or Keras file.

    Raises:
        SourceError: it is none of these, or damaged.
    """
    return formats.describe(Path(source))

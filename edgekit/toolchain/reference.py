"""What the Keras model's own outputs must be, for a file to be compared with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import SourceError

Outputs = Mapping[str, np.ndarray]


def check_repeatable(once: Outputs, again: Outputs) -> None:
    """The same rows through the model twice give the same.

    Raises:
        SourceError: an output is random.
    """
    for name, value in once.items():
        if not np.array_equal(value, again[name], equal_nan=value.dtype.kind == "f"):
            raise SourceError(
                f"the output {name!r} is random: the same rows give other values each time",
                hint="export the part before the sampling, with --until LAYER, and sample in the "
                "application",
            )


def check_comparable(outputs: Outputs, rows: int) -> None:
    """Each output has a finite value for each of the `rows`.

    Raises:
        SourceError: one has not.
    """
    for name, value in outputs.items():
        if len(value) != rows:
            raise SourceError(
                f"the output {name!r} does not have one row for each of the model's inputs",
                hint="files are compared row by row: export the part whose outputs have, with "
                "--until LAYER",
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise SourceError(
                f"the Keras model itself gives NaN or infinity in its output {name!r}",
                hint="check the model and the samples; nothing can be compared with that",
            )

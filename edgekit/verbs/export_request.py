"""What may be asked of `edgekit export`: refused before TensorFlow starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ConversionError, SourceError
from edgekit.types import FORMATS, PRECISIONS
from edgekit.verbs.source import refuse_loading
from edgekit.workspace import Workspace

SUPPORTED = {
    "tflite": PRECISIONS,
    "onnx": PRECISIONS,
    "tfjs": ("fp32", "fp16", "int8"),
}
"""dynamic has int8 weights and float activations, int16x8 int8 weights and int16 activations. int8
in TF.js means weights stored in 8 bits: smaller to download, computed in float."""


def needs_calibration(form: str, precision: str) -> bool:
    """Whether the ranges of activations must be known to make such a file."""
    return precision in ("int8", "int16x8") and form != "tfjs"


def plan(to: str | Sequence[str], precision: str | Sequence[str]) -> list[tuple[str, str]]:
    """(format, precision) of each file that is asked for, in the order to make them.

    Raises:
        ConversionError: one of them is unknown, or does not go with the other.
    """
    to, precision = _several(to), _several(precision)
    _check_names("format", to, FORMATS)
    _check_names("precision", precision, PRECISIONS)
    plan = []
    # Files that take longest to prove come first: proofs go on while the next is converted.
    for form in (f for f in reversed(FORMATS) if f in to):
        for kind in (p for p in PRECISIONS if p in precision):
            if kind not in SUPPORTED[form]:
                raise ConversionError(
                    f"{form} cannot be {kind}", hint=f"{form}: {', '.join(SUPPORTED[form])}"
                )
            plan.append((form, kind))
    return plan


def _several(names: str | Sequence[str]) -> Sequence[str]:
    """`to="onnx"` is one format, not four letters."""
    return (names,) if isinstance(names, str) else names


def check_workspace(
    workspace: Workspace,
    output: str | os.PathLike[str] | None,
    loading: Mapping[str, Any],
) -> None:
    """Refuse what is settled once a workspace is there: its folder, how its model is loaded."""
    if output is not None and Path(output).resolve() != workspace.path.resolve():
        raise SourceError(
            f"{workspace.path} is a workspace: its artifacts go into it", hint="leave out -o"
        )
    refuse_loading(workspace.path, loading)


def check_samples(
    samples: str | os.PathLike[str] | None,
    workspace: Workspace | None,
    wanted: list[tuple[str, str]],
) -> None:
    """Refuse samples that are not there, and int8 or int16x8 without any."""
    if samples is not None and not Path(samples).is_file():
        raise SourceError(f"there is no file {samples}")
    needing = [kind for form, kind in wanted if needs_calibration(form, kind)]
    has_rows = workspace is not None and (
        workspace.has_data("calibration") or workspace.manifest.recipe is not None
    )
    if needing and samples is None and not has_rows:
        raise SourceError(
            f"{needing[0]} needs samples to calibrate with, and there are none",
            hint="give --samples FILE.npz with a few hundred typical rows",
        )


def check_variant(variant: str | None, workspace: Workspace | None) -> None:
    """Refuse a variant of a workspace that has none of that name, or of none."""
    if variant is None:
        return
    if workspace is None:
        raise SourceError(
            f"{variant!r} is asked of a model, and a workspace has variants",
            hint="give the workspace in which edgekit prune made it",
        )
    workspace.model_of(variant)


def _check_names(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    given = list(given)
    if not given:
        raise ConversionError(f"no {what} was asked for", hint=f"known: {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ConversionError(f"unknown {what} {name!r}", hint=f"known: {', '.join(known)}")

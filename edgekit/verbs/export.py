"""`edgekit export`: convert, prove, publish. What cannot be proved is not published."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit import evidence
from edgekit.errors import Failure
from edgekit.targets import open_target
from edgekit.types import (
    FORMATS,
    AccuracyRecord,
    Artifact,
    ParityRecord,
    Progress,
)
from edgekit.verbs import drafts, variants
from edgekit.verbs.export_request import plan
from edgekit.verbs.opening import opened_workspace
from edgekit.verbs.outcome import Incomplete
from edgekit.verbs.production import Production
from edgekit.verbs.source import ModelSource


@dataclass(frozen=True)
class ExportResult:
    """`artifacts` are proved (parity has a record of each) unless `allow_unverified`."""

    workspace: str
    artifacts: tuple[Artifact, ...]
    parity: tuple[ParityRecord, ...]
    accuracy: tuple[AccuracyRecord, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...] = ()


class ExportFailed(Incomplete):
    """Some artifacts could not be made or did not hold; `result` has the others."""


def export(
    *,
    source: ModelSource,
    to: str | Sequence[str] = FORMATS,
    precision: str | Sequence[str] = ("fp32",),
    samples: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    batch: int | None = None,
    opset: int = 17,
    int8_io: bool = False,
    allow_unverified: bool = False,
    custom_objects: str | os.PathLike[str] | None = None,
    builder: str | None = None,
    from_layer: str | None = None,
    until_layer: str | None = None,
    progress: Progress = lambda text: None,
) -> ExportResult:
    """Export a model to every format of `to` in every precision of `precision`.

    Each file is loaded by its own runtime and compared with the Keras model before it appears in
    the workspace: on the recipe's test split, on `samples`, or on random rows.

    Args:
        source: a workspace; a .keras or .h5 file of Keras 2 or 3; a file of weights, with
            `builder`; a SavedModel folder; or a model as a Python object.
        to: any of "tflite", "onnx", "tfjs".
        precision: any of "fp32", "fp16", "dynamic", "int8".
        samples: an .npz file of rows (arrays named after the inputs, or `x`; labels as `y`), to
            calibrate int8 with and, without a recipe, to compare on.
        output: the workspace; `<model name>-edgekit` beside you unless given.
        variant: export this model of the workspace ("sparse80"), and not its own.
        batch: rows per call; unless given 1 in TFLite, any number in ONNX and TF.js, or what the
            model itself is fixed to.
        opset: of ONNX, 13 to 18.
        int8_io: int8 TFLite files take and give int8 instead of float32.
        allow_unverified: publish, as "not verified", what no runtime here can load; TFLite files
            may then hold Flex (TensorFlow) operations.
        custom_objects: the module, or .py file, that defines the model's own layers and functions.
        builder: "module:function" or "FILE.py:function" that builds the model; `source` has its
            weights.
        from_layer: export the part from this layer on, whose input becomes the input.
        until_layer: export the part until this layer, whose output becomes the output.
        progress: told in one line what happens.

    Raises:
        ExportFailed: an artifact could not be made, or is not equal to the model. The others are
            finished, and in its `result`.
        SourceError: the model or the samples cannot be used.
        WorkspaceError: the folder holds something else.
    """
    wanted = plan(to, precision)
    loading: dict[str, Any] = {
        "custom_objects": custom_objects,
        "builder": builder,
        "from_layer": from_layer,
        "until_layer": until_layer,
    }
    with contextlib.ExitStack() as stack:
        workspace, toolchain = stack.enter_context(
            opened_workspace(
                source,
                output=output,
                samples=samples,
                wanted=wanted,
                loading=loading,
                variant=variant,
                progress=progress,
            )
        )
        held = stack.enter_context(evidence.opened(workspace, variant=variant))
        target = open_target("local")
        stack.callback(target.close)
        drafter = stack.enter_context(
            drafts.opened(
                workspace,
                toolchain,
                wanted,
                rows=held.inputs,
                options={"batch": batch, "opset": opset, "int8_io": int8_io},
                flex=allow_unverified,
                variant=variant,
                progress=progress,
            )
        )
        production = Production(drafter, held, target, progress, allow_unverified=allow_unverified)
        made, failures = production.run(wanted)
        result = ExportResult(
            workspace=str(workspace.path),
            artifacts=tuple(m.artifact for m in made),
            parity=tuple(m.proof.parity for m in made if m.proof),
            accuracy=tuple(m.proof.accuracy for m in made if m.proof and m.proof.accuracy),
            failures=tuple(failures),
            warnings=(
                *workspace.manifest.source.notes,
                *variants.notes(workspace, variant),
                *evidence.weaknesses(workspace, held),
                *dict.fromkeys(w for m in made for w in m.warnings),
            ),
        )
    if result.failures:
        raise ExportFailed(result)
    return result

"""Models that are trained on from a workspace's own, before they are converted."""

from __future__ import annotations

import datetime
from typing import Any

from edgekit import evidence
from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import encode
from edgekit.toolchain.client import Toolchain
from edgekit.types import Progress, Step
from edgekit.workspace import Workspace

LONGEST_S = 6 * 3600


def take_fine_tuned(
    workspace: Workspace, toolchain: Toolchain, epochs: int | None, progress: Progress
) -> None:
    """See to it that the workspace has its model trained on for 8 bits: the variant "qat".

    By the recipe, or on the calibration rows: on their labels or, where they have none, towards
    the model's own outputs. What was trained in the same way before is taken as it is.

    Raises:
        ConversionError: the training failed.
    """
    recipe = workspace.manifest.recipe
    options: dict[str, Any] = {"method": "qat", "epochs": epochs}
    if recipe is None:
        options["samples_sha256"] = workspace.manifest.data["calibration"].sha256
    known = workspace.manifest.variants.get("qat")
    if known is None or not options.items() <= dict(known.step.options).items():
        _train(workspace, toolchain, options, progress)
    evidence.prepare_variant(workspace, toolchain, "qat", progress)


def _train(
    workspace: Workspace, toolchain: Toolchain, options: dict[str, Any], progress: Progress
) -> None:
    recipe = evidence.recipe_of(workspace)
    rows = None if recipe else evidence.calibration(workspace)
    model = workspace.model
    with workspace.staging() as staging:
        path = staging / f"qat{'.keras' if model.is_dir() else evidence.suffix_of(model)}"
        progress("training on for 8 bits")
        answer = toolchain.call(
            "train_quantized",
            source=encode(workspace.source),
            recipe=str(recipe.path) if recipe else None,
            feed=save_arrays(rows.feed, staging / "feed") if rows else None,
            targets=save_arrays(rows.targets, staging / "targets") if rows else None,
            epochs=options["epochs"],
            path=str(path),
            timeout=LONGEST_S,
            progress=progress,
        )
        step = Step(
            verb="quantize",
            options={**options, "engine": answer["engine"], "notes": answer["notes"]},
            parent=workspace.manifest.source.sha256,
            tools=answer["tools"],
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        workspace.take_variant("qat", path, step)

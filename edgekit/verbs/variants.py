"""Keras models that a workspace makes from its own: pruned, or trained on for 8 bits."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from edgekit import evidence
from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import encode
from edgekit.errors import ConversionError
from edgekit.proof import labelled
from edgekit.toolchain.client import Toolchain
from edgekit.types import PRUNINGS, Progress, Pruning, Step
from edgekit.workspace import Workspace

QAT = "qat"
LONGEST_S = 6 * 3600

UNTRAINED = "not trained after that, which costs accuracy: fine-tune it by a recipe or on --samples"


def variant_name(base: str | None, pruning: Pruning | None) -> str:
    """What a model that is made from the variant `base` is called; QAT where nothing is pruned.

    Raises:
        ConversionError: this cannot be done to what was done before.
    """
    order = (*PRUNINGS, QAT)
    new = QAT if pruning is None else pruning.kind
    before = re.sub(r"\d+$", "", (base or "").rpartition("-")[2])
    # A name that no variant has is refused where it is looked up.
    if before in order and order.index(before) >= order.index(new):
        raise ConversionError(
            f"{base} cannot be made {new} after that", hint=f"the order is {', '.join(order)}"
        )
    if (before, new) == ("cluster", QAT):
        raise ConversionError(
            f"training {base} on would give each of its weights another value",
            hint="quantize it without training: leave out --method qat",
        )
    added = QAT if pruning is None else pruning.variant
    return f"{base}-{added}" if base else added


def take_variant(
    workspace: Workspace,
    toolchain: Toolchain,
    base: str | None,
    pruning: Pruning | None,
    epochs: int | None,
    progress: Progress,
) -> str:
    """See to it that the workspace has a variant of its model `base`, and return the name.

    What was made in the same way before is taken as it is.

    Raises:
        ConversionError: it cannot be made.
    """
    name = variant_name(base, pruning)
    known = workspace.manifest.variants.get(name)
    options = _options(workspace, pruning, epochs)
    is_same = known is not None and options.items() <= dict(known.step.options).items()
    if known is None or not is_same or known.step.parent != workspace.model_of(base)[1]:
        with workspace.staging() as staging:
            made = make_variant(workspace, toolchain, base, pruning, epochs, staging, progress)
            keep_variant(workspace, name, *made, progress)
    evidence.prepare_variant(workspace, toolchain, name, progress)
    return name


def keep_variant(
    workspace: Workspace, name: str, staged: Path, step: Step, progress: Progress
) -> None:
    """Take a staged variant over, and tell what went with one of the same name before."""
    if dropped := workspace.take_variant(name, staged, step):
        progress(f"{name} was made anew; dropped with the one before: {', '.join(dropped)}")


def make_variant(
    workspace: Workspace,
    toolchain: Toolchain,
    base: str | None,
    pruning: Pruning | None,
    epochs: int | None,
    folder: Path,
    progress: Progress,
) -> tuple[Path, Step]:
    """Make a variant as a file in `folder`.

    By the recipe, or on the calibration rows: on their labels or, where they have none, towards
    the model's own outputs. With 0 epochs, or where there is neither, nothing is trained.
    """
    name = variant_name(base, pruning)
    source, parent = workspace.model_of(base)
    file = Path(source.path)
    suffix = ".keras" if file.is_dir() else evidence.suffix_of(file)
    if pruning is not None and pruning.kind == "structured" and suffix == ".weights.h5":
        suffix = ".keras"  # a builder would build it uncut
    path = folder / f"{name}{suffix}"
    recipe = evidence.recipe_of(workspace) if epochs != 0 else None
    rows = evidence.calibration(workspace) if epochs != 0 and recipe is None else None
    targets = rows.targets if rows and _are_judged(workspace) else {}
    progress("training on for 8 bits" if pruning is None else f"making {name}")
    answer = toolchain.call(
        "make_variant",
        source=encode(source),
        pruning=None if pruning is None else encode(pruning),
        keeps_zeros="sparse" in (base or ""),
        recipe=recipe.reference if recipe else None,
        feed=save_arrays(rows.feed, folder / "feed") if rows else None,
        targets=save_arrays(targets, folder / "targets") if rows else None,
        epochs=epochs,
        path=str(path),
        timeout=LONGEST_S,
        progress=progress,
    )
    found = {key: answer[key] for key in ("engine", "layers", "notes")}
    if recipe is None and rows is None:
        found["notes"] = [*found["notes"], UNTRAINED]
    step = Step(
        verb="quantize" if pruning is None else "prune",
        options={**_options(workspace, pruning, epochs), **found},
        parent=parent,
        tools=answer["tools"],
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return path, step


def _are_judged(workspace: Workspace) -> bool:
    """Whether the samples' labels say of each output how good it is.

    Where they do not, as those of a regression, all that follows is held to the model's own
    outputs, and so must the training be.
    """
    outputs = {spec.name for spec in workspace.manifest.source.signature.outputs}
    with evidence.opened(workspace) as held:
        return outputs <= set(labelled(held))


def notes(workspace: Workspace, variant: str | None) -> tuple[str, ...]:
    """What the user should know of how a variant, and those before it, were made."""
    if variant is None:
        return ()
    before = variant.rpartition("-")[0] or None
    own = workspace.manifest.variants[variant].step.options.get("notes", ())
    return (*notes(workspace, before), *(f"{variant}: {note}" for note in own))


def _options(workspace: Workspace, pruning: Pruning | None, epochs: int | None) -> dict[str, Any]:
    """What a variant is told by, beside the model that it is made from."""
    options: dict[str, Any] = {"epochs": epochs}
    if pruning is not None:
        options["pruning"] = encode(pruning)
    data = workspace.manifest.data.get("calibration")
    if workspace.manifest.recipe is None and data is not None and epochs != 0:
        options["samples_sha256"] = data.sha256
    return options

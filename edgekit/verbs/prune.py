"""`edgekit prune`: a smaller or faster Keras model, and what that gains in each file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit import evidence
from edgekit.budget import parse_budget
from edgekit.errors import ConversionError, EdgekitError, Failure
from edgekit.manifest import here
from edgekit.proof import accuracy_record, cost_of
from edgekit.targets import open_target
from edgekit.types import (
    BASELINE,
    AccuracyRecord,
    Artifact,
    LatencyRecord,
    OutputParity,
    ParityRecord,
    Progress,
    SearchRecord,
)
from edgekit.verbs import drafts, variants
from edgekit.verbs.bench import time_artifacts
from edgekit.verbs.export_request import plan
from edgekit.verbs.gain import Gain, dense_files, gain
from edgekit.verbs.opening import opened_workspace
from edgekit.verbs.outcome import BudgetExceeded, Incomplete, unmeasured
from edgekit.verbs.production import Production
from edgekit.verbs.prune_request import asked_for
from edgekit.verbs.prune_search import PruneSearch
from edgekit.verbs.source import ModelSource
from edgekit.workspace import Workspace


@dataclass(frozen=True)
class PruneResult:
    """`variant` is the pruned model's name in the workspace; None: none held."""

    workspace: str
    variant: str | None = None
    engine: str | None = None
    """What pruned it: "tfmot 0.8.1" or "native"."""
    layers: tuple[dict[str, object], ...] = ()
    """What was done to each: "name", and "before" and "after", which are the share of zeros, the
    number of channels or that of different values."""
    outputs: tuple[OutputParity, ...] = ()
    """The pruned Keras model's against those of the workspace's own."""
    artifacts: tuple[Artifact, ...] = ()
    parity: tuple[ParityRecord, ...] = ()
    """Each against the pruned Keras model."""
    accuracy: tuple[AccuracyRecord, ...] = ()
    """Of both Keras models and the files, where the rows have labels."""
    latency: tuple[LatencyRecord, ...] = ()
    gains: tuple[Gain, ...] = ()
    search: SearchRecord | None = None
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()


class PruneFailed(Incomplete):
    """Some artifacts could not be made or did not hold; `result` has the others."""


def prune(
    *,
    source: ModelSource,
    sparsity: float | None = None,
    structured: bool = False,
    ratio: float | None = None,
    clusters: int | None = None,
    pattern: str | None = None,
    layer: str | Sequence[str] = (),
    skip_first: bool = False,
    skip_last: bool = False,
    max_drop: str | None = None,
    epochs: int | None = None,
    to: str | Sequence[str] = ("tflite", "onnx"),
    precision: str | Sequence[str] = ("fp32",),
    sparse_encoding: bool = False,
    samples: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    batch: int | None = None,
    opset: int = 17,
    custom_objects: str | os.PathLike[str] | None = None,
    builder: str | None = None,
    from_layer: str | None = None,
    until_layer: str | None = None,
    progress: Progress = lambda text: None,
) -> PruneResult:
    """Prune a model, fine-tune it, and measure what that gains in each file.

    The pruned model is a variant of the workspace: `export`, `quantize` and `prune` take it by its
    name. Its files are proved against it, and their accuracy is measured against the model before.

    Args:
        source: as in `export`.
        sparsity: the share of the weights of each layer that become 0; 0.8 unless given.
        structured: remove whole channels instead, with all that depends on them.
        ratio: the share of the channels that go; 0.5 unless given.
        clusters: let the weights of each layer share so many values instead.
        pattern: how zeros lie: "2:4", or in blocks of inputs x outputs such as "4x1".
        layer: "PATTERN=AMOUNT" for the layers whose names fit; the last that fits counts, and 0
            leaves a layer as it is.
        skip_first: leave the first layer as it is.
        skip_last: leave the last layer as it is.
        max_drop: as in `quantize`: finds the highest sparsity or ratio that loses no more.
        epochs: of the training; 0: none. Unless given, the recipe's own number, and for clusters a
            quarter of it.
        to: as in `export`.
        precision: as in `export`.
        sparse_encoding: store zeros of fp32 TFLite files by their places.
        samples: rows as in `export`, here to train on where no recipe is known: a third of them,
            on their labels or, without any, towards the model's own outputs.
        output: as in `export`.
        variant: prune this model of the workspace, and not its own.
        batch: as in `export`.
        opset: as in `export`.
        custom_objects: as in `export`.
        builder: as in `export`.
        from_layer: as in `export`.
        until_layer: as in `export`.
        progress: told in one line what happens.

    Raises:
        PruneFailed: an artifact could not be made, or is not equal to the pruned model.
        BudgetExceeded: nothing loses as little as `max_drop` (exit code 3).
        ConversionError: the model cannot be pruned so.
        SourceError: the model or the samples cannot be used.
        WorkspaceError: the folder holds something else.
    """
    pruning = asked_for(
        sparsity=sparsity,
        structured=structured,
        ratio=ratio,
        clusters=clusters,
        pattern=pattern,
        layer=layer,
        skip_first=skip_first,
        skip_last=skip_last,
        searches=max_drop is not None,
    )
    budget = None if max_drop is None else parse_budget(max_drop)
    wanted = plan(to, precision)
    if sparse_encoding and ("tflite", "fp32") not in wanted:
        raise ConversionError(
            "only fp32 tflite has a sparse encoding", hint="add --to tflite --precision fp32"
        )
    if sparse_encoding and "sparse" not in f"{variant}-{pruning.kind}":
        raise ConversionError(
            "a sparse encoding is of zeros, and there are none", hint="leave out --sparse-encoding"
        )
    variants.variant_name(variant, pruning)
    with contextlib.ExitStack() as stack:
        workspace, toolchain = stack.enter_context(
            opened_workspace(
                source,
                output=output,
                samples=samples,
                wanted=wanted,
                loading={
                    "custom_objects": custom_objects,
                    "builder": builder,
                    "from_layer": from_layer,
                    "until_layer": until_layer,
                },
                hold_back=True if budget else None if epochs != 0 else False,
                variant=variant,
                progress=progress,
            )
        )
        search = None
        if budget is None:
            name = variants.take_variant(workspace, toolchain, variant, pruning, epochs, progress)
        else:
            folder = stack.enter_context(workspace.staging())
            search, found = PruneSearch(
                workspace, toolchain, variant, pruning, epochs, budget, folder, progress
            ).run()
            workspace.add_records(search)
            if found is None:
                raise _shortfall(workspace, search)
            name = found
        target = open_target("local")
        stack.callback(target.close)
        options = {"batch": batch, "opset": opset, "sparse_encoding": sparse_encoding}

        def production(model: str | None) -> Production:
            held = stack.enter_context(evidence.opened(workspace, variant=model))
            used = options if model == name else {**options, "sparse_encoding": False}
            drafter = drafts.opened(
                workspace,
                toolchain,
                wanted,
                rows=held.inputs,
                options=used,
                variant=model,
                progress=progress,
            )
            return Production(stack.enter_context(drafter), held, target, progress)

        return _done(workspace, name, production(name), wanted, production(None), search)


def _shortfall(workspace: Workspace, search: SearchRecord) -> EdgekitError:
    result = PruneResult(str(workspace.path), search=search)
    if failure := unmeasured(search):
        return PruneFailed(replace(result, failures=(failure,)))
    hint = "allow more, train longer with --epochs, or leave sensitive layers out: --layer NAME=0"
    return BudgetExceeded(result, [search], hint)


def _done(
    workspace: Workspace,
    name: str,
    pruned: Production,
    wanted: Sequence[tuple[str, str]],
    dense: Production,
    search: SearchRecord | None,
) -> PruneResult:
    """Make the files and measure them side by side; raises where one could not be made."""
    made, failures = pruned.run(wanted)
    before, reasons = dense_files(dense, wanted, made)
    info, held = workspace.manifest.variants[name], pruned.evidence
    cost = cost_of(held.reference, held)
    own = accuracy_record(info.path, info.sha256, cost, held.reference, held)
    if own is not None:
        workspace.add_records(own)
    pruned.progress("timing")
    compared = [*{a.id: a for a in before.values()}.values(), *(m.artifact for m in made)]
    latency, untimed = time_artifacts(workspace, compared, pruned.target)
    times = {r.artifact: r for r in latency}
    known = {BASELINE, info.path, *(a.id for a in compared)}
    accuracy = [a for a in here(workspace.manifest.accuracy) if a.artifact in known]
    result = PruneResult(
        workspace=str(workspace.path),
        variant=name,
        engine=info.step.options["engine"],
        layers=tuple(info.step.options["layers"]),
        outputs=cost.outputs,
        artifacts=tuple(m.artifact for m in made),
        parity=tuple(m.proof.parity for m in made if m.proof),
        accuracy=tuple(accuracy),
        latency=latency,
        gains=tuple(gain(workspace, m.artifact, before.get(m.artifact.id), times) for m in made),
        search=search,
        failures=tuple(failures),
        warnings=(
            *workspace.manifest.source.notes,
            *variants.notes(workspace, name),
            *evidence.weaknesses(workspace, held),
            *reasons,
            *untimed,
            *dict.fromkeys(w for m in made for w in m.warnings),
        ),
    )
    if result.failures:
        raise PruneFailed(result)
    return result

"""`edgekit verify`: prove artifacts again, from what the workspace holds, without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from edgekit import evidence
from edgekit.agent.protocol import Signature
from edgekit.errors import (
    CheckFailed,
    Failure,
    MissingDependency,
    RunnerError,
    SourceError,
    TargetError,
    WorkspaceError,
)
from edgekit.evidence import Evidence
from edgekit.proof import Proof, prove
from edgekit.samples import read_samples
from edgekit.targets import Target, open_target
from edgekit.toolchain.client import open_toolchain
from edgekit.types import AccuracyRecord, ParityRecord, Progress, TensorSpec
from edgekit.verbs.locate import Located, locate, runnable
from edgekit.verbs.source import is_workspace, opened_source, refuse_loading
from edgekit.workspace import Workspace


@dataclass(frozen=True)
class VerifyResult:
    """A record per artifact that could be run; `parity[i].failures` is empty where it holds."""

    parity: tuple[ParityRecord, ...] = ()
    accuracy: tuple[AccuracyRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Artifacts that could not be run here: neither proved nor refuted."""


class VerifyFailed(CheckFailed):
    """An artifact is not equal to the Keras model; `result` has all records."""

    def __init__(self, result: VerifyResult) -> None:
        bad = [r for r in result.parity if r.failures]
        also = f" (and {len(bad) - 1} more artifacts)" if len(bad) > 1 else ""
        super().__init__(f"{bad[0].artifact}: {'; '.join(bad[0].failures)}{also}")
        self.result = result


class NotVerified(RunnerError):
    """An artifact could not be run here; `result` has the records of the others."""

    def __init__(self, result: VerifyResult) -> None:
        first, *others = result.failures
        also = f" (and {len(others)} more)" if others else ""
        super().__init__(f"not verified: {first}{also}", hint=first.hint)
        self.result = result


def verify(
    *,
    source: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    samples: str | os.PathLike[str] | None = None,
    target: str = "local",
    custom_objects: str | os.PathLike[str] | None = None,
    builder: str | None = None,
    from_layer: str | None = None,
    until_layer: str | None = None,
    progress: Progress = lambda text: None,
) -> VerifyResult:
    """Compare artifacts with their Keras model once more.

    Args:
        source: a workspace (all artifacts), one artifact of it, or, with `against`, any TFLite,
            ONNX or TF.js file.
        against: the Keras model that a file outside of a workspace was made from, or a
            workspace of that model.
        samples: with `against`: rows to compare on; unless given, those of the workspace
            `against`, or random ones.
        target: where to run; "local" is this machine.
        custom_objects: the module with the own layers and functions of `against`, as in `export`.
        builder: the function that builds `against`.
        from_layer: the first layer of the part of `against` that the file is.
        until_layer: the last layer of that part.
        progress: told in one line what happens.

    Raises:
        VerifyFailed: a difference is larger than allowed (exit code 3).
        NotVerified: a runtime is missing here, or cannot run a file; the others were verified.
        WorkspaceError: a file is missing, or not the one that was recorded.
    """
    found = locate(Path(source))
    loading: dict[str, Any] = {
        "custom_objects": custom_objects,
        "builder": builder,
        "from_layer": from_layer,
        "until_layer": until_layer,
    }
    place = open_target(target, progress)
    try:
        found = runnable(found, place, progress)
        if against is not None:
            records = _against(Path(against), loading, samples, found, place, progress)
        else:
            refuse_loading(Path(source), loading)
            records = _recorded(found, samples, place, progress)
    finally:
        place.close()
    if any(r.failures for r in records.parity):
        raise VerifyFailed(records)
    if records.failures:
        raise NotVerified(records)
    return records


def _recorded(
    found: Sequence[Located],
    samples: str | os.PathLike[str] | None,
    place: Target,
    progress: Progress,
) -> VerifyResult:
    workspace = found[0].workspace
    if workspace is None:
        raise SourceError(
            f"{found[0].path} belongs to no workspace: nothing is known to compare it with",
            hint="give the Keras model it was made from: --against MODEL.keras",
        )
    if samples is not None:
        raise SourceError(
            "a workspace is verified on its own rows", hint="leave out --samples, or add --against"
        )
    results: list[VerifyResult] = []
    for model in dict.fromkeys(item.model for item in found):
        of_model = [item for item in found if item.model == model]
        with contextlib.ExitStack() as stack:
            try:
                rows = stack.enter_context(evidence.opened(workspace, variant=model))
            except WorkspaceError as e:  # the rows of another model may be there
                results.append(VerifyResult(failures=tuple(e.failure(i.id) for i in of_model)))
                continue
            results.append(_prove(of_model, rows, place, progress))
    result = VerifyResult(
        tuple(chain.from_iterable(r.parity for r in results)),
        tuple(chain.from_iterable(r.accuracy for r in results)),
        tuple(chain.from_iterable(r.failures for r in results)),
    )
    workspace.keep(*result.parity, *result.accuracy, progress=progress)
    return result


def _against(
    model: Path,
    loading: Mapping[str, Any],
    samples: str | os.PathLike[str] | None,
    found: Sequence[Located],
    place: Target,
    progress: Progress,
) -> VerifyResult:
    if is_workspace(model):
        refuse_loading(model, loading)
    if is_workspace(model) and samples is None:
        known = Workspace.open(model)
        with evidence.opened(known) as held:
            named = [
                replace(f, signature=_named(f, known.manifest.source.signature)) for f in found
            ]
            return _prove(named, held, place, progress)
    with contextlib.ExitStack() as stack:
        if is_workspace(model):
            source = Workspace.open(model).source
        else:
            source = stack.enter_context(opened_source(model, **loading))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
        toolchain = stack.enter_context(open_toolchain(progress, family=source.family))
        info, preprocessing = evidence.describe_source(source, toolchain)
        rows = read_samples(Path(samples), info.rows_signature) if samples is not None else None
        scratch = evidence.make_workspace(
            Path(folder, "workspace"), source, info, preprocessing, toolchain
        )
        evidence.prepare(scratch, toolchain, rows, progress)
        with evidence.opened(scratch) as held:
            named = [replace(f, signature=_named(f, info.signature)) for f in found]
            return _prove(named, held, place, progress)


def _prove(
    found: Sequence[Located], rows: Evidence, place: Target, progress: Progress
) -> VerifyResult:
    proofs: list[Proof] = []
    failures: list[Failure] = []
    for item in found:
        progress(f"{item.id}: comparing {rows.rows:,} rows with the Keras model")
        try:
            proof = prove(
                item.path,
                id=item.id,
                precision=item.precision,
                sha256=item.sha256,
                signature=item.signature,
                evidence=rows,
                target=place,
                keep_float=item.keeps_float,
            )
        except TargetError as e:  # the place is gone: what was proved until then stands
            left = found[found.index(item) :]
            failures += [e.failure(other.id) for other in left]
            break
        except (RunnerError, MissingDependency) as e:
            failures.append(e.failure(item.id))
        else:
            proofs.append(proof)
    return VerifyResult(
        tuple(p.parity for p in proofs),
        tuple(p.accuracy for p in proofs if p.accuracy),
        tuple(failures),
    )


def _named(item: Located, model: Signature) -> Signature:
    """A foreign file's signature under the Keras names.

    A single input or output needs no name; of several each must bear its Keras name.
    """
    sides: list[tuple[TensorSpec, ...]] = []
    for what, mine, keras in (
        ("inputs", item.signature.inputs, model.inputs),
        ("outputs", item.signature.outputs, model.outputs),
    ):
        if len(mine) == len(keras) == 1:
            sides.append((replace(mine[0], name=keras[0].name),))
            continue
        names = [spec.name for spec in mine]
        if sorted(names) != sorted(spec.name for spec in keras):
            raise SourceError(
                f"{item.path}: its {what} are {', '.join(names)}, the model's are "
                f"{', '.join(s.name for s in keras)}",
                hint="edgekit does not guess which is which: export the model with edgekit",
            )
        sides.append(mine)
    return Signature(*sides)

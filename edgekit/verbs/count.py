"""`edgekit bench` on an emulated machine: instructions, since its times say nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal

from edgekit.errors import EdgekitError, RunnerError
from edgekit.targets import Target
from edgekit.types import InstructionRecord, Job, Progress
from edgekit.verbs.first_row import first_row
from edgekit.verbs.locate import Located


def count_files(
    items: Sequence[Located],
    place: Target,
    progress: Progress,
    *,
    threads: int = 1,
    model: bool = False,
) -> list[InstructionRecord | EdgekitError]:
    """Count the instructions of each file, in their order: a record, or why there is none.

    With `model`, also what a model of the processor makes of them.
    """
    found: list[InstructionRecord | EdgekitError] = []
    for item in items:
        progress(f"counting: {item.id}")
        try:
            found.append(_count(item, place, threads, model))
        except EdgekitError as e:
            found.append(e)
    return found


def _count(item: Located, place: Target, threads: int, model: bool) -> InstructionRecord:
    with contextlib.ExitStack() as stack:
        inputs = first_row(item.signature, item.workspace, stack)
        form = item.id.rpartition(".")[2]
        action: Literal["count", "model"] = "model" if model else "count"
        file = str(item.path)
        job = Job(action, form, file, item.signature, inputs, out="", threads=threads)
        result = place.execute(job)
    if not result.instructions:
        raise RunnerError(f"{item.id}: {place.uri} answered without a count")
    return InstructionRecord(
        artifact=item.id,
        sha256=item.sha256,
        target=place.uri,
        rows=item.signature.inputs[0].shape[0] or 1,
        counts=result.instructions,
        runtime=result.runtime,
        machine=result.machine,
        modelled=result.modelled,
    )

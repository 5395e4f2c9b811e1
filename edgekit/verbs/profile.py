"""`edgekit bench --profile`: the time of one invocation by operator, as far as runtimes tell it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from edgekit.errors import EdgekitError, RunnerError, TargetError
from edgekit.targets import Target
from edgekit.types import Job, ProfileRecord, Progress
from edgekit.verbs.first_row import first_row
from edgekit.verbs.locate import Located


def profilable(items: Sequence[Located], place: Target, progress: Progress) -> list[Located]:
    """Those whose runtime on `place` tells the times of its operators; the others are told.

    Raises:
        TargetError: there is none.
    """
    found = [item for item in items if _format(item) in place.profiles]
    left = ", ".join(item.id for item in items if item not in found)
    if not found:
        raise TargetError(
            f"no runtime of {place.uri} tells the times of operators: {left}",
            hint="leave --profile out, or take the target local",
        )
    if left:
        progress(f"not profiled, since its runtime on {place.uri} tells no operators: {left}")
    return found


def profile_files(
    items: Sequence[Located],
    place: Target,
    *,
    threads: int,
    seconds: float,
    medians: Sequence[float | None],
    progress: Progress,
) -> list[ProfileRecord | EdgekitError]:
    """Profile each file, in their order: a record, or why there is none.

    `medians` are the files' latencies without profiling, in nanoseconds.
    """
    found: list[ProfileRecord | EdgekitError] = []
    for item, median in zip(items, medians, strict=True):
        progress(f"profiling: {item.id}")
        try:
            found.append(_profile(item, place, threads, seconds, median))
        except EdgekitError as e:
            found.append(e)
    return found


def _profile(
    item: Located, place: Target, threads: int, seconds: float, median: float | None
) -> ProfileRecord:
    with contextlib.ExitStack() as stack:
        job = Job(
            "profile",
            _format(item),
            str(item.path),
            item.signature,
            first_row(item.signature, item.workspace, stack),
            out="",
            threads=threads,
            seconds=seconds,
        )
        result = place.execute(job)
    if result.profile is None:
        raise RunnerError(f"{item.id}: {place.uri} answered without a profile")
    return ProfileRecord(
        artifact=item.id,
        sha256=item.sha256,
        target=place.uri,
        threads=threads,
        rows=item.signature.inputs[0].shape[0] or 1,
        profile=result.profile,
        operators_ns=round(sum(o.ns for o in result.profile.operators), 1),
        p50_ns=median,
        runtime=result.runtime,
        machine=result.machine,
    )


def _format(item: Located) -> str:
    return item.id.rpartition(".")[2]

"""Can this ship? The first thing that a report says, and which files to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.cells import counted, duration, size, times
from edgekit.reporting.facts import (
    CHANGED,
    DIFFERS,
    MISSING,
    NOT_VERIFIED,
    FileFacts,
    Report,
)

GOOD, DOUBTFUL, BAD = "good", "doubtful", "bad"

ROWS = {"recipe": "test rows", "samples": "sample rows", "synthetic": "random rows"}


@dataclass(frozen=True)
class Answer:
    """`tone` is GOOD, DOUBTFUL or BAD."""

    tone: str
    headline: str
    text: tuple[str, ...]


@dataclass(frozen=True)
class Pick:
    """The best proved file in one respect."""

    what: str
    file: FileFacts
    figure: str
    beside: tuple[str, ...]


def answer(report: Report) -> Answer:
    """Whether all files are proved, or else what is wrong with which."""
    total = len(report.files)
    if not total:
        return Answer(DOUBTFUL, "There are no files yet", ("Only the Keras model is there.",))
    bad = [f for f in report.files if f.state in (DIFFERS, CHANGED, MISSING)]
    unknown = [f for f in report.files if f.state == NOT_VERIFIED]
    if bad:
        which = f"Not yet: {len(bad)} of {counted(total, 'file')}"
        return Answer(BAD, f"{which} {_wrong(bad)}", _proofs(report))
    if unknown:
        which = f"{len(unknown)} of {counted(total, 'file')}"
        return Answer(DOUBTFUL, f"Not known: {which} not verified", _proofs(report))
    which = "The file is proved" if total == 1 else f"All {total} files are proved"
    if any(f.cautions for f in report.files):
        return Answer(DOUBTFUL, f"{which}, but weakly", _proofs(report))
    return Answer(GOOD, which, _proofs(report))


def _wrong(files: Sequence[FileFacts]) -> str:
    one = len(files) == 1
    if not any(f.is_there for f in files):
        return "is not what was proved" if one else "are not what was proved"
    if all(f.is_there for f in files):
        return "differs from Keras" if one else "differ from Keras"
    return "are not proved"


def _proofs(report: Report) -> tuple[str, ...]:
    """What was done to know it, and the largest loss."""
    lines = []
    proved = [f for f in report.files if f.is_proved]
    if proved:
        rows = {r.rows for f in proved for r in f.parity}
        kinds = {ROWS.get(r.data, "rows") for f in proved for r in f.parity}
        all_are = "It was" if len(report.files) == 1 else "Each was"
        each = all_are if len(proved) == len(report.files) else "Each file that is proved was"
        lines.append(
            f"{each} run by its own runtime on {min(rows):,} {' and '.join(sorted(kinds))}, and "
            "every output compared with that of the Keras model it was made from."
        )
    judged = [f for f in proved if f.change is not None]
    if judged and report.baseline is not None:
        worst = min(judged, key=lambda f: f.change or 0.0)
        if (worst.change or 0.0) < 0:
            lines.append(
                f"The largest loss is that of {worst.artifact.id}: {report.metric} "
                f"{metric_text(report, worst)}; the Keras model has {report.baseline:.4f}."
            )
        else:
            lines.append(f"None loses any {report.metric}: {report.baseline:.4f}, as in Keras.")
    return tuple(lines)


def metric_text(report: Report, file: FileFacts) -> str:
    """A file's figure, with the difference from the Keras model's."""
    if file.metric is None:
        return ""
    if report.baseline is None:
        return f"{file.metric:.4f}"
    return f"{file.metric:.4f} ({file.metric - report.baseline:+.4f})"


def picks(report: Report) -> list[Pick]:
    """The smallest, the fastest and the most faithful of the proved files."""
    proved = [f for f in report.files if f.is_proved]
    timed = [f for f in proved if f.times is not None]
    found = []
    if proved:
        least = min(proved, key=lambda f: f.artifact.size_bytes)
        found.append(_pick(report, "Smallest", least, _size))
    if timed:
        first = min(timed, key=lambda f: f.times.summary.p50_ns if f.times else 0.0)
        found.append(_pick(report, "Fastest on this machine", first, _time))
    nearest = max(
        (f for f in proved if f.sqnr_db is not None), key=lambda f: f.sqnr_db or 0.0, default=None
    )
    if nearest is not None:
        found.append(_pick(report, "Nearest to Keras", nearest, _noise))
    return found


def _pick(
    report: Report, what: str, file: FileFacts, figure: Callable[[Report, FileFacts], str]
) -> Pick:
    others = (f for f in (_size, _time, _noise) if f is not figure)
    beside = [text for f in others if (text := f(report, file))]
    if file.metric is not None:
        beside.append(f"{report.metric} {metric_text(report, file)}")
    return Pick(what, file, figure(report, file), tuple(beside))


def _size(report: Report, file: FileFacts) -> str:
    own = file.artifact.size_bytes
    whole = report.source_bytes
    is_smaller = whole is not None and whole > 1.05 * own
    ratio = f", {(whole or 0) / own:.1f}× smaller than the Keras file" if is_smaller else ""
    return f"{size(own)}{ratio}"


def _time(report: Report, file: FileFacts) -> str:
    if file.times is None:
        return ""
    faster = times(file.times.speedup)
    return duration(file.times.summary.p50_ns) + (f", {faster} as fast as Keras" if faster else "")


def _noise(report: Report, file: FileFacts) -> str:
    return "" if file.sqnr_db is None else f"signal to noise {file.sqnr_db:.0f} dB"

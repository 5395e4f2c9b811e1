"""The files of a workspace against a baseline, rule by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit import comparison, row_scores
from edgekit.errors import NotComparable
from edgekit.figures import TIMES, Figure, Key, figures
from edgekit.rules import METRICS, Rule, Verdict, rules_for
from edgekit.snapshot import Snapshot
from edgekit.types import InstructionRecord, LatencyRecord, ParityRecord

EXACT = 1e-9
"""Of a figure, what is no difference: 0.91 - 0.905 is more than 0.005."""


@dataclass(frozen=True)
class _Found:
    """What two figures say; None: they cannot be compared, or it cannot be told."""

    passed: bool | None
    reason: str
    significant: bool | None = None


def judge(baseline: Snapshot, current: Snapshot, rules: Sequence[Rule]) -> tuple[Verdict, ...]:
    """A verdict on each figure of either that a rule asks for, in a stable order."""
    before, now = figures(baseline), figures(current)
    same_rows = baseline.rows_sha256 == current.rows_sha256
    verdicts = []
    for key in sorted({*before, *now}, key=_order):
        rule = next((r for r in rules_for(key[0], rules) if r.metric == key[3]), None)
        if rule is not None:
            verdicts.append(_verdict(key, rule, before.get(key), now.get(key), same_rows))
    return tuple(verdicts)


def _order(key: Key) -> tuple[object, ...]:
    artifact, target, threads, metric, of = key
    return artifact, target != "local", target, threads, list(METRICS).index(metric), of


def _verdict(
    key: Key, rule: Rule, before: Figure | None, now: Figure | None, same_rows: bool
) -> Verdict:
    artifact, target, threads, metric, of = key
    try:
        found = _compared(rule, before, now, same_rows)
    except NotComparable as e:
        found = _Found(None, e.message)
    return Verdict(
        artifact=artifact,
        target=target,
        threads=threads,
        family=metric,
        metric=of if metric == "accuracy" and of else f"{metric} of {of}" if of else metric,
        is_share=any(figure.is_share for figure in (before, now) if figure),
        rule=rule.text,
        baseline=None if before is None else before.value,
        current=None if now is None else now.value,
        significant=found.significant,
        passed=found.passed,
        reason=found.reason,
    )


def _compared(rule: Rule, before: Figure | None, now: Figure | None, same_rows: bool) -> _Found:
    if now is None:
        return _Found(None, "it is in the baseline, and not measured now")
    if rule.metric == "parity":
        assert isinstance(now.record, ParityRecord)
        return _Found(now.record.passed, "; ".join(now.record.failures) or "proved")
    if rule.unit == "limit":
        return _within_limit(rule, now)
    if before is None:
        return _Found(None, "it is not in the baseline")
    if rule.metric.startswith(("accuracy", "parity")) and not same_rows:
        raise NotComparable("the rows are not those of the baseline")
    worse = _worse(rule.metric, before, now)
    allowed = rule.allowed(before.value, before.is_share)
    exceeds = worse > allowed + EXACT * max(1.0, abs(before.value))
    if rule.metric == "accuracy":
        return _by_rows(before, now, exceeds)
    if rule.metric in TIMES:
        return _by_processes(rule, before, now, exceeds, allowed)
    if isinstance(before.record, InstructionRecord) and isinstance(now.record, InstructionRecord):
        comparison.refuse_strangers(before.record, now.record)
    return _Found(not exceeds, "more than the bound" if exceeds else "within the bound")


def _worse(metric: str, before: Figure, now: Figure) -> float:
    direction = METRICS[metric]
    if now.scores is not None:
        direction = -1 if now.scores.higher_is_better else 1
    return direction * (now.value - before.value)


def _within_limit(rule: Rule, now: Figure) -> _Found:
    limit = rule.amount or 0.0
    holds = now.value <= limit if METRICS[rule.metric] > 0 else now.value >= limit
    return _Found(holds, "within the limit" if holds else "beyond the limit")


def _by_rows(before: Figure, now: Figure, exceeds: bool) -> _Found:
    """A loss counts if it is more than the bound, and more than chance on these rows."""
    assert before.scores is not None
    assert now.scores is not None
    if before.scores.count != now.scores.count or before.scores.dtype != now.scores.dtype:
        raise NotComparable("the metric was not kept by row as in the baseline")
    change = row_scores.change(before.scores, now.scores)
    significant = change.high < 0 or change.low > 0
    interval = f"{row_scores.LEVEL}% between {change.low:+.4f} and {change.high:+.4f}"
    if not exceeds:
        return _Found(True, f"within the bound ({interval})", significant)
    if change.high < 0:
        return _Found(False, f"more than the bound, and than chance: {interval}", True)
    rows = now.scores.count
    return _Found(True, f"chance explains it on {rows:,} rows: {interval}", False)


def _by_processes(rule: Rule, before: Figure, now: Figure, exceeds: bool, allowed: float) -> _Found:
    """A slowdown counts if it is more than the bound, and seen in process after process."""
    assert isinstance(before.record, LatencyRecord)
    assert isinstance(now.record, LatencyRecord)
    found = comparison.compare(
        before.record, now.record, margin=allowed / before.value, figure=TIMES[rule.metric]
    )
    if found.interval is None:
        if not exceeds:
            return _Found(True, "within the bound", None)
        return _Found(None, "too few processes to tell: edgekit bench takes seven", None)
    low, high = found.interval
    interval = f"{low:.2f} to {high:.2f} times the baseline"
    significant = low > 1 or high < 1
    if found.verdict == "slower":
        return _Found(False, f"slower in process after process: {interval}", True)
    if exceeds:
        return _Found(None, f"too noisy to tell: {interval}", significant)
    return _Found(True, f"within the bound: {interval}", significant)

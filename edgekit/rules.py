"""Rules that a file must keep to, against what it was before: what was asked, and who broke it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgekit.errors import GateError

DEFAULTS = ("accuracy", "parity", "size:+5%", "latency.p50:+5%", "instructions:+1%")
"""The loss of accuracy is 0.5pt, or 1% of a metric that is no share.

A slowdown of 10% is found by a bound of 5%: one of 10% would find it every other time.
"""
ACCURACY_POINTS, ACCURACY_SHARE = 0.005, 0.01

GROWS, SHRINKS = 1, -1
METRICS = {
    "accuracy": SHRINKS,
    "parity": GROWS,
    "parity.max_abs": GROWS,
    "parity.max_rel": GROWS,
    "parity.sqnr_db": SHRINKS,
    "parity.top1": SHRINKS,
    "size": GROWS,
    "latency.p50": GROWS,
    "latency.p90": GROWS,
    "latency.p99": GROWS,
    "latency.load": GROWS,
    "memory.peak": GROWS,
    "memory.model": GROWS,
    "instructions": GROWS,
}
"""What can be asked, and where a figure goes that becomes worse; accuracy: see `Rule.allowed`."""

_RULE = re.compile(
    r"(?:(?P<pattern>[^=]+)=)?(?P<metric>[a-z][a-z0-9_.]*)"
    r"(?::(?P<sign>[+-])?(?P<amount>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)(?P<unit>%|pt)?)?"
)


@dataclass(frozen=True)
class Rule:
    """A bound on one metric of the files that match `pattern`."""

    pattern: str
    metric: str
    text: str
    amount: float | None = None
    """None: `accuracy` and `parity` have a bound of their own."""
    unit: str = ""
    """"%" of the baseline, "pt" (0.01), "change" in the metric's unit, or "limit" of it."""

    def covers(self, artifact: str) -> bool:
        """Whether the file is meant."""
        return fnmatchcase(artifact, self.pattern)

    def allowed(self, baseline: float, is_share: bool = False) -> float:
        """How much worse than `baseline` a figure may be, in its unit."""
        if self.amount is None:
            return ACCURACY_POINTS if is_share else ACCURACY_SHARE * abs(baseline)
        return {"%": abs(baseline) * self.amount / 100, "pt": self.amount / 100}.get(
            self.unit, self.amount
        )


@dataclass(frozen=True)
class Verdict:
    """What a rule says of one file on one target; figures in the unit of the metric."""

    artifact: str
    target: str
    threads: int
    family: str
    """The metric that the rule asks for: one of METRICS."""
    metric: str
    """In words: a task metric by its name, with the output where there are several."""
    is_share: bool
    """Whether points can be counted."""
    rule: str
    baseline: float | None
    current: float | None
    significant: bool | None
    """Whether more than chance is in it; None: the figure is exact."""
    passed: bool | None
    """None: not comparable."""
    reason: str


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """The default rules and those of `texts`, as `latency.p50:+10%` or `int8.*=size:+1%`.

    Raises:
        GateError: one is no rule.
    """
    return tuple(_parse(text) for text in (*DEFAULTS, *texts))


def rules_for(artifact: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of one file: of several on one metric the last holds."""
    return tuple({r.metric: r for r in rules if r.covers(artifact)}.values())


def _parse(text: str) -> Rule:
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise GateError(
            f"{text!r} is no rule", hint="write METRIC:BOUND, as latency.p50:+10% or size:+5%"
        )
    metric, sign, unit = found["metric"], found["sign"], found["unit"]
    amount = None if found["amount"] is None else float(found["amount"])
    if metric not in METRICS:
        raise GateError(f"{text!r}: unknown metric {metric!r}", hint=f"known: {', '.join(METRICS)}")
    if metric == "parity" and amount is not None:
        raise GateError(f"{text!r}: parity holds or not", hint=f"write {_example(metric)}")
    if metric not in ("accuracy", "parity") and amount is None:
        raise GateError(f"{text!r}: by how much?", hint=f"write {_example(metric)}")
    if metric == "accuracy" and amount is not None and unit is None:
        raise GateError(f"{text!r}: of what?", hint="write accuracy:-0.5pt or accuracy:-1%")
    worse = "+" if METRICS[metric] == GROWS else "-"
    if sign not in (None, worse):
        raise GateError(
            f"{text!r}: {metric} gets worse by {worse}", hint=f"write {_example(metric)}"
        )
    return Rule(
        pattern=(found["pattern"] or "*").strip(),
        metric=metric,
        text=text.strip(),
        amount=amount,
        unit=unit or ("change" if sign or amount is None else "limit"),
    )


def _example(metric: str) -> str:
    return {
        "accuracy": "accuracy:-0.5pt",
        "parity": "parity, or parity.max_abs:1e-4",
        "parity.sqnr_db": "parity.sqnr_db:-3",
    }.get(metric, f"{metric}:{'+' if METRICS[metric] == GROWS else '-'}5%")

"""Verdicts in the forms that CI systems read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from edgekit.cells import figure, relative_change, subject
from edgekit.rules import Verdict


def junit(verdicts: Sequence[Verdict], workspace: str) -> str:
    """JUnit XML: a suite for each file and target, a case for each rule.

    What cannot be compared is an error, not a failure.
    """
    suites = ElementTree.Element("testsuites", name="edgekit gate")
    for name, group in groupby(verdicts, key=subject):
        cases = list(group)
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=_printable(name),
            tests=str(len(cases)),
            failures=str(sum(v.passed is False for v in cases)),
            errors=str(sum(v.passed is None for v in cases)),
            skipped="0",
        )
        for verdict in cases:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=_printable(f"{workspace}.{name}"),
                name=_printable(verdict.metric),
            )
            if verdict.passed is not True:
                kind = "failure" if verdict.passed is False else "error"
                fault = ElementTree.SubElement(case, kind, type=verdict.rule)
                fault.set("message", _printable(in_words(verdict)))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def github_annotations(verdicts: Iterable[Verdict], workspace: str) -> list[str]:
    """Lines that GitHub Actions shows beside a run, for all that did not pass."""
    lines = []
    for verdict in verdicts:
        if verdict.passed is not True:
            level = "error" if verdict.passed is False else "warning"
            title = _property(f"edgekit gate: {subject(verdict)}")
            text = _message(in_words(verdict))
            lines.append(f"::{level} title={title},file={_property(workspace)}::{text}")
    return lines


def markdown(verdicts: Sequence[Verdict], workspace: str) -> str:
    """A summary for a pull request: the answer first, then what did not pass, then all."""
    failed = [v for v in verdicts if v.passed is False]
    unclear = [v for v in verdicts if v.passed is None]
    answer = "passed"
    if failed:
        answer = f"failed: {len(failed)} of {len(verdicts)} rules"
    elif unclear:
        answer = f"could not tell: {len(unclear)} of {len(verdicts)} rules"
    lines = [f"### edgekit gate: {_cell(workspace)} {answer}", ""]
    if failed or unclear:
        lines += [f"- **{_cell(subject(v))}** {_cell(in_words(v))}" for v in (*failed, *unclear)]
        lines.append("")
    lines += ["<details><summary>All rules</summary>", ""]
    lines += [
        "| file | metric | rule | baseline | now | change | |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    marks = {True: "passed", False: "**failed**", None: "not comparable"}
    for v in verdicts:
        cells = (subject(v), v.metric, v.rule, figure(v, v.baseline), figure(v, v.current))
        shown = " | ".join(_cell(c) for c in (*cells, relative_change(v)))
        lines.append(f"| {shown} | {marks[v.passed]} |")
    return "\n".join([*lines, "", "</details>", ""])


def gitlab(verdicts: Iterable[Verdict], workspace: Path) -> str:
    """GitLab's code quality report, of all that did not pass."""
    issues = [
        {
            "description": f"{subject(v)}: {in_words(v)}",
            "check_name": f"edgekit/{v.rule}",
            "fingerprint": hashlib.sha256(f"{subject(v)}\0{v.metric}".encode()).hexdigest(),
            "severity": "major" if v.passed is False else "minor",
            "location": {"path": (workspace / "manifest.json").as_posix(), "lines": {"begin": 1}},
        }
        for v in verdicts
        if v.passed is not True
    ]
    return json.dumps(issues, indent=1) + "\n"


def in_words(verdict: Verdict) -> str:
    """One line: the figures, the rule, the reason."""
    figures = f"{figure(verdict, verdict.baseline)} → {figure(verdict, verdict.current)}"
    change = relative_change(verdict)
    return (
        f"{verdict.metric} {figures}{f' ({change})' if change else ''}, "
        f"rule {verdict.rule}: {verdict.reason}"
    )


def _printable(text: str) -> str:
    """XML has no way to write control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _cell(text: str) -> str:
    """Text that is nothing else in Markdown or HTML: names come from files."""
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("\n", " ")):
        text = text.replace(mark, safe)
    return text


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")

"""`edgekit gate`: is anything worse than it was? From what was measured, without measuring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import ci_reports, snapshot
from edgekit.cells import subject
from edgekit.documents import append, write_whole
from edgekit.errors import CheckFailed, GateError
from edgekit.judging import judge
from edgekit.rules import Verdict, parse_rules
from edgekit.snapshot import Snapshot
from edgekit.workspace import Workspace

SUMMARY = "GITHUB_STEP_SUMMARY"
"""The variable with the file that GitHub shows as the summary of a job."""


@dataclass(frozen=True)
class GateResult:
    """The verdicts by file, target and metric; none where a baseline was written."""

    workspace: str
    baseline: str
    verdicts: tuple[Verdict, ...] = ()
    written: Snapshot | None = None


class GateFailed(CheckFailed):
    """A file is worse than a rule allows; `result` has all verdicts."""

    def __init__(self, result: GateResult) -> None:
        bad = [v for v in result.verdicts if v.passed is False]
        super().__init__(
            _told(bad), hint="if that is meant, write a new baseline: --update, and commit it"
        )
        self.result = result


class NotJudged(GateError):
    """Something cannot be compared, and nothing else is worse; `result` has all verdicts."""

    def __init__(self, result: GateResult) -> None:
        unknown = [v for v in result.verdicts if v.passed is None]
        super().__init__(
            f"not comparable: {_told(unknown)}",
            hint="measure it as for the baseline, write a new one (--update), or --allow-missing",
        )
        self.result = result


def gate(
    *,
    source: str | os.PathLike[str],
    baseline: str | os.PathLike[str],
    rule: Sequence[str] = (),
    allow_missing: bool = False,
    update: bool = False,
    junit: str | os.PathLike[str] | None = None,
    gitlab: str | os.PathLike[str] | None = None,
    github: bool = False,
) -> GateResult:
    """Hold the files of a workspace against a baseline.

    Nothing is run: `edgekit verify` and `edgekit bench` measure before.

    Args:
        source: the workspace.
        baseline: the figures that were good enough: a file, or the workspace of an earlier build,
            with which latencies can be taken in turns: `edgekit bench EARLIER NOW`.
        rule: `METRIC:BOUND` or `PATTERN=METRIC:BOUND`, beside the default ones and in their place;
            see `edgekit.rules`.
        allow_missing: let pass what cannot be compared.
        update: write the baseline instead.
        junit: a file for the verdicts as JUnit XML.
        gitlab: a file for what did not pass as GitLab's code quality report.
        github: print what did not pass as annotations of GitHub Actions, and add a summary to the
            job.

    Raises:
        GateFailed: a file is worse than a rule allows (exit code 3).
        NotJudged: a figure cannot be compared: it is missing, or of another machine, runtime or
            rows.
        GateError: a rule or the baseline cannot be read; a file is not proved (update).
        WorkspaceError: there is no workspace.
    """
    rules = parse_rules(rule)
    workspace = Workspace.open(Path(source))
    now = snapshot.take(workspace)
    if not now.sizes:
        raise GateError(f"{source} has no files", hint=f"edgekit export {source}")
    if update:
        if Path(baseline).is_dir():
            raise GateError(f"{baseline} is a folder", hint="name a file: --baseline baseline.json")
        _refuse_unproved(now)
        snapshot.write(Path(baseline), now)
        return GateResult(str(source), str(baseline), written=now)
    verdicts = judge(_snapshot(Path(baseline)), now, rules)
    _refuse_idle(rule, verdicts)
    result = GateResult(str(source), str(baseline), verdicts)
    if junit is not None:
        write_whole(Path(junit), ci_reports.junit(verdicts, str(source)))
    if gitlab is not None:
        write_whole(Path(gitlab), ci_reports.gitlab(verdicts, Path(source)))
    if github and os.environ.get(SUMMARY):
        append(Path(os.environ[SUMMARY]), ci_reports.markdown(verdicts, str(source)))
    if any(v.passed is False for v in verdicts):
        raise GateFailed(result)
    if any(v.passed is None for v in verdicts) and not allow_missing:
        raise NotJudged(result)
    return result


def _snapshot(baseline: Path) -> Snapshot:
    if baseline.is_dir():
        return snapshot.take(Workspace.open(baseline))
    return snapshot.read(baseline)


def _refuse_idle(asked: Sequence[str], verdicts: Sequence[Verdict]) -> None:
    """A rule that nothing was judged by is mistyped, or asks for what was never measured."""
    idle = [text for text in asked if text.strip() not in {v.rule for v in verdicts}]
    if idle:
        raise GateError(
            f"nothing was judged by the rule {idle[0]!r}",
            hint="no file of that name, or never measured: edgekit verify, edgekit bench",
        )


def _refuse_unproved(now: Snapshot) -> None:
    """A baseline of files that do not work would let them pass from then on."""
    proved = {r.artifact for r in now.parity if r.passed}
    failed = {r.artifact for r in now.parity if not r.passed}
    bad = sorted({*now.sizes} - proved | failed)
    if bad:
        raise GateError(
            f"not proved: {', '.join(bad)}", hint="edgekit verify says why; remove or mend the file"
        )


def _told(verdicts: Sequence[Verdict]) -> str:
    first = verdicts[0]
    also = f" (and {len(verdicts) - 1} more)" if len(verdicts) > 1 else ""
    return f"{subject(first)}: {ci_reports.in_words(first)}{also}"

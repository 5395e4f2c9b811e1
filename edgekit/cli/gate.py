from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.verbs.gate import GateResult


@click.command()
@click.argument("source", type=options.PATH, metavar="WORKSPACE")
@click.option(
    "--baseline",
    type=options.PATH,
    required=True,
    metavar="FILE|WORKSPACE",
    help="What was good enough: JSON to be committed, or an earlier build's workspace.",
)
@click.option(
    "--rule",
    multiple=True,
    metavar="[PATTERN=]METRIC:BOUND",
    help="As latency.p50:+10% or 'int8.*=size:+1%'; may be given more than once.",
)
@click.option("--allow-missing", is_flag=True, help="Let pass what cannot be compared.")
@click.option("--update", is_flag=True, help="Write the baseline, and judge nothing.")
@click.option("--junit", type=options.PATH, metavar="FILE", help="Also write JUnit XML.")
@click.option(
    "--gitlab", type=options.PATH, metavar="FILE", help="Also write GitLab's code quality report."
)
@click.option(
    "--github", is_flag=True, help="Also annotate a run of GitHub Actions, and add a summary."
)
@options.json_option
@options.reports_errors
def gate(
    source: Path,
    baseline: Path,
    rule: tuple[str, ...],
    allow_missing: bool,
    update: bool,
    junit: Path | None,
    gitlab: Path | None,
    github: bool,
    as_json: bool,
) -> None:
    """Hold a workspace's files against a baseline, by what was measured before.

    Exit code 3: a file is worse than a rule allows; 1: a figure is missing, or not comparable.
    Default rules: accuracy (0.5pt, or 1% of a metric that is no share), parity, size:+5%,
    latency.p50:+5%, instructions:+1%.
    """
    from edgekit.verbs.gate import GateFailed, NotJudged
    from edgekit.verbs.gate import gate as run

    try:
        result = run(
            source=source,
            baseline=baseline,
            rule=rule,
            allow_missing=allow_missing,
            update=update,
            junit=junit,
            gitlab=gitlab,
            github=github,
        )
    except (GateFailed, NotJudged) as e:
        _print(e.result, github=github, as_json=as_json)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result, github=github, as_json=False)


def _print(result: GateResult, *, github: bool, as_json: bool) -> None:
    from edgekit import ci_reports
    from edgekit.tables import gating

    if github:
        for line in ci_reports.github_annotations(result.verdicts, result.workspace):
            click.echo(line, err=as_json)
    if as_json:
        return
    if result.written is not None:
        click.echo(f"wrote {result.baseline}: {gating.held(result.written)}")
        return
    options.print_table(gating.verdicts(result.verdicts))
    click.echo(gating.judged(result.verdicts))

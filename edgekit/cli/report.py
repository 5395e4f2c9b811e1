from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import options


@click.command()
@click.argument("source", type=options.PATH, metavar="WORKSPACE")
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="FILE",
    help="The report  [default: report.html, or as --format says].",
)
@click.option(
    "--format",
    type=click.Choice(["html", "md", "json", "csv"]),
    help="What to write  [default: by the name of FILE].",
)
@options.json_option
@options.reports_errors
def report(source: Path, output: Path | None, format: str | None, as_json: bool) -> None:
    """Write what a workspace knows: what is proved, where, and what it costs.

    The page is one file without scripts that needs no network. Nothing is run, and TensorFlow is
    not needed.
    """
    from edgekit.verbs.report import report as run

    with options.shown_progress() as progress:
        result = run(source=source, output=output, format=format, progress=progress)
    if as_json:
        options.print_json(result)
        return
    from edgekit.cells import size

    click.echo(f"{result.headline}: {result.path} ({size(result.size_bytes)})")

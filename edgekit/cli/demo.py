from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import options


@click.command()
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    metavar="WORKSPACE",
    default=Path("demo"),
    show_default=True,
    help="The workspace folder; an earlier demo there is replaced.",
)
@options.json_option
@options.reports_errors
def demo(output: Path, as_json: bool) -> None:
    """Train, export, prove and time a small model: the whole way in a minute."""
    from edgekit.verbs.demo import demo as run

    with options.shown_progress() as progress:
        result = run(output=output, progress=progress)
    if as_json:
        options.print_json(result)
        return
    from edgekit.tables import proofs, timings
    from edgekit.workspace import Workspace

    options.print_table(proofs.summary(Workspace.open(output)))
    for line in timings.conditions(result.bench.records):
        click.echo(line)
    for failure in result.bench.failures:
        click.echo(f"not verified: {failure}\n  try: {failure.hint}")
    click.echo(f"\nThe files are in {output}. Next:")
    steps = {
        f"edgekit inspect {output}/int8.tflite": "what is in a file",
        f"edgekit verify {output}": "prove all files again",
        "edgekit export YOUR_MODEL.keras": "your own model",
    }
    width = max(map(len, steps))
    for command, what in steps.items():
        click.echo(f"  {command:<{width}}   {what}")

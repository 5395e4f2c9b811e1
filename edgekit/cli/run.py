from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.verbs.run import RunResult


@click.command()
@click.argument("recipe", required=False)
@options.output_option("The workspace folder, made if need be.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's own number.")
@options.json_option
@options.reports_errors
def run(recipe: str | None, output: Path | None, epochs: int | None, as_json: bool) -> None:
    """Go the whole way with a recipe, and again only where something is missing.

    RECIPE is what `edgekit train` takes. It is trained, exported to all formats, quantized, pruned
    where the recipe says so, verified and timed.
    """
    if recipe is None:
        raise click.UsageError("name a recipe; edgekit train --list shows them")
    if output is None:
        raise click.UsageError("name a folder with -o WORKSPACE")
    from edgekit.verbs.run import RunFailed
    from edgekit.verbs.run import run as go

    try:
        with options.shown_progress() as progress:
            result = go(recipe=recipe, output=output, epochs=epochs, progress=progress)
    except RunFailed as e:
        if not as_json:
            _print(e.result)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result)


def _print(result: RunResult) -> None:
    from edgekit.manifest import here
    from edgekit.tables import proofs, timings
    from edgekit.workspace import Workspace

    workspace = Workspace.open(Path(result.workspace))
    options.print_table(proofs.summary(workspace))
    for line in timings.conditions(here(workspace.manifest.latency)):
        click.echo(line)
    words = (f"{s.verb}{'' if s.is_new else ' (as it was)'}" for s in result.steps)
    click.echo(f"{', '.join(words)}; in {result.workspace}")
    options.print_failures(result.failures)

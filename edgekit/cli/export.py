from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options
from edgekit.types import FORMATS, PRECISIONS

if TYPE_CHECKING:
    from edgekit.verbs.export import ExportResult


@click.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--to",
    multiple=True,
    type=click.Choice(FORMATS),
    default=FORMATS,
    show_default=True,
    help="A format; may be given more than once.",
)
@click.option(
    "--precision",
    multiple=True,
    type=click.Choice(PRECISIONS),
    default=("fp32",),
    show_default=True,
    help="A precision; may be given more than once.",
)
@options.samples_option
@options.output_option("The workspace folder  [default: <model>-edgekit].")
@options.variant_option
@options.batch_option
@options.opset_option
@options.int8_io_option
@click.option(
    "--allow-unverified", is_flag=True, help="Also publish what no runtime here can load."
)
@options.loading_options
@options.json_option
@options.reports_errors
def export(
    source: Path,
    to: tuple[str, ...],
    precision: tuple[str, ...],
    samples: Path | None,
    output: Path | None,
    variant: str | None,
    batch: int | None,
    opset: int,
    int8_io: bool,
    allow_unverified: bool,
    custom_objects: str | None,
    builder: str | None,
    from_layer: str | None,
    until_layer: str | None,
    as_json: bool,
) -> None:
    """Export a model, each file proved equal to it.

    SOURCE is a workspace, a .keras or .h5 file of Keras 2 or 3, a file of weights (with
    --builder), or a SavedModel folder. A file that differs from the Keras model by
    more than its precision allows is removed, and the exit code is 1.
    """
    from edgekit.verbs.export import ExportFailed
    from edgekit.verbs.export import export as run

    try:
        with options.shown_progress() as progress:
            result = run(
                source=source,
                to=to,
                precision=precision,
                samples=samples,
                output=output,
                variant=variant,
                batch=batch,
                opset=opset,
                int8_io=int8_io,
                allow_unverified=allow_unverified,
                custom_objects=custom_objects,
                builder=builder,
                from_layer=from_layer,
                until_layer=until_layer,
                progress=progress,
            )
    except ExportFailed as e:
        if not as_json:
            _print(e.result)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result)
    click.echo(f"in {result.workspace}; next: edgekit bench {result.workspace}")


def _print(result: ExportResult) -> None:
    from edgekit.tables import proofs

    if result.artifacts:
        options.print_table(proofs.artifacts(result.artifacts, result.parity, result.accuracy))
    options.print_failures(result.failures)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)

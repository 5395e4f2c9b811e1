from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options
from edgekit.types import BACKENDS, CALIBRATIONS, FORMATS, METHODS, PRECISIONS

if TYPE_CHECKING:
    from edgekit.verbs.quantize import QuantizeResult


@click.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--to",
    multiple=True,
    type=click.Choice(FORMATS),
    default=("tflite", "onnx"),
    show_default=True,
    help="A format; may be given more than once.",
)
@click.option(
    "--precision",
    multiple=True,
    type=click.Choice(PRECISIONS),
    help="A precision; may be given more than once  [default: int8].",
)
@options.samples_option
@options.output_option("The workspace folder  [default: <model>-edgekit].")
@options.variant_option
@click.option(
    "--max-drop",
    metavar="1%|0.5pt",
    help="Find the smallest file that loses no more of the metric.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="ptq",
    show_default=True,
    help="Quantize the model as it is, or train it on for 8 bits first.",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of the training by qat.")
@click.option(
    "--calibration",
    type=click.Choice(CALIBRATIONS),
    default="minmax",
    show_default=True,
    help="How the ranges of activations are found.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100, min_open=True),
    default=99.99,
    show_default=True,
    help="Share of the values that percentile calibration keeps.",
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="PATTERN",
    help="Layers that stay float, such as 'head/*'; may be given more than once.",
)
@click.option("--equalize", is_flag=True, help="Even out the ranges of channels between layers.")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="converter",
    show_default=True,
    help="What quantizes tflite.",
)
@click.option(
    "--explain", is_flag=True, help="Publish nothing; rank the layers by the error they add."
)
@options.batch_option
@options.opset_option
@options.int8_io_option
@options.loading_options
@options.json_option
@options.reports_errors
def quantize(
    source: Path,
    to: tuple[str, ...],
    precision: tuple[str, ...],
    samples: Path | None,
    output: Path | None,
    variant: str | None,
    max_drop: str | None,
    method: str,
    epochs: int | None,
    calibration: str,
    percentile: float,
    keep_float: tuple[str, ...],
    equalize: bool,
    backend: str,
    explain: bool,
    batch: int | None,
    opset: int,
    int8_io: bool,
    custom_objects: str | None,
    builder: str | None,
    from_layer: str | None,
    until_layer: str | None,
    as_json: bool,
) -> None:
    """Make a model smaller and faster, at a known cost.

    SOURCE is what `edgekit export` takes. Each file is proved, and its size, accuracy and latency
    are shown. With --max-drop, the smallest file that loses no more is looked for on validation
    rows and judged on test rows; where nothing holds, the exit code is 3.
    """
    from edgekit.verbs.outcome import BudgetExceeded
    from edgekit.verbs.quantize import QuantizeFailed
    from edgekit.verbs.quantize import quantize as run

    try:
        with options.shown_progress() as progress:
            result = run(
                source=source,
                to=to,
                precision=precision,
                samples=samples,
                output=output,
                variant=variant,
                max_drop=max_drop,
                method=method,
                epochs=epochs,
                calibration=calibration,
                percentile=percentile,
                keep_float=keep_float,
                equalize=equalize,
                backend=backend,
                explain=explain,
                batch=batch,
                opset=opset,
                int8_io=int8_io,
                custom_objects=custom_objects,
                builder=builder,
                from_layer=from_layer,
                until_layer=until_layer,
                progress=progress,
            )
    except (QuantizeFailed, BudgetExceeded) as e:
        if not as_json:
            _print(e.result)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result)
    if not explain:
        click.echo(f"in {result.workspace}; next: edgekit bench {result.workspace}")


def _print(result: QuantizeResult) -> None:
    from edgekit import cells
    from edgekit.tables import proofs

    for explanation in result.explanations:
        options.print_table(proofs.explanation(explanation))
        for note in explanation.notes:
            click.echo(note)
    for search in result.searches:
        options.print_table(proofs.search(search))
        click.echo(cells.verdict(search))
    if result.chart:
        click.echo(f"picture: {result.chart}")
    if result.artifacts:
        options.print_table(
            proofs.quantized(result.artifacts, result.parity, result.accuracy, result.latency)
        )
    options.print_failures(result.failures)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    for line in cells.disturbances(result.latency):
        click.echo(line, err=True)

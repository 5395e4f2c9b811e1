from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options
from edgekit.types import FORMATS, PRECISIONS

if TYPE_CHECKING:
    from edgekit.verbs.prune import PruneResult


@click.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--sparsity", type=float, help="Share of each layer's weights that become 0  [default: 0.8]."
)
@click.option("--structured", is_flag=True, help="Remove whole channels: faster everywhere.")
@click.option("--ratio", type=float, help="Share of the channels that go  [default: 0.5].")
@click.option("--clusters", type=int, help="Number of values that a layer's weights share.")
@click.option("--pattern", metavar="2:4|4x1", help="How zeros lie: 2 of 4, or blocks.")
@click.option(
    "--layer",
    multiple=True,
    metavar="PATTERN=AMOUNT",
    help="Of layers by name, 0 leaves them as they are; may be given more than once.",
)
@click.option("--skip-first", is_flag=True, help="Leave the first layer as it is.")
@click.option("--skip-last", is_flag=True, help="Leave the last layer as it is.")
@click.option(
    "--max-drop",
    metavar="1%|0.5pt",
    help="Find the highest sparsity or ratio that loses no more of the metric.",
)
@click.option("--epochs", type=click.IntRange(min=0), help="Of the training; 0: none.")
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
    default=("fp32",),
    show_default=True,
    help="A precision; may be given more than once.",
)
@click.option("--sparse-encoding", is_flag=True, help="Store zeros of fp32 tflite by their places.")
@options.samples_option
@options.output_option("The workspace folder  [default: <model>-edgekit].")
@options.variant_option
@options.batch_option
@options.opset_option
@options.loading_options
@options.json_option
@options.reports_errors
def prune(
    source: Path,
    sparsity: float | None,
    structured: bool,
    ratio: float | None,
    clusters: int | None,
    pattern: str | None,
    layer: tuple[str, ...],
    skip_first: bool,
    skip_last: bool,
    max_drop: str | None,
    epochs: int | None,
    to: tuple[str, ...],
    precision: tuple[str, ...],
    sparse_encoding: bool,
    samples: Path | None,
    output: Path | None,
    variant: str | None,
    batch: int | None,
    opset: int,
    custom_objects: str | None,
    builder: str | None,
    from_layer: str | None,
    until_layer: str | None,
    as_json: bool,
) -> None:
    """Prune a model, and measure what that gains.

    SOURCE is what `edgekit export` takes. The pruned model is fine-tuned by its recipe or on
    --samples, and kept in the workspace as a variant, such as sparse80, which export, quantize and
    prune take with --variant. With --max-drop, the most that loses no more is looked for on
    validation rows and judged on test rows; where nothing holds, the exit code is 3.
    """
    from edgekit.verbs.outcome import BudgetExceeded
    from edgekit.verbs.prune import PruneFailed
    from edgekit.verbs.prune import prune as run

    try:
        with options.shown_progress() as progress:
            result = run(
                source=source,
                sparsity=sparsity,
                structured=structured,
                ratio=ratio,
                clusters=clusters,
                pattern=pattern,
                layer=layer,
                skip_first=skip_first,
                skip_last=skip_last,
                max_drop=max_drop,
                epochs=epochs,
                to=to,
                precision=precision,
                sparse_encoding=sparse_encoding,
                samples=samples,
                output=output,
                variant=variant,
                batch=batch,
                opset=opset,
                custom_objects=custom_objects,
                builder=builder,
                from_layer=from_layer,
                until_layer=until_layer,
                progress=progress,
            )
    except (PruneFailed, BudgetExceeded) as e:
        if not as_json:
            _print(e.result)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result)
    click.echo(
        f"in {result.workspace}; "
        f"next: edgekit quantize {result.workspace} --variant {result.variant}"
    )


def _print(result: PruneResult) -> None:
    from edgekit import cells
    from edgekit.tables import proofs, pruning

    if result.search is not None:
        options.print_table(proofs.search(result.search))
        click.echo(cells.verdict(result.search))
    if result.layers:
        options.print_table(pruning.pruned_layers(result))
    if result.gains:
        options.print_table(pruning.pruned(result))
    if result.outputs and not result.accuracy:
        click.echo(pruning.pruning_cost(result))
    for line in pruning.gained(result.gains):
        click.echo(line)
    options.print_failures(result.failures)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    for line in cells.disturbances(result.latency):
        click.echo(line, err=True)

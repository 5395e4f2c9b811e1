from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.verbs.bench import BenchResult


@click.command()
@click.argument("sources", type=options.PATH, nargs=-1, required=True)
@options.target_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the runtime.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Processes per artifact, interleaved.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.05),
    default=0.3,
    show_default=True,
    help="Measured in each process.",
)
@click.option(
    "--baseline/--no-baseline",
    default=True,
    show_default=True,
    help="Also time the Keras model (starts TensorFlow).",
)
@click.option(
    "--pin", is_flag=True, help="Keep each process on as many cores as it has threads (Linux)."
)
@click.option(
    "--profile",
    is_flag=True,
    help="Also the time by operator, in a run of its own.",
)
@click.option(
    "--model-cycles",
    is_flag=True,
    help="On qemu:pi4 and qemu:pi5, also modelled cycles (uncalibrated, no measurement).",
)
@options.json_option
@options.reports_errors
def bench(
    sources: tuple[Path, ...],
    target: str,
    threads: int,
    rounds: int,
    seconds: float,
    baseline: bool,
    pin: bool,
    profile: bool,
    model_cycles: bool,
    as_json: bool,
) -> None:
    """Time artifacts side by side with the Keras model.

    SOURCES are workspaces, artifacts in one, or any TFLite, ONNX or TF.js files.
    """
    from edgekit.verbs.bench import BenchFailed
    from edgekit.verbs.bench import bench as run

    try:
        with options.shown_progress() as progress:
            result = run(
                sources=sources,
                target=target,
                threads=threads,
                rounds=rounds,
                seconds=seconds,
                baseline=baseline,
                pin=pin,
                profile=profile,
                model_cycles=model_cycles,
                progress=progress,
            )
    except BenchFailed as e:
        if not as_json:
            _print(e.result)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result)


def _print(result: BenchResult) -> None:
    from edgekit.tables import timings

    if result.counts:
        options.print_table(timings.instructions(result.counts))
        click.echo(
            f"instructions of one invocation on {result.counts[0].record.machine.cpu}: no times"
        )
        for line in timings.modelling([row.record for row in result.counts]):
            click.echo(line)
    else:
        options.print_table(timings.latencies(result.rows))
    for line in timings.conditions(result.records):
        click.echo(line)
    for record in result.profiles:
        click.echo("\n".join(("", *timings.profile_summary(record))))
        options.print_table(timings.operators(record))
    options.print_failures(result.failures)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.verbs.verify import VerifyResult


@click.command()
@click.argument("source", type=options.PATH)
@click.option(
    "--against",
    type=options.PATH,
    metavar="MODEL",
    help="The Keras model, or a workspace of it, for a file on its own.",
)
@options.samples_option
@options.target_option
@options.loading_options
@options.json_option
@options.reports_errors
def verify(
    source: Path,
    against: Path | None,
    samples: Path | None,
    target: str,
    custom_objects: str | None,
    builder: str | None,
    from_layer: str | None,
    until_layer: str | None,
    as_json: bool,
) -> None:
    """Prove artifacts once more.

    SOURCE is a workspace, an artifact in one (both without TensorFlow), or any model file with
    --against. Exit code 3: an artifact is not equal to the Keras model.
    """
    from edgekit.verbs.verify import NotVerified, VerifyFailed
    from edgekit.verbs.verify import verify as run

    try:
        with options.shown_progress() as progress:
            result = run(
                source=source,
                against=against,
                samples=samples,
                target=target,
                custom_objects=custom_objects,
                builder=builder,
                from_layer=from_layer,
                until_layer=until_layer,
                progress=progress,
            )
    except (VerifyFailed, NotVerified) as e:
        if not as_json:
            _print(e.result)
        raise
    if as_json:
        options.print_json(result)
        return
    _print(result)


def _print(result: VerifyResult) -> None:
    from edgekit.tables import proofs, timings

    options.print_table(proofs.parity(result.parity, result.accuracy))
    for machine in dict.fromkeys(record.machine for record in result.parity):
        click.echo(f"on {timings.machine(machine)}")
    options.print_failures(result.failures)

from __future__ import annotations

import click

from edgekit.cli import options


@click.group(invoke_without_command=True)
@options.json_option
@click.pass_context
@options.reports_errors
def targets(ctx: click.Context, as_json: bool) -> None:
    """Show where models can run, and what is missing."""
    if ctx.invoked_subcommand is not None:
        return
    from edgekit.verbs.targets import list_targets

    result = list_targets()
    if as_json:
        options.print_json(result)
        return
    from edgekit.tables import lists

    options.print_table(lists.targets(result))


@targets.command()
@click.argument("target", metavar="node|qemu|gpu|ssh://USER@HOST")
@options.json_option
@options.reports_errors
def prepare(target: str, as_json: bool) -> None:
    """Install what a target needs, by pinned version.

    node = the JavaScript packages, which browsers need too; qemu = Python and the runtimes for ARM;
    gpu = ONNX Runtime for the GPU of this machine; ssh://USER@HOST = a virtual environment on that
    board.
    """
    from edgekit.verbs.targets import prepare as run

    with options.shown_progress() as progress:
        folder = run(target, progress)
    if as_json:
        options.print_json({"folder": str(folder)})
        return
    click.echo(f"ready in {folder}")

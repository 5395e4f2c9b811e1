"""Decorators that commands share, and the one place where results and errors are printed."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgekit.errors import EdgekitError, Failure
    from edgekit.types import Progress

F = TypeVar("F", bound=Callable[..., Any])

WIDEST = 400
PATH = click.Path(path_type=Path)


def json_option(command: F) -> F:
    """`--json`: one JSON document on stdout, nothing else there."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."
    )(command)


def samples_option(command: F) -> F:
    return click.option(
        "--samples",
        type=PATH,
        metavar="FILE.npz",
        help="Rows: arrays named after the model's inputs (or x), labels as y.",
    )(command)


def batch_option(command: F) -> F:
    return click.option(
        "--batch",
        type=click.IntRange(min=1),
        help="Rows per call  [default: 1 in tflite, any number in onnx and tfjs].",
    )(command)


def opset_option(command: F) -> F:
    return click.option(
        "--opset", type=click.IntRange(13, 18), default=17, show_default=True, help="Of ONNX."
    )(command)


def int8_io_option(command: F) -> F:
    return click.option(
        "--int8-io", is_flag=True, help="int8 tflite takes and gives int8, not float32."
    )(command)


def loading_options(command: F) -> F:
    """How a model is loaded that a file alone does not tell, and which part of it is wanted."""
    for option in reversed(
        (
            click.option(
                "--custom-objects",
                metavar="MODULE",
                help="The module, or .py file, of the model's own layers and functions.",
            ),
            click.option(
                "--builder",
                metavar="MODULE:FUNCTION",
                help="Builds the model, of which the file holds the weights.",
            ),
            click.option(
                "--from", "from_layer", metavar="LAYER", help="The first layer of a part."
            ),
            click.option(
                "--until", "until_layer", metavar="LAYER", help="The last layer of a part."
            ),
        )
    ):
        command = option(command)
    return command


def output_option(help: str) -> Callable[[F], F]:
    return click.option("-o", "--output", type=PATH, metavar="WORKSPACE", help=help)


def variant_option(command: F) -> F:
    return click.option(
        "--variant", metavar="NAME", help="A pruned model of the workspace, such as sparse80."
    )(command)


def target_option(command: F) -> F:
    return click.option(
        "--target",
        default="local",
        show_default=True,
        metavar="URI",
        help="Where to run; edgekit targets lists them.",
    )(command)


def reports_errors(command: F) -> F:
    """Print an EdgekitError as two lines on stderr and end with its exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from edgekit.errors import EdgekitError

        try:
            try:
                return command(*args, **kwargs)
            except BrokenPipeError:
                raise
            except OSError as e:  # a read-only folder, a full disk: the system's own words
                where = f"{e.filename}: " if e.filename else ""
                raise EdgekitError(f"{where}{e.strerror or e}") from e
        except EdgekitError as e:
            if kwargs.get("as_json"):
                print_json(_error_document(e))
            print_error(e)
            sys.exit(e.exit_code)

    return run  # type: ignore[return-value]


def _error_document(error: EdgekitError) -> dict[str, Any]:
    document: dict[str, Any] = {
        "error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    }
    if hasattr(error, "result"):
        from edgekit.agent.protocol import encode

        document["result"] = encode(error.result)
    return document


def print_error(error: EdgekitError) -> None:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(error.message, err=True)
    if error.hint:
        click.echo(f"  try: {error.hint}", err=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout; dataclasses are encoded."""
    from edgekit.agent.protocol import encode

    click.echo(json.dumps(encode(document), indent=1))


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def stdout_console() -> Console:
    """At least wide enough for text in a pipe or a log."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def print_table(table: Table) -> None:
    """A table in its full width, whatever the terminal's: a cell cut short is worth nothing."""
    from rich.console import Console

    console = Console(highlight=False, width=WIDEST)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line for line in captured.get().splitlines() if line.strip()))


def print_failures(failures: Sequence[Failure]) -> None:
    """What else went wrong, one line each; the first is the error itself."""
    for failure in failures[1:]:
        click.echo(f"also: {failure}", err=True)
        if failure.hint:
            click.echo(f"  try: {failure.hint}", err=True)


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """Progress on stderr: a spinner with the current step in a terminal, else a line per step."""
    console = stderr_console()
    if not console.is_terminal:
        yield lambda text: click.echo(f"  {text}", err=True)
        return
    from edgekit.cli.progress import SteppedStatus

    with SteppedStatus(console) as status:
        yield status.step

"""The `edgekit` command."""

from __future__ import annotations

import importlib
import signal
import sys

import click

from edgekit import __version__

COMMANDS = (
    "run",
    "train",
    "export",
    "prune",
    "quantize",
    "verify",
    "bench",
    "gate",
    "inspect",
    "report",
    "targets",
    "demo",
)
"""In the order of the work; each is `edgekit.cli.<name>`, imported when it is asked for."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs (or the group's help is shown)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"edgekit.cli.{name}"), name)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
def cli() -> None:
    """Export a trained Keras model to TFLite, ONNX and TensorFlow.js, and prove each file.

    What is reported as exported was loaded by its own runtime and compared with the model.

    Exit codes: 0 done, 1 could not do it, 2 wrong usage, 3 a check failed (the model is worse).
    """


def main() -> None:
    """Run the command line; Ctrl-C, SIGTERM and SIGHUP end it with one line, 128 + their number."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _terminate)
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 128 + (_terminated[0] if _terminated else signal.SIGINT)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say.
        sys.stderr.close()
        code = 1
    sys.exit(code or 0)


_terminated: list[int] = []


def _terminate(number: int, frame: object) -> None:
    """End as by Ctrl-C: `with` blocks stop the worker and remove what is half done."""
    _terminated.append(number)
    raise KeyboardInterrupt

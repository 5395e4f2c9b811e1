"""One verb = one function = one command; options are the function's keyword arguments."""

from __future__ import annotations

import inspect

import click
import pytest

import edgekit
from edgekit.cli.main import COMMANDS, cli

ONLY_CLI = {"as_json", "list_recipes"}
ONLY_API = {"progress"}


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def function(name: str) -> inspect.Signature:
    # `edgekit.targets` is a package: a function of that name would hide it.
    return inspect.signature(getattr(edgekit, {"targets": "list_targets"}.get(name, name)))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_arguments_of_the_function(name):
    options = {p.name: p for p in command(name).params if p.name not in ONLY_CLI}
    arguments = function(name).parameters
    assert set(options) == set(arguments) - ONLY_API
    assert all(p.kind is p.KEYWORD_ONLY for p in arguments.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_agree(name):
    arguments = function(name).parameters
    given = ["source"] if command(name).params[0].name in ("source", "sources") else []
    for option in command(name).params:
        if isinstance(option, click.Option) and option.required:
            given += [option.opts[0], "given"]
    for option in command(name).params:
        if isinstance(option, click.Option) and option.required:
            given += [option.opts[0], "given"]
    parsed = command(name).make_context(name, given).params
    for option, argument in arguments.items():
        if option in parsed and argument.default is not argument.empty:
            assert str(parsed[option]) == str(argument.default), option


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_help_for_every_option(name):
    assert "as_json" in {p.name for p in command(name).params}
    assert command(name).help
    for option in command(name).params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} --{option.name}"


def test_the_public_names_are_sorted_and_there():
    assert edgekit.__all__ == sorted(edgekit.__all__)
    for name in edgekit.__all__:
        assert getattr(edgekit, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgekit.nothing

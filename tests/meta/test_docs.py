"""README and CONTRIBUTING say what is true."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib

import click
import pytest

from edgekit.cli.main import COMMANDS, cli
from edgekit.recipe import load_recipe, recipe_names
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [line for _, block in BLOCKS for line in block.splitlines()]


@pytest.mark.parametrize("line", [x for x in LINES if x.startswith("edgekit ")])
def test_commands_in_the_readme_parse(line):
    command: click.Command = cli
    words = shlex.split(line)[1:]
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
    command.make_context("edgekit", words)


def test_every_command_is_in_the_readme():
    for name in COMMANDS:
        assert f"edgekit {name}" in README or f"make {name}" in README


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(LINES), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_python_in_the_readme_uses_what_there_is():
    import edgekit

    for language, block in BLOCKS:
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "edgekit":
                assert node.attr in edgekit.__all__


def test_the_demo_table_has_the_columns_of_the_demo(digits):
    from edgekit.tables import proofs
    from edgekit.workspace import Workspace

    columns = [str(c.header) for c in proofs.summary(Workspace.open(digits)).columns]
    header = next(line for line in LINES if line.startswith("| artifact"))
    assert [c.strip() for c in header.strip("|").split("|")] == columns


def test_the_layers_of_contributing_are_those_that_are_checked():
    contract = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    checked = [set(re.findall(r"edgekit\.(\w+)", layer)) for layer in contract]
    [block] = re.findall(r"^    cli >.*?(?=\n\n)", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    written = [set(re.findall(r"\w+", layer)) for layer in block.split(">")]
    assert written == checked


def test_files_named_in_contributing_exist():
    for path in re.findall(r"`([\w/]+\.(?:py|toml|txt|json))`", CONTRIBUTING):
        assert list(ROOT.glob(path)) or list((ROOT / "edgekit").rglob(path)), path


def test_constraints_satisfy_the_ranges():
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            [pin] = requirement.specifier
            pins.setdefault(requirement.name.lower(), set()).add(pin.version)
    project = PYPROJECT["project"]
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        assert requirement.name in pins, requirement
        assert all(requirement.specifier.contains(v) for v in pins[requirement.name]), requirement


def test_the_table_of_recipes_has_them_all_and_each_reached_its_floor():
    page = (ROOT / "recipes" / "README.md").read_text()
    rows = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells
    assert list(rows) == recipe_names()
    for name, cells in rows.items():
        recipe = load_recipe(name)
        metric, sign, floor = cells[2].split()
        assert (metric, float(floor)) == (recipe.metric, recipe.floor)
        assert sign == ("≥" if recipe.higher_is_better else "≤")
        reached = float(cells[4])
        assert reached >= recipe.floor if recipe.higher_is_better else reached <= recipe.floor

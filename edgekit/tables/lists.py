"""Recipes and targets, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgekit.cells import (
    new_table,
)
from edgekit.recipe import Recipe
from edgekit.verbs.targets import TargetStatus


def recipes(known: Sequence[Recipe]) -> Table:
    """The bundled recipes."""
    headings = ("task", "data", "floor on the test split", "what it trains")
    table = new_table("recipe", *headings, left=(1, 2, 3, 4))
    for recipe in known:
        sign = "≥" if recipe.higher_is_better else "≤"
        floor = f"{recipe.metric} {sign} {recipe.floor:g}"
        what = escape(recipe.description)
        table.add_row(recipe.name, recipe.task, escape(recipe.data_set or ""), floor, what)
    return table


def targets(known: Sequence[TargetStatus]) -> Table:
    """Where models can run."""
    table = new_table("target", "machine", "format", "runtime", "state", left=(1, 2, 3, 4))
    for target in known:
        if not target.runtimes:
            table.add_row(target.uri, target.machine, "", "", "asked when it is used")
        for i, runtime in enumerate(target.runtimes):
            state = runtime.version or f"[yellow]missing: {escape(str(runtime.missing))}[/]"
            table.add_row(
                target.uri if i == 0 else "",
                escape(target.machine) if i == 0 else "",
                runtime.format,
                runtime.name,
                state,
            )
    return table

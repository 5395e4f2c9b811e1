from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli import options


@click.command()
@click.argument("recipe", required=False)
@options.output_option("A new folder for the workspace.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's own number.")
@click.option("--list", "list_recipes", is_flag=True, help="List the recipes and end.")
@options.json_option
@options.reports_errors
def train(
    recipe: str | None, output: Path | None, epochs: int | None, list_recipes: bool, as_json: bool
) -> None:
    """Train a recipe into a new workspace.

    RECIPE is the name of a bundled recipe or the path of a .py file; ":NAME" behind it is one of
    its alternatives, such as mnist_mlp:from_scratch. The weights of the best epoch are kept. After
    an interruption, the same command goes on.
    """
    if list_recipes:
        _list(as_json)
        return
    if recipe is None:
        raise click.UsageError("name a recipe; edgekit train --list shows them")
    if output is None:
        raise click.UsageError("name a new folder with -o WORKSPACE")
    from edgekit.verbs.train import train as run

    with options.shown_progress() as progress:
        result = run(recipe=recipe, output=output, epochs=epochs, progress=progress)
    if as_json:
        options.print_json(result)
        return
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    click.echo(
        f"{result.recipe}: {figures} on {result.rows:,} test rows, "
        f"{result.parameters:,} parameters, in {result.workspace}"
    )
    click.echo(f"next: edgekit export {result.workspace}")


def _list(as_json: bool) -> None:
    from edgekit.recipe import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    if as_json:
        fields = ("name", "description", "data_set", "task", "metric", "higher_is_better", "floor")
        options.print_json([{f: getattr(r, f) for f in fields} for r in recipes])
        return
    from edgekit.tables import lists

    options.print_table(lists.recipes(recipes))

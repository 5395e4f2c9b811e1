"""Every recipe the whole way, and the table of recipes/README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import EDGEKIT, HERE, run
from _results import table

from edgekit.cells import size

PAGE = HERE.parent / "recipes" / "README.md"
START, END = "<!-- benchmarks/recipes.py -->\n", "<!-- end -->\n"
COLUMNS = ("fp32.tflite", "int8.tflite", "int8.onnx", "fp32.tfjs")
POINTS, SHARE = 0.005, 0.01
"""The most that an artifact may lose: of an accuracy, and of any other figure."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("recipe-workspaces"))
    parser.add_argument("--recipes", help="some of them, by commas; the page stays as it is")
    arguments = parser.parse_args()
    known = json.loads(run(EDGEKIT, "train", "--list", "--json").stdout)
    names = arguments.recipes.split(",") if arguments.recipes else [r["name"] for r in known]
    if unknown := set(names) - {r["name"] for r in known}:
        parser.error(f"unknown recipes: {', '.join(sorted(unknown))}")
    rows, failed = [], []
    for recipe in (r for r in known if r["name"] in names):
        workspace = arguments.work / recipe["name"]
        # What is there already is not made again.
        command = (EDGEKIT, "run", recipe["name"], "-o", str(workspace))
        print(f"{recipe['name']} ...", file=sys.stderr, flush=True)
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0:
            failed.append(recipe["name"])
        if (workspace / "manifest.json").exists():
            rows += rows_of(recipe, json.loads((workspace / "manifest.json").read_text()))
    headings = ["recipe", "data", "floor", "parameters", "Keras", *COLUMNS]
    lines = "".join(f"{line}\n" for line in table(headings, rows))
    print(lines)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    if arguments.recipes is None:
        before, _, rest = PAGE.read_text().partition(START)
        PAGE.write_text(f"{before}{START}{lines}{END}{rest.partition(END)[2]}")


def rows_of(recipe: dict[str, Any], manifest: dict[str, Any]) -> list[list[str]]:
    """One for the model, and one for what was pruned of it."""
    metric = recipe["metric"]
    figures = {a["artifact"]: a["metrics"][metric] for a in manifest["accuracy"]}
    sizes = {a["id"]: a["size_bytes"] for a in manifest["artifacts"]}
    keras = figures["keras"]

    def cell(id: str) -> str:
        if id not in figures or id not in sizes:
            return "–"
        change = figures[id] - keras
        loss = -change if recipe["higher_is_better"] else change
        allowed = POINTS if metric.startswith("accuracy") else SHARE * keras
        figure = f"{figures[id]:.4f} ({round(change, 4) + 0.0:+.4f})"
        return f"{f'**{figure}**' if loss > allowed else figure}, {size(sizes[id])}"

    sign = "≥" if recipe["higher_is_better"] else "≤"
    parameters = f"{manifest['source']['parameters']:,}"
    about = [recipe["data_set"] or "", f"{metric} {sign} {recipe['floor']:g}", parameters]
    rows = [[f"`{recipe['name']}`", *about, f"{keras:.4f}", *map(cell, COLUMNS)]]
    for name, variant in manifest.get("variants", {}).items():
        own = figures.get(variant["path"], keras)
        cells = [cell(f"{name}-{column}") for column in COLUMNS]
        rows.append([name, "", "", "", f"{own:.4f} ({own - keras:+.4f})", *cells])
    return rows


if __name__ == "__main__":
    main()

"""What default int8 costs on every recipe: size, metric, on the test split."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _common import EDGEKIT, print_conditions, print_table, run

SMALLER = 0.30
POINTS = 0.005
SHARE = 0.01
LARGE = ("fashion_mnist_cnn", "fashion_mnist_mlp", "digits_mlp")
"""Recipes of images and sounds, which are held to the size, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("quantize-recipes"))
    parser.add_argument("--recipes", help="some of them, by commas")
    arguments = parser.parse_args()
    known = json.loads(run(EDGEKIT, "train", "--list", "--json").stdout)
    names = arguments.recipes.split(",") if arguments.recipes else [r["name"] for r in known]
    rows = []
    for recipe in (r for r in known if r["name"] in names):
        rows += measured(recipe, arguments.work / recipe["name"])
    headings = ["recipe", "artifact", "bytes", "of fp32", "metric, Keras", "metric", "lost", "met"]
    print_table("What default int8 costs on every recipe", headings, rows)
    print_conditions(1, "tensorflow", "keras", "onnxruntime", "ai-edge-litert")


def measured(recipe: dict, workspace: Path) -> list[list[str]]:
    if not workspace.exists():
        run(EDGEKIT, "train", recipe["name"], "-o", workspace)
    both = ("--to", "tflite", "--to", "onnx")
    run(EDGEKIT, "export", workspace, *both)
    run(EDGEKIT, "quantize", workspace, *both)
    manifest = json.loads((workspace / "manifest.json").read_text())
    sizes = {a["id"]: a["size_bytes"] for a in manifest["artifacts"]}
    metric = recipe["metric"]
    figures = {a["artifact"]: a["metrics"][metric] for a in manifest["accuracy"]}
    keras = figures["keras"]
    rows = []
    for form in ("tflite", "onnx"):
        own = figures[f"int8.{form}"]
        worse = own - keras if metric == "perplexity" else keras - own
        ratio = sizes[f"int8.{form}"] / sizes[f"fp32.{form}"]
        small = ratio <= SMALLER or recipe["name"] not in LARGE
        cheap = worse <= POINTS if metric == "accuracy" else worse / keras <= SHARE
        lost = f"{100 * worse:.2f} pt" if metric == "accuracy" else f"{worse / keras:.2%}"
        rows.append(
            [
                recipe["name"],
                f"int8.{form}",
                f"{sizes[f'int8.{form}']:,}",
                f"{ratio:.3f}",
                f"{metric} {keras:.4f}",
                f"{own:.4f}",
                lost,
                "yes" if small and cheap else "**no**",
            ]
        )
    return rows


if __name__ == "__main__":
    main()

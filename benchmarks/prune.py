"""What pruning gains: bytes over the wire, time, at which loss of accuracy."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from _common import (
    EDGEKIT,
    HERE,
    PYTHON,
    interleaved,
    make_models,
    print_conditions,
    print_table,
    run,
    show,
)
from _results import work_folder

MNIST_CNN = str(HERE / "_mnist_cnn.py")
POINTS, STRUCTURED_POINTS = 0.005, 0.01
"""Of accuracy, that 80 % of zeros and half of the channels may cost."""
ZIPPED = 0.1
"""Of the dense fp32 file, both gzipped: 80 % of zeros in int8."""
CLUSTERED = 0.5
"""Of plain int8, both gzipped: 16 values in int8."""
FASTER = {"fashion_mnist_cnn": 1.8, "mobilenet_96": 1 / 0.75}
SECONDS = 0.6
FORMATS = ("tflite", "onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="rounds of timing, default 7")
    parser.add_argument("--work", type=Path, help="a folder to keep trained models in")
    arguments = parser.parse_args()
    with work_folder(arguments.work) as folder:
        headings = ["recipe", "Keras", "sparse80", "lost", "file", "gzip, of fp32 dense", "met"]
        rows = sparse(folder, "fashion_mnist_mlp") + sparse(folder, MNIST_CNN)
        print_table("80 % of zeros, fine-tuned, and int8", headings, rows)
        headings = ["recipe", "Keras", "cluster16", "file", "gzip, of int8", "met"]
        recipes = ("fashion_mnist_mlp", MNIST_CNN, "fashion_mnist_cnn")
        rows = [row for recipe in recipes for row in clustered(folder, recipe)]
        print_table("16 values per layer, and int8", headings, rows)
        cnn, lost = half_of_the_channels(folder)
        files = {"fashion_mnist_cnn": cnn, "mobilenet_96": mobilenet(folder)}
        rows = timed(files, lost, arguments.runs)
        headings = ["model", "file", "p50, before", "p50, pruned", "speed ×", "lost", "met"]
        print_table("Fewer channels", headings, rows)
    packages = ("tensorflow", "keras", "tensorflow-model-optimization", "onnxruntime")
    print_conditions(arguments.runs, *packages, "ai-edge-litert")


def trained(folder: Path, recipe: str) -> Path:
    """The workspace of a recipe, trained unless it is there."""
    workspace = folder / Path(recipe).stem.lstrip("_")
    if not workspace.exists():
        run(EDGEKIT, "train", recipe, "-o", workspace)
    return workspace


def prune(workspace: Path, *options: str) -> dict[str, Any]:
    return dict(json.loads(run(EDGEKIT, "prune", workspace, *options, "--json").stdout))


def accuracies(result: dict[str, Any]) -> dict[str, float]:
    return {a["artifact"]: a["metrics"]["accuracy"] for a in result["accuracy"]}


def sparse(folder: Path, recipe: str) -> list[list[str]]:
    workspace = trained(folder, recipe)
    both = ("--precision", "fp32", "--precision", "int8")
    result = prune(workspace, "--sparsity", "0.8", *both)
    figures = accuracies(result)
    zipped = {g["artifact"]: g["gzip_bytes"] for g in result["gains"]}
    zipped |= {g["before"]["artifact"]: g["before"]["gzip_bytes"] for g in result["gains"]}
    rows = []
    for form in FORMATS:
        file = f"sparse80-int8.{form}"
        ratio = zipped[file] / zipped[f"fp32.{form}"]
        lost = figures["keras"] - figures[file]
        rows.append(
            [
                workspace.name,
                f"{figures['keras']:.4f}",
                f"{figures['sparse80.keras']:.4f}",
                f"{100 * (figures['keras'] - figures['sparse80.keras']):.2f} pt",
                f"{file}: {figures[file]:.4f}",
                f"{zipped[file]:,} bytes, {ratio:.3f}",
                "yes" if lost <= POINTS and ratio <= ZIPPED else "**no**",
            ]
        )
    return rows


def clustered(folder: Path, recipe: str) -> list[list[str]]:
    workspace = trained(folder, recipe)
    result = prune(workspace, "--clusters", "16", "--precision", "int8")
    figures = accuracies(result)
    rows = []
    for gain in result["gains"]:
        ratio = gain["gzip_bytes"] / gain["before"]["gzip_bytes"]
        rows.append(
            [
                workspace.name,
                f"{figures['keras']:.4f}",
                f"{figures['cluster16.keras']:.4f}",
                f"{gain['artifact']}: {figures[gain['artifact']]:.4f}",
                f"{gain['gzip_bytes']:,} bytes, {ratio:.3f}",
                "yes" if ratio <= CLUSTERED else "**no**",
            ]
        )
    return rows


def half_of_the_channels(folder: Path) -> tuple[Path, float]:
    """The workspace of the CNN with half of its channels, and what that cost."""
    workspace = trained(folder, "fashion_mnist_cnn")
    figures = accuracies(prune(workspace, "--structured", "--ratio", "0.5"))
    return workspace, figures["keras"] - figures["structured50.keras"]


def mobilenet(folder: Path) -> Path:
    """MobileNetV2 0.35 of 96 x 96 without 30 % of its channels; weights are random."""
    make_models(folder, "mobilenet_96")
    workspace = folder / "mobilenet_96"
    shutil.rmtree(workspace, ignore_errors=True)
    source, rows = folder / "mobilenet_96.keras", folder / "mobilenet_96.npz"
    options = ("--structured", "--ratio", "0.3", "--epochs", "0", "--samples", str(rows))
    run(EDGEKIT, "prune", source, *options, "-o", workspace)
    return workspace


def timed(workspaces: dict[str, Path], lost: float, runs: int) -> list[list[str]]:
    """Before and after side by side, in the plainest loop."""
    variants = {"fashion_mnist_cnn": "structured50", "mobilenet_96": "structured30"}
    medians: dict[tuple[str, str], list[list[float]]] = {}

    def speedup(model: str, form: str) -> float:
        workspace = workspaces[model]
        files = [workspace / f"fp32.{form}", workspace / f"{variants[model]}-fp32.{form}"]
        seen = medians.setdefault((model, form), [])
        order = 1 if len(seen) % 2 == 0 else -1
        rows = workspace / "verification.npz"
        found = run(PYTHON, HERE / "_loop.py", form, SECONDS, rows, *files[::order])
        seen.append(json.loads(found.stdout)[::order])
        return seen[-1][0] / seen[-1][1]

    keys = [(model, form) for model in workspaces for form in FORMATS]
    subjects = {f"{m} {f}": lambda m=m, f=f: speedup(m, f) for m, f in keys}
    found = interleaved(subjects, runs)
    rows = []
    for model, form in keys:
        before, after = (
            statistics.median(v) / 1e3 for v in zip(*medians[model, form], strict=True)
        )
        ratios = found[f"{model} {form}"]
        is_cnn = model == "fashion_mnist_cnn"
        cheap = lost <= STRUCTURED_POINTS or not is_cnn
        fast = statistics.median(ratios) >= FASTER[model]
        rows.append(
            [
                f"{model}, {variants[model]}",
                f"fp32.{form}",
                f"{before:.1f} µs",
                f"{after:.1f} µs",
                show(ratios),
                f"{100 * lost:.2f} pt" if is_cnn else "not trained",
                "yes" if cheap and fast else "**no**",
            ]
        )
    return rows


if __name__ == "__main__":
    main()

"""The median that `edgekit bench` reports against a bare loop over the same runtime and file."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from _common import (
    EDGEKIT,
    HERE,
    PYTHON,
    interleaved,
    make_models,
    print_conditions,
    print_table,
    ratios,
    run,
    runs_option,
    show,
)

TARGET = 0.05
SECONDS = 0.5
MODELS = {
    "digits_mlp": "digits MLP",
    "fashion_mnist_cnn": "small CNN",
    "mobilenet_96": "MobileNetV2 0.35, 96",
    "resnet50_112": "ResNet50, 112",
}


def main() -> None:
    runs = runs_option(__doc__, default=7)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        make_models(folder, *MODELS)
        subjects: dict[str, Callable[[], float]] = {}
        labels = []
        for model, title in MODELS.items():
            workspace = folder / model
            formats = ("--to", "tflite", "--to", "onnx", "--precision", "fp32")
            run(EDGEKIT, "export", folder / f"{model}.keras", *formats, "-o", workspace)
            for form in ("tflite", "onnx"):
                label, file = f"{title}, fp32 {form}", workspace / f"fp32.{form}"
                labels.append(label)
                rows = folder / f"{model}.npz"
                subjects[f"{label}: loop"] = lambda f=form, r=rows, p=file: loop_us(f, r, p)
                subjects[f"{label}: bench"] = lambda p=file: bench_us(p)
        times = interleaved(subjects, runs)

    rows = []
    for label in labels:
        bare, bench = times[f"{label}: loop"], times[f"{label}: bench"]
        ratio = ratios(bench, bare)
        met = abs(statistics.median(ratio) - 1) <= TARGET
        target = f"within {TARGET:.0%}: {'met' if met else 'NOT met'}"
        rows.append(
            [label, show(bare, " µs", 1), show(bench, " µs", 1), show(ratio, "", 3), target]
        )
    headings = ["model", "bare loop, p50", "edgekit bench, p50", "ratio", "target"]
    print_table("What `edgekit bench` adds to a latency", headings, rows)
    print_conditions(runs, "ai-edge-litert", "onnxruntime")


def loop_us(form: str, rows: Path, file: Path) -> float:
    """Median of a bare loop in a new process, in microseconds."""
    (median_ns,) = json.loads(run(PYTHON, HERE / "_loop.py", form, SECONDS, rows, file).stdout)
    return float(median_ns) / 1e3


def bench_us(file: Path) -> float:
    """The p50 that the command reports, measured in one process, in microseconds."""
    options = ("--rounds", 1, "--seconds", SECONDS, "--no-baseline", "--json")
    (row,) = json.loads(run(EDGEKIT, "bench", file, *options).stdout)["rows"]
    return float(row["summary"]["p50_ns"]) / 1e3


if __name__ == "__main__":
    main()

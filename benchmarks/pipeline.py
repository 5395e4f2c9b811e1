"""MobileNetV2, 224x224: five proved artifacts by edgekit against the official tools, unproved.

Both sides start from the same .keras file and 64 rows, and each command is a process whose whole
wall time counts. edgekit compares every file with the Keras model on all rows; the official tools
only write theirs, and there is no TensorFlow.js file among them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from _common import (
    EDGEKIT,
    HERE,
    OFFICIAL,
    PYTHON,
    interleaved,
    make_models,
    print_conditions,
    print_table,
    ratios,
    runs_option,
    seconds,
    show,
    verdict,
)

TARGET = 0.6
MODEL = "mobilenet_224"


def main() -> None:
    runs = runs_option(__doc__, default=3)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        make_models(folder, MODEL)
        official, sides = commands(folder)
        steps = {**official, **{k: c for side in sides.values() for k, c in side.items()}}
        times = interleaved({k: lambda c=c: fresh(c, folder) for k, c in steps.items()}, runs)

    base = total(times, official)
    rows = [[label, show(times[label], " s", 1), "", ""] for label in official]
    rows.append(["**official tools, sum** (4 files, none verified)", show(base, " s", 1), "", ""])
    for title, side in sides.items():
        rows += [[label, show(times[label], " s", 1), "", ""] for label in side if len(side) > 1]
        values = total(times, side)
        against = ratios(values, base)
        rows.append([title, show(values, " s", 1), show(against), verdict(against, TARGET)])
    print_table(
        "MobileNetV2 224: five formats with proof", ["step", "wall time", "ratio", "target"], rows
    )
    print_conditions(runs, "tensorflow", "keras", "tf2onnx", "onnxruntime", "ai-edge-litert")


Commands = dict[str, tuple[object, ...]]


def commands(folder: Path) -> tuple[Commands, dict[str, Commands]]:
    """The official tools, and edgekit in the ways in which a user may call it."""
    model, rows = folder / f"{MODEL}.keras", folder / f"{MODEL}.npz"
    onnx = folder / "fp32.onnx"
    official: Commands = {
        "TFLiteConverter, fp32": (
            PYTHON, OFFICIAL / "tflite_fp32.py", model, folder / "fp32.tflite",
        ),
        "TFLiteConverter, int8": (
            PYTHON, OFFICIAL / "tflite_int8.py", model, rows, folder / "int8.tflite",
        ),
        "python -m tf2onnx.convert --keras": (
            PYTHON, "-m", "tf2onnx.convert", "--keras", model, "--output", onnx,
        ),
        "onnxruntime quantize_static": (
            PYTHON, OFFICIAL / "onnx_int8.py", onnx, rows, folder / "int8.onnx",
        ),
    }  # fmt: skip
    export, data = (EDGEKIT, "export"), ("--samples", rows, "-o")
    steps, script, at_once = (folder / f"workspace-{i}" for i in range(3))
    return official, {
        "**edgekit, two commands** (5 files, all verified)": {
            "edgekit export MODEL --samples ROWS": (*export, model, *data, steps),
            "edgekit export WORKSPACE --to tflite --to onnx --precision int8": (
                *export, steps, "--to", "tflite", "--to", "onnx", "--precision", "int8",
            ),
        },
        "**edgekit, the same two in one Python script** (5 files, all verified)": {
            "script": (PYTHON, HERE / "_export_five.py", model, rows, script),
        },
        "**edgekit, one command, fp32 and int8** (6 files, all verified)": {
            "at once": (
                *export, model, "--precision", "fp32", "--precision", "int8", *data, at_once,
            ),
        },
    }  # fmt: skip


def fresh(command: tuple[object, ...], folder: Path) -> float:
    """Wall time of a command; the workspace that it makes (its last word) does not exist yet."""
    made = Path(str(command[-1]))
    if made.parent == folder and made.is_dir():
        shutil.rmtree(made)
    return seconds(*command)


def total(times: dict[str, list[float]], steps: Commands) -> list[float]:
    """The sum over the steps, for each round."""
    return [sum(values) for values in zip(*(times[label] for label in steps), strict=True)]


if __name__ == "__main__":
    main()

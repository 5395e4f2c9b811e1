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
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name:
        folder = Path(name)
        make_models(folder, MODEL)
        official, edgekit, at_once = commands(folder)
        subjects = {
            **{label: lambda c=c: seconds(*c) for label, c in official.items()},
            **{label: lambda c=c: seconds(*c) for label, c in edgekit.items()},
            **{label: lambda c=c: fresh(folder / "at-once", c) for label, c in at_once.items()},
        }
        first = next(iter(edgekit))
        subjects[first] = lambda: fresh(folder / "steps", edgekit[first])
        times = interleaved(subjects, runs)

    base = total(times, official)
    rows = [[label, show(times[label], " s", 1), "", ""] for label in official]
    rows.append(["**official tools, sum** (4 files, none verified)", show(base, " s", 1), "", ""])
    rows += [[label, show(times[label], " s", 1), "", ""] for label in edgekit]
    for label, sides in (
        ("**edgekit, sum of both commands** (5 files, all verified)", edgekit),
        ("**edgekit, in one command** (6 files, all verified)", at_once),
    ):
        values = total(times, sides)
        against = ratios(values, base)
        rows.append([label, show(values, " s", 1), show(against), verdict(against, TARGET)])
    print_table(
        "MobileNetV2 224: five formats with proof", ["step", "wall time", "ratio", "target"], rows
    )
    print_conditions(runs, "tensorflow", "keras", "tf2onnx", "onnxruntime", "ai-edge-litert")


Commands = dict[str, tuple[object, ...]]


def commands(folder: Path) -> tuple[Commands, Commands, Commands]:
    """The official tools; edgekit in two commands; edgekit in one."""
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
    export = (EDGEKIT, "export")
    steps, at_once = folder / "steps", folder / "at-once"
    edgekit: Commands = {
        "edgekit export MODEL --samples ROWS": (*export, model, "--samples", rows, "-o", steps),
        "edgekit export WORKSPACE --to tflite --to onnx --precision int8": (
            *export, steps, "--to", "tflite", "--to", "onnx", "--precision", "int8",
        ),
    }  # fmt: skip
    both = ("--precision", "fp32", "--precision", "int8")
    return (
        official,
        edgekit,
        {"edgekit at once": (*export, model, *both, "--samples", rows, "-o", at_once)},
    )


def fresh(workspace: Path, command: tuple[object, ...]) -> float:
    """Wall time of an export into a workspace that does not exist yet."""
    shutil.rmtree(workspace, ignore_errors=True)
    return seconds(*command)


def total(times: dict[str, list[float]], steps: Commands) -> list[float]:
    """The sum over the steps, for each round."""
    return [sum(values) for values in zip(*(times[label] for label in steps), strict=True)]


if __name__ == "__main__":
    main()

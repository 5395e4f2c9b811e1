"""Peak memory of `Keras model -> ONNX`: edgekit's command against tf2onnx.convert.from_keras.

Counted is the largest process of each command (edgekit's is the worker that holds TensorFlow), its
import of TensorFlow included. edgekit also computes the Keras model's own outputs there, to compare
the file with, several rows at a time; with a single row the conversion itself decides.
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
    print_conditions,
    print_table,
    ratios,
    run,
    runs_option,
    show,
    verdict,
)

TARGET_GB = 2.5
MODELS = ("MobileNetV2", "ResNet50")
BUILD = """
import sys, keras, numpy
getattr(keras.applications, sys.argv[1])(weights=None).save(sys.argv[2])
row = numpy.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
numpy.savez(sys.argv[3], x=row)
"""
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""The largest of all descendants, in KiB (Linux)."""


def main() -> None:
    runs = runs_option(__doc__, default=3)
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        base = peak_gb(PYTHON, "-c", "import tensorflow")
        rows.append(["", "`python -c 'import tensorflow'`", f"{base:.2f} GB", "", ""])
        for model in MODELS:
            source, row, out, workspace = (
                folder / f"{model}{end}" for end in (".keras", ".npz", ".onnx", "")
            )
            run(PYTHON, "-c", BUILD, model, source, row)
            official = f"`tf2onnx.convert.from_keras`, {model}"
            ours = f"`edgekit export --to onnx`, {model}"
            export = (EDGEKIT, "export", source, "--to", "onnx", "-o", workspace)
            commands = {
                official: (PYTHON, OFFICIAL / "onnx_fp32.py", source, out),
                f"{ours}, one row": (*export, "--samples", row),
                ours: export,
            }

            def measure(command: tuple[object, ...], workspace: Path = workspace) -> float:
                shutil.rmtree(workspace, ignore_errors=True)
                return peak_gb(*command)

            peaks = interleaved({k: lambda c=c: measure(c) for k, c in commands.items()}, runs)
            for label, values in peaks.items():
                mine = label != official
                against = show(ratios(values, peaks[official])) if mine else ""
                target = verdict(values, TARGET_GB) if mine else ""
                size = f"{source.stat().st_size / 1e6:.0f} MB"
                rows.append([size, label, show(values, " GB"), against, target])
    headings = ["file", "command", "peak memory", "ratio", "target, GB"]
    print_table("Memory", headings, rows)
    print_conditions(runs, "tensorflow", "keras", "tf2onnx", "onnx")


def peak_gb(*command: object) -> float:
    """Largest resident memory of any process of the command, in 10^9 bytes."""
    return int(run(PYTHON, "-c", PEAK, *command).stdout) * 1024 / 1e9


if __name__ == "__main__":
    main()

"""Six models in every format, float and int8, on every target that runs on one machine.

Each file is first proved where it is then measured. Emulated machines count instructions. Beside
that: how long `edgekit bench` takes to its first number.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from _common import (
    EDGEKIT,
    HERE,
    interleaved,
    make_models,
    print_conditions,
    print_table,
    run,
    runs_option,
    seconds,
    show,
    verdict,
)

sys.path.insert(0, str(HERE.parent))
from tests.e2e.sshd import Sshd

MODELS = {
    "regressor": "regressor 10-64-32-1",
    "digits_mlp": "digits MLP",
    "mlp": "MLP 784-300-100-10",
    "fashion_mnist_cnn": "small separable CNN",
    "residual": "small ResNet",
    "mobilenet_96": "MobileNetV2 0.35, 96",
}
TIMED = {"local": "this machine", "browser": "Chromium", "browser:firefox": "Firefox"}
COUNTED = {"qemu:pi4": "Pi 4", "qemu:pi5": "Pi 5", "qemu:phone": "phone"}
FIRST_S = {"local": 2.0, "browser": 5.0, "ssh": 3.0}
"""Targets of the issue for the first number."""


def main() -> None:
    runs = runs_option(__doc__, default=3)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        make_models(folder, *MODELS)
        rows = []
        for model, title in MODELS.items():
            workspace = exported(folder, model)
            files = [p["artifact"] for p in verified(workspace, "local")]
            for target in [*TIMED, *COUNTED][1:]:
                verified(workspace, target)
            times = {target: timed(workspace, target, runs) for target in TIMED}
            counts = {target: counted(workspace, target) for target in COUNTED}
            rows += [[title, file, *cells(file, times, counts)] for file in files]
        first = interleaved_starts(folder / "digits_mlp" / "fp32.tflite", runs)
    headings = [f"{name}, p50" for name in TIMED.values()]
    headings += [f"{name}, instructions" for name in COUNTED.values()]
    print_table("Six models on every target", ["model", "file", *headings], rows)
    print_table(
        "From `edgekit bench FILE` to the first number",
        ["target", "wall time", "target"],
        [[t, show(s, " s"), verdict(s, FIRST_S[t])] for t, s in first.items()],
    )
    print_conditions(runs, "ai-edge-litert", "onnxruntime")


def exported(folder: Path, model: str) -> Path:
    """A workspace with all six files of `model`."""
    workspace = folder / model
    formats = ("--to", "tflite", "--to", "onnx", "--to", "tfjs")
    precisions = ("--precision", "fp32", "--precision", "int8")
    rows = ("--samples", folder / f"{model}.npz")
    run(EDGEKIT, "export", folder / f"{model}.keras", *rows, *formats, *precisions, "-o", workspace)
    return workspace


def verified(workspace: Path, target: str) -> list[dict[str, object]]:
    """Parity records of all files there; a file that differs ends the script."""
    done = run(EDGEKIT, "verify", workspace, "--target", target, "--json")
    parity: list[dict[str, object]] = json.loads(done.stdout)["parity"]
    return parity


def timed(workspace: Path, target: str, rounds: int) -> dict[str, str]:
    """The p50 of each file, shown."""
    options = ("--no-baseline", "--rounds", rounds, "--seconds", 0.5, "--json")
    done = run(EDGEKIT, "bench", workspace, "--target", target, *options)
    summaries = [row["summary"] for row in json.loads(done.stdout)["rows"]]
    return {s["artifact"]: f"{s['p50_ns'] / 1e3:,.1f} µs" for s in summaries}


def counted(workspace: Path, target: str) -> dict[str, str]:
    """Instructions of one invocation of each file, shown."""
    done = run(EDGEKIT, "bench", workspace, "--target", target, "--json")
    records = [row["record"] for row in json.loads(done.stdout)["counts"]]
    return {r["artifact"]: f"{r['counts'][0]:,}" for r in records}


def cells(file: str, *columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What each target says of `file`; nothing where it has no runtime for it."""
    return [found.get(file, "") for group in columns for found in group.values()]


def interleaved_starts(file: Path, runs: int) -> dict[str, list[float]]:
    """Wall time of the shortest measurement of `file`: a browser and a connection made anew."""
    shortly = ("--no-baseline", "--rounds", 1, "--seconds", 0.05)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, Sshd(Path(name, "b")) as board:
        client = ("env", f"PATH={board.client}:/usr/bin:/bin")
        commands = {
            "local": (EDGEKIT, "bench", file, *shortly),
            "browser": (EDGEKIT, "bench", file, "--target", "browser", *shortly),
            "ssh": (*client, EDGEKIT, "bench", file, "--target", board.uri, *shortly),
        }
        return interleaved(
            {target: lambda c=command: seconds(*c) for target, command in commands.items()},
            runs,
            warmup=True,
        )


if __name__ == "__main__":
    main()

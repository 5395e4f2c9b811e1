"""Six models in every format, float and int8, on every target that runs on one machine.

Each file is first proved where it is then measured. Emulated machines count instructions. Beside
that: how long `edgekit bench` takes to its first number.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from edgekit.targets import LOCAL
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
ELSEWHERE = (
    "here, p50",
    "over ssh, p50",
    "over ssh, difference from here",
    "GPU in software, difference from Keras",
)
FIRST_S = {"local": 2.0, "browser": 5.0, "ssh": 3.0}
"""Targets of the issue for the first number."""


def main() -> None:
    runs = runs_option(__doc__, default=3)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        make_models(folder, *MODELS)
        rows, others = [], []
        for model, title in MODELS.items():
            workspace = exported(folder, model)
            files = [p["artifact"] for p in verified(workspace, "local")]
            for target in [*TIMED, *COUNTED][1:]:
                verified(workspace, target)
            times = {target: timed(workspace, target, runs) for target in TIMED}
            counts = {target: counted(workspace, target) for target in COUNTED}
            rows += [[title, file, *cells(file, times, counts)] for file in files]
            found = elsewhere(workspace, runs)
            others += [[title, f, *cells(f, found)] for f in files if not f.endswith("tfjs")]
        first = interleaved_starts(folder / "digits_mlp" / "fp32.tflite", runs)
    headings = [f"{name}, p50" for name in TIMED.values()]
    headings += [f"{name}, instructions" for name in COUNTED.values()]
    print_table("Six models on every target", ["model", "file", *headings], rows)
    print_table("Over ssh, and on a GPU that software plays", ["model", "file", *ELSEWHERE], others)
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


def verified(
    workspace: Path, target: str, client: Sequence[str] = (), allowed: Sequence[int] = (0,)
) -> list[dict[str, Any]]:
    """Parity records of all files there; a file that differs ends the script.

    `allowed` are exit codes; 1 is that of files that cannot be run there.
    """
    command = (*client, EDGEKIT, "verify", workspace, "--target", target, "--json")
    done = run(*command, allowed=allowed)
    said = json.loads(done.stdout)
    parity: list[dict[str, Any]] = said.get("result", said)["parity"]  # inside an error
    return parity


def timed(workspace: Path, target: str, rounds: int, client: Sequence[str] = ()) -> dict[str, str]:
    """The p50 of each file, shown."""
    options = ("--no-baseline", "--rounds", rounds, "--seconds", 0.5, "--json")
    done = run(*client, EDGEKIT, "bench", workspace, "--target", target, *options)
    summaries = [row["summary"] for row in json.loads(done.stdout)["rows"]]
    return {s["artifact"]: f"{s['p50_ns'] / 1e3:,.1f} µs" for s in summaries}


def counted(workspace: Path, target: str) -> dict[str, str]:
    """Instructions of one invocation of each file, shown."""
    done = run(EDGEKIT, "bench", workspace, "--target", target, "--json")
    records = [row["record"] for row in json.loads(done.stdout)["counts"]]
    return {r["artifact"]: f"{r['counts'][0]:,}" for r in records}


def elsewhere(workspace: Path, rounds: int) -> dict[str, dict[str, str]]:
    """ELSEWHERE of each file; the board is this machine, behind an sshd."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, Sshd(Path(name, "b")) as board:
        client = ("env", f"PATH={board.client}:/usr/bin:/bin")
        here = verified(workspace, LOCAL)
        there = differences(verified(workspace, board.uri, client))
        times = [timed(workspace, LOCAL, rounds), timed(workspace, board.uri, rounds, client)]
    gpu = differences(verified(workspace, "gpu", allowed=(0, 1)))
    known = differences(here)
    same = {f: f"{abs(d - known[f]):.0e}" if d != known[f] else "0" for f, d in there.items()}
    shown = {f: f"{gpu[f]:.0e}" if f in gpu else "refused" for f in known}
    return dict(zip(ELSEWHERE, (*times, same, shown), strict=True))


def differences(parity: list[dict[str, Any]]) -> dict[str, float]:
    """By file: the largest difference from the Keras model, as a share of the output's scale."""
    return {p["artifact"]: max(o["max_rel"] for o in p["outputs"]) for p in parity}


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

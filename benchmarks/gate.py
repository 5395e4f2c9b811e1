"""Does a gate find a lost point of accuracy, is it silent where nothing was lost, how fast is it?

Latencies are compared by `edgekit.comparison`, as `comparison.py` measures; all other figures of a
gate are exact. The loss is planted in what a real file decides on a recipe's test rows: some of the
right ones become wrong and some of the wrong ones right, at random.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import EDGEKIT, print_conditions, print_table, run, seconds, show, verdict
from _results import work_folder

from edgekit import row_scores, snapshot
from edgekit.judging import judge
from edgekit.rules import parse_rules
from edgekit.snapshot import Snapshot
from edgekit.workspace import Workspace

RECIPE, FILE = "fashion_mnist_cnn", "int8.tflite"
CHURN = (0.005, 0.02, 0.05)
"""Of the rows: mended, and as many spoilt, beside what is lost."""
LOST = 0.01
FOUND, FALSE, SECONDS, ARTIFACTS = 0.95, 0.05, 1.0, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="gates of each kind, default 200")
    parser.add_argument("--work", type=Path, help="a folder with, or for, the recipe's workspace")
    arguments = parser.parse_args()
    with work_folder(arguments.work) as folder:
        workspace = folder / RECIPE
        if not workspace.exists():
            run(EDGEKIT, "run", RECIPE, "-o", workspace)
        run(EDGEKIT, "verify", workspace)  # an earlier edgekit kept no scores by row
        rows = [planted(workspace, churn, arguments.runs) for churn in CHURN]
        times = timed(workspace, 11)
    headings = ["rows decided otherwise", "lost", "gates failed", "a point lost", "gates failed"]
    print_table(f"Gates on accuracy, {arguments.runs} of each kind", headings, rows)
    print_table(
        f"A gate over {ARTIFACTS} files",
        ["wall time", "target"],
        [[show(times, " s"), verdict(times, SECONDS)]],
    )
    print_conditions(len(times), "numpy")


def planted(workspace: Path, churn: float, runs: int) -> list[str]:
    """How many gates fail with nothing lost, and with a point lost."""
    baseline = snapshot.take(Workspace.open(workspace))
    mended = int(churn * rows_of(baseline))
    failed = {
        lost: sum(fails(baseline, mended, lost, seed) for seed in range(runs))
        for lost in (0, int(LOST * rows_of(baseline)))
    }
    none, point = (share / runs for share in failed.values())
    return [
        f"{2 * churn:.0%}",
        "nothing",
        f"{none:.1%}, ≤ {FALSE:.0%}: {'met' if none <= FALSE else 'NOT met'}",
        "1 point",
        f"{point:.1%}, ≥ {FOUND:.0%}: {'met' if point >= FOUND else 'NOT met'}",
    ]


def rows_of(known: Snapshot) -> int:
    return next(r.rows for r in known.accuracy if r.artifact == FILE)


def fails(baseline: Snapshot, mended: int, lost: int, seed: int) -> bool:
    """Whether the default rules refuse a file that decides so."""
    record = next(r for r in baseline.accuracy if r.artifact == FILE)
    [scores] = record.scores
    right = row_scores.unpack(scores).astype(bool)
    random = np.random.default_rng(seed)
    mended = min(mended, int((~right).sum()))
    spoilt = random.choice(np.flatnonzero(right), mended + lost, replace=False)
    repaired = random.choice(np.flatnonzero(~right), mended, replace=False)
    right[spoilt], right[repaired] = False, True
    data = base64.b64encode(np.packbits(right).tobytes()).decode()
    other = replace(
        record,
        metrics={scores.metric: float(right.mean())},
        scores=(replace(scores, data=data),),
    )
    now = replace(baseline, accuracy=tuple(other if r is record else r for r in baseline.accuracy))
    return any(v.passed is False for v in judge(baseline, now, parse_rules([])))


def timed(workspace: Path, runs: int) -> list[float]:
    """Wall times of the command, in seconds, on a workspace of ARTIFACTS files."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        copy = Path(shutil.copytree(workspace, Path(name, "ws")))
        for precision in ("fp16", "dynamic", "int16x8"):
            run(EDGEKIT, "export", copy, "--to", "tflite", "--to", "onnx", "--precision", precision)
        found = json.loads((copy / "manifest.json").read_text())["artifacts"]
        assert len(found) >= ARTIFACTS
        baseline = Path(name, "baseline.json")
        run(EDGEKIT, "bench", copy, "--no-baseline", "--seconds", 0.05)
        run(EDGEKIT, "gate", copy, "--baseline", baseline, "--update")
        return [seconds(EDGEKIT, "gate", copy, "--baseline", baseline) for _ in range(runs)]


if __name__ == "__main__":
    main()

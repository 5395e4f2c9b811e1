"""Kinds of layers × Keras families × formats: each file verified, or refused for a reason.

The models (`_zoo.py`) are exported one after the other by `edgekit.export`. What edgekit reports
is checked again here: fp32 within 1e-5 of the output's scale, outputs of the loaded model equal to
those before it was saved, no file left of what was refused. Results are kept as JSON lines in the
work folder: `--resume` goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import _results
import numpy as np
from _common import HERE, PYTHON, run

import edgekit
from edgekit.errors import EdgekitError
from edgekit.toolchain.client import open_toolchain
from edgekit.verbs.export import ExportFailed

FAMILIES = {"keras": "Keras 3", "tf_keras": "tf-keras"}
CELLS = {
    "fp32.tflite": "TFLite",
    "int8.tflite": "TFLite int8",
    "fp32.onnx": "ONNX",
    "int8.onnx": "ONNX int8",
    "fp32.tfjs": "TF.js",
}
MAX_REL = 1e-5
MIN_FP32_SHARE = 0.9
SAME_MODEL = 1e-5
"""Outputs of the saved and loaded model, as a share of their scale; of float16 models 1e-2."""
TIME_LIMIT = 600
"""Seconds for all files of one model; then it counts as hanging."""
STATES = ("verified", "refused", "removed", "wrong", "fault")
REPORT = HERE / "conversion_matrix.md"

Cell = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    with _results.work_folder(arguments.work) as folder:
        results = folder / "conversion_matrix.jsonl"
        if not arguments.resume:
            results.unlink(missing_ok=True)
        for family in arguments.family:
            measure_family(family, arguments.kinds, folder, results)
        text = report(_results.read(results))
    arguments.output.write_text(text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", type=_names, help="of layers, separated by commas; default: all")
    parser.add_argument(
        "--family", type=_names, default=list(FAMILIES), help="keras,tf_keras; default: both"
    )
    parser.add_argument("--work", type=Path, help="where files go; default: a temporary folder")
    parser.add_argument("--resume", action="store_true", help="keep the results in --work")
    parser.add_argument("--output", type=Path, default=REPORT, help=f"default: {REPORT.name}")
    arguments = parser.parse_args()
    if unknown := set(arguments.family) - set(FAMILIES):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    return arguments


def _names(text: str) -> list[str]:
    return text.split(",")


def measure_family(family: str, kinds: list[str] | None, folder: Path, results: Path) -> None:
    """Append a record for each kind that has none yet."""
    zoo = folder / family
    if not (zoo / "zoo.json").exists():
        zoo.mkdir(exist_ok=True)
        run(PYTHON, HERE / "_zoo.py", family, zoo)
    made = json.loads((zoo / "zoo.json").read_text())
    if unknown := set(kinds or ()) - set(made):
        sys.exit(f"unknown kinds: {', '.join(sorted(unknown))}; known: {', '.join(made)}")
    done = {(record["family"], record["kind"]) for record in _results.read(results)}
    with open_toolchain(family="keras" if family == "keras" else "tf-keras"):
        for kind in kinds or made:
            if (family, kind) in done:
                continue
            record = {"family": family, "kind": kind, **measure(kind, made[kind], zoo)}
            _results.append(results, record)
            shown = {id: _short(cell) for id, cell in record.get("cells", {}).items()}
            print(family, kind, shown or made[kind], file=sys.stderr, flush=True)


def measure(kind: str, made: dict[str, str], zoo: Path) -> _results.Record:
    """Export one model to all cells."""
    if "lacking" in made:
        return {"lacking": made["lacking"]}
    start = time.perf_counter()
    workspace, once_more = zoo / f"{kind}.workspace", zoo / f"{kind}.again"
    with _time_limit():
        cells = _export_all(kind, made, zoo, workspace)
        again = _export_all(kind, made, zoo, once_more)
    _check_files(cells, workspace)
    _check_bytes(cells, again)
    _check_reference(cells, workspace, zoo / f"{kind}.outputs.npz", kind)
    for cell in cells.values():
        if "reason" in cell:
            cell["reason"] = cell["reason"].replace(str(zoo / made["file"]), "the model's file")
    for folder in (workspace, once_more):
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.perf_counter() - start, 1)
    return {"file": made["file"], "seconds": seconds, "cells": {c: cells[c] for c in CELLS}}


def _export_all(kind: str, made: dict[str, str], zoo: Path, workspace: Path) -> dict[str, Cell]:
    """What became of each file of one model, in a new workspace."""
    shutil.rmtree(workspace, ignore_errors=True)
    loading: dict[str, Any] = {"source": zoo / made["file"], "output": workspace}
    if "module" in made:
        loading["custom_objects"] = zoo / made["module"]
    cells: dict[str, Cell] = {}
    _export(cells, samples=zoo / f"{kind}.npz", precision=("fp32", "int8"),
            to=("tflite", "onnx"), **loading)  # fmt: skip
    # int8 in TF.js is a storage format of weights, and no column here.
    source = {"source": workspace} if (workspace / "manifest.json").exists() else loading
    _export(cells, samples=zoo / f"{kind}.npz", precision="fp32", to="tfjs", **source)
    return cells


def _check_bytes(cells: dict[str, Cell], again: dict[str, Cell]) -> None:
    """The same model gives the same bytes, or the same refusal."""
    for id, cell in cells.items():
        other = again[id]
        if (cell["state"], cell.get("sha256")) != (other["state"], other.get("sha256")):
            cells[id] = _cell(
                "wrong", f"another export of the same model: {other['state']}, other bytes"
            )


def _export(cells: dict[str, Cell], *, to: Any, precision: Any, **options: Any) -> None:
    """What became of each of the files that are asked for."""
    wanted = [c for c in CELLS if c.split(".")[0] in precision and c.split(".")[1] in to]
    try:
        result = edgekit.export(to=to, precision=precision, **options)
    except ExportFailed as e:
        result = e.result
    except EdgekitError as e:  # nothing could be made of this model
        cells.update({id: _failed(e.message, e.hint) for id in wanted})
        return
    except Exception as e:
        cells.update({id: _cell("fault", f"{type(e).__name__}: {e}") for id in wanted})
        return
    for failure in result.failures:
        cells[failure.artifact] = _failed(failure.message, failure.hint)
    for proof in result.parity:
        cells[proof.artifact] = _verified(proof)


def _verified(proof: Any) -> Cell:
    """The figure that edgekit found, held against this page's own bound."""
    if proof.artifact.startswith("int8"):
        decibels = min(output.sqnr_db for output in proof.outputs)
        return {"state": "verified", "figure": decibels, "sha256": proof.sha256}
    worst = max(output.max_rel for output in proof.outputs)
    if not proof.passed or worst > MAX_REL:
        return _cell("wrong", f"published although it is off by {worst:.1e} of the scale")
    runtime = proof.runtime.backend
    return {"state": "verified", "figure": worst, "runtime": runtime, "sha256": proof.sha256}


def _failed(message: str, hint: str | None) -> Cell:
    """A refusal; unless something broke, or a file had to be taken back."""
    if re.search(r"was killed by|ended with exit code|no answer from", message):
        return _cell("fault", message, hint)
    if hint is None and re.match(r"[A-Za-z]*(Error|Exception|Interrupt)\b", message):
        return _cell("fault", message)  # a foreign exception, passed on as it was
    if "was removed" in message or "runtime cannot run" in message:
        return _cell("removed", message, hint)
    return _cell("refused", message, hint)


def _cell(state: str, reason: str, hint: str | None = None) -> Cell:
    return {"state": state, "reason": reason + (f" → {hint}" if hint else "")}


def _check_files(cells: dict[str, Cell], workspace: Path) -> None:
    """A verified file is there, another is not."""
    for id in CELLS:
        state = cells.setdefault(id, _cell("fault", "edgekit said nothing about it"))["state"]
        is_there = (workspace / id).exists()
        if is_there != (state in ("verified", "wrong")):
            where = "is there" if is_there else "is not there"
            cells[id] = _cell("wrong", f"{state}, but the file {where}")


def _check_reference(cells: dict[str, Cell], workspace: Path, outputs: Path, kind: str) -> None:
    """What edgekit compares with must be what the model gave before it was saved."""
    bound = 1e-2 if kind == "mixed_float16" else SAME_MODEL
    if not (workspace / "manifest.json").exists():
        return
    found = edgekit.Workspace.open(workspace).data_path("reference")
    if found is None:
        return
    with np.load(outputs) as before, np.load(found) as reference:
        pairs = zip(before.values(), reference.values(), strict=True)
        same = all(a.shape == b.shape and _difference(a, b) <= bound for a, b in pairs)
    for id, cell in cells.items():
        if not same and cell["state"] == "verified":
            cells[id] = _cell("wrong", "the loaded model gives other outputs than the saved one")


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Kill the processes that edgekit started when they take too long: it then reports that."""
    timer = threading.Timer(TIME_LIMIT, _kill_children)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill_children() -> None:
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def report(records: list[_results.Record]) -> str:
    """The page in Markdown."""
    by_key = {(record["family"], record["kind"]): record for record in records}
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    families = [f for f in FAMILIES if any(r["family"] == f for r in records)]
    reasons: dict[str, int] = {}
    rows = []
    for kind in kinds:
        row = [kind.replace("_", " ")]
        for family in families:
            record = by_key.get((family, kind), {})
            if "lacking" in record:
                number = reasons.setdefault(record["lacking"], len(reasons) + 1)
                row += [f"– [{number}]"] * len(CELLS)
            else:
                found = record.get("cells", {})
                row += [_shown(found.get(id), reasons) for id in CELLS]
        rows.append(row)
    headings = ["kind", *(f"{FAMILIES[f]}: {title}" for f in families for title in CELLS.values())]
    lines = [
        "# Conversion matrix",
        "",
        "Written by `benchmarks/conversion_matrix.py`; the method is in [README.md](README.md).",
        "fp32: the largest difference from the Keras model as a share of the output's scale.",
        "int8: the signal-to-noise ratio. *refused*: no file, for the reason in brackets.",
        "*removed*: the file did not hold its proof, so there is none. *–*: the family has no",
        "such model.",
        "",
        *_results.table(headings, rows),
        "",
        *(f"{number}. {reason}" for reason, number in reasons.items()),
        "",
        *_summary(records, families),
    ]
    return "\n".join(lines) + "\n"


def _shown(cell: Cell | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return ""
    if "reason" in cell:
        number = reasons.setdefault(" ".join(cell["reason"].split()), len(reasons) + 1)
        return f"{_short(cell)} [{number}]"
    return _short(cell)


def _short(cell: Cell) -> str:
    if cell["state"] in ("wrong", "fault"):
        return f"**{cell['state']}**"
    if cell["state"] != "verified":
        return str(cell["state"])
    # No int8 cell is as near to 0 dB as an fp32 cell is to 0.
    return f"{cell['figure']:.1e}" if "runtime" in cell else f"{cell['figure']:.0f} dB"


def _summary(records: list[_results.Record], families: list[str]) -> list[str]:
    """Counts by format, and the line that says whether the targets are met."""
    rows = []
    for family in families:
        for id, title in CELLS.items():
            cells = [r["cells"][id] for r in records if r["family"] == family and "cells" in r]
            count = Counter(cell["state"] for cell in cells)
            share = f"{count['verified'] / len(cells):.1%}" if cells else ""
            states = [str(count[state]) for state in STATES]
            rows.append([FAMILIES[family], title, *states, share])
    found = [(id, cell) for r in records for id, cell in r.get("cells", {}).items()]
    total = Counter(cell["state"] for _, cell in found)
    fp32 = Counter(cell["state"] for id, cell in found if id.startswith("fp32"))
    share = fp32["verified"] / max(1, fp32.total())
    silent = sum(c["state"] == "refused" and "→" not in c["reason"] for _, c in found)
    met = share >= MIN_FP32_SHARE and not _any(total, ("wrong", "fault")) and not silent
    kinds = len({record["kind"] for record in records})
    return [
        *_results.table(["family", "format", *STATES, "share verified"], rows),
        "",
        f"**{kinds} kinds, {total.total()} cells: {total['wrong']} wrong, {total['fault']} faults, "
        f"{silent} refused without a next step; {share:.1%} of the fp32 cells verified. "
        f"Target (none, none, none, ≥ {MIN_FP32_SHARE:.0%}): {'met' if met else 'NOT met'}.**",
    ]


def _any(count: Counter[str], states: Iterable[str]) -> bool:
    return any(count[state] for state in states)


if __name__ == "__main__":
    main()

"""keras.applications -> TFLite, ONNX and TF.js, fp32: is every file proved, how near, how large?

Each model is built in a process of its own (`_applications.py`) and exported by the command, as a
user would. Results are kept as JSON lines in the work folder: `--resume` goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _results
from _common import EDGEKIT, HERE, PYTHON, run

MODELS = {
    "MobileNetV2": 32,
    "MobileNet": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "EfficientNetB0": 32,
    "EfficientNetB1": 32,
    "EfficientNetV2B0": 32,
    "EfficientNetV2B1": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "DenseNet121": 32,
    "DenseNet169": 32,
    "InceptionV3": 16,
    "Xception": 16,
    "ConvNeXtTiny": 16,
    "ResNet101": 16,
    "ResNet101V2": 16,
    "InceptionResNetV2": 16,
    "ConvNeXtSmall": 16,
    "VGG16": 16,
    "VGG19": 16,
}
"""Rows to compare on; fewer for the heavy ones. Small models come first."""

FORMATS = {"tflite": "TFLite", "onnx": "ONNX", "tfjs": "TF.js"}
REPORT = HERE / "applications.md"


def main() -> None:
    arguments = _arguments()
    with _results.work_folder(arguments.work) as folder:
        results = folder / "applications.jsonl"
        if not arguments.resume:
            results.unlink(missing_ok=True)
        done = {record["model"] for record in _results.read(results)}
        for name in arguments.models:
            if name not in done:
                record = measure(name, folder)
                _results.append(results, record)
                print(json.dumps(record), file=sys.stderr, flush=True)
        records = {record["model"]: record for record in _results.read(results)}
        text = report([records[name] for name in MODELS if name in records])
    arguments.output.write_text(text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        type=lambda text: text.split(","),
        default=list(MODELS),
        help="names, separated by commas; default: all",
    )
    parser.add_argument("--work", type=Path, help="where files go; default: a temporary folder")
    parser.add_argument("--resume", action="store_true", help="keep the results in --work")
    parser.add_argument("--output", type=Path, default=REPORT, help=f"default: {REPORT.name}")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.models if name not in MODELS]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(MODELS)}")
    return arguments


def measure(name: str, folder: Path) -> _results.Record:
    """Build `name`, export it, and say what became of each format."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{name}-") as temporary:
        work = Path(temporary)
        built = run(PYTHON, HERE / "_applications.py", name, work, MODELS[name])
        start = time.perf_counter()
        document, errors, peak = _export(work / f"{name}.keras", work / f"{name}.npz", work / "ws")
        seconds = time.perf_counter() - start
    result = document.get("result", document)
    cells = {form: {"problem": _reason(document, errors)} for form in FORMATS}
    for failure in result.get("failures", ()):
        form = failure["artifact"].rpartition(".")[2]
        cells[form] = {"problem": f"{failure['error']}: {failure['message']}"}
    sizes = {a["id"]: a["size_bytes"] for a in result.get("artifacts", ())}
    for proof in result.get("parity", ()):
        form = proof["artifact"].rpartition(".")[2]
        max_rel = max(output["max_rel"] for output in proof["outputs"])
        cells[form] = {
            "max_rel": max_rel,
            "size_bytes": sizes[proof["artifact"]],
            "runtime": proof["runtime"],
        }
    described = json.loads(built.stdout)
    return {
        "model": name,
        **described,
        "cells": cells,
        "peak_bytes": peak,
        "seconds": round(seconds, 1),
    }


def _export(model: Path, rows: Path, workspace: Path) -> tuple[_results.Record, str, int]:
    """The command's JSON document, its stderr, and the peak memory of its largest process."""
    command = [EDGEKIT, "export", model, "--samples", rows, "-o", workspace, "--json"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        # Unlike wait(), this one also tells what the process and its children used.
        _, _, usage = os.wait4(process.pid, 0)
        out.seek(0)
        err.seek(0)
        text, errors = out.read(), err.read()
    return (json.loads(text) if text.strip() else {}), errors, usage.ru_maxrss * 1024


def _reason(document: _results.Record, errors: str) -> str:
    """Why a format has no result of its own."""
    if "error" in document:
        return f"{document['error']['type']}: {document['error']['message']}"
    return (errors.strip().splitlines() or ["no answer"])[-1]


def report(records: list[_results.Record]) -> str:
    """The page in Markdown."""
    problems: list[str] = []
    rows = []
    for record in records:
        cells = []
        for form in FORMATS:
            cell = record["cells"][form]
            if "problem" in cell:
                problems.append(f"{record['model']}, {FORMATS[form]}: {cell['problem']}")
                cells.append(f"no [{len(problems)}]")
            else:
                cells.append(f"{cell['max_rel']:.1e}, {cell['size_bytes'] / 1e6:.1f} MB")
        height, width, _ = record["input"]
        size = f"{height} × {width}"
        million = f"{record['parameters'] / 1e6:.1f} M"
        peak = f"{record['peak_bytes'] / 2**30:.1f} GiB"
        rows.append([record["model"], million, size, str(record["rows"]), *cells, peak])
    proved = sum("problem" not in c for r in records for c in r["cells"].values())
    headings = ["model", "parameters", "input", "rows", *FORMATS.values(), "peak memory"]
    count = len(FORMATS) * len(records)
    lines = [
        "# keras.applications, exported and proved",
        "",
        "Written by `benchmarks/applications.py`; the method is in [README.md](README.md). Of each",
        "format: the largest difference from the Keras model as a share of the output's scale, and",
        "the size. Peak memory: of the largest process of `edgekit export`.",
        "",
        *_results.table(headings, rows),
        "",
        f"{proved} of {count} files proved, {len(records)} models.",
        *([""] if problems else []),
        *(f"{number}. {text}" for number, text in enumerate(problems, 1)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

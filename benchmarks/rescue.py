"""Does the search bring a model back that plain int8 ruins, and at what size?"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from _common import EDGEKIT, HERE, PYTHON, print_conditions, print_table, run, runs_option

BUDGET = "1%"
SMALLER = 0.5


def main() -> None:
    runs = runs_option(__doc__, 1)
    tables = [measured() for _ in range(runs)]
    if any(table != tables[0] for table in tables):
        raise SystemExit("the same search gave another answer")
    headings = ["format", "plain int8: noise", "found", "noise, test rows", "of fp32", "met"]
    print_table(f"A regression that int8 ruins, within {BUDGET}", headings, tables[0])
    print_conditions(runs, "tensorflow", "keras", "onnxruntime", "ai-edge-litert")


def measured() -> list[list[str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(PYTHON, HERE / "_ruined.py", folder)
        source = [folder / "model.keras", "--samples", folder / "rows.npz", "-o", folder / "ws"]
        both = ["--to", "tflite", "--to", "onnx"]
        searches = searched([EDGEKIT, "quantize", *source, *both, "--max-drop", BUDGET, "--json"])
        run(EDGEKIT, "export", folder / "ws", *both)
        manifest = json.loads((folder / "ws" / "manifest.json").read_text())
    sizes = {a["id"]: a["size_bytes"] for a in manifest["artifacts"]}
    rows = []
    for search in searches:
        plain, form = search["candidates"][0], search["format"]
        if search["chosen"] is None:
            rows.append([form, f"{plain['lost']:.1%}", "nothing", "", "", "**no**"])
            continue
        chosen = search["candidates"][search["chosen"]]
        ratio = chosen["size_bytes"] / sizes[f"fp32.{form}"]
        holds = search["final"] <= float(BUDGET.rstrip("%")) / 100 and ratio <= SMALLER
        cells = [form, f"{plain['lost']:.1%}", chosen["label"], f"{search['final']:.2%}"]
        rows.append([*cells, f"{ratio:.2f}", "yes" if holds else "**no**"])
    return rows


def searched(command: list[object]) -> list[dict]:
    """What a search saw, whether it found something (exit 0) or not (3)."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr[-3000:])
    answer = json.loads(done.stdout)
    searches: list[dict] = answer.get("result", answer)["searches"]
    return searches


if __name__ == "__main__":
    main()

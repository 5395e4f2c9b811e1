"""Does edgekit call a file slower than itself, and does it find it when calls take a tenth longer?

In each run a file is timed three times, and once with calls that really take a tenth longer
(`_slower.py`), all in turns: three comparisons of the file with itself, three with the slower one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _results
from _alternatives import ALTERNATIVES, Statistic, ranks
from _common import EDGEKIT, HERE, PYTHON, make_models, print_conditions, print_table, run

from edgekit import comparison, latency
from edgekit.agent.protocol import decode, encode
from edgekit.comparison import judge
from edgekit.targets import LOCAL
from edgekit.targets.agent_process import ask_agent, read_answer
from edgekit.types import Job, JobResult, LatencyRecord
from edgekit.verbs.first_row import first_row
from edgekit.verbs.locate import locate

ROUNDS, SECONDS, SHARE = 7, 0.1, 0.1
SAME, SLOWER = ("first", "second", "third"), "slower"
MODELS = {
    "mlp": ("MLP 784-300-100-10", "int8"),
    "fashion_mnist_cnn": ("small separable CNN", "fp32"),
}
FILES = "mlp.tflite,fashion_mnist_cnn.onnx"
GAPS = (1, 10, 30)
"""How many runs lie between two records that are compared, though not measured in turns."""
MOST_DIFFERENT, LEAST_FOUND = 0.05, 0.95
BURST_S = 0.4
"""A neighbour works, and sleeps, for a random time up to this."""


@dataclass(frozen=True)
class Run:
    """One interleaved measurement."""

    records: dict[str, LatencyRecord]
    """Of SAME and SLOWER."""
    seconds: float
    """All of it took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=67, help="of each file, default 67")
    parser.add_argument("--busy-runs", type=int, default=0, help="beside neighbours, default none")
    parser.add_argument("--files", default=FILES, help=f"MODEL.FORMAT,…; default {FILES}")
    parser.add_argument("--work", type=Path, help="a folder to keep models and records in")
    arguments = parser.parse_args()
    quiet: dict[str, list[Run]] = {}
    busy: dict[str, list[Run]] = {}
    with _results.work_folder(arguments.work) as folder:
        for name, form in (file.split(".") for file in arguments.files.split(",")):
            title, precision = MODELS[name]
            file = exported(folder, name, precision) / f"{precision}.{form}"
            label = f"{title}, {precision} {form}"
            quiet[label] = measured(file, folder / f"{name}.{form}.jsonl", arguments.runs)
            if arguments.busy_runs:
                kept = folder / f"{name}.{form}.busy.jsonl"
                with neighbours():
                    busy[f"{label}, beside neighbours"] = measured(file, kept, arguments.busy_runs)
    print_table("Is one file slower than another?", *verdict_table({**quiet, **busy}))
    print_table("Records that were not measured in turns", *apart_table(quiet))
    print_table("Why processes, and why ranks", *statistics_table({**quiet, **busy}))
    print_conditions(ROUNDS, "ai-edge-litert", "onnxruntime")


def exported(folder: Path, name: str, precision: str) -> Path:
    """The workspace of a model, made unless it is there."""
    workspace = folder / name
    if not workspace.exists():
        make_models(folder, name)
        options = ("--samples", folder / f"{name}.npz", "--precision", precision)
        formats = ("--to", "tflite", "--to", "onnx")
        run(EDGEKIT, "export", folder / f"{name}.keras", *options, *formats, "-o", workspace)
    return workspace


def measured(file: Path, kept: Path, runs: int) -> list[Run]:
    """So many runs of a file, those that are in `kept` from an earlier time included."""
    found = [decode(Run, line) for line in _results.read(kept)]
    with contextlib.ExitStack() as stack:
        [item] = locate(file)
        inputs = first_row(item.signature, item.workspace, stack)
        form = file.suffix[1:]
        job = Job("time", form, str(file), item.signature, inputs, out="", seconds=SECONDS)
        agent = [PYTHON, "-P", "-m", "edgekit.agent"]
        slower = [PYTHON, str(HERE / "_slower.py"), str(SHARE)]
        subjects = [*(subject(name, agent, job) for name in SAME), subject(SLOWER, slower, job)]
        while len(found) < runs:
            found.append(measure(subjects))
            _results.append(kept, encode(found[-1]))
    return found[:runs]


def subject(name: str, command: Sequence[str], job: Job) -> latency.Subject:
    def execute() -> JobResult:
        return read_answer(job, ask_agent(command, job, timeout=60))

    return latency.Subject(name, "", 1, execute)


def measure(subjects: Sequence[latency.Subject]) -> Run:
    start = time.perf_counter()
    records: dict[str, LatencyRecord] = {}
    for record in latency.measure(
        subjects, target=LOCAL, threads=1, rounds=ROUNDS, progress=lambda text: None
    ):
        if not isinstance(record, LatencyRecord):
            raise record
        records[record.artifact] = record
    return Run(records, round(time.perf_counter() - start, 2))


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """Processes, as many as there are cores, that work in bursts."""
    command = [PYTHON, __file__, "--neighbour"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def be_a_neighbour() -> None:
    memory = bytearray(1_000_000)
    while True:
        end = time.perf_counter() + random.uniform(0, BURST_S)
        while time.perf_counter() < end:
            bytes(memory)
        time.sleep(random.uniform(0, BURST_S))


def verdict_table(results: dict[str, list[Run]]) -> tuple[list[str], list[list[str]]]:
    headings = ["file", "p50", "with itself", "a tenth slower", "its ratio", "seconds", "met"]
    return headings, [row(label, runs) for label, runs in results.items() if runs]


def row(label: str, runs: list[Run]) -> list[str]:
    itself, slower = against_itself(ranks, runs), against_slower(ranks, runs)
    different = share(itself, "slower", "faster")
    found = share(slower, "slower")
    p50 = statistics.median(latency.summarize(r.records[SAME[0]]).p50_ns for r in runs)
    ratio = statistics.median(ranks(r.records[n], r.records[SLOWER])[0] for r in runs for n in SAME)
    # Half of a run, which has four: what it takes to hold one file against another.
    seconds = statistics.median(r.seconds for r in runs) / 2
    met = different <= MOST_DIFFERENT and found >= LEAST_FOUND
    return [
        label,
        f"{p50 / 1e3:.1f} µs",
        f"{counts(itself)}",
        f"{counts(slower)}",
        f"{ratio:.3f}",
        f"{seconds:.1f}",
        "yes" if met else "**no**",
    ]


def against_itself(
    statistic: Statistic, runs: list[Run], margin: float = comparison.MARGIN
) -> list[str]:
    pairs = itertools.product(runs, itertools.combinations(SAME, 2))
    return [judge(*statistic(r.records[a], r.records[b]), margin) for r, (a, b) in pairs]


def against_slower(statistic: Statistic, runs: list[Run]) -> list[str]:
    return [judge(*statistic(r.records[n], r.records[SLOWER])) for r in runs for n in SAME]


def share(found: list[str], *wanted: str) -> float:
    return sum(v in wanted for v in found) / len(found)


def counts(found: list[str]) -> str:
    """How often each verdict: "195 same, 6 unclear"."""
    kinds = sorted(set(found), key=found.count, reverse=True)
    return ", ".join(f"{found.count(kind)} {kind}" for kind in kinds)


def apart_table(results: dict[str, list[Run]]) -> tuple[list[str], list[list[str]]]:
    """Each run against a later one, as a gate compares with a baseline of another time."""
    rows = []
    for label, runs in results.items():
        for gap in (g for g in GAPS if g < len(runs)):
            pairs = [
                (a.records[n], b.records, n)
                for a, b in zip(runs, runs[gap:], strict=False)
                for n in SAME
            ]
            itself = [judge(*ranks(a, b[n])) for a, b, n in pairs]
            slower = [judge(*ranks(a, b[SLOWER])) for a, b, _ in pairs]
            minutes = statistics.median(r.seconds for r in runs) * gap / 60
            rows.append([label, f"{minutes:.1f} min", counts(itself), counts(slower)])
    return ["file", "apart", "with itself", "a tenth slower"], rows


def statistics_table(results: dict[str, list[Run]]) -> tuple[list[str], list[list[str]]]:
    """All statistics on the same records of all files."""
    runs = [r for of_file in results.values() for r in of_file]
    rows = []
    for name, statistic in ALTERNATIVES.items():
        # Without a margin, which would hide how often an interval is wrong.
        wrong = share(against_itself(statistic, runs, margin=0.0), "slower", "faster")
        itself = against_itself(statistic, runs)
        slower = against_slower(statistic, runs)
        cells = (wrong, share(itself, "slower", "faster"), share(slower, "slower"))
        rows.append([name, *(f"{cell:.1%}" for cell in cells)])
    with_itself = "of a file with itself: interval without 1"
    return ["statistic", with_itself, "called different", "a tenth slower: found"], rows


if __name__ == "__main__":
    be_a_neighbour() if sys.argv[1:] == ["--neighbour"] else main()

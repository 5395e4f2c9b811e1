"""Cycles that LLVM's model of a processor gives for counted instructions. No measurement.

llvm-mca knows how many cycles a run of instructions takes on a core: its pipelines, latencies and
dependencies. Each block of instructions is modelled as if it was repeated; the sum over blocks
leaves out what caches, branch prediction and the memory cost, and that blocks overlap. Nobody held
these figures against a board: they are labelled "modelled, uncalibrated" wherever they appear.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import MissingDependency, TargetError
from edgekit.targets.qemu_profiles import Profile
from edgekit.types import ModelledCycles

LLVM = "19"
"""The version in which the Cortex-A76 has a model of its own, as the Neoverse N1 that shares it."""
INSTALL = f"apt install llvm-{LLVM}"
MOST_BLOCKS = 1000
"""The hottest ones: nearly all instructions; `coverage` says how many."""
ITERATIONS = 100
_TRIPLE = "aarch64"
_FEATURES = "+v8.4a,+dotprod,+fullfp16"
_LEAVES = re.compile(r"b|b\..*|bl|blr|br|ret|cbn?z|tbn?z|adrp?|svc|brk|hlt|hint", re.ASCII)
"""What jumps, or names a place relative to itself, which has no meaning in a text of its own."""

Words = tuple[str, ...]


def require_llvm() -> None:
    """See that LLVM's programs are there.

    Raises:
        MissingDependency: they are not.
    """
    _program("llvm-mc")
    _program("llvm-mca")


def read_blocks(path: Path) -> list[Counter[Words]]:
    """How often each block ran in each marked stretch (`count.c`), by its words in hexadecimal."""
    found: list[Counter[Words]] = []
    runs: Counter[Words] = Counter()
    for line in path.read_text().splitlines():
        if not line:
            found.append(runs)
            runs = Counter()
            continue
        count, *words = line.split()
        runs[tuple(words)] += int(count)
    return found


def model(marking: Counter[Words], invocation: Counter[Words], profile: Profile) -> ModelledCycles:
    """Cycles of one invocation, without those of marking it.

    Raises:
        MissingDependency: LLVM is not installed.
        TargetError: LLVM fails.
    """
    assert profile.core is not None
    runs = Counter(invocation)
    runs.subtract(marking)
    weights = {words: abs(count) * len(words) for words, count in runs.items() if count}
    hottest = sorted(weights, key=lambda words: (-weights[words], words))[:MOST_BLOCKS]
    texts = _disassembled({word for words in hottest for word in words})
    cycles = _modelled(
        [[texts.get(word, "nop") for word in words] for words in hottest], profile.core
    )
    covered = sum(runs[words] * len(words) for words in hottest)
    instructions = sum(count * len(words) for words, count in runs.items())
    share = covered / instructions
    total = sum(runs[words] * each for words, each in zip(hottest, cycles, strict=True))
    return ModelledCycles(
        cycles=round(total / share),
        clock_hz=profile.clock_hz,
        core=profile.core,
        tool=f"llvm-mca {_version()}",
        coverage=round(share, 4),
    )


def _disassembled(words: set[str]) -> dict[str, str]:
    """Instructions as text, by their word; none where one has no meaning or leaves its block."""
    listed = sorted(words)
    data = "\n".join(" ".join(f"0x{b:02x}" for b in _bytes(word)) for word in listed)
    command = [_program("llvm-mc"), "--disassemble", f"--triple={_TRIPLE}", f"--mattr={_FEATURES}"]
    said = _run([*command, "--show-encoding"], data)
    texts = {}
    for line in said.splitlines():
        text, found, encoding = line.partition("// encoding: ")
        if found and not _LEAVES.fullmatch(text.split()[0]):
            given = bytes(int(b, 16) for b in encoding.strip("[]").split(","))
            texts[given[::-1].hex()] = text.strip()
    return texts


def _modelled(blocks: Sequence[Sequence[str]], core: str) -> list[float]:
    """Cycles of each block, repeated."""
    text = "\n".join(_region(i, block) for i, block in enumerate(blocks)) + "\n"
    options = [f"--mtriple={_TRIPLE}", f"--mcpu={core}", f"--mattr={_FEATURES}"]
    views = [
        "--json",
        "--skip-unsupported-instructions=lack-sched",
        "--resource-pressure=false",
        "--instruction-info=false",
    ]
    command = [_program("llvm-mca"), *options, *views, f"--iterations={ITERATIONS}"]
    found = {
        region["Name"]: region["SummaryView"]["TotalCycles"] / region["SummaryView"]["Iterations"]
        for region in json.loads(_run(command, text))["CodeRegions"]
    }
    # A block of nothing but instructions that the model lacks is left out.
    return [found.get(f"b{i}", float(len(block))) for i, block in enumerate(blocks)]


def _region(number: int, block: Sequence[str]) -> str:
    return "\n".join((f"# LLVM-MCA-BEGIN b{number}", *block, f"# LLVM-MCA-END b{number}"))


def _bytes(word: str) -> bytes:
    return bytes.fromhex(word)[::-1]


def _version() -> str:
    found = re.search(r"version (\S+)", _run([_program("llvm-mca"), "--version"], ""))
    return found[1] if found else LLVM


def _program(name: str) -> str:
    found = shutil.which(f"{name}-{LLVM}")
    if found is None:
        raise MissingDependency(
            f"modelling cycles needs {name}-{LLVM}, which is not on PATH", hint=INSTALL
        )
    return found


def _run(command: Sequence[str], data: str) -> str:
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise TargetError(f"{Path(command[0]).name} failed: {(errors or ['no reason given'])[0]}")
    return done.stdout

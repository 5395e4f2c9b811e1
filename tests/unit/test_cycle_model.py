"""Cycles of a Raspberry Pi's core, by LLVM's model, for blocks whose cycles are known."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from edgekit.targets import cycle_model
from edgekit.targets.cycle_model import INSTALL, LLVM, model, read_blocks
from edgekit.targets.qemu_profiles import PROFILES
from tests.conftest import skip_without

ADD = "91000400"  # add x0, x0, #1: a chain of one cycle each
FMLA = "4e22cc20"  # fmla v0.4s, v1.4s, v2.4s: a chain through v0
SDOT = "4e829420"  # sdot v0.4s, v1.16b, v2.16b
RET, NONSENSE, SYSTEM = "d65f03c0", "00000000", "d53bd041"


@pytest.fixture(scope="module", autouse=True)
def _llvm():
    programs = [f"{name}-{LLVM}" for name in ("llvm-mc", "llvm-mca")]
    skip_without(all(map(shutil.which, programs)), " and ".join(programs), INSTALL)


def cycles(invocation, marking=(), profile="pi4"):
    return model(Counter(dict(marking)), Counter(dict(invocation)), PROFILES[profile]).cycles


def test_a_chain_of_additions_takes_a_cycle_each():
    assert cycles({(ADD,) * 10: 1000}) == pytest.approx(10_000, rel=0.02)


def test_what_marking_takes_is_taken_off():
    rest = {(ADD,) * 10: 1000}
    marked = {**rest, (FMLA,) * 4: 50}
    assert cycles(marked, {(FMLA,) * 4: 50}) == cycles(rest)


def test_the_newer_core_is_faster_at_the_same_instructions():
    blocks = {(FMLA, ADD, "ad400c41", RET): 1000}  # ldp q1, q3, [x2]
    assert cycles(blocks, profile="pi5") < cycles(blocks, profile="pi4")


def test_what_has_no_model_stops_nothing():
    block = (ADD,) * 10
    plain = cycles({block: 1000})
    for word in (RET, NONSENSE, SYSTEM):
        assert plain <= cycles({(*block, word): 1000}) <= 1.5 * plain
        alone = cycles({block: 1000, (word,): 1000})
        assert plain < alone <= plain + 2000


def test_only_the_hottest_are_modelled_and_stand_for_all(monkeypatch):
    monkeypatch.setattr(cycle_model, "MOST_BLOCKS", 1)
    blocks = Counter({(ADD,) * 10: 900, (ADD,) * 5: 200})
    found = model(Counter(), blocks, PROFILES["pi4"])
    assert found.coverage == 0.9
    assert found.cycles == pytest.approx(10_000, rel=0.02)
    assert (found.clock_hz, found.core) == (1_800_000_000, "cortex-a72")


def test_blocks_that_were_translated_twice_are_one(tmp_path):
    path = tmp_path / "blocks"
    path.write_text(f"3 {ADD} {RET}\n4 {ADD} {RET}\n1 {ADD}\n\n2 {ADD}\n\n")
    assert read_blocks(path) == [{(ADD, RET): 7, (ADD,): 1}, {(ADD,): 2}]

"""What a budget allows, and what it is held to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit import parity
from edgekit.budget import AGREEMENT, NOISE, measure_of, parse_budget
from edgekit.errors import ConversionError
from edgekit.evidence import Evidence
from edgekit.proof import Proof
from edgekit.recipe import load_recipe
from edgekit.types import (
    AccuracyRecord,
    Machine,
    ParityRecord,
    Runtime,
    Tolerance,
)

LOGITS = np.random.default_rng(0).normal(size=(200, 4))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def held(outputs: np.ndarray, targets: np.ndarray | None = None, recipe=None) -> Evidence:
    return Evidence(
        inputs={},
        reference={"y": outputs},
        original={"y": outputs},
        targets={} if targets is None else {"y": targets},
        rows=len(outputs),
        origin="samples",
        recipe=recipe,
    )


def proof(evidence: Evidence, outputs: np.ndarray, **metrics: float) -> Proof:
    figures = parity.compare(evidence.reference, {"y": outputs})
    record = ParityRecord(
        artifact="int8.tflite",
        sha256="",
        rows=evidence.rows,
        data="samples",
        outputs=tuple(figures),
        tolerance=Tolerance(),
        failures=(),
        runtime=Runtime("litert", "0", "cpu"),
        machine=Machine("", "", 1, 0, ""),
    )
    accuracy = AccuracyRecord("int8.tflite", "", "test", evidence.rows, metrics)
    return Proof(record, accuracy if metrics else None)


@pytest.mark.parametrize(
    ("text", "allowed", "is_relative"),
    [("1%", 0.01, True), ("0.5pt", 0.005, False), (" .5 % ", 0.005, True), ("0%", 0.0, True)],
)
def test_a_budget_is_percent_or_points(text, allowed, is_relative):
    found = parse_budget(text)
    assert (found.allowed, found.is_relative) == (pytest.approx(allowed), is_relative)


@pytest.mark.parametrize("text", ["1", "", "-1%", "1 percent", "nan%", "1e3%", "%"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ConversionError, match="no budget") as error:
        parse_budget(text)
    assert "0.5pt" in error.value.hint


def test_labels_decide_where_there_are_any():
    labels = np.where(np.arange(200) < 150, LOGITS.argmax(axis=1), (LOGITS.argmax(axis=1) + 1) % 4)
    evidence = held(LOGITS, labels)
    measure = measure_of(evidence, parse_budget("1%"))
    assert (measure.name, measure.baseline) == ("accuracy", 0.75)
    worse = proof(evidence, LOGITS, accuracy=0.72)
    assert measure.lost(measure.figure(worse), parse_budget("1%")) == pytest.approx(0.04)
    assert measure.lost(measure.figure(worse), parse_budget("1pt")) == pytest.approx(0.03)


def test_without_labels_a_classifier_is_held_to_its_decisions():
    evidence = held(PROBABILITIES)
    measure = measure_of(evidence, parse_budget("1%"))
    flipped = PROBABILITIES.copy()
    flipped[:10] = np.roll(flipped[:10], 1, axis=1)
    assert (measure.name, measure.baseline) == (AGREEMENT, 1.0)
    assert measure.lost(measure.figure(proof(evidence, flipped)), parse_budget("1%")) == (
        pytest.approx(0.05)
    )


def test_without_labels_or_classes_the_noise_counts():
    evidence = held(LOGITS[:, :1] * 7)
    measure = measure_of(evidence, parse_budget("1%"))
    noisy = evidence.reference["y"] + 0.02 * evidence.reference["y"].std() * np.sign(LOGITS[:, 1:2])
    assert measure.name == NOISE
    assert measure.lost(measure.figure(proof(evidence, noisy)), parse_budget("1%")) == (
        pytest.approx(0.02, rel=1e-6)
    )


def test_a_figure_that_falls_is_lost_in_the_other_direction():
    recipe = load_recipe("imdb_gru_lm")
    words = np.random.default_rng(1).normal(size=(50, 2000))
    evidence = replace(
        held(words, recipe=recipe),
        original={"next_word": words},
        targets={"next_word": np.arange(50)},
    )
    measure = measure_of(evidence, parse_budget("1%"))
    worse = proof(held(words), words, perplexity=measure.baseline * 1.03)
    assert measure.name == "perplexity"
    assert measure.lost(measure.figure(worse), parse_budget("1%")) == pytest.approx(0.03)
    with pytest.raises(ConversionError, match="needs a share, and perplexity"):
        measure_of(evidence, parse_budget("0.5pt"))

"""What a budget allows, and what it is held to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit.budget import AGREEMENT, NOISE, WORST, Measure, measure_of, parse_budget
from edgekit.errors import ConversionError
from edgekit.evidence import Evidence
from edgekit.proof import Cost, cost_of
from edgekit.recipe import load_recipe

LOGITS = np.random.default_rng(0).normal(size=(200, 4))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)


def held(outputs, targets=None, recipe=None) -> Evidence:
    """Rows of one output, or of several by name."""
    outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
    targets = targets if isinstance(targets, dict) else {"y": targets}
    return Evidence(
        inputs={},
        reference=outputs,
        original=outputs,
        judge=outputs,
        targets={name: value for name, value in targets.items() if value is not None},
        rows=len(next(iter(outputs.values()))),
        origin="samples",
        recipe=recipe,
    )


def cost(evidence: Evidence, outputs, **metrics: float) -> Cost:
    """What a file with such outputs loses; `metrics` take the place of its own."""
    found = cost_of(outputs if isinstance(outputs, dict) else {"y": outputs}, evidence)
    return replace(found, metrics=metrics, flipped={}) if metrics else found


def lost(evidence: Evidence, outputs, text: str) -> tuple[Measure, float, float, bool]:
    """The measure, what is lost by it, of that by chance, and whether the budget holds."""
    budget, found = parse_budget(text), cost(evidence, outputs)
    measure = measure_of(evidence, budget)
    loss = measure.lost(measure.figure(found), budget)
    chance = measure.chance(found, budget)
    return measure.worst(found, budget), loss, chance, loss <= budget.allowed + chance


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
    worse = cost(evidence, LOGITS, accuracy=0.72)
    assert measure.lost(measure.figure(worse), parse_budget("1%")) == pytest.approx(0.04)
    assert measure.lost(measure.figure(worse), parse_budget("1pt")) == pytest.approx(0.03)


def test_without_labels_a_classifier_is_held_to_its_decisions():
    evidence = held(PROBABILITIES)
    measure = measure_of(evidence, parse_budget("1%"))
    flipped = PROBABILITIES.copy()
    flipped[:10] = np.roll(flipped[:10], 1, axis=1)
    assert (measure.name, measure.baseline) == (AGREEMENT, 1.0)
    assert measure.lost(measure.figure(cost(evidence, flipped)), parse_budget("1%")) == (
        pytest.approx(0.05)
    )


def test_without_labels_or_classes_the_noise_counts():
    evidence = held(LOGITS[:, :1] * 7)
    measure = measure_of(evidence, parse_budget("1%"))
    noisy = evidence.reference["y"] + 0.02 * evidence.reference["y"].std() * np.sign(LOGITS[:, 1:2])
    assert measure.name == NOISE
    assert measure.lost(measure.figure(cost(evidence, noisy)), parse_budget("1%")) == (
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
    worse = cost(evidence, {"next_word": words}, perplexity=measure.baseline * 1.03)
    assert measure.name == "perplexity"
    assert measure.lost(measure.figure(worse), parse_budget("1%")) == pytest.approx(0.03)
    with pytest.raises(ConversionError, match="needs a share, and perplexity"):
        measure_of(evidence, parse_budget("0.5pt"))


def test_rows_that_carry_the_variance_do_not_hide_the_others():
    """An `exp` head in 256 steps: 5 % noise over all rows, and nothing left of most."""
    values = np.exp(np.random.default_rng(3).normal(9, 2.5, (600, 1)))
    step = values.max() / 255
    evidence = held(values)
    outputs = np.round(values / step) * step
    assert cost(evidence, outputs).outputs[0].sqnr_db > 20
    measure, loss, _, holds = lost(evidence, outputs, "10%")
    assert measure.name == NOISE
    assert loss > 0.4
    assert not holds


def wrong_in(outputs: np.ndarray, rows: int) -> np.ndarray:
    changed = outputs.copy()
    changed[:rows] = np.roll(changed[:rows], 1, axis=1)
    return changed


@pytest.mark.parametrize("scores", [LOGITS, PROBABILITIES])
@pytest.mark.parametrize(
    ("text", "flips", "chance", "holds"),
    [
        ("1%", 2, 0.01, True),  # of 200 rows: 1 % lost
        ("1%", 3, 0.01, True),
        ("1%", 4, 0.01, True),
        ("1%", 5, 0.01, False),  # 2.5 %: more than twice the budget
        ("10pt", 10, 2 * 10**0.5 / 200, True),
        ("10pt", 40, 2 * 40**0.5 / 200, False),
        ("0%", 1, 0.0, False),
    ],
)
def test_chance_excuses_as_much_as_the_budget_at_most(scores, text, flips, chance, holds):
    """Whether the labelled scores are logits or probabilities; and without labels."""
    evidence = held(scores, LOGITS.argmax(axis=1))
    measure, loss, by_chance, is_held = lost(evidence, wrong_in(scores, flips), text)
    assert measure.name == "accuracy"
    assert loss == pytest.approx(flips / 200)
    assert by_chance == pytest.approx(chance)
    assert is_held == holds
    if scores is PROBABILITIES:
        assert lost(held(scores), wrong_in(scores, flips), text)[2:] == (by_chance, holds)


def test_a_retrained_model_is_held_to_the_original():
    """The file is what the model trained on is, and decides otherwise than the original."""
    labels = LOGITS.argmax(axis=1)
    trained_on = wrong_in(LOGITS, 8)
    evidence = replace(held(LOGITS, labels), reference={"y": trained_on})
    _, loss, chance, holds = lost(evidence, trained_on, "1%")
    assert loss == pytest.approx(0.04)
    assert chance == 0.01
    assert not holds


HEADS = {"kind": PROBABILITIES, "value": LOGITS[:, :1] * 7}
CLASSES = LOGITS.argmax(axis=1)


@pytest.mark.parametrize(
    "targets",
    [{}, {"kind": CLASSES}, {"kind": CLASSES, "value": LOGITS[:, 0]}],
    ids=["no labels", "classes", "labels of a regression, too"],
)
def test_every_output_is_held_and_the_worst_one_is_named(targets):
    evidence = held(HEADS, targets)
    noise = 0.14 * HEADS["value"].std() * np.sign(LOGITS[:, 1:2])
    noisy = {**HEADS, "value": HEADS["value"] + noise}
    assert measure_of(evidence, parse_budget("1%")).name == WORST
    measure, loss, chance, holds = lost(evidence, noisy, "1%")
    assert (measure.name, chance, holds) == ("noise of 'value'", 0, False)
    assert loss == pytest.approx(0.14, rel=0.02)

    measure, loss, chance, holds = lost(
        evidence, {**HEADS, "kind": wrong_in(PROBABILITIES, 3)}, "1%"
    )
    name = {0: f"{AGREEMENT} of 'kind'", 1: "accuracy", 2: "accuracy_kind"}[len(targets)]
    assert (measure.name, chance, holds) == (name, 0.01, True)
    assert loss == pytest.approx(0.015)


def test_chance_in_one_output_excuses_no_other():
    evidence = held(HEADS, {"kind": CLASSES})
    noise = 0.012 * HEADS["value"].std() * np.sign(LOGITS[:, 1:2])
    outputs = {"kind": wrong_in(PROBABILITIES, 3), "value": HEADS["value"] + noise}
    measure, loss, _, holds = lost(evidence, outputs, "1%")
    assert (measure.name, holds) == ("accuracy", False)
    assert loss == pytest.approx(0.015)


def test_each_accuracy_of_several_counts():
    heads = {"a": PROBABILITIES, "b": PROBABILITIES}
    evidence = held(heads, {"a": CLASSES, "b": np.where(np.arange(200) < 20, 0, CLASSES)})
    measure, loss, _, holds = lost(evidence, {**heads, "b": wrong_in(PROBABILITIES, 60)}, "5pt")
    assert (measure.name, holds) == ("accuracy_b", False)
    assert loss > 0.1

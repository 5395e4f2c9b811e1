"""One file against the Keras model: what decides, whatever the file claims to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit import formats
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.evidence import Evidence
from edgekit.proof import Proof, prove
from edgekit.targets import Target, open_target
from edgekit.types import Feed, Job

FILES = Path(__file__).parents[1] / "data"
ROWS = 100


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    place = open_target("local")
    yield place
    place.close()


@pytest.fixture(scope="module")
def evidence(target, tmp_path_factory) -> Evidence:
    """A float file's own outputs for rows of noise, with labels that it gets right."""
    folder = tmp_path_factory.mktemp("rows")
    images = np.random.default_rng(0).random((ROWS, 8, 8, 1), np.float32)
    inputs = save_arrays({"image": images}, folder / "in")
    path = FILES / "fp32.tflite"
    job = Job(
        "run",
        "tflite",
        str(path),
        formats.describe(path).signature,
        inputs,
        out=str(folder / "out"),
    )
    outputs = {k: v[:].copy() for k, v in load_arrays(target.execute(job).outputs).items()}
    labels = {"probs": outputs["probs"].argmax(axis=1)}
    return Evidence(inputs, outputs, outputs, outputs, labels, ROWS, "samples", None)


@pytest.fixture
def proved(target) -> Callable[..., Proof]:
    def run(evidence: Evidence, file: str, precision: str, *, keep_float: bool = False) -> Proof:
        path = FILES / f"{file}.tflite"
        return prove(
            path,
            id=f"{precision}.tflite",
            precision=precision,
            sha256="",
            signature=formats.describe(path).signature,
            evidence=evidence,
            target=target,
            keep_float=keep_float,
        )

    return run


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic", "int8", "int16x8"])
def test_a_file_of_each_precision_holds(proved, evidence, precision):
    found = proved(evidence, precision, precision)
    assert found.parity.failures == ()
    assert found.accuracy.metrics["accuracy"] > 0.95


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_layers_in_float_leave_some_weights_of_8_bits(proved, evidence, precision):
    found = proved(evidence, "fp32", precision, keep_float=True)
    assert found.parity.failures == (f"it is not {precision}: no weight is stored as int8",)
    assert proved(evidence, "dynamic", precision, keep_float=True).parity.failures == ()
    [failure] = proved(evidence, "dynamic", precision).parity.failures
    assert "compute in float" in failure


def turned(outputs: Feed, rows: int) -> Feed:
    """Outputs with other decisions on the first rows."""
    changed = outputs["probs"].copy()
    changed[:rows] = np.roll(changed[:rows], 1, axis=1)
    return {"probs": changed}


def test_a_file_of_a_retrained_model_is_held_to_the_original(proved, evidence):
    """It is what the model trained on is, and that has lost what labels and original agree on."""
    labels = {"probs": turned(evidence.original, 20)["probs"].argmax(axis=1)}
    original = turned(evidence.original, 20)
    worse = replace(evidence, original=original, judge=original, targets=labels)
    [failure] = proved(worse, "int8", "int8").parity.failures
    assert re.match(r"accuracy is 0\.[78]", failure)
    assert "the Keras model has 1.0000" in failure


def test_a_file_of_a_pruned_model_is_held_to_that_and_measured_against_the_original(
    proved, evidence
):
    """What pruning lost, its file need not make up for."""
    labels = {"probs": turned(evidence.original, 20)["probs"].argmax(axis=1)}
    pruned = replace(evidence, original=turned(evidence.original, 20), targets=labels)
    found = proved(pruned, "int8", "int8")
    assert found.parity.failures == ()
    assert found.accuracy.metrics["accuracy"] < 0.9
    assert found.cost.outputs[0].top1_agreement == pytest.approx(0.8, abs=0.03)
    assert found.parity.outputs[0].top1_agreement > 0.95


def test_a_retrained_model_may_be_better_than_the_original(proved, evidence):
    original = turned(evidence.original, 20)
    better = replace(evidence, original=original, judge=original)
    found = proved(better, "int8", "int8")
    assert found.parity.failures == ()
    assert found.cost.flipped["accuracy"] == pytest.approx(0.2, abs=0.03)


def test_what_differs_from_the_model_trained_on_is_said_so(proved, evidence):
    reference = turned(evidence.reference, 50)
    failures = proved(replace(evidence, reference=reference), "int8", "int8").parity.failures
    assert any("has the top class of the model trained on in" in f for f in failures)
    both = replace(evidence, reference=reference, original=reference)
    failures = proved(both, "int8", "int8").parity.failures
    assert any("has the top class of the Keras model in" in f for f in failures)

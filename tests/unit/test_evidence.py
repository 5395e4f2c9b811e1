"""Which rows calibrate, decide and judge, and what is said where they are poor ones."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit import evidence
from edgekit.errors import SourceError, WorkspaceError
from edgekit.hashing import sha256
from edgekit.manifest import SourceInfo, reference_name
from edgekit.samples import Samples, write_npz, write_samples
from edgekit.splits import plan_splits
from edgekit.types import Code, Signature, Step, TensorSpec
from edgekit.workspace import Workspace

THIRDS = {"calibration": "third", "validation": "third", "verification": "third"}
ALL = {"calibration": "samples", "validation": "nothing", "verification": "samples"}
UNSPLIT = {"calibration": "samples", "verification": "samples"}
SPLIT = {**UNSPLIT, "validation": "samples"}
OF_RECIPE = {"calibration": "recipe", "verification": "recipe"}
RANDOM = {"verification": "synthetic"}

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "x:0", (None, 2), "float32"),),
    outputs=(TensorSpec("y", "y:0", (None, 1), "float32"),),
)


@pytest.mark.parametrize("there", [{}, RANDOM, UNSPLIT, SPLIT])
@pytest.mark.parametrize(("hold_back", "plan"), [(False, ALL), (True, THIRDS)])
def test_new_samples_take_the_place_of_every_split(there, hold_back, plan):
    assert plan_splits(there, recipe=False, samples=True, hold_back=hold_back) == plan


@pytest.mark.parametrize(
    ("there", "hold_back", "plan"),
    [
        ({}, False, RANDOM),
        (RANDOM, False, {}),
        (UNSPLIT, False, {}),
        (UNSPLIT, True, THIRDS),
        (SPLIT, True, {}),
        (SPLIT, False, {}),  # what was held back stays held back
    ],
)
def test_without_new_samples_the_old_ones_are_split_once(there, hold_back, plan):
    assert plan_splits(there, recipe=False, samples=False, hold_back=hold_back) == plan


@pytest.mark.parametrize("there", [{}, RANDOM])
def test_random_rows_cannot_be_held_back(there):
    with pytest.raises(SourceError, match="no rows that could be held back"):
        plan_splits(there, recipe=False, samples=False, hold_back=True)


@pytest.mark.parametrize(
    ("there", "samples", "hold_back", "plan"),
    [
        ({}, False, False, OF_RECIPE),
        (OF_RECIPE, False, False, {}),
        (OF_RECIPE, False, True, {"validation": "recipe"}),
        ({**OF_RECIPE, "validation": "recipe"}, False, True, {}),
        (OF_RECIPE, True, False, {"calibration": "samples"}),
        (OF_RECIPE, True, True, {"calibration": "samples", "validation": "recipe"}),
        ({**OF_RECIPE, "calibration": "samples"}, False, False, {"calibration": "recipe"}),
    ],
)
def test_with_a_recipe_samples_calibrate_and_only_in_their_own_command(
    there, samples, hold_back, plan
):
    assert plan_splits(there, recipe=True, samples=samples, hold_back=hold_back) == plan


@pytest.fixture
def workspace(tmp_path):
    model = tmp_path / "m.keras"
    model.write_bytes(b"weights")
    info = SourceInfo("model.keras", sha256(model), "m", "keras 3", 3, SIGNATURE)
    return Workspace.create(tmp_path / "ws", model, info)


def rows_of(count, seed=0):
    return Samples({"x": np.random.default_rng(seed).random((count, 2)).astype(np.float32)})


def warnings_of(workspace, calibration, verification):
    outputs = {"y": np.zeros((verification.rows, 1))}
    with workspace.staging() as staging:
        write_samples(staging / "c", calibration)
        write_samples(staging / "v", verification)
        write_npz(staging / "r", outputs)
        workspace.take_data(
            {
                "calibration": (staging / "c", calibration.rows, "samples"),
                "verification": (staging / "v", verification.rows, "samples"),
                "reference": (staging / "r", verification.rows, "keras"),
            }
        )
    with evidence.opened(workspace) as held:
        return evidence.weaknesses(workspace, held)


def test_enough_rows_of_both_kinds_are_no_weakness(workspace):
    assert warnings_of(workspace, rows_of(64), rows_of(64, 1)) == ()


def test_few_rows_are_called_few_for_each_use(workspace):
    both = "only 40 rows to compare on and to calibrate with; 64 or more make a good proof"
    assert warnings_of(workspace, rows_of(40), rows_of(40)) == (both,)
    calibrating = "only 13 rows to calibrate with; 64 or more make a good proof"
    comparing = "only 14 rows to compare on; 64 or more make a good proof"
    assert warnings_of(workspace, rows_of(13), rows_of(64)) == (calibrating,)
    assert warnings_of(workspace, rows_of(13), rows_of(14)) == (comparing, calibrating)


def test_equal_rows_are_called_equal(workspace):
    zeros = Samples({"x": np.zeros((80, 2), np.float32)})
    [said] = warnings_of(workspace, zeros, rows_of(64))
    assert "all 80 rows to calibrate with are equal" in said


def test_what_cannot_be_split_is_refused_before_anything_is_written():
    evidence.check(None, rows_of(2), hold_back=False)
    evidence.check(None, rows_of(30), hold_back=True)
    with pytest.raises(SourceError, match="2 rows, 2 of them different"):
        evidence.check(None, rows_of(2), hold_back=True)
    with pytest.raises(SourceError, match="no rows that could be held back"):
        evidence.check(None, None, hold_back=True)


def test_rows_are_held_back_where_there_are_any(workspace):
    """As a training wants it that goes without samples, too."""
    evidence.check(None, None, hold_back=None)
    with pytest.raises(SourceError, match="2 rows, 2 of them different"):
        evidence.check(None, rows_of(2), hold_back=None)
    workspace.change(recipe=Code("digits_mlp", "0"))
    evidence.check(workspace, rows_of(2), hold_back=None)


def test_samples_of_which_a_model_was_trained_on_some_stay_held_back(workspace):
    step = Step("prune", {"samples_sha256": "0"}, "", {}, "now")
    with workspace.staging() as staging:
        (staging / "sparse80.keras").write_bytes(b"zeros")
        workspace.take_variant("sparse80", staging / "sparse80.keras", step)
    with pytest.raises(SourceError, match="2 rows, 2 of them different"):
        evidence.check(workspace, rows_of(2), hold_back=False)


@pytest.mark.parametrize(
    ("variant", "judge"),
    [
        (None, None),
        ("qat", None),
        ("sparse80", "sparse80"),
        ("sparse80-qat", "sparse80"),
        ("structured50-sparse80-qat", "structured50-sparse80"),
    ],
)
def test_what_is_pruned_judges_its_own_files_and_qat_is_judged_by_the_model_before(
    workspace, variant, judge
):
    rows = rows_of(64)
    models = ("structured50", "structured50-sparse80", "sparse80", "sparse80-qat", "qat")
    models = (None, *models, "structured50-sparse80-qat")
    with workspace.staging() as staging:
        write_samples(staging / "v", rows)
        data = {"verification": (staging / "v", rows.rows, "samples")}
        for number, model in enumerate(models):
            name = reference_name("verification", model)
            write_npz(staging / name, {"y": np.full((64, 1), number)})
            data[name] = staging / name, rows.rows, "keras"
        workspace.take_data(data)
    with evidence.opened(workspace, variant=variant) as held:
        of = {"reference": variant, "original": None, "judge": judge}
        for field, model in of.items():
            assert getattr(held, field)["y"][0] == models.index(model), field


def test_samples_that_were_lost_are_not_replaced_by_random_rows(workspace):
    warnings_of(workspace, rows_of(64), rows_of(64, 1))
    for name in ("verification.npz", "reference.npz"):
        (workspace.path / name).unlink()
    with pytest.raises(WorkspaceError, match=r"verification.npz is missing") as caught:
        evidence.prepare(workspace, None, None, lambda text: None)
    assert "--samples" in caught.value.hint


def test_samples_for_a_recipe_need_not_be_many(workspace):
    workspace.change(recipe=Code("digits_mlp", "0"))
    evidence.check(workspace, rows_of(1), hold_back=True)

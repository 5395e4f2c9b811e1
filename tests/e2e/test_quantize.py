"""Quantize as a user does: the table, the search within a budget, the layers that hurt, QAT."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from edgekit.workspace import Workspace
from tests.conftest import run_edgekit

ROWS = 600


@pytest.fixture
def copy(digits, tmp_path):
    """A workspace that a test may spoil."""
    return shutil.copytree(digits, tmp_path / "ws")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows for the model `spread`, without labels."""
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(ROWS, 16)).astype("float32"))
    return path


@pytest.fixture(scope="module")
def searched(keras_files, rows, tmp_path_factory):
    """The search on a model that plain int8 ruins, and its workspace."""
    folder = tmp_path_factory.mktemp("searched") / "ws"
    source = keras_files / "spread.keras"
    command = ("quantize", source, "--samples", rows, "-o", folder, "--max-drop", "10%")
    return run_edgekit(*command, "--to", "tflite", "--to", "onnx", "--json"), folder


def test_each_artifact_says_what_it_costs(copy):
    done = run_edgekit("quantize", copy, "--precision", "int8", "--precision", "fp16")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("|")]
    head = [cell.strip() for cell in lines[0].split("|")[1:-1]]
    assert head == ["artifact", "size", "SQNR", "top-1", "accuracy", "p50", "verified on"]
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == ["Keras model", "fp16.tflite", "int8.tflite", "fp16.onnx", "int8.onnx"]
    for line in lines[3:]:
        assert "µs" in line
        assert "(+0.0" in line or "(-0.0" in line


def test_every_precision_is_proved_in_tflite_and_onnx(copy):
    kinds = ("fp16", "dynamic", "int8", "int16x8")
    asked = [part for kind in kinds for part in ("--precision", kind)]
    done = run_edgekit("quantize", copy, *asked, "--json")
    assert done.code == 0, done.err
    made = {a["id"]: a["size_bytes"] for a in done.json["artifacts"]}
    assert set(made) == {f"{kind}.{form}" for kind in kinds for form in ("tflite", "onnx")}
    fp32 = {
        a.format: a.size_bytes
        for a in Workspace.open(copy).manifest.artifacts
        if a.precision == "fp32"
    }
    for id, size in made.items():
        assert size < 0.65 * fp32[id.rpartition(".")[2]], id


def test_a_search_brings_back_what_int8_ruins(searched):
    done, folder = searched
    assert done.code == 0, done.err
    for search in done.json["searches"]:
        first, *_ = search["candidates"]
        assert (first["label"], first["holds"]) == ("int8", False)
        holding = [c["size_bytes"] for c in search["candidates"] if c["holds"]]
        chosen = search["candidates"][search["chosen"]]
        assert chosen["holds"]
        assert chosen["size_bytes"] <= 1.05 * min(holding)
        assert search["final"] <= 0.1
        assert search["measure"] == "noise"
        assert all(c["p50_ns"] > 0 for c in search["candidates"] if c["size_bytes"])
    assert {a["format"] for a in done.json["searches"]} == {"tflite", "onnx"}
    assert len(Workspace.open(folder).manifest.artifacts) == 2
    assert (folder / "search.svg").read_text().startswith("<svg")


def test_a_third_of_the_samples_calibrates_one_decides_and_one_judges(searched):
    _, folder = searched
    manifest = Workspace.open(folder).manifest
    data = {name: info.rows for name, info in manifest.data.items()}
    names = ("calibration", "validation", "verification")
    assert all(abs(data[name] - ROWS / 3) < ROWS / 15 for name in names), data
    rows = np.concatenate([np.load(folder / f"{name}.npz")["x"] for name in names])
    assert len(np.unique(rows, axis=0)) == ROWS


def test_the_same_search_gives_the_same_answer(searched, keras_files, rows, tmp_path):
    first, folder = searched
    command = ("quantize", keras_files / "spread.keras", "--samples", rows, "-o", tmp_path / "ws")
    again = run_edgekit(*command, "--max-drop", "10%", "--to", "tflite", "--to", "onnx", "--json")

    def without_times(run):
        return [
            {**s, "candidates": [{**c, "p50_ns": None} for c in s["candidates"]]}
            for s in run.json["searches"]
        ]

    assert without_times(again) == without_times(first)
    shas = [a.sha256 for a in Workspace.open(folder).manifest.artifacts]
    assert [a.sha256 for a in Workspace.open(tmp_path / "ws").manifest.artifacts] == shas


def test_rows_that_judge_are_seen_by_nothing_else(searched, rows, tmp_path):
    """Whatever was done with the samples before, and in whatever order they come."""
    _, folder = searched
    workspace = shutil.copytree(folder, tmp_path / "ws")
    samples = np.load(rows)["x"]
    np.savez(tmp_path / "reversed.npz", x=samples[::-1])

    done = run_edgekit("quantize", workspace, "--to", "onnx")
    assert "a third of the samples calibrates, as before" in done.err
    third = Workspace.open(folder).manifest.data["calibration"].rows
    assert f"calibrating with {third} rows of samples" in done.err

    command = ("quantize", workspace, "--samples", tmp_path / "reversed.npz", "--to", "onnx")
    done = run_edgekit(*command)
    assert f"calibrating with {ROWS} rows of samples" in done.err
    data = Workspace.open(workspace).manifest.data
    assert {name: data[name].rows for name in ("calibration", "verification")} == {
        "calibration": ROWS,
        "verification": ROWS,
    }
    assert "validation" not in data
    assert not (workspace / "validation.npz").exists()

    done = run_edgekit("quantize", workspace, "--max-drop", "10%", "--to", "onnx")
    assert done.code == 0, done.err
    before, after = (Workspace.open(f).manifest.data for f in (folder, workspace))
    assert {n: i.sha256 for n, i in after.items()} == {n: i.sha256 for n, i in before.items()}


def test_samples_for_a_recipe_calibrate_in_their_own_command_alone(copy, tmp_path):
    before = Workspace.open(copy).manifest.data
    rows = np.load(copy / "verification.npz")
    [name] = [name for name in rows.files if not name.startswith("y_")]
    np.savez(tmp_path / "rows.npz", x=rows[name][:40])
    done = run_edgekit("quantize", copy, "--to", "onnx", "--samples", tmp_path / "rows.npz")
    assert done.code == 0, done.err
    assert "calibrating with 40 rows of samples" in done.err
    assert "warning: only 40 rows to calibrate with" in done.err
    done = run_edgekit("quantize", copy, "--to", "onnx")
    assert "rows of the recipe" in done.err
    assert "warning: only" not in done.err
    assert Workspace.open(copy).manifest.data == before


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": np.eye(16)[:2]}, ("--max-drop", "5%"), "2 rows, 2 of them different, are too few"),
        ({"x": np.ones((9, 16))}, ("--method", "qat"), "9 rows, 1 of them different, are too few"),
        ({"x": np.ones((9, 16)), "y": np.full((9, 4), np.nan)}, (), "the labels 'y' of the output"),
        ({"x": np.full((9, 16), 1e300)}, (), "values that float32 cannot hold"),
    ],
)
def test_samples_that_are_refused_leave_no_workspace(
    keras_files, tmp_path, arrays, options, message
):
    np.savez(tmp_path / "s.npz", **arrays)
    command = ("quantize", keras_files / "spread.keras", "--samples", tmp_path / "s.npz")
    done = run_edgekit(*command, "-o", tmp_path / "ws", *options)
    assert done.code == 1
    assert message in done.err
    assert "Warning" not in done.err
    assert not (tmp_path / "ws").exists()


def test_nothing_that_holds_is_exit_3_with_the_best_seen(keras_files, rows, tmp_path):
    done = run_edgekit(
        *("quantize", keras_files / "spread.keras", "--samples", rows, "-o", tmp_path / "ws"),
        *("--max-drop", "0%", "--to", "tflite", "--json"),
    )
    assert done.code == 3
    assert "nothing holds; the best is" in done.err
    [search] = done.json["result"]["searches"]
    assert search["chosen"] is None
    assert search["candidates"][-1]["label"] == "fp16"
    assert Workspace.open(tmp_path / "ws").manifest.artifacts == ()


def test_the_recipes_validation_split_decides(copy):
    done = run_edgekit("quantize", copy, "--max-drop", "2pt", "--to", "tflite", "--json")
    assert done.code == 0, done.err
    [search] = done.json["searches"]
    assert (search["measure"], search["rows"]) == ("accuracy", 180)
    [accuracy] = [a for a in done.json["accuracy"] if a["artifact"] == "int8.tflite"]
    assert (accuracy["split"], accuracy["rows"]) == ("test", 360)


def test_explain_names_the_layer_and_what_to_do(keras_files, rows, tmp_path):
    done = run_edgekit(
        *("quantize", keras_files / "spread.keras", "--samples", rows, "-o", tmp_path / "ws"),
        *("--explain", "--to", "tflite", "--json"),
    )
    assert done.code == 0, done.err
    [explanation] = done.json["explanations"]
    layers = {layer["layers"][0]: layer for layer in explanation["layers"]}
    # Its channels differ a thousandfold, and so do the weights that read them.
    assert set(list(layers)[:2]) == {"second", "y"}
    assert layers["second"]["cause"] == "range outliers"
    assert layers["second"]["sqnr_db"] < 10
    assert "--equalize" in layers["second"]["fix"]
    assert Workspace.open(tmp_path / "ws").manifest.artifacts == ()


def test_a_float_file_is_explained_too(copy):
    done = run_edgekit("quantize", copy, "--precision", "fp32", "--explain", "--json")
    assert done.code == 0, done.err
    for explanation in done.json["explanations"]:
        assert all(layer["sqnr_db"] > 80 for layer in explanation["layers"])


def test_layers_are_kept_in_float_by_pattern(copy):
    done = run_edgekit("quantize", copy, "--keep-float", "lab*", "--json")
    assert done.code == 0, done.err
    for artifact in done.json["artifacts"]:
        assert artifact["step"]["options"]["keep_float"] == ["lab*"]
        described = run_edgekit("inspect", copy / artifact["path"], "--json").json
        assert described["float_tensors"], artifact["id"]
    again = run_edgekit("verify", copy)
    assert again.code == 0, again.err


def test_qat_is_trained_once_and_verified_against_its_own_model(copy):
    command = ("quantize", copy, "--method", "qat", "--epochs", "1", "--to", "tflite", "--json")
    done = run_edgekit(*command)
    assert done.code == 0, done.err
    assert "training on for 8 bits" in done.err
    manifest = Workspace.open(copy).manifest
    qat = manifest.variants["qat"]
    assert qat.step.options["engine"].startswith("tfmot")
    [artifact] = [a for a in manifest.artifacts if a.model == "qat"]
    assert (artifact.id, artifact.step.parent) == ("qat-int8.tflite", qat.sha256)
    [proof] = done.json["parity"]
    assert proof["outputs"][0]["sqnr_db"] > 20
    again = run_edgekit(*command)
    assert again.code == 0, again.err
    assert "training on" not in again.err
    assert again.json["artifacts"][0]["sha256"] == artifact.sha256
    assert run_edgekit("verify", copy).code == 0


def test_how_it_was_trained_is_said_each_time(keras_files, rows, tmp_path):
    source = ("quantize", keras_files / "spread.keras", "--samples", rows, "-o", tmp_path / "ws")
    for command in (source, ("quantize", tmp_path / "ws")):
        done = run_edgekit(*command, "--method", "qat", "--epochs", "1", "--to", "tflite", "--json")
        warnings = done.json.get("result", done.json)["warnings"]
        assert (
            "qat: fine-tuned towards the float model's own outputs: no labels judge them all"
            in warnings
        )


def test_a_search_with_layers_in_float_takes_no_file_of_8_bit_weights(keras_files, rows, tmp_path):
    done = run_edgekit(
        *("quantize", keras_files / "spread.keras", "--samples", rows, "-o", tmp_path / "ws"),
        *("--max-drop", "0%", "--to", "onnx", "--keep-float", "y", "--json"),
    )
    assert done.code == 3
    [search] = done.json["result"]["searches"]
    precisions = {candidate["precision"] for candidate in search["candidates"]}
    assert precisions == {"int8", "fp16"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-drop", "1"), "'1' is no budget"),
        (("--max-drop", "1%", "--precision", "int8"), "a search finds the precision"),
        (("--keep-float", "nothing*"), "no layer of the model matches 'nothing*'"),
        (("--precision", "fp32"), "fp32 is not quantized"),
        (("--precision", "fp16", "--equalize"), "has no activations of integers"),
        (("--to", "tfjs", "--explain"), "in tfjs weights alone are quantized"),
        (("--max-drop", "1%", "--equalize"), "a search tries the calibrations"),
        (("--max-drop", "1%", "--to", "tfjs", "--keep-float", "y"), "has no activations"),
        (("--percentile", "99"), "--percentile is not looked at by minmax"),
        (("--to", "onnx", "--backend", "litert"), "litert quantizes tflite only"),
        (("--method", "qat", "--precision", "fp16"), "qat trains for weights of 8 bits"),
        (("--epochs", "3"), "without training there are no epochs"),
    ],
)
def test_what_makes_no_sense_is_refused(copy, options, message):
    before = json.loads((copy / "manifest.json").read_text())
    done = run_edgekit("quantize", copy, *options)
    assert done.code == 1
    assert message in done.err
    assert "try:" in done.err
    assert "Traceback" not in done.err
    assert json.loads((copy / "manifest.json").read_text())["artifacts"] == before["artifacts"]

"""`edgekit prune` as a user runs it: what comes out is pruned, proved, and measured honestly."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from edgekit.workspace import Workspace
from tests.conftest import run_edgekit

ROWS = 300


def kernels(path):
    """The weights of two dimensions and more in a .keras file, by path."""
    import io
    import zipfile

    import h5py

    with zipfile.ZipFile(path) as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    found = {}
    file.visititems(
        lambda name, item: found.update({name: item[:]}) if getattr(item, "ndim", 0) > 1 else None
    )
    return found


def zeros(path):
    return {name: float((value == 0).mean()) for name, value in kernels(path).items()}


@pytest.fixture(scope="module")
def pruned(digits, tmp_path_factory):
    """The digits workspace with a model of 80 % zeros, what the command said, and its table."""
    folder = tmp_path_factory.mktemp("pruned") / "ws"
    shutil.copytree(digits, folder)
    done = run_edgekit("prune", folder, "--epochs", "4", "--json")
    assert done.code == 0, done.err
    return folder, done.json


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Rows for the model `spread`, with the class that the sum of their halves tells."""
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    rows = np.random.default_rng(1).normal(size=(ROWS, 16)).astype("float32")
    np.savez(path, x=rows)
    return path


def test_the_zeros_are_there_and_the_files_are_measured_beside_the_dense_ones(pruned):
    folder, said = pruned
    assert said["variant"] == "sparse80"
    assert said["engine"].startswith("tfmot")
    assert all(
        share == pytest.approx(0.8, abs=0.01) for share in zeros(folder / "sparse80.keras").values()
    )
    metrics = {a["artifact"]: a["metrics"]["accuracy"] for a in said["accuracy"]}
    assert metrics["sparse80.keras"] > 0.9
    assert {"keras", "fp32.tflite", "sparse80-fp32.tflite", "sparse80-fp32.onnx"} <= set(metrics)
    for gain in said["gains"]:
        before = gain["before"]
        assert before["artifact"] == gain["artifact"].removeprefix("sparse80-")
        assert gain["size_bytes"] == pytest.approx(before["size_bytes"], rel=0.02)
        assert gain["gzip_bytes"] < 0.4 * before["gzip_bytes"]
        assert gain["p50_ns"] > 0
        assert gain["memory_bytes"] > 0


def test_no_gain_is_called_none(pruned):
    again = run_edgekit("prune", pruned[0], "--epochs", "4", "--to", "onnx")
    assert again.code == 0, again.err
    assert "epoch" not in again.err  # what was made in the same way is taken as it is
    assert "no smaller and no faster, but for gzip: sparse80-fp32.onnx" in again.out
    assert "--structured" in again.out


def test_a_variant_is_exported_quantized_and_verified_as_a_model_of_its_own(pruned, tmp_path):
    folder = tmp_path / "ws"
    shutil.copytree(pruned[0], folder)
    assert run_edgekit("export", folder, "--variant", "sparse80", "--to", "tfjs").code == 0
    qat = ("--variant", "sparse80", "--method", "qat", "--epochs", "1", "--to", "tflite")
    done = run_edgekit("quantize", folder, *qat)
    assert done.code == 0, done.err
    assert zeros(folder / "sparse80-qat.keras") == zeros(folder / "sparse80.keras")
    clustered = ("--variant", "sparse80", "--clusters", "16", "--precision", "int8")
    done = run_edgekit("prune", folder, *clustered, "--epochs", "1", "--to", "tflite", "--json")
    assert done.code == 0, done.err
    for name, values in kernels(folder / "sparse80-cluster16.keras").items():
        assert len(np.unique(values)) <= 16, name
        assert (values == 0).mean() >= 0.79, name
    [gain] = done.json["gains"]
    assert gain["artifact"] == "sparse80-cluster16-int8.tflite"
    assert gain["gzip_bytes"] < 0.5 * gain["before"]["gzip_bytes"]
    ids = {a.id for a in Workspace.open(folder).manifest.artifacts}
    assert {"sparse80-fp32.tfjs", "sparse80-qat-int8.tflite"} <= ids
    done = run_edgekit("verify", folder)
    assert done.code == 0, done.err


def test_another_training_takes_the_place_of_the_first_and_of_all_that_came_of_it(pruned, tmp_path):
    folder = tmp_path / "ws"
    shutil.copytree(pruned[0], folder)
    done = run_edgekit("prune", folder, "--epochs", "0", "--layer", "label=0", "--to", "tflite")
    assert done.code == 0, done.err
    found = zeros(folder / "sparse80.keras")
    assert sorted(found.values()) == pytest.approx([0.0, 0.8], abs=0.01)
    ids = {a.id for a in Workspace.open(folder).manifest.artifacts}
    assert {i for i in ids if i.startswith("sparse80")} == {"sparse80-fp32.tflite"}


def test_without_rows_it_is_pruned_at_once_and_the_cost_is_said(keras_files, tmp_path):
    command = ("prune", keras_files / "spread.keras", "-o", tmp_path / "ws", "--to", "tflite")
    done = run_edgekit(*command)
    assert done.code == 0, done.err
    assert "epoch" not in done.err
    assert "sparse80 against the Keras model: " in done.out
    assert "signal-to-noise ratio" in done.out
    assert "not trained" in done.err


def test_labels_that_do_not_judge_are_not_trained_on(keras_files, labelled, tmp_path):
    """Labels of a regression are far from what the model says: all is held to the model."""
    arrays = dict(np.load(labelled))
    np.savez(tmp_path / "rows.npz", **arrays, y=np.full((ROWS, 1), 1e6, np.float32))
    samples = ("--samples", tmp_path / "rows.npz", "-o", tmp_path / "ws")
    command = ("prune", keras_files / "spread.keras", *samples, "--sparsity", "0.1")
    done = run_edgekit(*command, "--epochs", "2", "--to", "tflite", "--json")
    assert done.code == 0, done.err
    assert any("no labels judge them all" in w for w in done.json["warnings"])
    assert done.json["outputs"][0]["sqnr_db"] > 0


def test_channels_go_and_the_file_is_smaller(keras_files, labelled, tmp_path):
    command = ("prune", keras_files / "spread.keras", "--samples", labelled, "-o", tmp_path / "ws")
    done = run_edgekit(*command, "--structured", "--epochs", "2", "--json")
    assert done.code == 0, done.err
    said = done.json
    assert said["variant"] == "structured50"
    assert all(layer["after"] < layer["before"] for layer in said["layers"])
    assert all(g["size_bytes"] < 0.7 * g["before"]["size_bytes"] for g in said["gains"])
    # Rows that were trained on judge nothing.
    data = Workspace.open(tmp_path / "ws").manifest.data
    assert data["verification"].rows + data["validation"].rows + data["calibration"].rows == ROWS


def test_the_most_that_holds_is_found_on_validation_rows(digits, tmp_path):
    folder = tmp_path / "ws"
    shutil.copytree(digits, folder)
    command = ("prune", folder, "--structured", "--epochs", "3", "--to", "tflite")
    done = run_edgekit(*command, "--max-drop", "4pt", "--json")
    assert done.code == 0, done.err
    search = done.json["search"]
    assert search["holds"]
    holding = [c["label"] for c in search["candidates"] if c["holds"]]
    failing = [c["label"] for c in search["candidates"] if not c["holds"]]
    assert search["candidates"][search["chosen"]]["label"] == max(holding) == done.json["variant"]
    assert all(label > max(holding) for label in failing)
    kept = Workspace.open(folder)
    assert set(kept.manifest.variants) == {done.json["variant"]}

    untrained = ("--epochs", "0", "--to", "tflite")
    done = run_edgekit("prune", folder, "--structured", "--ratio", "0.9", *untrained)
    assert done.code == 0, done.err
    # With nine of ten channels gone, fewer weights bring nothing back.
    less = run_edgekit(
        "prune", folder, "--variant", "structured90", "--max-drop", "1pt", *untrained
    )
    assert less.code == 3, less.err
    assert "nothing holds; the best is structured90-sparse" in less.err
    known = set(kept.manifest.variants)
    assert set(Workspace.open(folder).manifest.variants) == known | {"structured90"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--variant", "sparse80", "--clusters", "4"), "a workspace has variants"),
        (("--structured", "--sparsity", "0.5"), "separate steps"),
        (("--sparsity", "1.5"), "no share"),
        (("--sparse-encoding", "--to", "onnx"), "only fp32 tflite"),
        (("--max-drop", "1%"), "no rows that could be held back"),
        (("--layer", "nowhere=0"), "no layer that could be pruned fits"),
    ],
)
def test_what_cannot_be_done_is_refused_in_two_lines(keras_files, tmp_path, options, reason):
    done = run_edgekit("prune", keras_files / "spread.keras", "-o", tmp_path / "ws", *options)
    assert done.code == 1
    assert reason in done.err
    assert "Traceback" not in done.err
    assert "  try: " in done.err


def test_an_unknown_variant_is_refused_with_those_there_are(pruned):
    for verb in (("export",), ("quantize",), ("prune", "--clusters", "4")):
        done = run_edgekit(*verb, pruned[0], "--variant", "sparse99")
        assert done.code == 1
        assert "no model variant 'sparse99'" in done.err
        assert "it has: sparse80" in done.err
        assert json.loads((pruned[0] / "manifest.json").read_text())["variants"].keys() == {
            "sparse80"
        }

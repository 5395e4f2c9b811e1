"""Recipes on their real data, as far as CI has time: an epoch, then the whole way."""

from __future__ import annotations

import importlib
import os
import re
import sys

import numpy as np
import pytest

from edgekit.datasets import TEXT_IDS, load_texts
from edgekit.workspace import Workspace
from tests.conftest import ROOT, run_edgekit, skip_without

FILES, PRECISIONS = ("tflite", "onnx"), ("fp32", "int8")


def needs_data() -> None:
    skip_without(
        "EDGEKIT_DATA" in os.environ, "the data", "set EDGEKIT_DATA to a folder of .npz files"
    )


def test_clothes_to_every_format(tmp_path):
    needs_data()
    folder = tmp_path / "ws"
    trained = run_edgekit("train", "fashion_mnist_cnn", "--epochs", 1, "-o", folder, "--json")
    assert trained.code == 0, trained.err
    assert trained.json["rows"] == 10_000
    assert trained.json["metrics"]["accuracy"] > 0.7
    both = ("--precision", "fp32", "--precision", "int8")
    done = run_edgekit("export", folder, "--to", "tflite", "--to", "onnx", *both, "--json")
    assert done.code == 0, done.err
    accuracy = {a["artifact"]: a["metrics"]["accuracy"] for a in done.json["accuracy"]}
    model = trained.json["metrics"]["accuracy"]
    for id, figure in accuracy.items():
        assert abs(figure - model) < (0.0005 if id.startswith("fp32") else 0.02), id
    sizes = {a["id"]: a["size_bytes"] for a in done.json["artifacts"]}
    assert sizes["int8.tflite"] < 0.4 * sizes["fp32.tflite"]
    assert sizes["int8.onnx"] < 0.4 * sizes["fp32.onnx"]
    done = run_edgekit("export", folder, "--to", "tfjs", "--json")
    assert done.code == 0, done.err
    [proof] = done.json["parity"]
    assert proof["rows"] == 10_000
    assert proof["runtime"]["backend"] == "wasm"


def test_raw_features_to_integers_in_both_formats(tmp_path):
    needs_data()
    folder = tmp_path / "ws"
    done = run_edgekit("run", "california_mlp", "--epochs", 2, "-o", folder, "--json")
    assert done.code == 0, done.err
    manifest = Workspace.open(folder).manifest
    figures = {a.artifact: a.metrics["rmse"] for a in manifest.accuracy}
    assert figures["keras"] < 0.75  # the mean alone has 1.15
    for id, figure in figures.items():
        assert figure < 1.05 * figures["keras"], id
    assert {"int8.tflite", "int8.onnx", "fp32.tfjs"} <= set(figures)


def test_news_to_every_format(tmp_path):
    needs_data()
    folder = tmp_path / "ws"
    trained = run_edgekit("train", "reuters_transformer", "--epochs", 1, "-o", folder, "--json")
    assert trained.code == 0, trained.err
    figures = trained.json["metrics"]
    assert figures["accuracy"] > 0.8  # the most frequent topic alone has 0.43
    formats = ("--to", "tflite", "--to", "onnx", "--to", "tfjs")
    done = run_edgekit("export", folder, *formats, "--precision", "fp32", "--json")
    assert done.code == 0, done.err
    assert {a["artifact"]: a["rows"] for a in done.json["accuracy"]} == {
        f"fp32.{form}": trained.json["rows"] for form in ("tflite", "onnx", "tfjs")
    }
    for artifact in done.json["accuracy"]:
        assert artifact["metrics"] == pytest.approx(figures, rel=1e-3), artifact["artifact"]


def test_spoken_digits_to_every_format(tmp_path):
    needs_data()
    folder = tmp_path / "ws"
    trained = run_edgekit("train", "spoken_digits_dscnn", "--epochs", 1, "-o", folder, "--json")
    assert trained.code == 0, trained.err
    assert trained.json["rows"] == 300
    model = trained.json["metrics"]["accuracy"]
    assert model > 0.4  # of ten digits
    formats = ("--to", "tflite", "--to", "onnx", "--to", "tfjs")
    exported = run_edgekit("export", folder, *formats, "--precision", "fp32", "--json")
    assert exported.code == 0, exported.err
    quantized = run_edgekit("quantize", folder, "--to", "tflite", "--to", "onnx", "--json")
    assert quantized.code == 0, quantized.err
    for done, off in ((exported, 0.0035), (quantized, 0.05)):  # a row is 0.0033
        for artifact in done.json["accuracy"]:
            assert abs(artifact["metrics"]["accuracy"] - model) < off, artifact["artifact"]
        assert all(a["size_bytes"] < 100_000 for a in done.json["artifacts"])


@pytest.fixture
def wines(tmp_path):
    """The recipe that the page shows, as a file."""
    page = (ROOT / "recipes" / "README.md").read_text()
    [template] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "wines.py").write_text(template)
    return tmp_path / "wines.py"


def test_the_template_goes_the_whole_way(wines, tmp_path):
    done = run_edgekit("run", wines, "-o", tmp_path / "ws", "--json")
    assert done.code == 0, done.err
    manifest = Workspace.open(tmp_path / "ws").manifest
    figures = {a.artifact: a.metrics["accuracy"] for a in manifest.accuracy}
    assert set(figures) == {"keras", "fp32.tfjs", *(f"{p}.{f}" for p in PRECISIONS for f in FILES)}
    assert min(figures.values()) >= 0.9


def test_a_mistake_in_the_template_is_reported_as_the_page_says(wines, tmp_path):
    page = (ROOT / "recipes" / "README.md").read_text()
    [line] = re.findall(r"^error: /home/me/(.*)$", page, re.MULTILINE)
    wines.write_text(wines.read_text().replace('rows("train")[0]', 'rows("training")[0]'))
    done = run_edgekit("train", wines, "-o", tmp_path / "ws")
    assert done.code == 1
    assert f"error: {wines.with_name(line)}" in done.err


@pytest.mark.parametrize("name", ["imdb", "reuters"])
def test_texts_come_from_keras_with_the_same_ids(name, tmp_path, monkeypatch):
    """Keras's own loader reads a file like those that it downloads; only the download is not."""
    # Words by rank: the 20,000th is the last one that is known.
    texts = np.empty(10, object)
    texts[:] = [[1, 20_000, 20_001, 30_000 + i] for i in range(10)]
    arrays = {"x": texts, "y": np.arange(10)}
    if name == "imdb":
        arrays = {f"{a}_{part}": v for part in ("train", "test") for a, v in arrays.items()}
    np.savez(tmp_path / "cached.npz", **arrays)
    loader = sys.modules[importlib.import_module(f"keras.datasets.{name}").load_data.__module__]
    monkeypatch.setattr(loader, "get_file", lambda *args, **kwargs: str(tmp_path / "cached.npz"))
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)

    loaded = load_texts(name)
    rows = {"train": 10, "test": 10} if name == "imdb" else {"train": 8, "test": 2}
    for part, count in rows.items():
        tokens = loaded[f"{part}_tokens"].reshape(count, 5)
        np.testing.assert_array_equal(tokens, [[1, 4, 20_003, 2, 2]] * count)
        np.testing.assert_array_equal(loaded[f"{part}_lengths"], [5] * count)
        assert loaded[f"{part}_labels"].shape == (count,)
        assert tokens.max() < TEXT_IDS

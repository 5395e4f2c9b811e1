"""The recipes on their real data, as far as CI has time: one epoch, then the whole way."""

from __future__ import annotations

import os

import pytest

from tests.conftest import run_edgekit, skip_without


@pytest.mark.parametrize("recipe", ["fashion_mnist_mlp", "fashion_mnist_cnn"])
def test_fashion_mnist_to_every_format(tmp_path, recipe):
    skip_without(
        "EDGEKIT_DATA" in os.environ, "the data", "set EDGEKIT_DATA to a folder of .npz files"
    )
    folder = tmp_path / "ws"
    trained = run_edgekit("train", recipe, "--epochs", 1, "-o", folder, "--json")
    assert trained.code == 0, trained.err
    assert trained.json["rows"] == 10_000
    assert trained.json["metrics"]["accuracy"] > 0.7
    if recipe == "fashion_mnist_mlp":
        assert trained.json["parameters"] == 266_610
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

"""Bad input gets one sentence, a next step and the right exit code; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edgekit.workspace import Workspace
from tests.conftest import run_edgekit

OFFLINE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}


def assert_refused(done, *words, code=1):
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nothing.keras", ["there is no file"]),
        ("unbuilt.keras", ["has no defined inputs", "call it once"]),
        ("gives_nan.keras", ["the Keras model itself gives NaN", "'y'"]),
        ("with_lambda.keras", ["Lambda", "was not run"]),
        ("hello.keras", ["is not a Keras model file"]),
        ("hello.onnx", ["is not a Keras model file"]),
    ],
)
def test_models_that_cannot_be_exported(keras_files, tmp_path, model, words):
    for name in ("hello.keras", "hello.onnx"):
        (keras_files / name).write_text("hello")
    done = run_edgekit("export", keras_files / model, "-o", tmp_path / "ws", "--to", "onnx")
    assert_refused(done, *words)
    assert not list(tmp_path.glob("ws/*.onnx"))


def test_int8_needs_samples(two_inputs_file, tmp_path):
    done = run_edgekit("export", two_inputs_file, "-o", tmp_path / "ws", "--precision", "int8")
    assert_refused(done, "int8 needs samples", "--samples FILE.npz")


def test_samples_with_nan_are_refused_before_conversion(two_inputs_file, tmp_path):
    np.savez(tmp_path / "s.npz", zebra=np.full((64, 4), np.nan), ant=np.ones((64, 3)))
    options = ("-o", tmp_path / "ws", "--precision", "int8", "--samples", tmp_path / "s.npz")
    done = run_edgekit("export", two_inputs_file, *options)
    assert_refused(done, "'zebra' has NaN or infinity, first in row 0")
    assert "converting" not in done.err


def test_a_precision_that_a_format_does_not_have(two_inputs_file, tmp_path):
    options = ("--to", "tfjs", "--precision", "dynamic", "-o", tmp_path / "ws")
    assert_refused(run_edgekit("export", two_inputs_file, *options), "tfjs cannot be dynamic")
    assert not (tmp_path / "ws").exists()


def test_a_folder_of_something_else(two_inputs_file, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = run_edgekit("export", two_inputs_file, "-o", tmp_path)
    assert_refused(done, "exists and is not a workspace")
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["export"], ["Missing argument 'SOURCE'"], 2),
        (["export", "m.keras", "--to", "coreml"], ["'coreml' is not one of"], 2),
        (["train"], ["name a recipe"], 2),
        (["train", "digits_mpl", "-o", "x"], ["unknown recipe", "did you mean digits_mlp?"], 1),
        (["bench"], ["Missing argument 'SOURCES"], 2),
        (["bench", "nothing"], ["there is no file nothing"], 1),
        (["bench", ".", "--target", "mars"], ["there is no file", "unknown target"], None),
        (["inspect", "nothing"], ["nothing"], 1),
        (["frobnicate"], ["No such command 'frobnicate'"], 2),
    ],
)
def test_usage(tmp_path, arguments, words, code):
    done = run_edgekit(*arguments, cwd=tmp_path)
    if code is None:
        assert done.code == 1
        assert "Traceback" not in done.err
        return
    assert_refused(done, *words, code=code)


def test_an_unknown_target_lists_the_known(digits):
    done = run_edgekit("verify", digits, "--target", "mars")
    assert_refused(done, "unknown target 'mars'", "known targets: local")


def test_errors_as_json(tmp_path):
    done = run_edgekit("train", "nope", "-o", tmp_path / "x", "--json")
    assert done.code == 1
    assert done.json["error"]["type"] == "RecipeError"
    assert "digits_mlp" in done.json["error"]["hint"]


def test_a_file_of_no_workspace_has_nothing_to_be_compared_with(digits, tmp_path):
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((digits / "fp32.onnx").read_bytes())
    assert_refused(run_edgekit("verify", alone), "belongs to no workspace", "--against")


def test_training_into_a_folder_that_is_taken(digits):
    assert_refused(run_edgekit("train", "digits_mlp", "-o", digits), "is not empty")


def test_data_that_cannot_be_had_names_both_ways(tmp_path):
    environment = {**OFFLINE, "EDGEKIT_DATA": str(tmp_path), "KERAS_HOME": str(tmp_path)}
    done = run_edgekit("train", "fashion_mnist_mlp", "-o", tmp_path / "ws", **environment)
    assert_refused(done, "EDGEKIT_DATA", "keras.datasets.fashion_mnist")
    assert not (tmp_path / "ws").exists()


def test_a_model_below_its_recipes_floor_is_a_failed_check(tmp_path):
    recipe = tmp_path / "lazy.py"
    run = run_edgekit("train", "--list", "--json")
    assert {r["name"] for r in run.json} >= {"digits_mlp", "fashion_mnist_mlp", "fashion_mnist_cnn"}
    from edgekit.recipe import load_recipe

    text = load_recipe("digits_mlp").path.read_text()
    recipe.write_text(text.replace("EPOCHS = 40", "EPOCHS = 1").replace("0.95", "0.9999"))
    done = run_edgekit("train", recipe, "-o", tmp_path / "ws")
    assert_refused(done, "accuracy is 0.", "floor is 0.9999", code=3)
    assert Workspace.open(tmp_path / "ws").manifest.accuracy


def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(two_inputs_file, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "export", two_inputs_file, "-o", tmp_path / "ws"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        # A shell's background jobs, which the tests may be, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:
        if "fp32.onnx: converting" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    assert not list((tmp_path / "ws").glob(".staging-*"))
    assert not list(scratch.iterdir())
    for _ in range(50):  # a busy machine takes a while to end the workers
        left = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True)
        if left.stdout == "":
            break
        time.sleep(0.2)
    assert left.stdout == ""

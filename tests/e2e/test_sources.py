"""What people really have: both families, own code, functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.errors import SourceError
from edgekit.toolchain.client import open_toolchain
from edgekit.workspace import Workspace
from tests.conftest import run_edgekit

MY_LAYERS = str(Path(__file__).parents[1] / "my_layers.py")


@pytest.fixture(scope="module", autouse=True)
def workers():
    """TensorFlow starts once for each family."""
    with open_toolchain(), open_toolchain(family="tf-keras"):
        yield


def source_of(result):
    return Workspace.open(Path(result.workspace)).manifest.source


def names(specs):
    return [spec.name for spec in specs]


@pytest.mark.parametrize(
    ("file", "family"),
    [
        ("cnn.h5", "tf-keras"),
        ("cnn.keras", "tf-keras"),
        ("cnn_saved_model", "tf-keras"),
        ("dicts.h5", "tf-keras"),
        ("lstm.h5", "tf-keras"),
        ("subclassed_saved_model", "tf-keras"),
        ("with_lambda_saved_model", "saved-model"),
    ],
)
def test_keras_2_to_every_format(keras2_files, tmp_path, file, family):
    done = edgekit.export(source=keras2_files / file, output=tmp_path / "ws")
    assert [a.id for a in done.artifacts] == ["fp32.tflite", "fp32.onnx", "fp32.tfjs"]
    assert max(o.max_rel for p in done.parity for o in p.outputs) < 1e-5
    assert source_of(done).family.startswith(family + " ")


def test_keras_2_keeps_the_keys_of_dicts(keras2_files, tmp_path):
    done = edgekit.export(source=keras2_files / "dicts.h5", output=tmp_path / "ws", to="onnx")
    signature = done.artifacts[0].signature
    assert names(signature.inputs) == ["ant", "zebra"]
    assert names(signature.outputs) == ["deep", "wide"]


@pytest.mark.parametrize("family", ["keras_files", "keras2_files"])
def test_recurrent_layers_in_int8_are_unrolled(request, tmp_path, family):
    """As a loop they end the TFLite converter by SIGSEGV, and stay float in ONNX."""
    folder = request.getfixturevalue(family)
    file = next(folder.glob("lstm.*"))
    steps = 6 if family == "keras_files" else 7
    rows = np.random.default_rng(0).standard_normal((80, steps, 3))
    np.savez(tmp_path / "rows.npz", x=rows)
    done = edgekit.export(
        source=file,
        to=("tflite", "onnx"),
        precision="int8",
        samples=tmp_path / "rows.npz",
        output=tmp_path / "ws",
    )
    assert [a.id for a in done.artifacts] == ["int8.tflite", "int8.onnx"]
    assert all(a.step.options["unrolled"] for a in done.artifacts)
    assert done.artifacts[0].step.options["batch"] == 1


def test_the_same_file_twice_gives_the_same_bytes(keras_files, keras2_files, tmp_path):
    for file in (
        keras2_files / "lstm.h5",
        keras_files / "any_length.keras",
        keras_files / "matrix",
    ):
        once = edgekit.export(source=file, output=tmp_path / file.name / "a")
        again = edgekit.export(source=file, output=tmp_path / file.name / "b")
        assert [a.sha256 for a in once.artifacts] == [a.sha256 for a in again.artifacts]


@pytest.mark.parametrize("file", ["any_size.keras", "any_length.keras"])
def test_unknown_dimensions_stay_unknown(keras_files, tmp_path, file):
    done = edgekit.export(source=keras_files / file, output=tmp_path / "ws")
    for artifact in done.artifacts:
        assert artifact.signature.inputs[0].shape[1] is None, artifact.id
    other = np.random.default_rng(1).integers(0, 30, (64, 23 * 23 * 3))
    shape = (64, 23, 23, 3) if file == "any_size.keras" else (64, 23 * 23 * 3)
    rows = other.reshape(shape)[:, :23]
    np.savez(tmp_path / "rows.npz", x=rows)
    edgekit.verify(
        source=Path(done.workspace, "fp32.tflite"),
        against=keras_files / file,
        samples=tmp_path / "rows.npz",
    )


@pytest.mark.parametrize("file", ["matrix", "exported"])
def test_functions_in_saved_models(keras_files, tmp_path, file):
    done = edgekit.export(source=keras_files / file, output=tmp_path / "ws")
    assert len(done.artifacts) == 3
    assert source_of(done).family.startswith("saved-model ")
    assert source_of(done).path == "model"
    # The workspace holds all that it takes to go on.
    again = edgekit.export(source=tmp_path / "ws", to="onnx")
    assert again.artifacts[0].sha256 == done.artifacts[1].sha256


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ("forgetful.keras", {}, "takes query, key, and its file tells the shape of query alone"),
        ("no_signature", {"custom_objects": None}, "no signature 'serving_default'"),
        ("length", {"custom_objects": None}, "'words' takes text"),
        ("custom.keras", {"custom_objects": None}, "needs '.*', not part of Keras"),
        ("custom.keras", {"custom_objects": "no_such_module"}, "no Python module"),
        ("built.weights.h5", {}, "holds weights without a model"),
        ("built.weights.h5", {"builder": MY_LAYERS}, "names no function"),
        ("built.weights.h5", {"builder": f"{MY_LAYERS}:nothing"}, "has no function 'nothing'"),
        ("built.weights.h5", {"builder": f"{MY_LAYERS}:gives_none"}, "gave NoneType"),
        ("built.weights.h5", {"builder": f"{MY_LAYERS}:build_another"}, "do not fit the model"),
        ("with_lambda.keras", {}, "Lambda layer, which is Python code"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_next_step(
    keras_files, tmp_path, file, options, words
):
    options = {"custom_objects": MY_LAYERS, **options}
    with pytest.raises(SourceError, match=words) as raised:
        edgekit.export(source=keras_files / file, output=tmp_path / "ws", to="tflite", **options)
    assert raised.value.hint
    assert not (tmp_path / "ws").exists()


def test_keras_2_does_not_run_a_lambda(keras2_files, tmp_path):
    with pytest.raises(SourceError, match="it was not run"):
        edgekit.export(source=keras2_files / "with_lambda.h5", output=tmp_path / "ws")


@pytest.mark.parametrize("file", ["custom.keras", "heads.keras", "arguments.keras"])
def test_own_layers_functions_and_models(keras_files, tmp_path, file):
    done = edgekit.export(
        source=keras_files / file, custom_objects=MY_LAYERS, output=tmp_path / "ws"
    )
    assert len(done.artifacts) == 3
    inputs = {"custom.keras": ["x"], "heads.keras": ["zebra"], "arguments.keras": ["query", "key"]}
    assert names(done.artifacts[0].signature.inputs) == inputs[file]
    assert source_of(done).custom_objects.name == MY_LAYERS


def test_own_code_that_was_edited_since_is_refused(keras_files, tmp_path):
    code = tmp_path / "code.py"
    code.write_text(Path(MY_LAYERS).read_text())
    options = {"to": "tflite", "output": tmp_path / "ws"}
    edgekit.export(source=keras_files / "custom.keras", custom_objects=code, **options)
    code.write_text(code.read_text().replace("* self.factor", "* self.factor * 2"))
    done = run_edgekit("export", tmp_path / "ws", "--to", "onnx")
    assert done.code == 1
    assert f"{code} was edited after" in done.err


def test_weights_with_the_function_that_builds_their_model(keras_files, tmp_path):
    done = run_edgekit(
        "export", keras_files / "built.weights.h5", "--builder", "my_layers:build",
        "--custom-objects", "my_layers", "-o", tmp_path / "ws", "--json",
        cwd=Path(MY_LAYERS).parent,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [a["id"] for a in done.json["artifacts"]] == ["fp32.tflite", "fp32.onnx", "fp32.tfjs"]
    timed = run_edgekit(
        "bench", tmp_path / "ws", "--rounds", 1, "--seconds", 0.05, cwd=Path(MY_LAYERS).parent
    )
    assert timed.code == 0, timed.err


def test_mixed_precision_becomes_float32(keras_files, tmp_path):
    done = edgekit.export(source=keras_files / "mixed.keras", output=tmp_path / "ws")
    assert len(done.artifacts) == 3
    assert "computes in float32 instead of mixed_float16" in done.warnings


PYTHON_OBJECTS = """
import sys, keras, edgekit, my_layers
x = keras.Input((4,), name="x")
y = my_layers.Scale(name="scaled")(keras.layers.Dense(2)(x))
model = keras.Model(x, y, name="mine")
for _ in range(2):  # the same model goes into the same workspace
    done = edgekit.export(source=model, to="onnx", output=sys.argv[1])
print(done.artifacts[0].signature.outputs[0].name)
class Own(keras.layers.Layer):
    def call(self, x):
        return x
for wrong in (keras.Model(x, Own()(y)), 3.5):
    try:
        edgekit.export(source=wrong, to="onnx", output=sys.argv[1] + "-2")
    except edgekit.EdgekitError as error:
        print(error, "|", error.hint)
"""


def test_python_objects(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_OBJECTS, str(tmp_path / "ws")],
        capture_output=True,
        text=True,
        cwd=Path(MY_LAYERS).parent,
        check=True,
    )
    scaled, own, number = done.stdout.splitlines()
    assert scaled.strip() == "scaled"
    assert "cannot find Own, Scale, which the model needs, in __main__, my_layers" in own
    assert number.startswith("float is no model")
    source = Workspace.open(tmp_path / "ws").manifest.source
    assert source.name == "mine"
    assert source.custom_objects.name == MY_LAYERS


KERAS_2_OBJECT = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import edgekit, pathlib, tensorflow as tf
x = tf.keras.Input((4,), name="x")
model = tf.keras.Model(x, tf.keras.layers.Dense(2, name="y")(x), name="../mine")
done = edgekit.export(source=model, to="onnx")
workspace = edgekit.Workspace.open(pathlib.Path(done.workspace))
print(done.workspace, workspace.manifest.source.family)
"""


def test_an_object_of_keras_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KERAS_2_OBJECT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "_mine-edgekit tf-keras 2.21.0"


def test_names_that_keras_makes_up_do_not_change(keras_files, tmp_path):
    """The model is loaded twice, and Keras counts."""
    done = edgekit.export(
        source=keras_files / "unnamed.weights.h5",
        builder=f"{MY_LAYERS}:build_unnamed",
        to="onnx",
        output=tmp_path / "ws",
    )
    again = edgekit.export(
        source=keras_files / "unnamed.weights.h5",
        builder=f"{MY_LAYERS}:build_unnamed",
        to="onnx",
        output=tmp_path / "again",
    )
    assert done.artifacts[0].sha256 == again.artifacts[0].sha256


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("random.keras", "is random"),
        ("dropping.keras", "is called with training=True"),
        ("text_out.keras", "'word' .StringLookup. is not at the beginning"),
        ("no_rows.keras", "does not have one row for each"),
        ("float64.keras", "computes in float64"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(keras_files, tmp_path, file, words):
    with pytest.raises(SourceError, match=words) as raised:
        edgekit.export(source=keras_files / file, custom_objects=MY_LAYERS, output=tmp_path / "ws")
    assert raised.value.hint


def test_nested_inputs_and_outputs(keras_files, tmp_path):
    done = edgekit.export(source=keras_files / "nested.keras", to="onnx", output=tmp_path / "ws")
    signature = done.artifacts[0].signature
    assert names(signature.inputs) == ["pair_0", "pair_1", "single"]
    assert names(signature.outputs) == ["sum", "two_0", "two_1"]


def test_a_layer_that_a_saved_model_shares(keras2_files, tmp_path):
    """Its calls ask to be placed beside variables, which a frozen graph does not have."""
    done = edgekit.export(source=keras2_files / "shared_saved_model", output=tmp_path / "ws")
    assert len(done.artifacts) == 3


def test_long_sequences_are_not_unrolled(keras_files, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.zeros((64, 300, 2)))
    with pytest.raises(edgekit.EdgekitError, match="300 steps are too many"):
        edgekit.export(
            source=keras_files / "long.keras",
            custom_objects=MY_LAYERS,
            to="tflite",
            precision="int8",
            samples=tmp_path / "rows.npz",
            output=tmp_path / "ws",
        )


def test_how_a_workspace_was_loaded_is_not_said_again(keras_files, tmp_path):
    edgekit.export(source=keras_files / "two_inputs.keras", to="onnx", output=tmp_path / "ws")
    with pytest.raises(SourceError, match="was said when it was made"):
        edgekit.verify(source=tmp_path / "ws", builder="nothing:nothing")
    with pytest.raises(SourceError, match="was said when it was made"):
        edgekit.verify(
            source=tmp_path / "ws" / "fp32.onnx", against=tmp_path / "ws", from_layer="x"
        )


def test_samples_that_do_not_fit_leave_nothing_behind(keras_files, tmp_path):
    np.savez(tmp_path / "rows.npz", other=np.zeros((64, 3)))
    with pytest.raises(SourceError, match="neither an input"):
        edgekit.export(
            source=keras_files / "two_inputs.keras",
            samples=tmp_path / "rows.npz",
            output=tmp_path / "ws",
        )
    assert not (tmp_path / "ws").exists()


def test_flex_operations_are_written_only_where_asked_for(keras_files, tmp_path):
    options = {"source": keras_files / "no_builtin.keras", "to": "tflite"}
    with pytest.raises(edgekit.EdgekitError, match="no builtin for Cholesky"):
        edgekit.export(**options, output=tmp_path / "refused")
    done = edgekit.export(**options, output=tmp_path / "ws", allow_unverified=True)
    assert [a.id for a in done.artifacts] == ["fp32.tflite"]
    assert done.parity == ()
    with pytest.raises(edgekit.EdgekitError, match="not verified"):
        edgekit.verify(source=tmp_path / "ws")


def test_dynamic_range_that_quantizes_nothing_is_refused(keras_files, tmp_path):
    """The converter leaves small weights as they are, and says nothing."""
    options = {"to": "tflite", "precision": "dynamic", "output": tmp_path / "ws"}
    with pytest.raises(edgekit.EdgekitError, match="not dynamic: no weight is stored as int8"):
        edgekit.export(source=keras_files / "twins.keras", **options)


def test_a_loop_that_cannot_be_unrolled_is_refused_in_int8(keras_files, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).integers(0, 30, (64, 9)))
    options = {"to": "tflite", "precision": "int8", "samples": tmp_path / "rows.npz"}
    with pytest.raises(edgekit.EdgekitError, match="length of the sequences is not known"):
        edgekit.export(source=keras_files / "any_length.keras", output=tmp_path / "ws", **options)
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).standard_normal((64, 6, 3)))
    with pytest.raises(edgekit.EdgekitError, match="TFLite has no int8 for loops"):
        edgekit.export(source=keras_files / "exported_lstm", output=tmp_path / "ws2", **options)

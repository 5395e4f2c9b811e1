import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

from edgekit.errors import ConversionError
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.onnx import convert
from edgekit.toolchain.onnx_quantize import FloatFile, quantize
from tests.formats.onnx_models import (
    MODELS,
    build_model,
    described,
    digest,
    nodes,
    reference,
    rows_for,
    run,
)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_fp32_equals_keras(converted, name, rows):
    model, path, signature = converted(name)
    feed = rows_for(signature, rows)
    got, expected = run(path, signature, feed), reference(model, feed)
    assert got.keys() == expected.keys()
    for output, value in expected.items():
        assert got[output].shape == value.shape
        assert np.abs(got[output] - value).max() <= 1e-5 * np.abs(value).max()


def test_inputs_and_outputs_have_keras_names_order_shapes_and_dtypes(converted):
    _, path, signature = converted("two_inputs_two_outputs")
    graph, f32 = onnx.load(path).graph, onnx.TensorProto.FLOAT
    assert described(graph.input) == [("zeta", f32, ["batch", 3]), ("alpha", f32, ["batch", 4])]
    assert described(graph.output) == [("second", f32, ["batch", 2]), ("first", f32, ["batch", 3])]
    assert [s.name for s in signature.inputs] == ["zeta", "alpha"]
    assert [(s.name, s.native, s.shape) for s in signature.outputs] == [
        ("second", "second", (None, 2)),
        ("first", "first", (None, 3)),
    ]


def test_other_free_dimensions_have_stable_names(converted):
    _, path, _ = converted("free_height_and_width")
    graph, f32 = onnx.load(path).graph, onnx.TensorProto.FLOAT
    assert described(graph.input) == [("x", f32, ["batch", "x_1", "x_2", 3])]
    assert described(graph.output) == [("y", f32, ["batch", "y_1", "y_2", 4])]


def test_integer_input_keeps_its_dtype(converted):
    _, path, _ = converted("embedding")
    (value,) = described(onnx.load(path).graph.input)
    assert value == ("tokens", onnx.TensorProto.INT32, ["batch", 7])


def test_output_named_like_an_input_gets_another_native_name(converted):
    _, _, signature = converted("dict_with_equal_names")
    assert [(s.name, s.native) for s in signature.outputs] == [("left", "left:out"), ("sum", "sum")]


def test_fixed_batch_is_a_fixed_dimension(tmp_path):
    path = tmp_path / "one.onnx"
    signature = convert(trace(of_keras(build_model("mlp")), 1), path)
    assert described(onnx.load(path).graph.input)[0][2] == [1, 64]
    assert signature.inputs[0].shape == (1, 64)


@pytest.mark.parametrize("opset", [13, 18])
def test_opset_is_the_one_asked_for(converted, tmp_path, opset):
    model, _, _ = converted("cnn")
    signature = convert(trace(of_keras(model), None), tmp_path / "a.onnx", opset=opset)
    source = FloatFile(tmp_path / "a.onnx", signature, rows_for(signature, 4))
    quantize(source, tmp_path / "b.onnx", "int8")
    feed = rows_for(signature, 3)
    for name, cosine in (("a.onnx", 0.99999), ("b.onnx", 0.98)):
        path = tmp_path / name
        assert [(o.domain, o.version) for o in onnx.load(path).opset_import] == [("", opset)]
        got, expected = run(path, signature, feed)["logits"], reference(model, feed)["logits"]
        similar = (got * expected).sum() / np.linalg.norm(got) / np.linalg.norm(expected)
        assert similar > cosine


@pytest.mark.parametrize("opset", [12, 19])
def test_unknown_opset_is_refused(converted, tmp_path, opset):
    with pytest.raises(ConversionError, match=f"opset {opset}") as raised:
        convert(trace(of_keras(converted("mlp")[0]), None), tmp_path / "a.onnx", opset=opset)
    assert "13 to 18" in raised.value.hint


def test_batch_norm_is_folded_and_pooling_is_one_node(converted):
    assert nodes(converted("cnn")[1]).count("GlobalAveragePool") == 1
    assert not {"BatchNormalization", "ReduceMean"} & set(nodes(converted("cnn")[1]))
    found = nodes(converted("grouped_convolution")[1])
    assert found.count("Conv") == 1
    assert "Mul" not in found


def test_grouped_convolution_is_one_convolution_with_groups(converted):
    graph = onnx.load(converted("grouped_convolution")[1]).graph
    (conv,) = [node for node in graph.node if node.op_type == "Conv"]
    assert next(a.i for a in conv.attribute if a.name == "group") == 2


def test_file_holds_nothing_of_the_process_that_made_it(converted):
    model = onnx.load(converted("cnn")[1])
    assert (model.producer_name, model.doc_string, model.graph.doc_string) == ("edgekit", "", "")
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    assert not any("__" in name for node in model.graph.node for name in (node.name, *node.output))


@pytest.mark.parametrize("name", ["cnn", "lstm", "gru", "attention"])
def test_same_model_twice_gives_same_bytes(converted, tmp_path, name):
    model, path, _ = converted(name)
    convert(trace(of_keras(model), None), tmp_path / "again.onnx")
    assert digest(tmp_path / "again.onnx") == digest(path)


IN_ANOTHER_PROCESS = """
import sys, keras, numpy as np
from pathlib import Path
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.onnx import convert
from edgekit.toolchain.onnx_quantize import FloatFile, quantize
keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])  # moves Keras' name counters
for file in map(Path, sys.argv[1:]):
    fp32 = file.with_suffix(".other.onnx")
    signature = convert(trace(of_keras(keras.models.load_model(file)), None), fp32)
    rows = np.load(file.with_suffix(".npy"))
    source = FloatFile(fp32, signature, {signature.inputs[0].name: rows})
    quantize(source, file.with_suffix(".other8.onnx"), "int8")
"""


# Keras saves variables by numpy's old protocol.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
def test_another_process_with_another_hash_seed_gives_same_bytes(tmp_path):
    files = []
    for name in ("cnn", "gru"):
        file = tmp_path / f"{name}.keras"
        build_model(name).save(file)
        fp32 = file.with_suffix(".onnx")
        signature = convert(trace(of_keras(keras.models.load_model(file)), None), fp32)
        rows = rows_for(signature, 8)
        np.save(file.with_suffix(".npy"), rows[signature.inputs[0].name])
        quantize(FloatFile(fp32, signature, rows), file.with_suffix(".8.onnx"), "int8")
        files.append(file)
    seed = "7" if os.environ.get("PYTHONHASHSEED") != "7" else "8"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *files],
        env=environment,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    for file in files:
        assert digest(file.with_suffix(".other.onnx")) == digest(file.with_suffix(".onnx"))
        assert digest(file.with_suffix(".other8.onnx")) == digest(file.with_suffix(".8.onnx"))


def test_unsupported_operation_is_named(tmp_path):
    x = keras.Input((3,), name="x", dtype="int64")
    model = keras.Model(x, layers.Hashing(4, name="bins")(x))
    with pytest.raises(ConversionError, match=r"StringToHash.*bins") as raised:
        convert(trace(of_keras(model), None), tmp_path / "x.onnx")
    assert "tflite" in raised.value.hint
    assert not (tmp_path / "x.onnx").exists()


def test_more_than_two_gib_is_refused_before_anything_is_frozen(tmp_path):
    model = trace(of_keras(build_model("mlp")), None)
    holder = tf.Module()
    holder.variables_ = [tf.TensorSpec([30_000, 20_000], tf.float32)]  # stands for 2.2 GiB
    with pytest.raises(ConversionError, match=r"2\.2 GiB"):
        convert(dataclasses.replace(model, holder=holder), tmp_path / "x.onnx")


def test_conversion_prints_nothing(tmp_path, capfd):
    model = trace(of_keras(build_model("exact_gelu")), None)
    capfd.readouterr()
    convert(model, tmp_path / "x.onnx")
    assert "tf2onnx" not in "".join(capfd.readouterr())

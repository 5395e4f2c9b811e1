"""Files of strangers: what would run code, write files or never end is refused, the rest works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import edgekit
from edgekit.errors import SourceError
from edgekit.toolchain.client import open_toolchain
from edgekit.workspace import Workspace

SAVE = """
import codecs, json, marshal, os, shutil, sys
import h5py, tensorflow as tf, tf_keras as keras
from tf_keras.protobuf import saved_metadata_pb2
layers, folder = keras.layers, sys.argv[1]
os.chdir(folder)
MARK = os.path.join(folder, "MARK")

def edited(source, target, edit):
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit({layer["config"]["name"]: layer for layer in config["config"]["layers"]})
        file.attrs["model_config"] = json.dumps(config)

x = keras.Input((6, 4), name="x")
y = tf.nn.relu(layers.Dense(8)(x) * 2 + 1)
y = tf.concat([y[:, 0], tf.reduce_mean(y, axis=1), tf.reshape(y, (-1, 48))[:, :8]], axis=1)
inner = keras.Input((24,))
nested = keras.Model(inner, layers.Dense(5)(inner) - 0.5, name="nested")
y = layers.Dense(3, activation=tf.nn.leaky_relu, name="y")(nested(y) + nested(y * 2.0))
model = keras.Model(x, y)
model.save("operators.h5")
model.save("operators.keras")
model.save("operators")

x = keras.Input((4,), name="x")
keras.Model(x, layers.Dense(2, name="y")(layers.Activation("relu", name="op")(x))).save("plain.h5")
code = codecs.encode(marshal.dumps((lambda x: open(MARK, "w").close() or x).__code__), "base64")

def calls(layers):
    layers["op"].update(class_name="TFOpLambda")
    layers["op"]["config"] = {"name": "op", "function": "io.gfile.makedirs"}
    layers["op"]["inbound_nodes"] = [["_CONSTANT_VALUE", -1, MARK, {}]]

def loops(layers):
    layers["y"]["inbound_nodes"] = [[["op", 3, 0, {}]]]

def compiled(layers):
    layers["op"].update(class_name="Lambda")
    layers["op"]["config"] = {"name": "op", "function": code.decode(), "function_type": "lambda",
                              "module": None, "output_shape": None, "output_shape_type": "raw",
                              "output_shape_module": None, "arguments": {}}

for edit in (calls, loops, compiled):
    edited("plain.h5", edit.__name__ + ".h5", edit)

# A Lambda whose class is spelled with an escape; loading it as Keras 2 does runs it.
x = keras.Input((4,), name="x")
writes = layers.Lambda(lambda x: open(MARK, "w").close() or x * 2)
keras.Model(x, layers.Dense(2, name="y")(writes(x))).save("escaped")
notes = saved_metadata_pb2.SavedMetadata()
with open("escaped/keras_metadata.pb", "rb") as file:
    notes.ParseFromString(file.read())
for node in notes.nodes:
    node.metadata = node.metadata.replace("Lambda", "L\\\\u0061mbda")
with open("escaped/keras_metadata.pb", "wb") as file:
    file.write(notes.SerializeToString())

class Table(tf.saved_model.experimental.TrackableResource):
    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])
    def _initialize(self):
        tf.io.write_file(MARK, "x")
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=1.0)

class Module(tf.Module):
    def __init__(self):
        self.w = tf.Variable(tf.ones((4, 2)))
    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def computes(self, x):
        return {"y": x @ self.w}
    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def writes(self, x):
        def written():
            with tf.control_dependencies([tf.io.write_file(MARK, "x")]):
                return tf.constant(0.0)
        return {"y": x @ self.w + tf.cond(tf.reduce_sum(x) > -1e9, written, lambda: 1.0)}
    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def calls_python(self, x):
        return {"y": tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), [None, 4])}

class WithTable(tf.Module):
    def __init__(self):
        self.table = Table()
        self.table._initialize()
    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def looks_up(self, x):
        return {"y": x * tf.raw_ops.ReadVariableOp(
            resource=self.table.resource_handle, dtype=tf.float32)}

module = Module()
tf.saved_model.save(module, "computes", signatures=module.computes)  # `writes` lies beside it
tf.saved_model.save(module, "writes", signatures=module.writes)
tf.saved_model.save(module, "calls_python", signatures=module.calls_python)
module = WithTable()
tf.saved_model.save(module, "writes_when_loaded", signatures=module.looks_up)

graph = tf.Graph()
with graph.as_default(), tf.compat.v1.Session() as session:
    x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
    w = tf.compat.v1.get_variable("w", initializer=tf.ones((4, 2)), use_resource=True)
    session.run(tf.compat.v1.global_variables_initializer())
    start = tf.io.write_file(MARK, "x")
    y = x @ w
    for name, op in (("old", None), ("old_writes", start)):
        builder = tf.compat.v1.saved_model.Builder(name)
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=op)
        builder.save()

if os.path.exists(MARK):
    os.remove(MARK)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers")
    subprocess.run(
        [sys.executable, "-c", SAVE, str(folder)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        check=True,
    )
    return folder


@pytest.fixture(scope="module", autouse=True)
def workers():
    with open_toolchain(), open_toolchain(family="tf-keras"):
        yield


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("calls.h5", r"'op' calls 'tf\.io\.gfile\.makedirs"),
        ("loops.h5", "'y' takes call 3 of 'op', which the model does not make"),
        ("compiled.h5", "'op' is a Lambda layer"),
        ("writes", "its graph holds WriteFile"),
        ("writes_when_loaded", "its graph holds WriteFile"),
        ("calls_python", "its graph holds .*PyFunc"),
        ("old_writes", "its graph holds WriteFile"),
    ],
)
def test_what_would_do_more_than_compute_is_refused(files, tmp_path, file, words):
    with pytest.raises(SourceError, match=words) as raised:
        edgekit.export(source=files / file, to="onnx", output=tmp_path / "ws")
    assert raised.value.hint
    assert not (files / "MARK").exists()
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("file", "family"),
    [
        ("operators.h5", "tf-keras"),
        ("operators.keras", "tf-keras"),
        ("operators", "saved-model"),
        ("escaped", "saved-model"),
        ("computes", "saved-model"),
        ("old", "saved-model"),
    ],
)
def test_what_only_computes_is_exported(files, tmp_path, file, family):
    done = edgekit.export(source=files / file, to=("tflite", "onnx"), output=tmp_path / "ws")
    assert [a.id for a in done.artifacts] == ["fp32.tflite", "fp32.onnx"]
    source = Workspace.open(tmp_path / "ws").manifest.source
    assert source.family.startswith(family + " ")
    assert not (files / "MARK").exists()

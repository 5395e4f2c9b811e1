"""Which loader a model needs, told by its files alone; and Python files of the user's."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import h5py
import pytest

from edgekit import usercode
from edgekit.errors import SourceError
from edgekit.formats.sources import find_source
from edgekit.types import Code, Source
from edgekit.verbs.source import name_of, opened_source

BUILDER = Code("code:build")
DENSE = {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {}}]}}


def model_of(*layers, **more):
    return {"class_name": "Functional", "config": {"layers": list(layers), **more}}


def write_keras(path, version="3.15.1", config=DENSE):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
    return path


def write_h5(path, version, config=DENSE, group=None):
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["keras_version"] = version
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        if group is not None:
            file.create_group(group)
    return path


def family(path, **loading):
    return find_source(Source(str(path), "", **loading)).family


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("3.15.1", "keras"), ("2.15.0", "tf-keras"), ("2.2.4-tf", "tf-keras"), ("1.2.0", "tf-keras")],
)
def test_the_version_decides(tmp_path, version, wanted):
    assert family(write_keras(tmp_path / "m.keras", version)) == wanted
    assert family(write_h5(tmp_path / "m.h5", version)) == wanted


@pytest.mark.parametrize(
    ("config", "wanted"),
    [({"config": {"batch_input_shape": [None, 3]}}, "tf-keras"), (DENSE, "keras")],
)
def test_without_a_version_the_configuration_does(tmp_path, config, wanted):
    assert family(write_h5(tmp_path / "m.h5", None, config)) == wanted


@pytest.mark.parametrize(
    ("version", "group", "wanted"),
    [
        (None, "layers", "keras"),
        (None, "_layer_checkpoint_dependencies", "tf-keras"),
        ("2.9.0", "dense", "tf-keras"),
    ],
)
def test_weights_need_a_builder(tmp_path, version, group, wanted):
    path = write_h5(tmp_path / "m.weights.h5", version, None, group)
    assert family(path, builder=BUILDER) == wanted
    with pytest.raises(SourceError, match="holds weights without a model") as raised:
        family(path)
    assert "--builder" in raised.value.hint


LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wEAAAA", None, None]}}
NAMED = {"module": "builtins", "class_name": "function", "config": "relu6"}


@pytest.mark.parametrize(
    "lambda_layer",
    [
        {"function": ["4wEAAAA", None, None]},
        {"function": "4wEAAAA", "function_type": "lambda"},
        {"function": LAMBDA},
        {"function": NAMED, "output_shape": ["4wEAAAA", None, None]},
        {"function": NAMED, "mask": LAMBDA},
    ],
)
def test_python_code_in_a_file_is_refused(tmp_path, lambda_layer):
    inner = {"class_name": "keras>Lambda", "config": {"name": "scale", **lambda_layer}}
    config = model_of({"class_name": "TimeDistributed", "config": {"layer": inner}})
    for path in (
        write_keras(tmp_path / "m.keras", config=config),
        write_h5(tmp_path / "m.h5", "2.15.0", config),
    ):
        with pytest.raises(SourceError, match=r"'scale' (is|holds) .* code; it was not run"):
            family(path)
        assert family(path, builder=BUILDER)  # only the weights of the file are read


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (
            {"class_name": "Dense", "config": {"name": "d", "activation": LAMBDA}},
            "the layer 'd' holds a Python lambda",
        ),
        (
            {"class_name": "TFSMLayer", "config": {"name": "t", "filepath": "/some/where"}},
            "the layer 't' is a TFSMLayer, which runs the SavedModel '/some/where'",
        ),
        (
            {"class_name": "StringLookup", "config": {"name": "s", "vocabulary": "/some/file"}},
            "the layer 's' takes its vocabulary from another file, '/some/file'",
        ),
    ],
)
@pytest.mark.parametrize("version", ["3.15.1", "2.15.0"])
def test_what_is_refused_is_called_by_its_name(tmp_path, version, layer, words):
    path = write_keras(tmp_path / "m.keras", version, model_of(layer))
    with pytest.raises(SourceError, match=words) as raised:
        family(path)
    assert raised.value.hint
    assert family(path, builder=BUILDER)


def test_a_lambda_of_a_named_function_is_no_code(tmp_path):
    layer = {"class_name": "Lambda", "config": {"function": "relu6", "function_type": "function"}}
    assert family(write_keras(tmp_path / "m.keras", "2.15.0", model_of(layer))) == "tf-keras"


def op_layer(function, kind="TFOpLambda"):
    return {"class_name": kind, "config": {"name": "op", "function": function}}


@pytest.mark.parametrize(
    "function",
    ["math.multiply", "nn.relu", "__operators__.getitem", "concat", "compat.v1.shape", "cast",
     "image.resize", "linalg.matmul", "reduce_mean", "keras.backend.mean", "compat.v1.transpose",
     "keras.activations.gelu", "random.normal", "floor_div", "compat.v1.nn.leaky_relu"],
)  # fmt: skip
def test_functions_that_compute(tmp_path, function):
    assert (
        family(write_keras(tmp_path / "m.keras", "2.15.0", model_of(op_layer(function))))
        == "tf-keras"
    )


@pytest.mark.parametrize(
    "layer",
    [
        *map(op_layer, ["io.gfile.remove", "io.write_file", "keras.utils.get_file", "load_library",
                        "numpy_function", "print", "compat.v1.read_file", "raw_ops.WriteFile",
                        "nn.fixed_unigram_candidate_sampler", "keras.activations.deserialize",
                        "math.add\n", "keras.backend.print_tensor", "experimental.numpy.save"]),
        op_layer("io.gfile.remove", "keras>SlicingOpLambda"),
        {"class_name": "ClassMethod", "config": {"cls_symbol": "Module", "method_name": "x"}},
        {"class_name": "InstanceMethod", "config": {"attr_name": "x"}},
        {"class_name": "TensorFlowOpLayer", "config": {"node_def": {"op": "WriteFile"}}},
        {"class_name": "TensorFlowOpLayer", "config": {"node_def": "\n\x01a\x12\x08ReadFile"}},
    ],
)  # fmt: skip
def test_functions_that_do_more_than_compute(tmp_path, layer):
    path = write_keras(tmp_path / "m.keras", "2.15.0", model_of(layer))
    with pytest.raises(SourceError, match=r"calls .* it was not run"):
        family(path)
    assert family(path, builder=BUILDER) == "tf-keras"


@pytest.mark.parametrize("node", [{"op": "AddV2"}, "\n\x01a\x12\x05AddV2"])
def test_operations_of_old_files(tmp_path, node):
    layer = {"class_name": "TensorFlowOpLayer", "config": {"node_def": node}}
    assert family(write_keras(tmp_path / "m.keras", "2.3.0", model_of(layer))) == "tf-keras"


def imported(module, kind, config=None, **more):
    layer = {"module": module, "class_name": kind, "config": config, **more}
    return model_of({"class_name": "Dense", "config": {"name": "d", "activation": layer}})


@pytest.mark.parametrize(
    "config",
    [
        imported("os", "function", "mkdir"),
        imported("subprocess", "Popen", {"args": ["ls"]}),
        imported("builtins", "function", "exec"),
        imported("keras.utils", "function", "get_file"),
        imported("tf_keras.src.utils.data_utils", "os.system"),
        imported("tensorflow.python.ops.gen_io_ops", "function", "write_file"),
    ],
)
def test_keras_2_imports_nothing_that_a_file_names(tmp_path, config):
    path = write_keras(tmp_path / "m.keras", "2.15.0", config)
    for options in ({}, {"custom_objects": Code("mine")}):
        with pytest.raises(SourceError, match=r"'d' calls .*, which is no part of a model"):
            family(path, **options)
    assert family(path, builder=BUILDER) == "tf-keras"


@pytest.mark.parametrize(
    "config",
    [
        imported("builtins", "function", "relu", registered_name="relu"),
        imported("builtins", "function", "abs"),
        imported("keras.activations", "function", "gelu"),
        imported("tensorflow.python.ops.nn_ops", "function", "leaky_relu"),
        imported("keras.initializers", "GlorotUniform", {}),
    ],
)
def test_parts_of_keras_2(tmp_path, config):
    assert family(write_keras(tmp_path / "m.keras", "2.15.0", config)) == "tf-keras"


def test_own_layers_of_keras_2_are_asked_for(tmp_path):
    config = imported("my_layers", "Scale", {}, registered_name="mine>Scale")
    path = write_keras(tmp_path / "m.keras", "2.15.0", config)
    with pytest.raises(SourceError, match="needs 'Scale', not part of Keras") as raised:
        family(path)
    assert "--custom-objects my_layers" in raised.value.hint
    assert family(path, custom_objects=Code("my_layers")) == "tf-keras"


def graph_of(*layers):
    """A Functional configuration; a layer is (name, class, inbound nodes)."""
    built = [
        {"class_name": kind, "name": name, "config": {"name": name, **more}, "inbound_nodes": nodes}
        for name, kind, nodes, more in ((*layer, {})[:4] for layer in layers)
    ]
    return model_of(*built, input_layers=[["x", 0, 0]], output_layers=[["y", 0, 0]])


INPUT = ("x", "InputLayer", [])
NESTED = {"layers": [{"class_name": "InputLayer", "config": {}}]}


@pytest.mark.parametrize(
    "layers",
    [
        [("y", "Dense", [[["x", 0, 0, {}]]]), INPUT],
        [INPUT, ("s", "Dense", [[["x", 0, 0]], [["s", 0, 0]]]), ("y", "Dense", [[["s", 1, 0]]])],
        [INPUT, ("s", "Functional", [[["x", 0, 0]]], NESTED), ("y", "Dense", [[["s", 1, 0]]])],
        [INPUT, ("s", "Sequential", [[["x", 0, 0]]], NESTED), ("y", "Dense", [[["s", 1, 0]]])],
        [INPUT, ("s", "Sequential", [[["x", 0, 0]]], NESTED), ("y", "Dense", [[["s", 0, 0]]])],
        [INPUT, ("y", "TFOpLambda", [["x", 0, 0, {"y": 2.0, "name": None}]], {"function": "pow"})],
        [INPUT, ("y", "TFOpLambda", [["_CONSTANT_VALUE", -1, 2.0, {"y": ["x", 0, 0]}]],
                 {"function": "pow"})],
        [INPUT, ("m", "Masking", [[["x", 0, 0, {}]]]),
         ("y", "LSTM", [[["x", 0, 0, {"mask": ["m", 0, 0]}]]])],
        [INPUT, ("y", "Attention", [{"query": ["x", 0, 0], "value": ["x", 0, 0]}])],
    ],
)  # fmt: skip
def test_graphs_of_layers(tmp_path, layers):
    assert family(write_keras(tmp_path / "m.keras", "2.15.0", graph_of(*layers))) == "tf-keras"


@pytest.mark.parametrize(
    "layers",
    [
        [INPUT, ("s", "Dense", [[["x", 0, 0]]]), ("y", "Dense", [[["s", 3, 0]]])],
        [INPUT, ("s", "Dense", [[["y", 0, 0]]]), ("y", "Dense", [[["s", 0, 0]]])],
        [INPUT, ("s", "Functional", [[["x", 0, 0]]], NESTED), ("y", "Dense", [[["s", 0, 0]]])],
        [INPUT, ("s", "Dense", []), ("y", "Dense", [[["s", 0, 0]]])],
        [INPUT, ("y", "Dense", [[["nothing", 0, 0]]])],
        [INPUT, ("y", "Dense", [[["x", 0, 0, {"mask": ["y", 0, 0]}]]])],
    ],
)
def test_graphs_that_tf_keras_would_never_finish(tmp_path, layers):
    path = write_keras(tmp_path / "m.keras", "2.15.0", graph_of(*layers))
    with pytest.raises(SourceError, match=r"the layer '[ys]' takes"):
        family(path)
    assert family(path, builder=BUILDER) == "tf-keras"


def notes_of(*configs):
    """A SavedModel's keras_metadata.pb: SavedObjects with a number, a path and JSON."""
    nodes = []
    for text in configs:
        data = text.encode()
        length = bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
        nodes.append(b"\x10\x01\x1a\x04root\x2a" + length + data)
    lengths = [bytes([len(node) & 0x7F | 0x80, len(node) >> 7]) for node in nodes]
    return b"".join(b"\x0a" + n + node for n, node in zip(lengths, nodes, strict=True))


@pytest.mark.parametrize(
    ("notes", "wanted"),
    [
        (None, "saved-model"),
        (notes_of(json.dumps(DENSE)), "tf-keras"),
        (notes_of(json.dumps(DENSE), json.dumps(op_layer("math.add"))), "saved-model"),
        (notes_of('{"class_name": "L\\u0061mbda"}'), "saved-model"),
        (notes_of(json.dumps({"class_name": "InstanceMethod"})), "saved-model"),
        (notes_of(json.dumps(DENSE), json.dumps(imported("os", "function", "mkdir"))),
         "saved-model"),
        (notes_of('{"class_name": "Dense"'), "saved-model"),
        (b"no protobuf", "saved-model"),
        (notes_of(json.dumps(DENSE))[:-1], "saved-model"),
    ],
)  # fmt: skip
def test_saved_models(tmp_path, notes, wanted):
    (tmp_path / "saved_model.pb").touch()
    if notes is not None:
        (tmp_path / "keras_metadata.pb").write_bytes(notes)
    assert family(tmp_path) == wanted


@pytest.mark.parametrize("option", ["builder", "custom_objects"])
def test_a_saved_model_takes_no_code(tmp_path, option):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(SourceError, match="needs neither custom objects nor a builder") as raised:
        family(tmp_path, **{option: BUILDER})
    assert "leave out" in raised.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "is not a Keras model file"),
        (b"PK\x03\x04 hello", "cannot be read"),
        (b"\x89HDF\r\n\x1a\n hello", "cannot be read"),
    ],
)
def test_what_is_no_model(tmp_path, content, words):
    path = tmp_path / "m.keras"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words) as raised:
        family(path)
    assert raised.value.hint


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(SourceError, match="neither a workspace nor a SavedModel"):
        family(tmp_path)


def test_files_of_code_go_by_their_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_keras(tmp_path / "m.keras")
    with opened_source(path, custom_objects="mine.py", builder="other.py:build") as found:
        assert found.custom_objects == Code(str(tmp_path / "mine.py"))
        assert found.builder == Code(f"{tmp_path / 'other.py'}:build")
    with opened_source(path, custom_objects="package.mine", builder="other:build") as found:
        assert (found.custom_objects.name, found.builder.name) == ("package.mine", "other:build")


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/my.model.keras", "my.model"), ("m.weights.h5", "m"), ("a/saved", "saved"), ("m.h5", "m")],
)
def test_the_name_of_a_workspace(path, name):
    assert name_of(path) == name


def test_a_module_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "edgekit_test_code.py").write_text("VALUE = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module, digest = usercode.load("edgekit_test_code", None, SourceError)
    assert module.VALUE == 3
    assert usercode.load("edgekit_test_code.py", digest, SourceError)[0].VALUE == 3
    (tmp_path / "edgekit_test_code.py").write_text("VALUE = 4\n")
    with pytest.raises(SourceError, match="was edited after"):
        usercode.load("edgekit_test_code", digest, SourceError)


@pytest.mark.parametrize("name", ["no_such_module", "no.such.module", "sys", "nothing.py"])
def test_code_that_is_not_there(name):
    with pytest.raises(SourceError, match=r"there is no (file|Python module)"):
        usercode.load(name, None, SourceError)


def test_a_file_may_import_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "edgekit_neighbour.py").write_text("VALUE = 5\n")
    (tmp_path / "code.py").write_text("from edgekit_neighbour import VALUE\n")
    assert usercode.load(str(tmp_path / "code.py"), None, SourceError)[0].VALUE == 5
    assert not list(Path(tmp_path).glob("__pycache__/code*"))


def test_errors_in_the_code_name_the_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "code.py").write_text("x = 1\nx / 0\n")
    with pytest.raises(SourceError, match=r"code\.py:2: ZeroDivisionError"):
        usercode.load(str(tmp_path / "code.py"), None, SourceError)

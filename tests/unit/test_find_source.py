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


def lambda_of(function):
    layer = {"class_name": "Lambda", "config": {"function": function}}
    return {"class_name": "Functional", "config": {"layers": [layer]}}


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


@pytest.mark.parametrize(
    "function", [["4wEAAAA", None, None], {"class_name": "__lambda__", "config": {}}]
)
def test_python_code_in_a_file_is_refused(tmp_path, function):
    for path in (
        write_keras(tmp_path / "m.keras", config=lambda_of(function)),
        write_h5(tmp_path / "m.h5", "2.15.0", lambda_of(function)),
    ):
        with pytest.raises(SourceError, match="Lambda layer, which is Python code"):
            family(path)
        assert family(path, builder=BUILDER)  # only the weights of the file are read


def test_a_lambda_of_a_named_function_is_no_code(tmp_path):
    assert family(write_h5(tmp_path / "m.h5", "2.15.0", lambda_of("relu6"))) == "tf-keras"


@pytest.mark.parametrize(
    ("notes", "wanted"),
    [(None, "saved-model"), (b"Dense", "tf-keras"), (b'"class_name": "Lambda"', "saved-model")],
)
def test_saved_models(tmp_path, notes, wanted):
    (tmp_path / "saved_model.pb").touch()
    if notes is not None:
        (tmp_path / "keras_metadata.pb").write_bytes(notes)
    assert family(tmp_path) == wanted


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

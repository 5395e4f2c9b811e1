"""Parts of models: what the user names, and what is left without its preprocessing."""

from __future__ import annotations

import json
import re
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgekit
from edgekit.errors import SourceError
from edgekit.toolchain.client import open_toolchain

MY_LAYERS = str(Path(__file__).parents[1] / "my_layers.py")
SAVE_MODELS = str(Path(__file__).parents[1] / "save_models.py")


@pytest.fixture(scope="module", autouse=True)
def workers():
    """TensorFlow starts once for each family."""
    with open_toolchain(), open_toolchain(family="tf-keras"):
        yield


KERAS_2 = """
import os, pathlib, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import tensorflow as tf, tf_keras as keras
folder, layers = pathlib.Path(sys.argv[1]), keras.layers

review = keras.Input((), dtype="string", name="review")
words = layers.TextVectorization(output_mode="tf_idf", name="words")
words.adapt(["a good film", "A bad film!", "good, bad, ugly"])
place = keras.Input((2,), dtype="string", name="place")
look = layers.StringLookup(vocabulary=["Rome", "Oslo"], output_mode="one_hot", name="look")
code = keras.Input((), dtype="int64", name="code")
known = layers.IntegerLookup(vocabulary=[30, 7], name="known")
nested = keras.Sequential([keras.Input((1,), dtype="int64"), known], name="nested")
embedded = layers.Flatten()(layers.Embedding(3, 2)(nested(tf.expand_dims(code, -1))))
joined = layers.Concatenate()([words(review), look(place[:, 0:1]), look(place[:, 1:2]), embedded])
keras.Model([review, place, code], layers.Dense(2)(joined)).save(folder / "categories.keras")

age = keras.Input((1,), name="age")
bins = layers.Discretization(num_bins=4, name="bins")
bins.adapt([[float(i)] for i in range(90)])
y = layers.Dense(2)(layers.CategoryEncoding(4, output_mode="one_hot")(bins(age)))
keras.Model(age, y).save(folder / "boundaries.keras")

keras.mixed_precision.set_global_policy("mixed_float16")
x = keras.Input((4,), name="x")
y = layers.Dense(2, name="second")(layers.Dense(3, name="first")(x))
keras.Model(x, y).save(folder / "mixed.h5")
"""


@pytest.fixture(scope="module")
def keras2_parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras2")
    subprocess.run([sys.executable, "-W", "ignore", "-c", KERAS_2, folder], check=True)
    return folder


def names(specs):
    return [spec.name for spec in specs]


def run(folder, artifact, feed):
    """The outputs of an ONNX file by Keras name."""
    session = onnxruntime.InferenceSession(str(folder / artifact.path))
    native = {spec.native: feed[spec.name] for spec in artifact.signature.inputs}
    return dict(zip(names(artifact.signature.outputs), session.run(None, native), strict=True))


def words_of(text, ngrams):
    bare = "".join(c for c in text.lower() if c not in string.punctuation).split()
    return [
        " ".join(bare[i : i + n])
        for n in range(1, (ngrams or 1) + 1)
        for i in range(len(bare) - n + 1)
    ]


def encoded(indices, mode, size):
    if mode == "int":
        return indices
    places = np.eye(size)[indices]
    if mode == "one_hot":
        return places[:, 0]
    return places.max(axis=1) if mode == "multi_hot" else places.sum(axis=1)


def look_up(layer, values):
    config, tokens = layer["config"], layer["vocabulary"]
    unknown = tokens.index(config["oov_token"])
    found = [[tokens.index(v) if v in tokens else unknown for v in row] for row in values.tolist()]
    return encoded(np.array(found), config["output_mode"], len(tokens))


def vectorize(layer, texts):
    config, tokens = layer["config"], layer["vocabulary"]
    unknown = tokens.index("[UNK]")
    rows = []
    for text in texts.tolist():
        found = words_of(text, config["ngrams"])
        indices = [tokens.index(w) if w in tokens else unknown for w in found]
        if config["output_mode"] == "tf_idf":
            counts = np.bincount(indices, minlength=len(tokens))
            rows.append(counts * np.array(layer["idf_weights"]))
        else:
            length = config["output_sequence_length"]
            rows.append((indices + [0] * length)[:length])
    return np.array(rows)


def columns(layer, values):
    arguments = layer["arguments"]
    key = arguments.get("key") or arguments["slice_spec"]
    return values[tuple(slice(k["start"], k["stop"], k["step"]) for k in key)]


def bucketed(layer, values):
    return np.digitize(values, layer["bin_boundaries"])


def category(layer, indices):
    return encoded(indices, layer["config"]["output_mode"], layer["config"]["num_tokens"])


def expanded(layer, values):
    return np.expand_dims(values, {**layer["config"], **layer.get("arguments", {})}["axis"])


BY_HAND = {
    "CategoryEncoding": category,
    "Discretization": bucketed,
    "ExpandDims": expanded,
    "GetItem": columns,
    "IntegerLookup": look_up,
    "SlicingOpLambda": columns,
    "StringLookup": look_up,
    "TFOpLambda": expanded,
    "TextVectorization": vectorize,
}


def apply_by_hand(notes, raw):
    """What preprocessing.json says, in plain Python."""
    tensors = {name: raw[name] for name in notes["raw_inputs"]}
    for layer in notes["layers"]:
        [name] = layer["outputs"]
        assert name not in tensors
        apply = BY_HAND[layer["class_name"]]
        tensors[name] = apply(layer, *(tensors[n] for n in layer["inputs"]))
    return {name: tensors[name] for name in notes["inputs"]}


REVIEWS = ["a good film", "Bad, bad film!", "ugly and unknown", "good bad"]
PLACES = ["Rome", "Oslo", "Atlantis"]


def raw_rows(family, rows=80):
    random = np.random.default_rng(0)
    if family == "keras2_parts":
        return {
            "review": random.choice(REVIEWS, rows),
            "place": random.choice(PLACES, (rows, 2)),
            "code": random.choice([7, 30, 99], rows),
        }
    return {
        "age": random.choice([5.0, 18.0, 40.0, 70.0], (rows, 1)),
        "stations": random.choice(PLACES, (rows, 2)),
        "review": random.choice(REVIEWS, rows),
        "code": random.choice([7, 30, 99], rows),
        "grade": random.choice([7, 30, 99], (rows, 1)),
    }


@pytest.mark.parametrize("family", ["keras_files", "keras2_parts"])
def test_preprocessing_is_told_well_enough_to_be_done_elsewhere(request, tmp_path, family):
    folder, raw = request.getfixturevalue(family), raw_rows(family)
    np.savez(tmp_path / "raw.npz", **raw)
    done = edgekit.export(
        source=folder / "categories.keras",
        to="onnx",
        samples=tmp_path / "raw.npz",
        output=tmp_path / "ws",
    )
    notes = json.loads((tmp_path / "ws" / "preprocessing.json").read_text())
    assert sorted(notes["raw_inputs"]) == sorted(raw)
    assert notes["inputs"] == names(done.artifacts[0].signature.inputs)
    made = apply_by_hand(notes, raw)
    kept = np.load(tmp_path / "ws" / "verification.npz")
    for name, value in made.items():
        assert value.shape == kept[name].shape, name
        assert np.allclose(value, kept[name], atol=1e-6), name


def test_dicts_keep_their_keys_without_preprocessing(keras_files, tmp_path):
    done = edgekit.export(source=keras_files / "categories.keras", to="onnx", output=tmp_path / "w")
    signature = done.artifacts[0].signature
    assert names(signature.outputs) == ["bad", "good"]
    assert "age" in names(signature.inputs)
    assert {"station", "station_1", "nested"} <= set(names(signature.inputs))


def test_text_and_categories_are_split_off(keras_files, tmp_path):
    random = np.random.default_rng(0)
    words = random.choice(["one two", "three four zebra", "four"], (80, 1))
    np.savez(tmp_path / "raw.npz", words=words, age=random.choice([18, 30, 99], (80, 1)))
    done = edgekit.export(
        source=keras_files / "text.keras",
        precision=("fp32", "int8"),
        samples=tmp_path / "raw.npz",
        output=tmp_path / "ws",
    )
    assert len(done.artifacts) == 6
    assert names(done.artifacts[0].signature.inputs) == ["vectorize", "encode"]
    assert "split off: " in done.warnings[0]
    notes = json.loads((tmp_path / "ws" / "preprocessing.json").read_text())
    assert notes["raw_inputs"] == ["words", "age"]
    layers = {layer["name"]: layer for layer in notes["layers"]}
    assert set(layers) == {"vectorize", "lookup", "encode"}
    assert layers["vectorize"]["vocabulary"][:3] == ["", "[UNK]", "two"]
    assert layers["lookup"]["vocabulary"] == [-1, 18, 30, 65]
    # What the files were compared on is what the layers make of the raw rows.
    rows = np.load(tmp_path / "ws" / "verification.npz")
    index = layers["vectorize"]["vocabulary"].index
    assert rows["vectorize"][words[:, 0] == "one two"][0].tolist() == [
        index("one"),
        index("two"),
        0,
        0,
    ]
    assert rows["encode"].sum(axis=1).tolist() == [1] * 80


def test_text_of_keras_2_is_split_off(keras2_files, tmp_path):
    done = edgekit.export(source=keras2_files / "text.keras", output=tmp_path / "ws")
    assert names(done.artifacts[0].signature.inputs) == ["vectorize"]


def test_parts_of_a_model_make_the_whole(keras2_files, tmp_path):
    """The first part's output, fed to the second, gives what the model gives."""
    file = keras2_files / "cnn.h5"
    head = edgekit.export(
        source=file, until_layer="re_lu", to="onnx", output=tmp_path / "head"
    ).artifacts[0]
    tail = edgekit.export(
        source=file, from_layer="head", to="onnx", output=tmp_path / "tail"
    ).artifacts[0]
    whole = edgekit.export(source=file, to="onnx", output=tmp_path / "whole").artifacts[0]
    assert names(head.signature.outputs) == names(tail.signature.inputs) == ["re_lu"]
    import onnxruntime

    def run(folder, artifact, rows):
        session = onnxruntime.InferenceSession(str(tmp_path / folder / artifact.path))
        return session.run(None, {artifact.signature.inputs[0].native: rows})[0]

    rows = np.random.default_rng(0).standard_normal((5, 8, 8, 2)).astype(np.float32)
    assert np.allclose(
        run("tail", tail, run("head", head, rows)), run("whole", whole, rows), atol=1e-6
    )


def test_a_part_is_another_workspace(keras_files, tmp_path):
    options = {"to": "tflite", "output": tmp_path / "ws", "custom_objects": MY_LAYERS}
    edgekit.export(source=keras_files / "custom.keras", **options)
    with pytest.raises(edgekit.EdgekitError, match="is the workspace of another model"):
        edgekit.export(source=keras_files / "custom.keras", until_layer="first", **options)
    with pytest.raises(SourceError, match="how its model is loaded was said"):
        edgekit.export(source=tmp_path / "ws", until_layer="first", to="tflite")


@pytest.mark.parametrize(
    ("ends", "inputs", "outputs"),
    [
        ({"until_layer": "wide"}, ["left"], ["wide"]),
        ({"until_layer": "met"}, ["left", "right"], ["met"]),
        ({"from_layer": "left_in", "until_layer": "flat"}, ["left"], ["flat"]),
        ({"from_layer": "attention", "until_layer": "attention"}, ["row"], ["attention"]),
        ({"from_layer": "twice"}, ["met"], ["found"]),
        ({"from_layer": "met"}, ["flat", "wide", "other"], ["found"]),
    ],
)
def test_a_part_takes_what_it_needs_by_its_name(keras_files, tmp_path, ends, inputs, outputs):
    done = edgekit.export(
        source=keras_files / "branches.keras", to="onnx", output=tmp_path / "ws", **ends
    )
    signature = done.artifacts[0].signature
    assert names(signature.inputs) == inputs
    assert names(signature.outputs) == outputs


def test_two_parts_of_a_model_with_branches_make_the_whole(keras_files, tmp_path):
    def exported(name, **ends):
        done = edgekit.export(
            source=keras_files / "branches.keras", to="onnx", output=tmp_path / name, **ends
        )
        return lambda feed: run(tmp_path / name, done.artifacts[0], feed)

    random = np.random.default_rng(0)
    feed = {n: random.standard_normal((5, 6)).astype(np.float32) for n in ("left", "right")}
    head, tail = exported("head", until_layer="met"), exported("tail", from_layer="twice")
    whole = exported("whole")(feed)
    assert np.allclose(tail(head(feed))["found"], whole["found"], atol=1e-6)


def test_a_part_that_takes_no_text_needs_no_text(keras_files, tmp_path):
    done = edgekit.export(
        source=keras_files / "categories.keras",
        until_layer="normal",
        to="onnx",
        output=tmp_path / "ws",
    )
    assert names(done.artifacts[0].signature.inputs) == ["age"]
    assert not (tmp_path / "ws" / "preprocessing.json").exists()


@pytest.mark.parametrize(
    ("file", "ends", "words", "hint"),
    [
        ("exported", {"from_layer": "wide"}, "without layers", "from the .keras"),
        ("heads.keras", {"until_layer": "dense"}, "no graph of layers", "Functional"),
        ("custom.keras", {"until_layer": "nothing"}, "no layer 'nothing'", "it has: x, first"),
        (
            "custom.keras",
            {"from_layer": "y", "until_layer": "first"},
            "no part from 'y' until 'first': nothing leads",
            "name a layer behind",
        ),
        ("custom.keras", {"until_layer": "x"}, "no part from its inputs until 'x'", "behind"),
        ("branches.keras", {"from_layer": "flat"}, "it needs left, right as well", "meet"),
        ("branches.keras", {"from_layer": "left_in"}, "it needs right as well", "--until"),
        ("mixed.keras", {"from_layer": "batch_normalization"}, "gives is float16", "in float32"),
        ("tripled.keras", {}, r"call\(\) of its own \(Tripled\)", "keras.Model"),
        ("tripled.keras", {"from_layer": "y"}, r"call\(\) of its own \(Tripled\)", "keras.Model"),
        ("lookup_behind.keras", {}, "'look' .IntegerLookup. is not at the", "--from flat$"),
        ("categories.keras", {"until_layer": "words"}, "from preprocessing layers alone", "export"),
    ],
)
def test_parts_that_cannot_be_are_refused(keras_files, tmp_path, file, ends, words, hint):
    with pytest.raises(SourceError, match=words) as raised:
        edgekit.export(
            source=keras_files / file,
            to="onnx",
            output=tmp_path / "ws",
            custom_objects=None if file == "exported" else code_of(file),
            **ends,
        )
    assert re.search(hint, raised.value.hint)
    assert not (tmp_path / "ws").exists()


def code_of(file):
    return SAVE_MODELS if file == "tripled.keras" else MY_LAYERS


@pytest.mark.parametrize(
    ("file", "ends", "words"),
    [
        ("boundaries.keras", {}, "'bins' .Discretization. has no boundaries"),
        ("mixed.h5", {"from_layer": "second"}, "'first' gives is float16"),
    ],
)
def test_parts_of_keras_2_that_cannot_be_are_refused(keras2_parts, tmp_path, file, ends, words):
    with pytest.raises(SourceError, match=words) as raised:
        edgekit.export(source=keras2_parts / file, to="onnx", output=tmp_path / "ws", **ends)
    assert raised.value.hint


def test_what_lies_behind_a_lookup_is_a_part(keras_files, tmp_path):
    done = edgekit.export(
        source=keras_files / "lookup_behind.keras",
        from_layer="flat",
        to="onnx",
        output=tmp_path / "ws",
    )
    assert names(done.artifacts[0].signature.inputs) == ["nested"]


def test_a_layer_of_the_user_is_not_split_off_for_its_name(keras_files, tmp_path):
    done = edgekit.export(
        source=keras_files / "own_hashing.keras",
        custom_objects=SAVE_MODELS,
        to="onnx",
        output=tmp_path / "ws",
    )
    assert names(done.artifacts[0].signature.inputs) == ["x"]
    assert not (tmp_path / "ws" / "preprocessing.json").exists()

from __future__ import annotations

import gzip
import sys
import types

import numpy as np
import pytest

from edgekit.datasets import (
    different_words,
    load_npz,
    load_recordings,
    load_reviews,
    load_table,
    load_texts,
)
from edgekit.errors import RecipeError

IMAGES = {
    "x_train": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
    "y_train": np.array([0, 1, 2], np.uint8),
    "x_test": np.arange(4, dtype=np.uint8).reshape(1, 2, 2),
    "y_test": np.array([1], np.uint8),
}
TEXTS = {
    "train_tokens": np.array([1, 7, 2, 1, 20_003, 9, 4], np.uint16),
    "train_lengths": np.array([3, 4], np.int32),
    "train_labels": np.array([0, 1], np.uint8),
    "test_tokens": np.array([1, 5, 1, 6], np.uint16),
    "test_lengths": np.array([2, 2], np.int32),
    "test_labels": np.array([1, 0], np.uint8),
}
TABLE = {"x": np.arange(8, dtype=np.float32).reshape(4, 2), "y": np.arange(4, dtype=np.float32)}
BOTH = pytest.mark.parametrize(("load", "arrays"), [(load_npz, IMAGES), (load_texts, TEXTS)])


@pytest.fixture
def keras_datasets(monkeypatch):
    """Puts a module where `keras.datasets.tiny` is looked for, so that Keras is not imported."""

    def install(load_data):
        module = types.ModuleType("keras.datasets.tiny")
        module.load_data = load_data
        monkeypatch.setitem(sys.modules, "keras.datasets.tiny", module)

    return install


@BOTH
def test_data_folder(tmp_path, monkeypatch, load, arrays):
    np.savez(tmp_path / "tiny.npz", **arrays, more=np.zeros(1))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    loaded = load("tiny")
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


def test_without_the_file_keras_is_asked(tmp_path, monkeypatch, capsys, keras_datasets):
    def load_data():
        print("Downloading")
        return (IMAGES["x_train"], IMAGES["y_train"]), (IMAGES["x_test"], IMAGES["y_test"])

    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    keras_datasets(load_data)
    loaded = load_npz("tiny")
    assert all(loaded[name] is IMAGES[name] for name in IMAGES)
    assert capsys.readouterr() == ("", "Downloading\n")


def test_texts_of_keras_are_the_same_as_those_of_a_file(monkeypatch, keras_datasets):
    def load_data(num_words):
        rows = [[1, 7, 50_000], [1, 20_003, 9, 4]], [[1, 5], [1, 6]]
        # As Keras does: the test texts, being of one length, become an array of two axes.
        known = [[[w if w < num_words else 2 for w in t] for t in texts] for texts in rows]
        train, test = np.empty(2, object), np.array(known[1], object)
        train[:] = known[0]
        return (train, np.array([0, 1])), (test, np.array([1, 0]))

    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    keras_datasets(load_data)
    loaded = load_texts("tiny")
    assert list(loaded) == list(TEXTS)
    for name, array in TEXTS.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype.kind in "iu"


@BOTH
@pytest.mark.parametrize("is_set", [True, False])
def test_neither_way_names_both(tmp_path, monkeypatch, keras_datasets, is_set, load, arrays):
    if is_set:
        monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("EDGEKIT_DATA", raising=False)

    def fail(num_words=None):
        raise Exception("URL fetch failure")

    keras_datasets(fail)
    with pytest.raises(RecipeError) as caught:
        load("tiny")
    folder = f"EDGEKIT_DATA is {tmp_path}, which has no tiny.npz"
    assert (folder if is_set else "EDGEKIT_DATA is not set") in str(caught.value)
    assert "keras.datasets.tiny failed: URL fetch failure" in str(caught.value)
    assert f"set EDGEKIT_DATA to a folder that holds tiny.npz with {', '.join(arrays)}" in (
        caught.value.hint
    )
    assert "keras.datasets.tiny can download it" in caught.value.hint


@BOTH
@pytest.mark.parametrize("kind", ["garbage", "array missing", "cut off"])
def test_a_broken_file_is_not_passed_over(
    tmp_path, monkeypatch, keras_datasets, kind, load, arrays
):
    path = tmp_path / "tiny.npz"
    np.savez(path, **dict(list(arrays.items())[: -1 if kind == "array missing" else None]))
    if kind == "garbage":
        path.write_bytes(b"not an archive")
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:-200])
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    keras_datasets(lambda **_: pytest.fail("asked in spite of the file"))
    with pytest.raises(RecipeError, match=r"tiny\.npz cannot be used"):
        load("tiny")


@pytest.mark.parametrize("name", ["california_housing", "boston_housing"])
def test_tables_of_the_data_folder(name, tmp_path, monkeypatch):
    np.savez(tmp_path / f"{name}.npz", **TABLE, columns=np.array(["a", "b"]))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    loaded = load_table(name)
    assert list(loaded) == ["x", "y"]
    for array in TABLE:
        np.testing.assert_array_equal(loaded[array], TABLE[array])


def test_california_comes_from_scikit_learn(monkeypatch):
    from sklearn import datasets
    from sklearn.utils import Bunch

    houses = Bunch(data=TABLE["x"], target=TABLE["y"], feature_names=["a", "b"])
    monkeypatch.setattr(datasets, "fetch_california_housing", lambda: houses)
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    loaded = load_table("california_housing")
    assert list(loaded) == ["x", "y"]
    assert loaded["x"] is TABLE["x"]
    assert loaded["y"] is TABLE["y"]


def test_boston_of_keras_is_in_the_order_of_the_file(monkeypatch):
    def load_data(test_split, seed):
        # As Keras does.
        x, y = np.arange(100).reshape(50, 2), np.arange(50)
        indices = np.arange(len(x))
        np.random.RandomState(seed).shuffle(indices)
        x, y = x[indices], y[indices]
        train = int(len(x) * (1 - test_split))
        return (x[:train], y[:train]), (x[train:], y[train:])

    module = types.ModuleType("keras.datasets.boston_housing")
    module.load_data = load_data
    monkeypatch.setitem(sys.modules, "keras.datasets.boston_housing", module)
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    loaded = load_table("boston_housing")
    np.testing.assert_array_equal(loaded["x"], np.arange(100).reshape(50, 2))
    np.testing.assert_array_equal(loaded["y"], np.arange(50))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("california_housing", "sklearn.datasets.fetch_california_housing"),
        ("boston_housing", "keras.datasets.boston_housing"),
    ],
)
def test_a_table_that_cannot_be_had_names_both_ways(name, source, tmp_path, monkeypatch):
    from sklearn import datasets

    def fail(**_):
        raise OSError("no network")

    module = types.ModuleType("keras.datasets.boston_housing")
    module.load_data = fail
    monkeypatch.setitem(sys.modules, "keras.datasets.boston_housing", module)
    monkeypatch.setattr(datasets, "fetch_california_housing", fail)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    with pytest.raises(RecipeError) as caught:
        load_table(name)
    assert f"which has no {name}.npz; {source} failed: no network" in str(caught.value)
    assert f"{name}.npz with x, y" in caught.value.hint
    assert f"{source} can download it" in caught.value.hint


REVIEWS = '''title,review,department,class,rating,recommended,age
Lovely,"Soft, warm
and ""cosy""",Tops,Knits,5,1,30
Größe?,too small,Bottoms,Jeans,2,0,40
'''


def test_reviews_are_columns(tmp_path, monkeypatch):
    with gzip.open(tmp_path / "clothing_reviews.csv.gz", "wt", encoding="utf-8") as file:
        file.write(REVIEWS)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    columns = load_reviews()
    assert {name: column.tolist() for name, column in columns.items()} == {
        "title": ["Lovely", "Größe?"],
        "review": ['Soft, warm\nand "cosy"', "too small"],
        "department": ["Tops", "Bottoms"],
        "class": ["Knits", "Jeans"],
        "rating": [5, 2],
        "recommended": [1, 0],
    }


@pytest.mark.parametrize(
    "text",
    [
        b"title,review",
        REVIEWS.replace("class", "kind").encode(),
        REVIEWS.replace("5,1,30", "5,yes,30").encode(),
        REVIEWS.replace("Knits,5,1,30", "").encode(),
        REVIEWS.encode("latin-1"),
        None,
    ],
    ids=["empty", "column missing", "no number", "short row", "latin-1", "not gzipped"],
)
def test_broken_reviews_are_refused(text, tmp_path, monkeypatch):
    packed = REVIEWS.encode() if text is None else gzip.compress(text)
    (tmp_path / "clothing_reviews.csv.gz").write_bytes(packed)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    with pytest.raises(RecipeError, match=r"clothing_reviews\.csv\.gz cannot be used") as caught:
        load_reviews()
    assert "columns title, review, department, class, rating, recommended" in caught.value.hint


def test_recordings_are_arrays(tmp_path, monkeypatch):
    arrays = {
        "samples": np.array([1, -2, 3], np.int16),
        "lengths": np.array([1, 2]),
        "labels": np.array([7, 0]),
        "takes": np.array([0, 49]),
        "speakers": np.array([0, 5]),
        "sample_rate": np.array(8_000),
    }
    np.savez(tmp_path / "spoken_digits.npz", **arrays, speaker_names=np.array(["a", "b"]))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    loaded = load_recordings()
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize(
    ("load", "file", "source"),
    [
        (load_reviews, "clothing_reviews.csv.gz", "Kaggle"),
        (load_recordings, "spoken_digits.npz", "GitHub"),
    ],
)
@pytest.mark.parametrize("is_set", [True, False])
def test_data_that_only_the_user_can_have(load, file, source, is_set, tmp_path, monkeypatch):
    if is_set:
        monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("EDGEKIT_DATA", raising=False)
        (tmp_path / file).write_bytes(b"in the current folder, which nobody named")
        monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load()
    tried = f"EDGEKIT_DATA is {tmp_path}, which has no {file}" if is_set else "EDGEKIT_DATA is not"
    assert tried in str(caught.value)
    assert f"a folder that holds {file}" in caught.value.hint
    assert source in caught.value.hint


def test_of_too_many_different_words_the_rare_ones_are_left_out():
    tokens = np.concatenate([[9, 9], np.arange(600, 0, -1), [8, 10_000, 20_003]])
    found = different_words(tokens, np.array([2, 600, 3]), vocabulary=10_000, width=512)
    assert (found.shape, found.dtype) == ((3, 512), np.int32)
    np.testing.assert_array_equal(found[0, :2], [9, 0])
    np.testing.assert_array_equal(found[1], np.arange(1, 513))
    np.testing.assert_array_equal(found[2, :3], [2, 8, 0])

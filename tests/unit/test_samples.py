from __future__ import annotations

import time

import numpy as np
import pytest

from edgekit.errors import SourceError
from edgekit.samples import Samples, are_equal, load_samples, read_samples, thirds, write_samples
from edgekit.types import Signature, TensorSpec

ONE = Signature(
    inputs=(TensorSpec("image", "image", (None, 4, 4), "float32"),),
    outputs=(TensorSpec("label", "label", (None, 3), "float32"),),
)
TWO = Signature(
    inputs=(
        TensorSpec("tokens", "tokens", (None, None), "int32"),
        TensorSpec("price", "price", (None, 1), "float32"),
    ),
    outputs=(
        TensorSpec("main", "main", (None, 1), "float32"),
        TensorSpec("aux", "aux", (None, 1), "float32"),
    ),
)
X = np.arange(5 * 16, dtype=np.float64).reshape(5, 4, 4)


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "s.npz", **arrays)
        return tmp_path / "s.npz"

    return write


def test_x_and_y_do_for_a_model_of_one_input(save):
    samples = read_samples(save(x=X, y=np.array([0, 1, 2, 1, 0])), ONE)
    assert samples.feed["image"].dtype == np.float32
    assert samples.targets["label"].tolist() == [0, 1, 2, 1, 0]
    assert samples.rows == 5


def test_names_of_several_inputs_and_outputs(save):
    path = save(price=np.ones((2, 1)), tokens=np.ones((2, 7)), y_aux=np.zeros(2))
    samples = read_samples(path, TWO)
    assert list(samples.feed) == ["tokens", "price"]
    assert samples.feed["tokens"].dtype == np.int32
    assert list(samples.targets) == ["aux"]


def test_round_trip_with_names_that_are_no_identifiers(tmp_path):
    signature = Signature(
        inputs=(
            TensorSpec("file", "file", (None, 2), "float32"),
            TensorSpec("a b/c", "a_b_c", (None, 2), "float32"),
        ),
        outputs=ONE.outputs,
    )
    feed = {"file": np.ones((3, 2), np.float32), "a b/c": np.zeros((3, 2), np.float32)}
    write_samples(tmp_path / "s.npz", Samples(feed, {"label": np.arange(3)}))
    read = read_samples(tmp_path / "s.npz", signature)
    assert all(np.array_equal(read.feed[name], feed[name]) for name in feed)
    assert read.targets["label"].tolist() == [0, 1, 2]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    samples = Samples({"image": np.ones((3, 4, 4), np.float32)}, {"label": np.arange(3)})
    write_samples(tmp_path / "a.npz", samples)
    time.sleep(2.1)  # the clock of a zip file has steps of two seconds
    write_samples(tmp_path / "b.npz", samples)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": X, "other": X}, "'other' is neither an input of the model nor a label"),
        ({"y": np.arange(5)}, "no array for the input 'image'"),
        ({"x": X[:, :3]}, "has the shape \\(5, 3, 4\\), the model takes \\(rows, 4, 4\\)"),
        ({"x": X[0]}, "has the shape \\(4, 4\\)"),
        ({"x": X[:0]}, "there are no rows"),
        ({"x": X, "y": np.arange(4)}, "differ in their number of rows"),
        (
            {"x": np.where(X == 37, np.nan, X)},
            "'x' .the input 'image'. has NaN or infinity, first in row 2",
        ),
        ({"x": np.where(X == 37, 1e39, X)}, "values that float32 cannot hold, first in row 2"),
        ({"x": X.astype(str)}, "not numbers"),
        ({"x": X, "y": np.array(3)}, "'y' is one number; the first axis must be the rows"),
        ({"x": X, "y": [0, 1, 3, 0, 0]}, "labels 'y' of the output 'label' have 3 in row 2"),
        ({"x": X, "y": [0, 1, -1, 0, 0]}, "have -1 in row 2"),
        ({"x": X, "y": [0, 1, 0.5, 0, 0]}, "have 0.5 in row 2"),
        ({"x": X, "y": [[0], [1], [0.5], [0], [0]]}, "have 0.5 in row 2"),
        ({"x": X, "y": [0, 1, np.nan, 0, 0]}, "'y' of the output 'label' have NaN or infinity, f"),
        ({"x": X, "y": list("abcab")}, "'y' of the output 'label' hold <U1, not classes"),
    ],
)
def test_samples_that_do_not_fit(save, arrays, message):
    with pytest.raises(SourceError, match=message):
        read_samples(save(**arrays), ONE)


def test_fractions_for_an_integer_input(save):
    path = save(price=np.ones((2, 1)), tokens=np.full((2, 7), 0.5))
    with pytest.raises(SourceError, match="'tokens' takes int32, the file has fractions"):
        read_samples(path, TWO)


def test_integers_that_would_wrap_around(save):
    image = Signature(inputs=(TensorSpec("x", "x", (None,), "uint8"),), outputs=ONE.outputs)
    with pytest.raises(SourceError, match="takes uint8, the file has values from 44 to 300"):
        read_samples(save(x=np.array([44, 300])), image)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as samples"):
        read_samples(tmp_path / "s.npz", ONE)


def test_one_array_without_a_name(tmp_path):
    np.save(tmp_path / "s.npy", X)
    with pytest.raises(SourceError, match="one array, not named ones"):
        read_samples(tmp_path / "s.npy", ONE)


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.array([{}], dtype=object))
    with pytest.raises(SourceError, match="cannot be read as samples"):
        read_samples(tmp_path / "s.npz", ONE)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="cannot be read as samples"):
        read_samples(tmp_path / "none.npz", ONE)


@pytest.mark.parametrize("dtype", [float, np.float32, bool, np.uint8])
def test_classes_may_be_given_as_floats(save, dtype):
    labels = np.array([0, 1, 1, 0, 1], dtype)
    read = read_samples(save(x=X, y=labels), ONE).targets["label"]
    assert read.dtype.kind in "iu"
    assert read.tolist() == labels.tolist()


def test_labels_that_are_no_classes_stay_as_they_are(save):
    arrays = {"tokens": np.ones((2, 7)), "price": np.ones((2, 1))}
    read = read_samples(save(**arrays, y_aux=np.array([0.5, 1])), TWO)
    assert read.targets["aux"].tolist() == [0.5, 1]
    with pytest.raises(SourceError, match="labels 'y_aux' of the output 'aux' have NaN"):
        read_samples(save(**arrays, y_aux=np.array([0.5, np.nan])), TWO)
    one_hot = read_samples(save(x=X, y=np.eye(3)[[0, 1, 2, 0, 1]]), ONE).targets["label"]
    assert one_hot.shape == (5, 3)


def test_the_labels_of_a_recipe_are_the_recipes_own_affair(tmp_path):
    samples = Samples({"image": X.astype(np.float32)}, {"label": np.array([0.5, np.nan, 7, 0, 0])})
    write_samples(tmp_path / "s.npz", samples)
    read = load_samples(tmp_path / "s.npz", ONE).targets["label"]
    assert np.array_equal(read, samples.targets["label"], equal_nan=True)


def some_rows(count=40):
    rows = np.random.default_rng(0).normal(size=(count, 4, 4)).astype(np.float32)
    return Samples({"image": rows}, {"label": np.arange(count) % 3})


def chosen(samples, rows):
    feed = {name: value[rows] for name, value in samples.feed.items()}
    return Samples(feed, {name: value[rows] for name, value in samples.targets.items()})


def contents(samples):
    pairs = zip(samples.feed["image"], samples.targets["label"], strict=True)
    return [(row.tobytes(), int(label)) for row, label in pairs]


def test_each_row_is_in_one_third_with_its_label():
    samples = some_rows()
    parts = thirds(samples)
    assert all(8 <= part.rows <= 20 for part in parts)
    assert sorted(row for part in parts for row in contents(part)) == sorted(contents(samples))


def test_the_order_in_the_file_changes_no_third():
    samples = some_rows()
    shuffled = chosen(samples, np.random.default_rng(1).permutation(40))
    assert list(map(contents, thirds(shuffled))) == list(map(contents, thirds(samples)))


def test_equal_rows_stay_in_one_third_whatever_their_labels():
    samples = some_rows(12)
    again = chosen(samples, np.repeat(np.arange(12), 3))
    again = Samples(again.feed, {"label": np.arange(36) % 3})
    rows = [{row for row, _ in contents(part)} for part in thirds(again)]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 12


def test_more_rows_leave_each_in_its_third():
    few, more = (list(map(contents, thirds(some_rows(count)))) for count in (12, 40))
    assert all(set(one) <= set(other) for one, other in zip(few, more, strict=True))


def test_rows_of_several_inputs_are_equal_only_if_all_are():
    inputs = {"a": np.zeros((30, 1)), "b": np.arange(30)[:, None]}
    parts = [set(part.feed["b"].flat) for part in thirds(Samples(inputs))]
    assert all(parts)
    assert sum(map(len, parts)) == 30


def test_fewer_than_three_different_rows_cannot_be_held_back():
    samples = chosen(some_rows(), np.arange(40) % 2)
    with pytest.raises(SourceError, match="40 rows, 2 of them different, are too few"):
        thirds(samples)


def test_whether_all_rows_are_equal():
    assert are_equal({"a": np.ones((3, 2)), "b": np.zeros(3)})
    assert not are_equal({"a": np.ones((3, 2)), "b": np.array([0, 0, 1])})
    assert not are_equal({"a": np.ones((1, 2))})

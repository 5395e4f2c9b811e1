from __future__ import annotations

import time

import numpy as np
import pytest

from edgekit.errors import SourceError
from edgekit.samples import Samples, read_samples, write_samples
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
    samples = read_samples(save(x=X, y=np.arange(5)), ONE)
    assert samples.feed["image"].dtype == np.float32
    assert samples.targets["label"].tolist() == [0, 1, 2, 3, 4]
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
        ({"x": np.where(X == 37, np.nan, X)}, "NaN or infinity, first in row 2"),
        ({"x": X.astype(str)}, "not numbers"),
        ({"x": X, "y": np.array(3)}, "'y' is one number; the first axis must be the rows"),
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

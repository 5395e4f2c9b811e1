"""Weights that are mostly 0, stored by their places: the same outputs from fewer bytes."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.agent.rows import run_rows
from edgekit.agent.runners import open_runner
from edgekit.errors import ConversionError
from edgekit.formats import describe


def zeroed(kernel, share, block=1):
    """A kernel of which `share` of the blocks of `block` inputs is 0, the smallest ones."""
    blocks = np.asarray(kernel).reshape(-1, block, kernel.shape[-1])
    sizes = np.abs(blocks).sum(axis=1, keepdims=True)
    return (blocks * (sizes > np.quantile(sizes, share))).reshape(kernel.shape)


def pruned(model, share, block=1):
    for variable in model.trainable_weights:
        if len(variable.shape) > 1:
            variable.assign(zeroed(variable, share, block))
    return model


def convolutions(layers):
    return [
        layers.Input((12, 12, 3), name="x"),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.DepthwiseConv2D(5),
        layers.PReLU(shared_axes=(1, 2)),  # nothing but zeros
        layers.Conv2DTranspose(24, 3, strides=2, activation="relu"),
        layers.Conv2D(48, 3, dilation_rate=2),
        layers.GlobalAveragePooling2D(),
        layers.Dense(300, activation="relu"),  # more than a byte counts
        layers.Dense(6, name="y"),
    ]


def sequences(layers):
    return [
        layers.Input((20, 16), name="x"),
        layers.Conv1D(48, 5, activation="relu"),
        layers.EinsumDense("abc,cd->abd", output_shape=(None, 40)),
        layers.LSTM(12),
        layers.Dense(6, name="y"),
    ]


def texts(layers):
    return [
        layers.Input((9,), dtype="int32", name="x"),
        layers.Embedding(300, 24),
        layers.Flatten(),
        layers.Dense(6, name="y"),
    ]


def large_dense(layers):
    return [
        layers.Input((5, 512), name="x"),
        layers.Dense(512, activation="relu"),
        layers.Flatten(),
        layers.Dense(6, name="y"),
    ]


@pytest.fixture(scope="module")
def convert():
    """(stack, path, share of zeros, block, batch) -> model, signature; a dense file lies beside."""
    import keras

    from edgekit.toolchain import tflite
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras

    def make(stack, path, share=0.8, block=1, batch=1):
        keras.utils.clear_session()  # the names of layers are in the file
        keras.utils.set_random_seed(5)
        model = pruned(keras.Sequential(stack(keras.layers), name="net"), share, block)
        traced = trace(of_keras(model), batch)
        dense = tflite.convert(traced, path.with_suffix(".dense.tflite"), precision="fp32")
        sparse = tflite.convert(traced, path, precision="fp32", sparse_encoding=True)
        assert dense == sparse
        return model, sparse

    return make


def outputs(path, signature, rows):
    return run_rows(open_runner("tflite", str(path), signature, 1), signature, rows)["y"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("stack", "block"),
    [(convolutions, 1), (sequences, 1), (sequences, 4), (texts, 1), (texts, 4)],
)
def test_the_same_outputs_from_a_smaller_file(convert, rows, tmp_path, stack, block, batch):
    path = tmp_path / "fp32.tflite"
    _, signature = convert(stack, path, block=block, batch=batch)
    dense = path.with_suffix(".dense.tflite")
    feed = rows(signature, 7)
    if stack is texts:
        feed = {"x": np.random.default_rng(0).integers(0, 300, (7, 9)).astype(np.int32)}
    assert np.array_equal(outputs(path, signature, feed), outputs(dense, signature, feed))
    saved = describe(dense).size_bytes - describe(path).size_bytes
    assert saved > 0.3 * describe(dense).size_bytes


def test_what_inspect_tells_stays_true(convert, tmp_path):
    path = tmp_path / "fp32.tflite"
    convert(convolutions, path)
    dense, sparse = describe(path.with_suffix(".dense.tflite")), describe(path)
    assert sparse.parameters == dense.parameters
    assert sparse.sparsity.share == dense.sparsity.share > 0.75
    assert {g.dtype for g in sparse.groups if g.role == "weights"} == {"float32"}
    assert sparse.signature == dense.signature
    assert sparse.ops.keys() - dense.ops.keys() == {"DENSIFY"}


@pytest.mark.parametrize("batch", [1, 4])
def test_large_dense_layers_skip_blocks_of_zeros(convert, rows, tmp_path, batch):
    path = tmp_path / "fp32.tflite"
    _, signature = convert(large_dense, path, share=0.85, block=4, batch=batch)
    feed = rows(signature, 9)
    assert describe(path).ops.get("DENSIFY", 0) <= 1  # of the small one
    expected = outputs(path.with_suffix(".dense.tflite"), signature, feed)
    difference = np.abs(outputs(path, signature, feed) - expected).max()
    assert difference < 5e-6 * np.abs(expected).max()  # another kernel adds in another order
    assert describe(path).sparsity.share == pytest.approx(0.85, abs=0.01)


def test_smaller_than_the_converters_own(convert, tmp_path):
    import tensorflow as tf

    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras

    path = tmp_path / "fp32.tflite"
    model, _ = convert(convolutions, path)
    traced = trace(of_keras(model), 1)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.concrete], traced.holder)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    assert path.stat().st_size < len(converter.convert())


def test_the_same_bytes_each_time(convert, tmp_path):
    a, b = tmp_path / "a.tflite", tmp_path / "b.tflite"
    convert(convolutions, a)
    convert(convolutions, b)
    assert a.read_bytes() == b.read_bytes()


def test_without_zeros_it_is_refused(convert, tmp_path):
    with pytest.raises(ConversionError, match="no layer has enough zeros") as caught:
        convert(texts, tmp_path / "fp32.tflite", share=0)
    assert "prune" in caught.value.hint


@pytest.mark.parametrize(
    ("form", "precision"), [("tflite", "int8"), ("tflite", "fp16"), ("onnx", "fp32")]
)
def test_refused_where_no_runtime_runs_it_rightly(form, precision):
    from edgekit.toolchain import tflite_sparse

    with pytest.raises(ConversionError, match=rf"{precision}\.{form} has no sparse encoding"):
        tflite_sparse.check(form, precision)

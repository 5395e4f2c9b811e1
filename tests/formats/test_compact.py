"""int8 files of clustered weights: few integers, few bytes once they are compressed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.agent.rows import run_rows
from edgekit.agent.runners import open_runner
from edgekit.hashing import gzip_bytes
from edgekit.parity import compare
from edgekit.types import Quantization

COMPACT = Quantization(compact=True)


def linear_clusters(values, count=16):
    """Each value's nearest of `count` evenly spaced ones, at the mean of what it stands for."""
    centroids = np.linspace(values.min(), values.max(), count)
    nearest = np.abs(values.ravel()[:, None] - centroids).argmin(axis=1)
    means = [values.ravel()[nearest == i].mean() if i in nearest else 0 for i in range(count)]
    return np.take(means, nearest).reshape(values.shape).astype(np.float32)


@pytest.fixture(scope="module")
def models():
    """A CNN whose batch normalization is folded into its kernels: as it is, and clustered."""
    import keras

    layers = keras.layers

    def build():
        keras.utils.set_random_seed(4)
        model = keras.Sequential(
            [
                keras.Input((12, 12, 3), name="image"),
                layers.Conv2D(64, 3, use_bias=False, activation="relu"),
                layers.Conv2D(64, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.DepthwiseConv2D(3),
                layers.Flatten(),
                layers.Dense(48, activation="relu"),
                layers.Dense(5, name="y"),
            ]
        )
        random = np.random.default_rng(0)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                weights = layer.get_weights()
                weights[0] = random.uniform(0.3, 2, 64) * random.choice([-1, 1], 64)
                weights[1:] = [w + random.random(w.shape) for w in weights[1:]]
                layer.set_weights(weights)
            elif hasattr(layer, "kernel") and not isinstance(layer, layers.DepthwiseConv2D):
                # As training leaves them: many small ones, few large ones.
                layer.kernel.assign(random.laplace(scale=0.05, size=layer.kernel.shape))
        return model

    plain, clustered = build(), build()
    for layer in clustered.layers:
        if hasattr(layer, "kernel") and not isinstance(layer, layers.DepthwiseConv2D):
            layer.kernel.assign(linear_clusters(np.asarray(layer.kernel)))
    return {"plain": plain, "clustered": clustered}


@pytest.fixture(scope="module")
def quantize(models, rows, tmp_path_factory):
    """(model, form, how, precision) -> path, signature and rows."""
    from edgekit.toolchain import onnx as onnx_
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.onnx_quantize import FloatFile
    from edgekit.toolchain.onnx_quantize import quantize as quantize_onnx
    from edgekit.toolchain.quantizable import Quantizable

    folder = tmp_path_factory.mktemp("clustered")

    def make(name, form, how, precision="int8"):
        path = folder / f"{name}-{precision}-{how.compact}.{form}"
        if form == "tflite":
            traced = trace(of_keras(models[name]), 1)
            feed = rows(traced.signature, 40)
            source = Quantizable(traced, feed)
            return path, source.write(path, source.quantize(precision, how)), feed
        float_file = folder / f"{name}.onnx"
        signature = onnx_.convert(trace(of_keras(models[name]), None), float_file, opset=17)
        feed = rows(signature, 40)
        quantize_onnx(FloatFile(float_file, signature, feed), path, precision, how)
        return path, signature, feed

    return make


def kernels(path):
    """The int8 weights of a file, depthwise ones left out."""
    if path.suffix == ".onnx":
        arrays = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
        return [a for a in arrays if a.dtype == np.int8 and a.ndim > 1 and a.shape[1] > 1]
    from edgekit.toolchain import tflite_file

    model = tflite_file.unpack(path.read_bytes())
    arrays = [tflite_file.constant(model, t) for t in tflite_file.main_graph(model).tensors]
    found = [a for a in arrays if a is not None and a.dtype == np.int8 and a.ndim > 1]
    return [a for a in found if not (a.ndim == 4 and a.shape[0] == 1)]


def sqnr(model, path, signature, feed):
    outputs = run_rows(open_runner(path.suffix[1:], str(path), signature, 1), signature, feed)
    expected = {"y": model.predict(feed["image"], verbose=0)}
    return compare(expected, outputs)[0].sqnr_db


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_half_the_bytes_of_plain_int8_once_compressed(models, quantize, form):
    plain, _, _ = quantize("plain", form, Quantization())
    path, signature, feed = quantize("clustered", form, COMPACT)
    assert gzip_bytes(path) < 0.5 * gzip_bytes(plain)
    own, own_signature, _ = quantize("clustered", form, Quantization())
    assert len(kernels(path)) == len(kernels(own)) == 4
    # Channels of negative gamma have the values with the other sign.
    assert max(len(np.unique(k)) for k in kernels(path)) <= 31
    assert max(len(np.unique(k)) for k in kernels(own)) > 60
    # A scale that all channels share is coarser.
    own_sqnr = sqnr(models["clustered"], own, own_signature, feed)
    assert own_sqnr - 6 < sqnr(models["clustered"], path, signature, feed)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_weights_that_are_not_clustered_lose_next_to_nothing(models, quantize, form):
    path, signature, feed = quantize("plain", form, Quantization())
    short, *_ = quantize("plain", form, COMPACT)
    assert gzip_bytes(short) < gzip_bytes(path)
    noise = [sqnr(models["plain"], file, signature, feed) for file in (path, short)]
    assert noise[1] > noise[0] - 0.5


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_int16x8(models, quantize, form):
    path, signature, feed = quantize("clustered", form, COMPACT, "int16x8")
    assert max(len(np.unique(k)) for k in kernels(path)) <= 31
    assert sqnr(models["clustered"], path, signature, feed) > 18


def test_layers_that_stay_float_are_left_alone(models, rows):
    from edgekit.toolchain import tflite_file
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.quantizable import Quantizable

    traced = trace(of_keras(models["clustered"]), 1)
    source = Quantizable(traced, rows(traced.signature, 8))
    floats = tflite_file.unpack(source.content)
    graph = tflite_file.main_graph(floats)
    dense = next(op for op in graph.operators if tflite_file.kind(floats, op) == "FULLY_CONNECTED")
    name = graph.tensors[dense.outputs[0]].name.decode()
    kept = tflite_file.unpack(source.quantize("int8", COMPACT, keep=[name]))
    tensors = tflite_file.main_graph(kept).tensors
    weights = tflite_file.constant(floats, graph.tensors[dense.inputs[1]])
    found = [tflite_file.constant(kept, t) for t in tensors]
    assert any(
        v is not None and v.dtype == np.float32 and np.array_equal(v, weights) for v in found
    )

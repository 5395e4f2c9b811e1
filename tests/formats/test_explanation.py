"""Which layer hurts: planted faults are found, with their cause."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from dataclasses import asdict

import keras
import numpy as np
import pytest
import tensorflow as tf

from edgekit.toolchain import onnx, onnx_quantize, tflite, tflite_quantize
from edgekit.toolchain.activations import activations
from edgekit.toolchain.calibration import Range, calibrate
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.causes import CAUSES
from edgekit.toolchain.explanation import explain
from edgekit.toolchain.layer_graph import layer_graph
from edgekit.toolchain.matching import match
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.noise import by_channel, sqnr_db
from edgekit.toolchain.operators import open_onnx, open_tflite
from edgekit.toolchain.segments import kept, segments
from tests.formats import digit_models

KINDS = (digit_models.mlp, digit_models.cnn, digit_models.mobile)
SEEDS = range(20)


@functools.cache
def trained(build):
    return digit_models.trained(build)


@functools.cache
def rows():
    images, _ = digit_models.digits()
    return {"image": images[::9][:96]}


def float_tflite(model):
    return tflite.floats(trace(of_keras(model), 1))


def explained_tflite(model, feed, *, keep=(), precision="int8", ranges_of=None, ranges=None):
    """The explanation of a quantized TFLite file of `model`, calibrated on `ranges_of`."""
    graph = layer_graph(model)
    content, signature = float_tflite(model)
    floats = open_tflite(content, signature)
    matches = match(graph, floats, feed)
    operators = kept(segments(graph, floats, matches), keep)
    found = {**calibrate(floats.taps, ranges_of or feed), **(ranges or {})}
    quantized = tflite_quantize.quantize(
        content, signature, found, precision=precision, keep=operators
    )
    return explain(graph, feed, open_tflite(quantized, signature), matches)


def explained_onnx(model, feed, tmp_path):
    graph = layer_graph(model)
    path = tmp_path / "float.onnx"
    signature = onnx.convert(trace(of_keras(model), None), path)
    onnx_quantize.quantize(
        onnx_quantize.FloatFile(path, signature, feed), tmp_path / "int8.onnx", "int8"
    )
    matches = match(graph, open_onnx(path, signature), feed)
    return explain(graph, feed, open_onnx(tmp_path / "int8.onnx", signature), matches)


def weighted(model):
    """Every layer that has a kernel."""
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def channels_of(layer):
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return layer.kernel.shape[2 if is_depthwise else -1]


@contextlib.contextmanager
def scaled(layer, channel, factor):
    """Within the block, kernel and bias of one output channel are `factor` times larger.

    So is what a batch normalization behind it gives, but for its constants.
    """
    before = layer.get_weights()
    after = [weight.copy() for weight in before]
    for weight in after:
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D) and weight.ndim == 4
        weight[(..., channel, slice(None)) if is_depthwise else (..., channel)] *= factor
    layer.set_weights(after)
    try:
        yield
    finally:
        layer.set_weights(before)


def has_effect(model, layer, channel):
    """Whether the channel is larger than most, behind the ReLU or softmax that follows.

    If it is not, there is nothing to find: an input that is never positive stays 0.
    """
    behind = model.layers[model.layers.index(layer) :]
    follows = (keras.layers.BatchNormalization, keras.layers.ReLU)
    fused = [layer, *itertools.takewhile(lambda x: isinstance(x, follows), behind[1:])]
    values = keras.Model(model.inputs[0], fused[-1].output)(rows()["image"])
    varied = np.ptp(by_channel(np.asarray(values)), axis=0)
    return varied[channel] > np.median(varied)


@contextlib.contextmanager
def planted(model, seed, candidates):
    """Within the block, a random channel of a random layer is 1000 times larger; gives the layer.

    A channel on which the fault has no effect is passed over for another of the same layer.
    """
    random = np.random.default_rng(seed)
    layer = candidates[random.integers(len(candidates))]
    for channel in random.permutation(channels_of(layer)):
        with scaled(layer, channel, 1000):
            if has_effect(model, layer, channel):
                yield layer
                return
    raise AssertionError(f"no channel of {layer.name} has an effect")


@pytest.mark.parametrize("build", KINDS)
def test_a_planted_outlier_is_ranked_first_in_tflite(build):
    model = trained(build)
    for seed in SEEDS:
        with planted(model, seed, weighted(model)) as layer:
            worst, second, *_ = explained_tflite(model, rows()).layers
        assert layer.name in worst.layers, (seed, layer.name, worst, second)
        assert worst.cause == "range outliers", (seed, worst)
        assert worst.keep[0] == layer.name


@pytest.mark.parametrize("build", KINDS)
def test_a_planted_outlier_is_ranked_first_in_onnx(build, tmp_path):
    """But for the last layer: onnxruntime gives its logits as floats, where it does no harm."""
    model = trained(build)
    for seed in SEEDS:
        with planted(model, seed, weighted(model)[:-1]) as layer:
            worst, second, *_ = explained_onnx(model, rows(), tmp_path).layers
        assert layer.name in worst.layers, (seed, layer.name, worst, second)
        assert worst.cause == "range outliers", (seed, worst)


@pytest.mark.parametrize("build", KINDS)
@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_a_sound_model_has_nothing_to_explain(build, precision):
    found = explained_tflite(trained(build), rows(), precision=precision)
    assert found.rows == 64
    assert found.notes == ()
    assert min(error.sqnr_db for error in found.layers) > 25
    assert {error.fix for error in found.layers} == {"none needed"}
    names = {name for error in found.layers for name in error.layers}
    assert {layer.name for layer in weighted(trained(build))} <= names
    json.dumps(asdict(found))
    assert {error.cause for error in found.layers} <= set(CAUSES)


def test_the_layers_to_keep_heal_the_model():
    """The layer with the outlier alone does not: its output would be quantized for the next."""
    model = trained(digit_models.mobile)
    [layer] = (x for x in model.layers if x.name == "expand_b")
    with planted(model, 1, [layer]):
        worst = explained_tflite(model, rows()).layers[0]
        assert worst.keep == ("expand_b", "depthwise_b", "project_b")
        alone = explained_tflite(model, rows(), keep=worst.keep[:1])
        together = explained_tflite(model, rows(), keep=worst.keep)
    assert alone.layers[0].layers[0] == "expand_b"
    assert alone.layers[0].sqnr_db < 5
    assert together.layers[0].sqnr_db > 20


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("build", KINDS)
def test_one_wrong_weight_of_a_float_file(build, form, tmp_path):
    model = trained(build)
    graph = layer_graph(model)
    for layer in weighted(model):
        before = layer.get_weights()
        kernel = before[0].copy()
        place = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)
        kernel[place] *= -1
        layer.set_weights([kernel, *before[1:]])
        if form == "tflite":
            file = open_tflite(*float_tflite(model))
        else:
            path = tmp_path / "float.onnx"
            file = open_onnx(path, onnx.convert(trace(of_keras(model), None), path))
        layer.set_weights(before)
        worst, *others = explain(graph, rows(), file).layers
        assert worst.layers[0] == layer.name
        assert worst.cause == "weights differ"
        assert f"kernel of {layer.name!r}" in worst.detail
        assert str([int(i) for i in place]) in worst.detail
        # What lies behind computes the same as Keras from what it is given.
        assert min(error.sqnr_db for error in others) > 80


def test_a_layer_that_the_file_computes_otherwise():
    """As with a converter's fault: the weights are right, the operation is another."""
    model = trained(digit_models.mobile)
    [pool] = (x for x in model.layers if isinstance(x, keras.layers.GlobalAveragePooling2D))
    object.__setattr__(pool, "call", lambda x: tf.reduce_max(x, axis=(1, 2)))
    file = open_tflite(*float_tflite(model))
    object.__delattr__(pool, "call")
    worst, second, *_ = explain(layer_graph(model), rows(), file).layers
    assert worst.layers == (pool.name,)
    assert worst.cause == "computed differently"
    assert second.sqnr_db > 80


def test_a_float_file_that_is_right():
    found = explain(
        layer_graph(trained(digit_models.cnn)),
        rows(),
        open_tflite(*float_tflite(trained(digit_models.cnn))),
    )
    assert min(error.sqnr_db for error in found.layers) > 100
    assert {error.cause for error in found.layers} == {"none"}


def test_activations_beyond_the_calibrated_range():
    model = trained(digit_models.mlp)
    dark = {"image": rows()["image"] * 0.1}
    content, signature = float_tflite(model)
    floats = open_tflite(content, signature)
    whole = {name: calibrate(floats.taps, rows())[name] for name in floats.inputs}
    found = explained_tflite(model, rows(), ranges_of=dark, ranges=whole)
    assert found.layers[0].layers == ("first",)
    assert found.layers[0].cause == "saturated activation"
    assert "--samples" in found.layers[0].fix
    # Where the input itself is cut off, that is said of the layer that takes it.
    cut = explained_tflite(model, rows(), ranges_of=dark)
    [layer] = (error for error in cut.layers if "the input 'image'" in error.detail)
    assert layer.cause == "saturated activation"
    assert not cut.notes


def dense(kernel, bias, *, name="dense"):
    layer = keras.layers.Dense(kernel.shape[1], name=name)
    model = keras.Sequential([keras.Input((kernel.shape[0],), name="x"), layer])
    layer.set_weights([kernel.astype(np.float32), bias.astype(np.float32)])
    return model


def test_channels_that_rounding_makes_constant():
    random = np.random.default_rng(0)
    model = dense(
        random.normal(0, 0.006, (16, 12)), np.linspace(19.5, 20.5, 12) * np.resize([1, -1], 12)
    )
    feed = {"x": random.standard_normal((64, 16)).astype(np.float32)}
    found = explained_tflite(model, feed)
    [error] = found.layers
    assert error.cause == "dead channels"
    assert error.fix == "--precision int16x8, or --keep-float dense"
    healed = explained_tflite(model, feed, precision="int16x8")
    assert healed.layers[0].sqnr_db > 20
    # A range that a single row widens further is too wide for 16 bits, too.
    floats = open_tflite(*float_tflite(model))
    [error] = explained_tflite(
        model, feed, ranges={name: Range(-1e6, 1e6) for name in floats.outputs}
    ).layers
    assert "--precision dynamic" in error.fix


def test_rare_values_that_take_the_range():
    """One bright pixel, squared."""
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, keras.layers.Multiply(name="square")([image, image]))
    images = np.random.default_rng(0).random((64, 8, 8, 3), np.float32) * 0.1
    images[7, 3, 3] = 1.0
    pixels = {"image": images}
    [error] = explained_tflite(model, pixels).layers
    assert error.cause == "range outliers"
    # Of the output, which calibration never cuts, that would not help.
    assert "--calibration" not in error.fix
    end = keras.layers.GlobalAveragePooling2D(name="mean")(model.output)
    model = keras.Model(image, end)
    before = explained_tflite(model, pixels).layers[0]
    percentile = float(re.search(r"--calibration percentile --percentile ([\d.]+)", before.fix)[1])
    content, signature = float_tflite(model)
    ranges = calibrate(
        open_tflite(content, signature).taps, pixels, method="percentile", percentile=percentile
    )
    after = explained_tflite(model, pixels, ranges=ranges)
    assert before.layers == ("square",)
    assert before.sqnr_db < 10
    assert all(error.sqnr_db > 20 for error in after.layers)


def regression():
    """Three dense layers of random weights."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(32, "relu", name="first"),
        keras.layers.Dense(32, "relu", name="second"),
        keras.layers.Dense(1, name="value"),
    ]
    return keras.Sequential([keras.Input((8,), name="x"), *layers])


def explained_with_one_extreme_row(place, factor):
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    rows[place] *= factor
    return explained_tflite(regression(), {"x": rows})


@pytest.mark.parametrize(("place", "factor"), [(5, 100), (5, 1000), (250, 100), (250, 300)])
def test_one_extreme_row_takes_the_range(place, factor):
    """It is no channel; nor is what rounding makes constant then the cause.

    The first 64 rows are looked at; on the others the file is only calibrated.
    """
    layers = explained_with_one_extreme_row(place, factor).layers
    coarse = [error for error in layers if error.sqnr_db < 20]
    assert "first" in {name for error in coarse for name in error.layers}
    assert {error.cause for error in coarse} == {"range outliers"}
    assert all(error.fix.startswith("leave extreme rows out of --samples") for error in coarse)


def test_one_row_that_makes_all_others_constant():
    """No tensor can be told from another then."""
    found = explained_with_one_extreme_row(250, 3000)
    [note] = found.notes
    assert not found.layers
    assert note.startswith("the input 'x'")
    assert "range outliers" in note
    assert note.endswith("or --keep-float first")


def test_features_of_unlike_size():
    """An input is no layer to keep, and what its rounding ruins is no fault of the layers."""
    model, random = regression(), np.random.default_rng(0)
    sizes = np.array([1, 1, 1, 2000, 1, 1, 1, 1])
    rows = {"x": (random.standard_normal((200, 8)) * sizes).astype(np.float32)}
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([kernel / sizes[:, None], bias])
    found = explained_tflite(model, rows)
    worst = found.layers[0]
    assert not found.notes
    assert worst.layers == ("first",)
    assert worst.cause == "range outliers"
    assert "the input 'x'" in worst.detail
    assert re.search(r"feature 3 .*, \d{4} times more than the median feature", worst.detail)
    assert "Normalization" in worst.fix
    assert worst.keep == ("first",)
    assert worst.fix.startswith("--keep-float first, or")
    healed = explained_tflite(model, rows, keep=worst.keep)
    assert healed.layers[0].sqnr_db > 25


@pytest.mark.parametrize("is_even", [True, False])
def test_equalization_is_only_advised_where_it_does_anything(is_even):
    model = trained(digit_models.cnn)
    with planted(model, 0, weighted(model)[:1]) as layer:
        graph = layer_graph(model)
        content, signature = float_tflite(model)
        floats = open_tflite(content, signature)
        matches = match(graph, floats, rows())
        ranges = calibrate(floats.taps, rows())
        quantized = tflite_quantize.quantize(content, signature, ranges, precision="int8")
        file = open_tflite(quantized, signature)
        evened = list if is_even else lambda: [layer.name]
        worst = explain(graph, rows(), file, matches, evened=evened).layers[0]
    assert worst.layers[0] == layer.name
    assert ("--equalize" in worst.fix) != is_even


@pytest.mark.filterwarnings("ignore:\\s*Warning. tf.lite.Interpreter is deprecated")
def test_weights_with_one_scale():
    """A file of another tool: large inputs have small weights, and all share one scale."""
    random = np.random.default_rng(0)
    small = np.arange(16) < 8
    kernel = np.diag(np.where(small, 0.01, 1.0)) + np.zeros((16, 16))
    feed = {"x": (random.standard_normal((96, 16)) * np.where(small, 100, 1)).astype(np.float32)}
    model = dense(kernel, np.zeros(16))
    canonical = trace(of_keras(model), 1)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [canonical.concrete], canonical.holder
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({"x": row[None]} for row in feed["x"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter._experimental_disable_per_channel = True
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    graph = layer_graph(model)
    content, signature = float_tflite(model)
    matches = match(graph, open_tflite(content, signature), feed)
    quantized = converter.convert()
    [error] = explain(graph, feed, open_tflite(quantized, signature), matches).layers
    assert error.cause == "per-tensor weight spread", error


def test_an_overflow_of_float16(tmp_path):
    model = dense(np.where(np.eye(4) > 0, 1e5, 1.0), np.zeros(4))
    graph, feed = layer_graph(model), {"x": np.ones((16, 4), np.float32)}
    feed["x"] += np.random.default_rng(0).random((16, 4), np.float32)
    content, signature = float_tflite(model)
    matches = match(graph, open_tflite(content, signature), feed)
    path = tmp_path / "fp16.tflite"
    signature = tflite.convert(trace(of_keras(model), 1), path, precision="fp16")
    [error] = explain(graph, feed, open_tflite(path.read_bytes(), signature), matches).layers
    assert error.sqnr_db == 0
    assert error.cause == "overflow"


@pytest.mark.parametrize("precision", ["fp16", "dynamic"])
def test_files_that_compute_in_float(precision, tmp_path):
    model = trained(digit_models.cnn)
    graph = layer_graph(model)
    matches = match(graph, open_tflite(*float_tflite(model)), rows())
    path = tmp_path / "m.tflite"
    signature = tflite.convert(trace(of_keras(model), 1), path, precision=precision)
    found = explain(graph, rows(), open_tflite(path.read_bytes(), signature), matches)
    assert {error.cause for error in found.layers} <= {"rounding", "none"}
    assert min(error.sqnr_db for error in found.layers) > (60 if precision == "fp16" else 30)
    assert found.layers[0].sqnr_db < 80


def test_a_huge_channel_does_not_hide_the_others():
    random = np.random.default_rng(0)
    wanted = random.standard_normal((64, 8))
    wanted[:, 3] *= 1000
    found = wanted.copy()
    found[:, :3] = 0
    signal = 10 * np.log10(wanted.var() / np.square(found - wanted).mean())
    assert signal > 50
    assert 3 < sqnr_db(wanted, found) < 6  # three of eight
    assert sqnr_db(wanted, wanted) == 200
    rare = np.where(np.arange(8000) == 7, 100, random.standard_normal(8000))[:, None]
    assert sqnr_db(rare, np.where(rare == 100, rare, 0)) < 6
    assert sqnr_db(wanted, np.full_like(wanted, np.nan)) == 0
    # What does not vary says nothing.
    assert sqnr_db(np.ones((64, 8)), np.zeros((64, 8))) == 200


def test_few_rows_of_a_large_model(monkeypatch):
    from edgekit.toolchain import explanation

    model = trained(digit_models.mlp)
    file = open_tflite(*float_tflite(model))
    one = sum(v.size for v in activations(file, {"image": rows()["image"][:1]}).values())
    monkeypatch.setattr(explanation, "MOST_ELEMENTS", 10 * one)
    assert 5 <= explain(layer_graph(model), rows(), file).rows <= 12

"""int8 files of models whose hidden channels are uneven, next to those of even ones."""

from __future__ import annotations

import contextlib
import functools

import keras
import numpy as np
import pytest

from edgekit.agent.rows import run_rows
from edgekit.agent.runners import open_runner
from edgekit.parity import compare
from edgekit.toolchain import onnx, onnx_quantize
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.equalization import equalized
from edgekit.toolchain.layer_graph import layer_graph
from edgekit.toolchain.model import of_keras
from edgekit.toolchain.quantizable import Quantizable
from edgekit.types import Quantization
from tests.formats import digit_models


def snr_db(model, rows, unseen, form, folder, *, even):
    """Of the int8 file on rows that it was not calibrated on."""
    found = of_keras(model)
    with equalized(found, layer_graph(model), rows) if even else contextlib.nullcontext():
        if form == "tflite":
            source = Quantizable(trace(found, 1), rows)
            signature = source.write(folder / "q.tflite", source.quantize("int8", Quantization()))
        else:
            signature = onnx.convert(trace(found, None), folder / "f.onnx")
            file = onnx_quantize.FloatFile(folder / "f.onnx", signature, rows)
            onnx_quantize.quantize(file, folder / "q.onnx", "int8")
    runner = open_runner(form, str(folder / f"q.{form}"), signature, 1)
    [figures] = compare(found.call(unseen), run_rows(runner, signature, unseen))
    return figures.sqnr_db


@functools.cache
def trained(build):
    """A model without its softmax, since that hides the errors of what goes into it."""
    model = digit_models.trained(build)
    model.layers[-1].activation = keras.activations.linear
    return model


def halves():
    images, _ = digit_models.digits()
    return {"image": images[:400]}, {"image": images[400:1200]}


PAIRS = {
    digit_models.mlp: [
        (["first"], ["second"]),
        (["second"], ["third"]),
        (["third"], ["label"]),
    ],
    digit_models.mobile: [
        (["stem", "project_a", "project_b"], ["expand_a", "expand_b", "label"]),
        (["expand_a"], ["depthwise_a"]),
        (["depthwise_a"], ["project_a"]),
        (["expand_b"], ["depthwise_b"]),
        (["depthwise_b"], ["project_b"]),
    ],
}
"""Layers that give a tensor (with the batch normalization behind them), and those that take it."""


@contextlib.contextmanager
def spread(build, largest=1000.0):
    """The trained model with hidden channels spread by 1 to `largest`, computing the same."""
    model, random = trained(build), np.random.default_rng(4)
    before = model.get_weights()

    def scaling(layer):
        [reader] = [node.operation for node in layer._outbound_nodes]
        if isinstance(reader, keras.layers.BatchNormalization):
            return reader.gamma, reader.beta
        return layer.kernel, layer.bias

    for givers, takers in PAIRS[build]:
        first = scaling(model.get_layer(givers[0]))
        factors = largest ** random.uniform(0, 1, first[0].shape[-1])
        for name in givers:
            for variable in scaling(model.get_layer(name)):
                variable.assign(np.asarray(variable) * factors)
        for name in takers:
            kernel = model.get_layer(name).kernel
            kernel.assign(np.asarray(kernel) / factors[:, np.newaxis])
    try:
        yield model
    finally:
        model.set_weights(before)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("build", PAIRS)
def test_a_model_that_uneven_channels_ruin_is_saved(build, form, tmp_path):
    rows, unseen = halves()
    good = snr_db(trained(build), rows, unseen, form, tmp_path, even=False)
    with spread(build) as model:
        ruined = snr_db(model, rows, unseen, form, tmp_path, even=False)
        saved = snr_db(model, rows, unseen, form, tmp_path, even=True)
    assert good > 25
    assert ruined < 10
    assert saved > good - 3


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("build", [*PAIRS, digit_models.cnn])
def test_a_model_that_is_even_loses_nothing(build, form, tmp_path):
    rows, unseen = halves()
    plain, even = (
        snr_db(trained(build), rows, unseen, form, tmp_path, even=even) for even in (False, True)
    )
    assert even > plain - 0.5


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_channel_that_is_silent_does_not_set_the_scale_of_a_kernel(form, tmp_path):
    model = trained(digit_models.mlp)
    before = model.get_weights()
    rows, unseen = halves()
    good = snr_db(model, rows, unseen, form, tmp_path, even=False)
    second, third = model.get_layer("second"), model.get_layer("third")
    bias, kernel = np.asarray(second.bias).copy(), np.asarray(third.kernel).copy()
    bias[3], kernel[3] = -100.0, 500.0  # never above 0; and nobody would notice if it were large
    second.bias.assign(bias)
    third.kernel.assign(kernel)
    try:
        ruined = snr_db(model, rows, unseen, form, tmp_path, even=False)
        saved = snr_db(model, rows, unseen, form, tmp_path, even=True)
    finally:
        model.set_weights(before)
    assert ruined < good - 10
    assert saved > good - 3

"""Bias correction of TFLite and ONNX files: better on rows it has not seen, or left alone."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from edgekit.toolchain import bias_correction
from edgekit.toolchain.bias_correction import Layer, correct
from edgekit.types import Quantization
from tests.conftest import skip_without
from tests.formats.onnx_models import rows_for, run, snr_db

PLAIN, CORRECTED = Quantization(correct_bias=False), Quantization(correct_bias=True)


def dense(keras):
    layers = keras.layers
    x = keras.Input((24,), name="x")
    h = layers.Dense(48, activation="selu")(layers.Dense(48, activation="relu")(x))
    return keras.Model(x, layers.Dense(6, activation="softmax", name="y")(h))


def convolutions(keras):
    layers = keras.layers
    x = keras.Input((14, 14, 4), name="x")
    h = layers.Conv2D(12, 3, use_bias=False, padding="same")(x)
    h = short = layers.ReLU(6.0)(layers.BatchNormalization()(h))
    h = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(h)))
    h = layers.Add()([short, layers.Conv2D(12, 1)(h)])
    h = layers.Conv2DTranspose(6, 3, strides=2, activation="relu")(h)
    return keras.Model(x, layers.Dense(4, name="y")(layers.GlobalAveragePooling2D()(h)))


def attention(keras):
    layers = keras.layers
    x = keras.Input((10, 16), name="x")
    y = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x)]))
    y = layers.Dense(16, activation="gelu")(y)
    return keras.Model(x, layers.Dense(4, name="y")(layers.Flatten()(y)))


def recurrent(keras):
    layers = keras.layers
    lstm = layers.LSTM(10, unroll=True)
    return keras.Sequential([keras.Input((7, 5), name="x"), lstm, layers.Dense(3, name="y")])


def two_outputs(keras):
    layers = keras.layers
    x = keras.Input((12, 12, 3), name="x")
    h = layers.Conv2D(16, 3, activation="relu")(layers.Conv2D(16, 3, activation="relu")(x))
    vector = layers.Dense(4, name="vector")(layers.GlobalAveragePooling2D()(h))
    return keras.Model(x, [vector, layers.Conv2D(3, 1, activation="sigmoid", name="map")(h)])


def shared(keras):
    """A layer that is used twice, and so is left alone, before one that is not."""
    layers = keras.layers
    a, b = keras.Input((12,), name="a"), keras.Input((12,), name="b")
    both = layers.Dense(16, activation="relu")
    return keras.Model([a, b], layers.Dense(4, name="y")(layers.Concatenate()([both(a), both(b)])))


MODELS = (dense, convolutions, attention, recurrent, two_outputs, shared)


class Made:
    """A model with its TFLite and ONNX files, and rows to calibrate with and to judge by."""

    def __init__(self, model, folder, batch=None) -> None:
        from edgekit.toolchain.canonical import trace
        from edgekit.toolchain.model import of_keras
        from edgekit.toolchain.onnx import convert
        from edgekit.toolchain.onnx_quantize import FloatFile
        from edgekit.toolchain.quantizable import Quantizable

        self.folder = folder
        self.model = of_keras(model)
        path = folder / f"{model.name}.onnx"
        signature = convert(trace(self.model, batch), path)
        self.rows, self.unseen = rows_for(signature, 192, seed=1), rows_for(signature, 192, seed=2)
        self.onnx = FloatFile(path, signature, self.rows)
        self.tflite = Quantizable(trace(self.model, batch or 1), self.rows)
        self.expected = {n: np.asarray(v) for n, v in self.model.call(self.unseen).items()}

    def quantized(self, form, how=CORRECTED, precision="int8", rows=None, keep=()) -> bytes:
        """A quantized file; the ranges are those of all rows, in any case."""
        file = self.tflite if form == "tflite" else self.onnx
        file.ranges("minmax", 100.0)
        file.rows = self.rows if rows is None else rows
        if form == "tflite":
            return file.quantize(precision, how, keep=keep)
        from edgekit.toolchain.onnx_quantize import quantize

        quantize(file, self.folder / "quantized.onnx", precision, how, keep)
        return (self.folder / "quantized.onnx").read_bytes()

    def quality(self, form, content) -> float:
        """Signal-to-noise ratio of the worst output on rows that had no part in the file, in dB."""
        if form == "onnx":
            return snr_db(run(content, self.onnx.signature, self.unseen), self.expected)
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_content=content).get_signature_runner()
        inputs = {s.name: s.native for s in self.tflite.signature.inputs}
        given = [
            runner(**{inputs[n]: v[i : i + 1] for n, v in self.unseen.items()}) for i in range(192)
        ]
        outputs = {s.name: s.native for s in self.tflite.signature.outputs}
        return snr_db(
            {name: np.concatenate([g[native] for g in given]) for name, native in outputs.items()},
            self.expected,
        )

    def gain(self, form, **options) -> float:
        plain = self.quantized(form, PLAIN, **options)
        return self.quality(form, self.quantized(form, **options)) - self.quality(form, plain)


def with_biases(build):
    import keras

    keras.utils.set_random_seed(11)
    model, random = build(keras), np.random.default_rng(4)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:  # scales of normalization, too
            weight.assign(weight + 0.2 * random.standard_normal(weight.shape))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    done = {}

    def get(build):
        if build not in done:
            done[build] = Made(with_biases(build), tmp_path_factory.mktemp(build.__name__))
        return done[build]

    return get


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("build", MODELS)
def test_never_worse_on_unseen_rows(made, build, form, precision):
    assert made(build).gain(form, precision=precision) > -0.2


@pytest.mark.parametrize(
    ("form", "precision", "gain"),
    [
        ("tflite", "int8", 0.3),
        ("onnx", "int8", 0.3),
        ("tflite", "int16x8", 3),
        ("onnx", "int16x8", 3),
    ],
)
def test_better_where_rounded_weights_shift_the_means(made, form, precision, gain):
    assert made(convolutions).gain(form, precision=precision) > gain


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_no_byte_more_and_the_same_bytes_in_any_order_of_the_rows(made, form):
    model = made(convolutions)
    corrected = model.quantized(form)
    backwards = {name: value[::-1] for name, value in model.rows.items()}
    assert model.quantized(form, rows=backwards) == corrected
    assert abs(len(corrected) - len(model.quantized(form, PLAIN))) < 16


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_single_row_says_nothing(made, form):
    model = made(convolutions)
    one = {name: value[:1] for name, value in model.rows.items()}
    assert model.quantized(form, rows=one) == model.quantized(form, PLAIN)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_beside_operators_that_stay_float(made, form):
    model = made(convolutions)
    if form == "tflite":
        kept = next(n for n in model.tflite.taps.tensors if n.endswith("Relu6"))
    else:
        kept = next(n.output[0] for n in model.onnx.graph.node if n.op_type == "Conv")
    assert model.gain(form, precision="int16x8", keep=[kept]) > 1


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_files_of_the_newer_back_end(made, precision):
    skip_without(
        find_spec("litert_quantizer") is not None,
        "litert-quantizer",
        "pip install 'edgekit-ml[litert]'",
    )
    model = made(convolutions)
    plain, corrected = (
        model.quality("tflite", model.quantized("tflite", how, precision))
        for how in (
            Quantization(backend="litert", correct_bias=False),
            Quantization(backend="litert"),
        )
    )
    assert corrected > plain + 0.3


def test_inputs_and_outputs_of_int8(made):
    from edgekit.toolchain import tflite_file

    tflite = made(convolutions).tflite
    integers = [tflite.quantize("int8", how, int8_io=True) for how in (PLAIN, CORRECTED)]
    assert len(set(integers)) == 2
    floats = tflite.quantize("int8", CORRECTED)
    assert biases(tflite_file.unpack(integers[1])) == biases(tflite_file.unpack(floats))


def biases(model):
    from edgekit.toolchain import tflite_file

    graph = tflite_file.main_graph(model)
    places = [(op, tflite_file.bias_operand(model, op)) for op in graph.operators]
    tensors = [graph.tensors[op.inputs[i]] for op, i in places if i is not None]
    return [tflite_file.constant(model, tensor).tolist() for tensor in tensors]


def test_several_rows_at_a_time(tmp_path):
    model = Made(with_biases(convolutions), tmp_path, batch=4)
    for form in ("tflite", "onnx"):
        assert model.quantized(form) != model.quantized(form, PLAIN)


def test_loops(converted, tmp_path):
    """Nodes inside a loop read what is outside of it."""
    from edgekit.toolchain.onnx_quantize import FloatFile, quantize

    _, fp32, signature = converted("lstm")
    file = FloatFile(fp32, signature, rows_for(signature, 64))
    unseen = rows_for(signature, 64, seed=4)
    found = []
    for how in (PLAIN, CORRECTED):
        quantize(file, tmp_path / "a.onnx", "int8", how)
        found.append(
            snr_db(run(tmp_path / "a.onnx", signature, unseen), run(fp32, signature, unseen))
        )
    assert found[1] > found[0] - 0.2


class Chain:
    """x -> h0 = relu(2 x + bias) -> h1 = h0 + x + bias -> ... : each reads x and the one before."""

    def __init__(self, biases) -> None:
        self.biases = [np.array(bias) for bias in biases]
        before = ["x", *(f"h{i}" for i in range(len(biases) - 1))]
        self.operators = [(("x", name), (f"h{i}",)) for i, name in enumerate(before)]
        self.runs = [0] * len(biases)
        self.states = []

    def part(self, given, wanted):
        biases = [bias.copy() for bias in self.biases]

        def run(state):
            values = dict(state)
            self.states.append(set(state))

            def value(name):
                if name not in values:
                    place = int(name[1:])
                    self.runs[place] += 1
                    total = sum(value(n) for n in self.operators[place][0]) + biases[place]
                    values[name] = np.clip(total, 0, 4) if place % 2 == 0 else total
                return values[name]

            return {name: value(name) for name in wanted}

        return run

    def subtract(self, place, error):
        self.biases[place] = self.biases[place] - error


def chain(offset, count=6, channels=5, rows=64):
    """A chain whose biases are off, the one it should be, and rows for both."""
    random = np.random.default_rng(7)
    biases = random.standard_normal((count, channels))
    layers = [
        Layer(i, f"h{i}", f"h{i}", -1, (0.0, 4.0) if i % 2 == 0 else (-np.inf, np.inf))
        for i in range(count)
    ]
    feeds = [{"x": random.standard_normal((1, 30, channels))} for _ in range(rows)]
    off = biases + offset * random.standard_normal(biases.shape)
    return layers, Chain(off), feeds, Chain(biases)


def test_each_layer_is_corrected_behind_those_before_it():
    layers, quantized, feeds, floats = chain(offset=0.05)
    off = np.abs(np.array(quantized.biases) - floats.biases).max()
    correct(layers, quantized, feeds, floats, feeds)
    assert np.abs(np.array(quantized.biases) - floats.biases).max() < 0.03 * off


def test_a_row_goes_through_the_file_about_twice():
    layers, quantized, feeds, floats = chain(offset=0.05, count=20)
    correct(layers, quantized, feeds, floats, feeds)
    assert max(quantized.runs) <= 2 * len(feeds)
    assert {len(state) for state in quantized.states} <= {1, 2}  # x, and the tensor before


def test_rows_that_do_not_fit_into_memory_are_left_out(monkeypatch):
    monkeypatch.setattr(bias_correction, "MOST_BYTES", 10 * 2 * 30 * 5 * 8)
    layers, quantized, feeds, floats = chain(offset=0.05)
    correct(layers, quantized, feeds, floats, feeds)
    assert quantized.runs[-1] == 10
    assert np.abs(np.array(quantized.biases) - floats.biases).max() < 0.02


def test_large_activations_are_run_with_fewer_rows(monkeypatch):
    monkeypatch.setattr(bias_correction, "MOST_VALUES", 40 * 6 * 30 * 5)
    layers, quantized, feeds, floats = chain(offset=0.05)
    correct(layers, quantized, feeds, floats, feeds)
    assert floats.runs[0] == quantized.runs[-1] == 40


def test_what_may_be_chance_is_not_taken_off():
    """Errors without a mean: what is taken off is less than their mean over the rows is."""
    random = np.random.default_rng(5)
    errors = random.standard_normal((32, 2000))
    taken = bias_correction._significant(errors)
    assert np.square(taken).mean() < 0.5 * np.square(errors.mean(axis=0)).mean()
    np.testing.assert_allclose(
        bias_correction._significant(errors + 20), (errors + 20).mean(0), 1e-3
    )
    assert (bias_correction._significant(np.zeros((4, 3))) == 0).all()

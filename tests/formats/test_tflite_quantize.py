"""int8 and int16x8 TFLite with ranges of our own, next to what the raw converter makes."""

from __future__ import annotations

import re
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from edgekit.errors import ConversionError, MissingDependency
from edgekit.formats import describe
from edgekit.parity import compare
from edgekit.types import Signature
from tests.conftest import skip_without

WIDE = ("mlp", "convolutions", "residual", "attention", "recurrent", "embedding")


def mlp(keras):
    layers = keras.layers
    dense = [layers.Dense(48, activation="relu"), layers.Dense(48, activation="tanh")]
    return keras.Sequential([keras.Input((24,), name="x"), *dense, layers.Dense(3, name="y")])


def convolutions(keras):
    layers = keras.layers
    stack = [
        keras.Input((14, 14, 4), name="x"),
        layers.Conv2D(12, 3, activation="relu"),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Conv2DTranspose(6, 3, strides=2, activation="relu"),
        layers.AveragePooling2D(2),
        layers.Flatten(),
        layers.Dense(4, name="y"),
    ]
    return keras.Sequential(stack)


def residual(keras):
    layers = keras.layers
    x = keras.Input((12, 12, 3), name="x")
    a = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    b = layers.Add()([a, layers.Conv2D(8, 3, padding="same")(a)])
    c = layers.Concatenate()([layers.ReLU()(b), layers.MaxPooling2D(3, 1, padding="same")(a)])
    return keras.Model(x, layers.Dense(4, name="y")(layers.GlobalAveragePooling2D()(c)))


def attention(keras):
    layers = keras.layers
    x = keras.Input((10, 16), name="x")
    y = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x)]))
    y = layers.Dense(16, activation="gelu")(y)
    return keras.Model(x, layers.Dense(4, name="y")(layers.Flatten()(y)))


def recurrent(keras):
    layers = keras.layers
    gru = layers.GRU(10, unroll=True)
    return keras.Sequential([keras.Input((7, 5), name="x"), gru, layers.Dense(3, name="y")])


def embedding(keras):
    layers = keras.layers
    x = keras.Input((12,), dtype="int32", name="x")
    y = layers.Conv1D(16, 3, activation="relu")(layers.Embedding(50, 12)(x))
    return keras.Model(x, layers.Dense(4, name="y")(layers.GlobalMaxPooling1D()(y)))


def causal(keras):
    layers = keras.layers
    x = keras.Input((10, 16), name="x")
    y = layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True)
    return keras.Model(x, layers.Dense(4, name="y")(layers.Flatten()(y)))


def masked(keras):
    layers = keras.layers
    x = keras.Input((10, 16), name="x")
    y = layers.Masking()(x)
    y = layers.MultiHeadAttention(2, 8, dropout=0.1)(y, y, use_causal_mask=True)
    return keras.Model(x, layers.Dense(4, name="y")(layers.GlobalAveragePooling1D()(y)))


class Made:
    """A model as float file, its rows, and what may be made of it."""

    def __init__(self, model) -> None:
        from edgekit.toolchain import tflite
        from edgekit.toolchain.calibration import calibrate
        from edgekit.toolchain.canonical import trace
        from edgekit.toolchain.model import of_keras
        from edgekit.toolchain.taps import TfliteTaps

        self.model = of_keras(model)
        self.traced = trace(self.model, 1)
        self.content, self.signature = tflite.floats(self.traced)
        self.rows = self._rows(300)
        self.taps = TfliteTaps(self.content, self.signature)
        self.ranges = calibrate(self.taps, self.rows)

    def _rows(self, count: int):
        random, rows = np.random.default_rng(1), {}
        for spec in self.signature.inputs:
            shape = (count, *spec.shape[1:])
            if spec.dtype == "int32":
                rows[spec.name] = random.integers(0, 50, shape).astype(np.int32)
            else:
                rows[spec.name] = random.standard_normal(shape).astype(np.float32)
                rows[spec.name][: count // 2, -3:] = 0  # what a mask leaves out
        return rows

    def quantized(self, precision="int8", **options):
        from edgekit.toolchain.tflite_quantize import quantize

        return quantize(self.content, self.signature, self.ranges, precision=precision, **options)

    def corrected(self, content):
        from edgekit.toolchain.tflite_bias import correct_bias

        return correct_bias(content, self.content, self.rows, self.signature)

    def raw(self):
        """What TensorFlow's converter makes of the same function and rows."""
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [self.traced.concrete], self.traced.holder
        )
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        names = {s.name: s.native.removesuffix(":0") for s in self.traced.signature.inputs}
        converter.representative_dataset = lambda: (
            {names[n]: v[i : i + 1] for n, v in self.rows.items()} for i in range(300)
        )
        with warnings.catch_warnings():
            # It calibrates with TensorFlow's own, deprecated interpreter.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter is dep")
            return converter.convert()

    def sqnr(self, content, **options) -> float:
        """Signal-to-noise ratio of the worst output against Keras.

        On the rows that it is calibrated with: others may be out of range, by chance.
        """
        figures = compare(self.model.call(self.rows), self.run(content, **options))
        return min(f.sqnr_db for f in figures)

    def run(self, content, **options):
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_content=bytes(content), **options).get_signature_runner()
        natives = {s.name: s.native for s in self.signature.inputs}
        feeds = ({natives[n]: v[i : i + 1] for n, v in self.rows.items()} for i in range(300))
        given = [runner(**feed) for feed in feeds]
        outputs = {s.name: s.native for s in self.signature.outputs}
        return {n: np.concatenate([g[native] for g in given]) for n, native in outputs.items()}


@pytest.fixture(scope="module")
def made():
    import keras

    done = {}

    def get(build):
        if build not in done:
            keras.utils.set_random_seed(11)
            model, random = build(keras), np.random.default_rng(4)
            for weight in model.trainable_weights:
                if len(weight.shape) == 1:  # biases, and scales of normalization
                    weight.assign(weight + 0.2 * random.standard_normal(weight.shape))
            done[build] = Made(model)
        return done[build]

    return get


@pytest.fixture
def found(tmp_path):
    def describe_content(content):
        path = tmp_path / "m.tflite"
        path.write_bytes(content)
        return describe(path)

    return describe_content


def test_the_float_file_has_short_unique_names(made):
    assert len(set(made(residual).taps.tensors)) == len(made(residual).taps.tensors)
    assert all(";" not in name for name in made(residual).taps.tensors)
    assert any(re.fullmatch(r"conv2d\w*/Relu", name) for name in made(residual).taps.tensors)


@pytest.mark.parametrize("name", WIDE)
def test_int8_is_as_near_as_the_converters_and_smaller(made, found, name):
    model = made(globals()[name])
    ours, raw = model.quantized(), model.raw()
    assert found(ours).float_tensors == ()
    assert found(ours).quantization.per_channel > 0
    # Its ranges are wider where it read a tensor too late, which rounds other values.
    assert model.sqnr(ours) > model.sqnr(raw) - 0.5
    # Other biases round other values: by chance 0.2 dB on these few rows, either way.
    assert model.sqnr(model.corrected(ours)) > model.sqnr(raw) - 0.25
    assert len(ours) < 0.92 * len(raw)


@pytest.mark.parametrize("name", WIDE)
def test_int16x8_is_finer_with_weights_of_8_bits(made, found, name):
    model = made(globals()[name])
    wide = model.quantized("int16x8")
    description = found(wide)
    assert description.float_tensors == ()
    groups = {(g.role, g.dtype) for g in description.groups}
    assert ("activations", "int16") in groups
    assert ("biases", "int64") in groups
    assert ("weights", "int8") in groups
    int8, int16x8 = model.corrected(model.quantized()), model.corrected(wide)
    assert model.sqnr(int16x8) > model.sqnr(int8) + 5


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_the_same_bytes_each_time(made, precision):
    assert made(residual).quantized(precision) == made(residual).quantized(precision)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_with_and_without_the_delegate(made, precision):
    from ai_edge_litert.interpreter import OpResolverType

    model = made(convolutions)
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    content = model.quantized(precision)
    fast, slow = model.sqnr(content), model.sqnr(content, experimental_op_resolver_type=plain)
    assert fast == pytest.approx(slow, abs=0.5)


def test_constants_are_aligned_and_none_is_there_twice(made):
    from ai_edge_litert import schema_py_generated as schema

    content = made(residual).quantized()
    file = schema.Model.GetRootAs(content)
    buffers = [file.Buffers(i) for i in range(file.BuffersLength())]
    filled = [b for b in buffers if not b.DataIsNone()]
    starts = [b._tab.Vector(b._tab.Offset(4)) for b in filled]
    assert starts
    assert all(start % 16 == 0 for start in starts)
    assert len({b.DataAsNumpy().tobytes() for b in filled}) == len(filled)
    assert len(buffers) == len(filled) + 1


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_kept_operators_stay_float_and_all_others_do_not(made, found, precision):
    model = made(residual)
    kept = next(name for name in model.taps.tensors if name.endswith("/Relu"))
    content = model.quantized(precision, keep=[kept])
    description = found(content)
    assert kept in description.float_tensors
    assert len(description.float_tensors) == 4  # input, weights, bias and result
    assert ("weights", "float32") in {(g.role, g.dtype) for g in description.groups}
    assert description.ops["CONV_2D"] == 2
    everything = [name for name in model.taps.tensors if name not in model.rows]
    floats = model.quantized(precision, keep=everything[1:])
    assert model.sqnr(floats) > 100
    assert model.sqnr(content) > model.sqnr(model.quantized(precision)) - 0.5


def test_a_name_that_no_operator_gives_is_refused(made):
    with pytest.raises(ConversionError, match="no operator that gives nonsense"):
        made(mlp).quantized(keep=["nonsense"])


def test_int8_inputs_and_outputs_have_their_scale_in_the_signature(made):
    from edgekit.toolchain import tflite_file

    model = made(mlp)
    signature = tflite_file.signature(model.quantized(int8_io=True), model.signature)
    assert isinstance(signature, Signature)
    [x], [y] = signature.inputs, signature.outputs
    assert (x.dtype, y.dtype, x.native, y.native) == ("int8", "int8", "x", "y")
    assert x.scale == pytest.approx((model.rows["x"].max() - model.rows["x"].min()) / 255, rel=1e-3)
    with pytest.raises(ConversionError, match="int16x8 files have float inputs"):
        model.quantized("int16x8", int8_io=True)


def test_each_step_of_an_unrolled_loop_has_a_bias_of_its_own_scale(made):
    """The int16 quantizer would quantize a shared one for the first step only."""
    from edgekit.toolchain import tflite_file

    model = made(recurrent)
    file = tflite_file.unpack(model.quantized("int16x8"))
    graph = tflite_file.main_graph(file)
    operators = [op for op in graph.operators if tflite_file.bias_operand(file, op) is not None]
    biases = [graph.tensors[op.inputs[tflite_file.bias_operand(file, op)]] for op in operators]
    for op, bias in zip(operators, biases, strict=True):
        x, weights = (graph.tensors[i].quantization.scale for i in op.inputs[:2])
        assert np.allclose(bias.quantization.scale, x * weights, rtol=1e-5)
    assert model.sqnr(model.quantized("int16x8")) > 35


def test_a_sum_has_a_range_of_its_own_in_int16x8(made):
    """The int16 quantizer gives it the range of what is summed."""

    def summed(keras):
        x = keras.Input((20, 6), name="x")
        y = keras.ops.sum(keras.ops.square(keras.layers.Dense(6)(x)), axis=1)
        return keras.Model(x, keras.layers.Dense(3, name="y")(y))

    model = made(summed)
    assert model.sqnr(model.quantized("int16x8")) > 35


def test_zeros_that_are_added_do_not_abort_the_kernel_of_16_bits():
    """Keras 2 has LayerNormalization subtract from 0."""
    import tf_keras

    tf_keras.utils.set_random_seed(5)
    layers = tf_keras.layers
    stages = [tf_keras.Input((12,), name="x"), layers.Dense(16), layers.LayerNormalization()]
    model = Made(tf_keras.Sequential([*stages, layers.Dense(3, name="y")]))
    assert model.sqnr(model.quantized("int16x8")) > 35


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_what_is_0_on_every_row_has_a_scale(made, found, precision):
    from edgekit.toolchain.calibration import Range
    from edgekit.toolchain.tflite_quantize import quantize

    model = made(mlp)
    ranges = dict.fromkeys(model.ranges, Range(0.0, 0.0))
    # A scale that is no finite number is refused when the file is described.
    assert found(quantize(model.content, model.signature, ranges, precision=precision)).signature


@pytest.mark.parametrize("build", [causal, masked])
def test_a_mask_does_not_take_the_range_of_the_scores(made, found, build):
    model = made(build)
    assert model.sqnr(model.raw()) < 15
    assert model.sqnr(model.quantized()) > 24
    assert found(model.quantized()).float_tensors == ()
    assert found(model.quantized("int16x8")).float_tensors == ()
    assert model.sqnr(model.quantized("int16x8")) > 35


@pytest.mark.parametrize("causal_too", [False, True])
def test_the_masks_of_keras_2_are_cut_too(causal_too):
    """It adds -1e9 times a condition, or a constant."""
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    layers = tf_keras.layers
    x = tf_keras.Input((10, 16), name="x")
    y = x if causal_too else layers.Masking()(x)
    y = layers.MultiHeadAttention(2, 8)(y, y, use_causal_mask=causal_too)
    model = Made(tf_keras.Model(x, layers.Dense(4, name="y")(layers.Flatten()(y))))
    assert model.sqnr(model.quantized()) > model.sqnr(model.raw()) + 8
    assert model.sqnr(model.quantized("int16x8")) > 30


def test_what_is_chosen_from_keeps_its_range_for_other_readers(made):
    """The converter puts the range of a maximum, here [0, 2], on what it is taken from."""

    def clipped(keras):
        x = keras.Input((8, 8), name="x")
        y = keras.layers.Dense(8)(x)
        z = keras.ops.clip(y, -0.1, 0.3)
        dense = [keras.layers.Dense(3, name=n) for n in ("clipped", "whole")]
        return keras.Model(
            x, [d(keras.layers.Flatten()(v)) for d, v in zip(dense, (z, y), strict=True)]
        )

    model = made(clipped)
    assert model.sqnr(model.raw()) < 10
    assert model.sqnr(model.quantized()) > 18


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "attention", "recurrent"])
def test_both_back_ends_agree(made, name, precision):
    skip_without(
        find_spec("litert_quantizer") is not None,
        "litert-quantizer",
        "pip install 'edgekit-ml[litert]'",
    )
    from edgekit.toolchain import tflite_litert

    model = made(globals()[name])
    arguments = model.content, model.signature, model.ranges
    newer = tflite_litert.quantize(*arguments, precision=precision)
    assert newer == tflite_litert.quantize(*arguments, precision=precision)
    assert model.sqnr(newer) == pytest.approx(model.sqnr(model.quantized(precision)), abs=0.5)


def test_the_newer_back_end_keeps_operators_in_float(made, found):
    skip_without(
        find_spec("litert_quantizer") is not None,
        "litert-quantizer",
        "pip install 'edgekit-ml[litert]'",
    )
    from edgekit.toolchain import tflite_litert

    model = made(residual)
    kept = next(name for name in model.taps.tensors if name.endswith("/Relu"))
    content = tflite_litert.quantize(
        model.content, model.signature, model.ranges, precision="int8", keep=[kept]
    )
    ours, theirs = found(model.quantized(keep=[kept])), found(content)
    assert kept in theirs.float_tensors
    assert len(theirs.float_tensors) == len(ours.float_tensors)
    with pytest.raises(ConversionError, match="no operator that gives nonsense"):
        tflite_litert.quantize(
            model.content, model.signature, model.ranges, precision="int8", keep=["nonsense"]
        )


def test_without_the_extra_the_hint_installs_it(made, monkeypatch):
    from edgekit.toolchain import tflite_litert

    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    model = made(mlp)
    with pytest.raises(MissingDependency) as error:
        tflite_litert.quantize(model.content, model.signature, model.ranges, precision="int8")
    assert error.value.hint == "pip install 'edgekit-ml[litert]'"

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit import parity
from edgekit.agent.rows import run_rows
from edgekit.agent.runners import open_runner
from edgekit.errors import ConversionError
from edgekit.formats import describe
from edgekit.parity import compare
from edgekit.types import Quantization
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def convert():
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.tflite import convert

    def run(model, path, batch=1, **options):
        return convert(trace(of_keras(model), batch), path, **options)

    return run


@pytest.fixture(scope="module")
def quantize():
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.quantizable import Quantizable

    def run(model, path, feed, int8_io=False):
        source = Quantizable(trace(of_keras(model), 1), feed)
        return source.write(path, source.quantize("int8", Quantization(), int8_io=int8_io))

    return run


def outputs_of(path, signature, feed):
    return run_rows(open_runner("tflite", str(path), signature, 1), signature, feed)


def reference(model, signature, feed):
    values = model.predict(feed if len(feed) > 1 else feed.popitem()[1], verbose=0)
    names = [s.name for s in signature.outputs]
    return dict(zip(names, values if isinstance(values, list) else [values], strict=True))


def test_names_and_order_are_the_models(convert, two_by_two, rows, tmp_path):
    path = tmp_path / "m.tflite"
    signature = convert(two_by_two, path, precision="fp32")
    assert [s.name for s in signature.inputs] == ["zebra", "ant"]
    # The order that an application sees that binds by index.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    assert [d["shape"].tolist() for d in interpreter.get_input_details()] == [[1, 4], [1, 3]]
    assert [d["shape"].tolist() for d in interpreter.get_output_details()] == [[1, 2], [1, 5]]
    feed = rows(signature)
    for figures in compare(
        reference(two_by_two, signature, dict(feed)), outputs_of(path, signature, feed)
    ):
        assert figures.max_rel < 1e-6


@pytest.mark.parametrize("batch", [1, 4])
def test_cnn(convert, cnn, rows, tmp_path, batch):
    signature = convert(cnn, tmp_path / "m.tflite", batch=batch, precision="fp32")
    assert signature.inputs[0].shape == (batch, 12, 12, 3)
    feed = rows(signature, 10)
    [figures] = compare(
        reference(cnn, signature, dict(feed)), outputs_of(tmp_path / "m.tflite", signature, feed)
    )
    assert figures.max_rel < 1e-6


def test_int8_is_integer_inside_per_channel_and_near(convert, quantize, cnn, rows, tmp_path):
    path = tmp_path / "m.tflite"
    signature = convert(cnn, path, precision="fp32")
    feed = rows(signature, 200)
    signature = quantize(cnn, path, feed)
    assert [s.dtype for s in (*signature.inputs, *signature.outputs)] == ["float32", "float32"]
    found = describe(path)
    assert found.float_tensors == ()
    assert found.quantization.per_channel > 0
    [figures] = compare(reference(cnn, signature, dict(feed)), outputs_of(path, signature, feed))
    assert parity.violations(figures, parity.TOLERANCES["int8"]) == []


def test_int8_io_takes_and_gives_integers(convert, quantize, cnn, rows, tmp_path):
    path = tmp_path / "m.tflite"
    feed = rows(convert(cnn, path, precision="fp32"), 100)
    floats = quantize(cnn, path, feed)
    expected = outputs_of(path, floats, feed)
    integers = quantize(cnn, path, feed, int8_io=True)
    [image], [kind] = integers.inputs, integers.outputs
    assert (image.dtype, kind.dtype) == ("int8", "int8")
    assert (kind.scale, kind.zero_point) == (1 / 256, -128)
    assert image.scale > 0
    # The runner quantizes and dequantizes as the border operations of the float file do.
    assert np.array_equal(outputs_of(path, integers, feed)["kind"], expected["kind"])


def test_the_order_of_the_calibration_rows_does_not_matter(convert, quantize, cnn, rows, tmp_path):
    feed = rows(convert(cnn, tmp_path / "m.tflite", precision="fp32"), 100)
    backwards = {name: value[::-1] for name, value in feed.items()}
    quantize(cnn, tmp_path / "a.tflite", feed)
    quantize(cnn, tmp_path / "b.tflite", backwards)
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_bytes_each_time(convert, two_by_two, tmp_path, precision):
    for name in ("a", "b"):
        convert(two_by_two, tmp_path / name, precision=precision)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unrolled_int8_is_integer_inside_and_the_same_each_time(rows, tmp_path):
    """The converter's own quantization of Split is neither, more often than not."""
    import keras

    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.layers import unrolled
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.quantizable import Quantizable

    keras.utils.set_random_seed(4)
    lstm = keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True))
    stages = [keras.Input((12, 4), name="steps"), lstm, keras.layers.GRU(6), keras.layers.Dense(3)]
    model = of_keras(keras.Sequential(stages))
    feed = rows(trace(model, None).signature, 64)
    contents = set()
    for _ in range(3):
        with unrolled(model.layers):
            source = Quantizable(trace(model, 1), feed)
        path = tmp_path / "m.tflite"
        signature = source.write(path, source.quantize("int8", Quantization()))
        assert describe(path).float_tensors == ()
        contents.add(path.read_bytes())
    assert len(contents) == 1
    [figure] = compare(model.call(feed), outputs_of(path, signature, feed))
    assert figure.sqnr_db > 15


def test_fp16_halves_the_weights(convert, rows, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((64,), name="x"), keras.layers.Dense(128, name="y")])
    convert(model, tmp_path / "a", precision="fp32")
    signature = convert(model, tmp_path / "b", precision="fp16")
    assert (tmp_path / "b").stat().st_size < 0.6 * (tmp_path / "a").stat().st_size
    feed = rows(signature)
    [figures] = compare(
        reference(model, signature, dict(feed)), outputs_of(tmp_path / "b", signature, feed)
    )
    assert figures.sqnr_db > 50


def test_an_lstm_keeps_no_state_between_calls(convert, rows, tmp_path):
    import keras

    model = keras.Sequential(
        [keras.Input((5, 3), name="x"), keras.layers.LSTM(4), keras.layers.Dense(2, name="y")]
    )
    signature = convert(model, tmp_path / "m.tflite", precision="fp32")
    feed = rows(signature)
    [figures] = compare(
        reference(model, signature, dict(feed)), outputs_of(tmp_path / "m.tflite", signature, feed)
    )
    assert figures.max_rel < 1e-5


def test_an_operation_without_a_builtin_is_refused_by_name(convert, tmp_path):
    import keras

    class Bincount(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.cast(tf.math.bessel_i0(x), "float32")

    x = keras.Input((3,), name="x")
    model = keras.Model(x, Bincount()(x))
    with pytest.raises(ConversionError, match="TFLite has no builtin for BesselI0"):
        convert(model, tmp_path / "m.tflite", precision="fp32")
    assert not (tmp_path / "m.tflite").exists()


def test_a_signature_of_another_file_is_refused_by_the_runner(convert, cnn, tmp_path):
    signature = convert(cnn, tmp_path / "m.tflite", precision="fp32")
    [kind] = signature.outputs
    wrong = replace(signature, outputs=(replace(kind, native="other"),))
    with pytest.raises(ValueError, match="the file has kind"):
        open_runner("tflite", str(tmp_path / "m.tflite"), wrong, 1)


def test_constants_behind_the_tree_are_read():
    """As Google's newer quantizer writes those of a larger file."""
    from ai_edge_litert import schema_py_generated as schema

    from edgekit.toolchain import tflite_file

    content = (ROOT / "tests" / "data" / "fp32.tflite").read_bytes()
    model = tflite_file.unpack(content)
    wanted = tflite_file.pack(model)
    sizes = [0 if buffer.data is None else buffer.data.nbytes for buffer in model.buffers]
    place = sizes.index(max(sizes))
    data = model.buffers[place].data.tobytes()
    behind = 1 << 20
    model.buffers[place] = schema.BufferT(offset=behind, size=len(data))
    moved = tflite_file.pack(model).ljust(behind, b"\0") + data
    assert len(tflite_file.pack(model)) < behind
    assert tflite_file.pack(tflite_file.unpack(moved)) == wanted

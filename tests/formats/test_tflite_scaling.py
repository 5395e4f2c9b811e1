"""int8 TFLite of models that take raw features: what brings them to one scale stays float."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.formats import describe
from edgekit.parity import compare
from edgekit.types import Quantization

ROWS = 200
SPREADS = np.array([1.0, 3.0, 40.0, 2000.0], np.float32)


@pytest.fixture(scope="module")
def houses():
    """A model whose four features are a thousandfold apart, and rows of it."""
    import keras

    keras.utils.set_random_seed(3)
    rows = SPREADS * np.random.default_rng(0).normal(1, 1, (ROWS, 4)).astype(np.float32)
    scaled = keras.layers.Normalization()
    scaled.adapt(rows)
    x = keras.Input((4,), name="x")
    y = keras.layers.Dense(1, name="y")(keras.layers.Dense(16, activation="relu")(scaled(x)))
    return keras.Model(x, y), rows


def quantizable(model, rows):
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.quantizable import Quantizable

    return Quantizable(trace(of_keras(model), 1), {"x": rows})


def kinds(content):
    """Of the operators of a file, in their order."""
    from edgekit.toolchain import tflite_file

    model = tflite_file.unpack(content)
    return [tflite_file.kind(model, op) for op in tflite_file.main_graph(model).operators]


def sqnr(model, rows, content) -> float:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content).get_signature_runner()
    given = np.concatenate([next(iter(runner(x=row[None]).values())) for row in rows])
    [figure] = compare({"y": model(rows).numpy()}, {"y": given})
    return figure.sqnr_db


@pytest.mark.parametrize("backend", ["converter", "litert"])
@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_features_a_thousandfold_apart_keep_their_meaning(houses, tmp_path, backend, precision):
    model, rows = houses
    made = quantizable(model, rows).quantize(precision, Quantization(backend=backend))
    assert sqnr(model, rows, made) > 25
    (tmp_path / "m.tflite").write_bytes(made)
    found = describe(tmp_path / "m.tflite")
    assert found.float_tensors == ()
    assert ("weights", "int8") in {(g.role, g.dtype) for g in found.groups}


def test_with_an_int8_input_all_is_integer(houses, tmp_path):
    model, rows = houses
    path = tmp_path / "m.tflite"
    path.write_bytes(quantizable(model, rows).quantize("int8", Quantization(), int8_io=True))
    assert [spec.dtype for spec in describe(path).signature.inputs] == ["int8"]
    assert not {group.dtype for group in describe(path).groups} & {"float32"}


def test_channels_that_are_alike_are_integers_from_the_start(houses):
    model, rows = houses
    alike = rows / SPREADS
    plain, raw = quantizable(model, alike), quantizable(model, rows)
    assert kinds(plain.quantize("int8", Quantization()))[0] == "QUANTIZE"
    assert kinds(raw.quantize("int8", Quantization()))[0] in ("SUB", "MUL", "ADD", "DIV")

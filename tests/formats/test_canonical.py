from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import SourceError


@pytest.fixture(scope="module")
def trace():
    from edgekit.toolchain import canonical
    from edgekit.toolchain.model import of_keras

    return lambda model, batch: canonical.trace(of_keras(model), batch)


def names(specs):
    return [s.name for s in specs]


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_names_order_and_shapes_are_the_models(trace, two_by_two, batch):
    signature = trace(two_by_two, batch).signature
    assert names(signature.inputs) == ["zebra", "ant"]
    assert names(signature.outputs) == ["wide", "deep"]
    assert [s.shape for s in signature.outputs] == [(batch, 2), (batch, 5)]


def test_the_function_computes_what_the_model_does(trace, two_by_two, rows):
    model = trace(two_by_two, None)
    feed = rows(model.signature)
    results = model.function(*(feed[s.name] for s in model.signature.inputs))
    wide, deep = two_by_two.predict(list(feed.values()), verbose=0)
    assert np.allclose(results["wide"], wide, atol=1e-6)
    assert np.allclose(results["deep"], deep, atol=1e-6)


def test_two_outputs_of_one_layer_get_two_names(trace):
    import keras

    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    head = keras.layers.Dense(2, name="head")
    signature = trace(keras.Model([x, y], [head(y), head(x)]), None).signature
    assert names(signature.outputs) == ["head", "head_1"]


def test_dict_inputs_and_outputs_keep_their_keys(trace, rows):
    import keras

    inputs = {"right": keras.Input((3,), name="right"), "left": keras.Input((2,), name="left")}
    outputs = {
        "sum": keras.layers.Dense(2)(keras.layers.Concatenate()(list(inputs.values()))),
        "copy": keras.layers.Dense(1)(inputs["left"]),
    }
    keras_model = keras.Model(inputs, outputs)
    model = trace(keras_model, None)
    assert set(names(model.signature.inputs)) == {"left", "right"}
    assert set(names(model.signature.outputs)) == {"copy", "sum"}
    feed = rows(model.signature)
    results = model.function(*(feed[s.name] for s in model.signature.inputs))
    expected = keras_model.predict(feed, verbose=0)
    assert all(np.allclose(results[k], expected[k], atol=1e-6) for k in expected)


def test_names_that_are_no_identifiers_stay_the_keras_names(trace):
    import keras

    x = keras.Input((3,), name="my input:0")
    y = keras.Input((3,), name="my_input_0")
    model = keras.Model([x, y], keras.layers.Dense(2, name="out-1")(keras.layers.Add()([x, y])))
    signature = trace(model, 1).signature
    assert names(signature.inputs) == ["my input:0", "my_input_0"]
    assert len({s.native for s in signature.inputs}) == 2
    assert names(signature.outputs) == ["out-1"]


def test_a_model_that_was_never_built(trace):
    import keras

    with pytest.raises(SourceError, match="has no defined inputs"):
        trace(keras.Sequential([keras.layers.Dense(2)]), None)

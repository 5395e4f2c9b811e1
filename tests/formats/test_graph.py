"""What the folded GraphDef holds, and that it computes what the Keras model does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from edgekit.toolchain.canonical import Canonical, trace
from edgekit.toolchain.graph import fold, folded, freeze


def randomize(model: keras.Model) -> keras.Model:
    """Weights as after training: batch normalization is not the identity."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if "float" in weight.dtype:
            low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.5
            weight.assign(rng.uniform(low, low + 1, weight.shape))
    return model


def run(graph_def: Any, traced: Canonical, x: np.ndarray) -> np.ndarray:
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    with tf.compat.v1.Session(graph=graph) as session:
        (output,) = traced.signature.outputs
        return session.run(output.native, {traced.signature.inputs[0].native: x})


def operations(graph_def: Any) -> Counter[str]:
    return Counter(node.op for node in graph_def.node)


def check(model: keras.Model, rows: int = 3) -> Counter[str]:
    """Fold, compare with Keras, and give the operations that are left."""
    shape = (rows, *model.inputs[0].shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    traced = trace(model, None)
    graph_def = folded(traced)
    expected = np.asarray(model(x, training=False))
    scale = np.abs(expected).max()
    assert scale > 1e-3
    np.testing.assert_allclose(run(graph_def, traced, x), expected, rtol=0, atol=2e-6 * scale)
    return operations(graph_def)


SCALES = ("Mul", "AddV2", "Sub", "RealDiv", "Rsqrt")


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: layers.Conv2D(6, 3, use_bias=True), id="conv"),
        pytest.param(lambda: layers.Conv2D(6, 3, use_bias=False), id="conv without bias"),
        pytest.param(lambda: layers.Conv2D(6, 3, dilation_rate=2), id="dilated"),
        pytest.param(lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), id="depthwise"),
        pytest.param(lambda: layers.DepthwiseConv2D(3, dilation_rate=2), id="dilated depthwise"),
        pytest.param(lambda: layers.Conv2D(6, 3, groups=2), id="grouped"),
        pytest.param(lambda: layers.Conv2DTranspose(6, 3), id="transposed"),
    ],
)
def test_batch_norm_after_an_image_layer_folds_away(layer: Any) -> None:
    image = keras.Input((9, 9, 4))
    x = layers.BatchNormalization()(layer()(image))
    left = check(randomize(keras.Model(image, layers.ReLU()(x))))
    assert not any(left[op] for op in SCALES)
    assert left["BiasAdd"] == 1


def test_batch_norm_after_conv1d_and_dense_folds_away() -> None:
    x = keras.Input((12, 3))
    y = layers.BatchNormalization()(layers.Conv1D(5, 3)(x))
    y = layers.Flatten()(layers.ReLU()(y))
    y = layers.BatchNormalization()(layers.Dense(4)(y))
    left = check(randomize(keras.Model(x, y)))
    assert not any(left[op] for op in SCALES)
    assert left["BiasAdd"] == 2


def test_two_batch_norms_in_a_row_fold_into_one_bias() -> None:
    image = keras.Input((6, 6, 2))
    y = layers.Conv2D(3, 3)(image)
    y = layers.BatchNormalization()(layers.BatchNormalization()(y))
    left = check(randomize(keras.Model(image, y)))
    assert not any(left[op] for op in SCALES)
    assert left["BiasAdd"] == 1


def test_a_convolution_read_twice_keeps_its_weights() -> None:
    image = keras.Input((6, 6, 2))
    conv = layers.Conv2D(3, 3, use_bias=False)(image)
    y = layers.Add()([layers.ReLU()(layers.BatchNormalization()(conv)), conv])
    assert check(randomize(keras.Model(image, y)))["Mul"] == 1


def test_batch_norm_before_a_padded_convolution_stays() -> None:
    image = keras.Input((6, 6, 2))
    y = layers.Conv2D(3, 3, padding="same")(layers.BatchNormalization()(image))
    assert check(randomize(keras.Model(image, y)))["Mul"] == 1


def test_exact_gelu_has_no_erfc() -> None:
    left = check(keras.Sequential([keras.Input((5,)), layers.Dense(8, activation="gelu")]))
    assert left["Erfc"] == 0
    assert left["Erf"] == 1


def test_a_flatten_of_any_batch_has_a_constant_shape() -> None:
    left = check(keras.Sequential([keras.Input((3, 4)), layers.Flatten(), layers.Dense(2)]))
    assert left["Shape"] == left["Pack"] == 0


def test_fused_batch_norm_is_lowered() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 5, 3)).astype(np.float32)
    parameters = [rng.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(4)]
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 5, 5, 3), name="image")
        conv = tf.nn.conv2d(image, rng.normal(size=(3, 3, 3, 4)).astype(np.float32), 1, "SAME")
        normal, *_ = tf.compat.v1.nn.fused_batch_norm(conv, *parameters, is_training=False)
        tf.identity(normal, name="y")
    before = graph.as_graph_def()
    after = fold(before, ["image", "y"])
    assert operations(before)["FusedBatchNormV3"] == 1
    assert operations(after) == {
        "Placeholder": 1, "Const": 2, "Conv2D": 1, "BiasAdd": 1, "Identity": 1
    }  # fmt: skip
    results = []
    for graph_def in (before, after):
        with tf.Graph().as_default() as imported:
            tf.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            results.append(session.run("y:0", {"image:0": x}))
    np.testing.assert_allclose(*results, rtol=0, atol=1e-5)


def test_folding_is_deterministic() -> None:
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4), layers.Dense(2)])
    first, second = (
        folded(trace(model, None)).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


def test_a_loop_with_renamed_functions_computes_the_same() -> None:
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4), layers.Dense(2)])
    assert check(model)["While"] == 1


def test_folding_leaves_its_input_alone() -> None:
    traced = trace(keras.Sequential([keras.Input((5,)), layers.Dense(3)]), None)
    graph_def = traced.concrete.graph.as_graph_def()
    before = graph_def.SerializeToString(deterministic=True)
    fold(graph_def, ["Identity"])
    assert graph_def.SerializeToString(deterministic=True) == before


def test_a_residual_sum_does_not_hinder_folding() -> None:
    image = keras.Input((6, 6, 3))
    y = layers.BatchNormalization()(layers.Conv2D(3, 1, use_bias=False)(image))
    y = layers.BatchNormalization()(layers.Conv2D(3, 1)(layers.Add()([y, image])))
    left = check(randomize(keras.Model(image, layers.Add()([y, image]))))
    assert left["BiasAdd"] == left["AddV2"] == 2
    assert left["Mul"] == left["AddN"] == 0


def test_a_layer_called_twice_on_a_tensor_is_computed_once(tmp_path):
    """Grappler lets chance decide which of the two names survives; the bytes depended on it."""
    shared = layers.Dense(6, activation="relu", name="shared")
    x = keras.Input((4,), name="x")
    ends = [layers.Dense(2, name="one")(shared(x)), layers.Dense(3, name="two")(shared(x))]
    model = trace(keras.Model(x, ends), None)
    names = [n.name for n in folded(model).node if n.op == "MatMul"]
    assert len(names) == 3
    assert names == [n.name for n in folded(model).node if n.op == "MatMul"]
    twins = [n.name for n in freeze(model).node if n.op == "MatMul" and "shared" in n.name]
    assert len(twins) == 2
    assert min(twins, key=lambda n: (len(n), n)) in names

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
from edgekit.toolchain.graph import fold, folded
from edgekit.toolchain.graph_weights import FrozenGraph, freeze
from edgekit.toolchain.model import of_keras


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
    traced = trace(of_keras(model), None)
    graph_def = folded(traced).complete()
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
    after = fold(FrozenGraph(before), ["image", "y"]).complete()
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


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("training", [False, True])
def test_every_fused_batch_norm_is_lowered(layout: str, training: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(2, 3, (2, 4, 5, 3)).astype(np.float32)
    axis = 3 if layout == "NHWC" else 1
    scale, shift, mean, variance = rng.uniform(0.5, 1.5, (4, x.shape[axis])).astype(np.float32)
    moments = ([], []) if training else (mean, variance)
    with tf.Graph().as_default() as graph:
        normal = tf.raw_ops.FusedBatchNormV3(
            x=tf.compat.v1.placeholder(tf.float32, (None, *x.shape[1:]), name="x"),
            scale=scale, offset=shift, mean=moments[0], variance=moments[1],
            epsilon=1e-3, data_format=layout, is_training=training,
        )  # fmt: skip
        tf.identity(normal.y, name="y")
    after = fold(FrozenGraph(graph.as_graph_def()), ["x", "y"]).complete()
    assert operations(after)["FusedBatchNormV3"] == 0
    over = tuple(a for a in range(4) if a != axis)
    if training:
        mean, variance = x.mean(over), x.var(over)
    shape = [-1 if a == axis else 1 for a in range(4)]
    scale, shift, mean, variance = (v.reshape(shape) for v in (scale, shift, mean, variance))
    expected = (x - mean) / np.sqrt(variance + 1e-3) * scale + shift
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(after, name="")
    with tf.compat.v1.Session(graph=imported) as session:
        np.testing.assert_allclose(session.run("y:0", {"x:0": x}), expected, atol=1e-5)


def test_folding_is_deterministic() -> None:
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4), layers.Dense(2)])
    first, second = (
        folded(trace(of_keras(model), None)).complete().SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def test_a_loop_with_renamed_functions_computes_the_same() -> None:
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4), layers.Dense(2)])
    assert check(model)["While"] == 1


def test_folding_leaves_its_input_alone() -> None:
    traced = trace(of_keras(keras.Sequential([keras.Input((5,)), layers.Dense(3)])), None)
    graph_def = traced.concrete.graph.as_graph_def()
    before = graph_def.SerializeToString(deterministic=True)
    fold(FrozenGraph(graph_def), ["Identity"])
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
    model = trace(of_keras(keras.Model(x, ends)), None)
    names = [n.name for n in folded(model).graph_def.node if n.op == "MatMul"]
    assert len(names) == 3
    assert names == [n.name for n in folded(model).graph_def.node if n.op == "MatMul"]
    twins = [
        n.name for n in freeze(model).graph_def.node if n.op == "MatMul" and "shared" in n.name
    ]
    assert len(twins) == 2
    assert min(twins, key=lambda n: (len(n), n)) in names


def two_kernels() -> keras.Model:
    """A shared Dense, a Conv1D (whose kernel is reshaped) and batch normalization."""
    x = keras.Input((40, 60), name="x")
    shared = layers.Dense(60)
    y = layers.Conv1D(20, 3)(shared(shared(x)))
    return randomize(keras.Model(x, layers.BatchNormalization()(y)))


def test_kernels_are_beside_the_graph_until_it_is_complete() -> None:
    model = two_kernels()
    graph = folded(trace(of_keras(model), None))
    assert sorted(w.shape for w in graph.weights.values()) == [(1, 3, 60, 20), (60, 60)]
    assert graph.graph_def.ByteSize() < 4 * 60 * 60
    assert graph.complete().ByteSize() > 4 * (60 * 60 + 3 * 60 * 20)
    left = operations(graph.graph_def)
    assert left["Mul"] == 0
    assert left["ExpandDims"] == 1  # of the rows, not of the kernel
    check(model)


def test_a_copy_of_the_graph_leaves_the_kept_one_alone() -> None:
    traced = trace(of_keras(two_kernels()), None)
    first = folded(traced)
    before = folded(traced).complete().SerializeToString(deterministic=True)
    del first.graph_def.node[:]
    first.weights.clear()
    assert folded(traced).complete().SerializeToString(deterministic=True) == before


@keras.saving.register_keras_serializable("edgekit-tests")
class Tied(layers.Layer):
    """Reads its kernel as a kernel and as a value."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.kernel) + keras.ops.sum(keras.ops.square(self.kernel))


def test_a_kernel_that_is_also_a_value_is_a_constant() -> None:
    x = keras.Input((5,))
    model = randomize(keras.Model(x, Tied()(x)))
    assert not folded(trace(of_keras(model), None)).weights
    assert check(model)["Square"] == 0


def test_no_name_holds_a_counter_of_the_process() -> None:
    image = keras.Input((9, 9, 4))
    graph = folded(trace(of_keras(keras.Model(image, layers.Conv2D(6, 3, groups=2)(image))), None))
    (name,) = graph.weights
    assert name.endswith("/captured_0")


def applied(layer: Any, *shape: int | None) -> keras.Model:
    x = keras.Input(shape)
    return randomize(keras.Model(x, layer(x)))


EINSUMS = {
    "bij,bkj->bik": (5, 6),
    "bij,bkj->bki": (5, 6),
    "bij->bj": (5, 6),
    "bij->bji": (5, 6),
    "bi,bj->bij": (6,),
    "bij,bij->bi": (5, 6),
    "bhwc,bhvc->bhwv": (3, 5, 6),
    "bqhd,bkhd->bhqk": (4, 3, 6),
    "bqhd,bkhd->bqkh": (4, 3, 6),
    "...ij,...kj->...ik": (3, 5, 6),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_becomes_matrix_products(equation: str) -> None:
    count = equation.count(",") + 1
    model = applied(lambda x: keras.ops.einsum(equation, *[x] * count), *EINSUMS[equation])
    left = check(model)
    assert left["Einsum"] == 0
    assert left["Transpose"] <= 3


@pytest.mark.parametrize(
    ("equation", "output", "shape"),
    [
        ("ab,bcd->acd", (3, 4), (6,)),
        ("...x,xy->...y", (7,), (5, 6)),
        ("abc,cde->abde", (5, 2, 3), (5, 6)),
        ("abde,dec->abc", (5, 3), (5, 2, 6)),
        ("abc,bd->adc", (5, 6), (4, 6)),
    ],
)
def test_einsum_with_a_kernel_is_one_product(equation: str, output: Any, shape: Any) -> None:
    left = check(applied(layers.EinsumDense(equation, output), *shape))
    assert left["Einsum"] == 0
    assert left["MatMul"] + left["BatchMatMulV2"] + left["BatchMatMulV3"] == 1


def test_two_free_sizes_are_found_when_the_model_runs() -> None:
    model = applied(lambda x: keras.ops.einsum("bqhd,bkhd->bqkh", x, x), None, 3, 6)
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 6)).astype(np.float32)
    traced = trace(of_keras(model), None)
    got = run(folded(traced).complete(), traced, x)
    np.testing.assert_allclose(got, np.einsum("bqhd,bkhd->bqkh", x, x), atol=1e-5)


@pytest.mark.parametrize(
    ("gone", "layer", "shape"),
    [
        ("Bucketize", layers.Discretization([-1.0, 0.0, 0.5]), (6,)),
        ("Bitcast", lambda x: keras.ops.argmax(x, axis=-1), (5, 6)),
        ("MatrixBandPart", lambda x: keras.ops.tril(x), (5, 5)),
        ("MatrixBandPart", lambda x: keras.ops.triu(x, -1), (None, 5)),
        ("Roll", lambda x: keras.ops.roll(x, 8, axis=1), (5, 6)),
        ("ResizeBicubic", layers.Resizing(5, 9, interpolation="bicubic"), (6, 5, 3)),
        ("ResizeArea", layers.Resizing(3, 2, interpolation="area"), (6, 5, 3)),
        ("ScaleAndTranslate", layers.Resizing(5, 9, interpolation="lanczos3"), (6, 5, 3)),
    ],
)
def test_operations_that_a_format_lacks_are_lowered(gone: str, layer: Any, shape: Any) -> None:
    model = applied(layer, *shape)
    traced = trace(of_keras(model), None)
    assert any(n.op == gone for n in traced.concrete.graph.as_graph_def().node)
    if None in shape:
        x = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
        np.testing.assert_array_equal(run(folded(traced).complete(), traced, x), model(x))
        assert operations(folded(traced).graph_def)[gone] == 0
    else:
        assert check(model)[gone] == 0


def test_argmax_still_tells_zero_from_minus_zero() -> None:
    x = np.array([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0], [-1.0, -0.0, 0.0]], np.float32)
    model = applied(lambda x: keras.ops.argmax(x, axis=-1), 3)
    traced = trace(of_keras(model), None)
    assert run(folded(traced).complete(), traced, x).tolist() == np.asarray(model(x)).tolist()
    assert run(folded(traced).complete(), traced, x).tolist() == [1, 0, 2]


@pytest.mark.parametrize("search", [tf.raw_ops.LowerBound, tf.raw_ops.UpperBound])
def test_searching_counts(search: Any) -> None:
    ordered, v = np.array([[-1, 0, 0, 2]], np.float32), np.array([[-2, -1, 0, 1, 3]], np.float32)
    with tf.Graph().as_default() as graph:
        given = tf.compat.v1.placeholder(tf.float32, v.shape, name="v")
        tf.identity(search(sorted_inputs=ordered, values=given), name="y")
    after = fold(FrozenGraph(graph.as_graph_def()), ["v", "y"])
    assert not {"LowerBound", "UpperBound"} & set(operations(after.graph_def))
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(after.complete(), name="")
    with tf.compat.v1.Session(graph=imported) as session:
        side = "left" if search is tf.raw_ops.LowerBound else "right"
        expected = np.searchsorted(ordered[0], v[0], side)
        assert session.run("y:0", {"v:0": v})[0].tolist() == expected.tolist()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_counting_is_a_sum_of_one_hot_rows(binary: bool, weighted: bool) -> None:
    x = np.array([[0, 3, 3, 9], [1, 1, 1, 2]], np.int32)  # 9 is beyond and ignored
    weights = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)

    def count(tensor: Any) -> Any:
        return tf.raw_ops.DenseBincount(
            input=tensor, size=5, weights=weights if weighted else np.zeros(0, np.float32),
            binary_output=binary,
        )  # fmt: skip

    with tf.Graph().as_default() as graph:
        tf.identity(count(tf.compat.v1.placeholder(tf.int32, (2, 4), name="x")), name="y")
    after = fold(FrozenGraph(graph.as_graph_def()), ["x", "y"])
    assert operations(after.graph_def)["DenseBincount"] == 0
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(after.complete(), name="")
    with tf.compat.v1.Session(graph=imported) as session:
        got = session.run("y:0", {"x:0": x})
    np.testing.assert_allclose(got, count(x), atol=1e-6)

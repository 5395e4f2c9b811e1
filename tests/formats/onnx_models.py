"""Models that ONNX exporters fail on, and how their files are run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
from keras import layers


def mlp():
    x = keras.Input((64,), name="features")
    h = layers.Dense(128, "relu")(x)
    return keras.Model(x, layers.Dense(10, "softmax", name="classes")(h))


def cnn():
    x = keras.Input((16, 16, 3), name="image")
    h = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    h = r = layers.ReLU(6.0)(layers.BatchNormalization()(h))
    h = layers.DepthwiseConv2D(3, padding="same")(h)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.Conv2D(32, 1, activation="swish")(h)
    h = layers.MaxPooling2D()(layers.Add()([h, r]))
    h = layers.Conv2D(128, 3, activation="relu")(h)
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(x, layers.Dense(10, name="logits")(h))


def two_inputs_two_outputs():
    zeta, alpha = keras.Input((3,), name="zeta"), keras.Input((4,), name="alpha")
    h = layers.Dense(8, "relu")(layers.Concatenate()([zeta, alpha]))
    return keras.Model(
        [zeta, alpha], [layers.Dense(2, name="second")(h), layers.Dense(3, name="first")(h)]
    )


def dict_with_equal_names():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    h = layers.Concatenate()([left, right])
    return keras.Model(
        {"right": right, "left": left}, {"left": layers.Dense(3)(h), "sum": layers.Dense(2)(h)}
    )


def embedding():
    x = keras.Input((7,), dtype="int32", name="tokens")
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Embedding(50, 8)(x))))


def layer_normalization():
    x = keras.Input((6, 5), name="x")
    return keras.Model(x, layers.Dense(3)(layers.LayerNormalization()(x)))


def exact_gelu():
    x = keras.Input((6,), name="x")
    h = layers.Dense(8)(x)
    return keras.Model(x, layers.Dense(3)(keras.activations.gelu(h, approximate=False)))


def adapted_normalization():
    scale = layers.Normalization()
    scale.adapt(np.random.default_rng(0).normal(3, 2, (100, 4)).astype("float32"))
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2)(scale(x)))


def grouped_convolution():
    x = keras.Input((8, 8, 4), name="x")
    h = layers.BatchNormalization()(layers.Conv2D(8, 3, groups=2)(x))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling2D()(h)))


def lstm():
    x = keras.Input((5, 4), name="x")
    return keras.Model(x, layers.Dense(3)(layers.LSTM(6)(x)))


def gru():
    x = keras.Input((5, 4), name="x")
    return keras.Model(x, layers.Dense(3)(layers.GRU(6)(x)))


def attention():
    x = keras.Input((6, 8), name="x")
    h = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(x, layers.Dense(4)(h))


def masks():
    """Masks that are added as -1e9, one of them a constant matrix, before a wide dense layer."""
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    h = layers.Embedding(50, 16, mask_zero=True)(tokens)
    h = h + layers.MultiHeadAttention(2, 8)(h, h, use_causal_mask=True)
    scores = keras.ops.matmul(h, keras.ops.transpose(h, (0, 2, 1)))
    later = np.triu(np.full((6, 6), -1e9, "float32"), 1)
    h = keras.ops.matmul(keras.ops.softmax(scores + later), h)
    h = layers.Dense(256, "relu")(layers.Flatten()(h))
    return keras.Model(tokens, layers.Dense(256, name="y")(h))


def equal_outputs():
    x = keras.Input((4,), name="x")
    y = layers.Dense(3, name="y")(x)
    return keras.Model(x, {"b": y, "a": y, "same": x})


def free_height_and_width():
    x = keras.Input((None, None, 3), name="x")
    return keras.Model(x, layers.Conv2D(4, 3, strides=2, name="y")(x))


def lowered_images():
    """Operations that one format or both lack, or compute wrongly."""
    image = keras.Input((6, 5, 3), name="image")
    volume = keras.Input((4, 6, 6, 2), name="volume")
    outputs = {
        method: layers.Resizing(5, 9, interpolation=method)(image)
        for method in ("bilinear", "nearest", "bicubic", "lanczos3", "area")
    }
    # From 3 rows to 5 the ratio in float32 is too small.
    outputs["crop"] = layers.Resizing(5, 9, crop_to_aspect_ratio=True)(image)
    outputs["below_zero"] = layers.MaxPooling3D(2)(-keras.ops.abs(volume))
    outputs["blocks"] = keras.ops.nn.depth_to_space(layers.Conv2D(4, 2)(image), 2)
    return keras.Model([image, volume], outputs)


def lowered_rows():
    """The same for vectors, sequences and integers."""
    ops = keras.ops
    x, tokens = keras.Input((6,), name="x"), keras.Input((5,), dtype="int32", name="tokens")
    pairs, free = keras.Input((4, 6), name="pairs"), keras.Input((None, 6), name="free")
    best = ops.argmax(pairs, axis=-1, keepdims=True)
    outputs = {
        "bins": layers.Discretization([-1.0, 0.0, 0.5])(x),
        "bins_hot": layers.Discretization([-1.0, 0.0, 0.5], output_mode="multi_hot")(x),
        "counts": layers.CategoryEncoding(50, output_mode="count")(tokens),
        "sums": layers.CategoryEncoding(50, output_mode="count")(tokens, count_weights=x[:, :5]),
        "hot": ops.one_hot(tokens, 50),
        "best": ops.take_along_axis(pairs, best, axis=-1),
        "sorted": ops.take_along_axis(pairs, ops.argsort(pairs, axis=-1), axis=-1),
        "roll": ops.roll(pairs, -2, axis=2),
        "band": ops.tril(ops.einsum("bij,bkj->bik", pairs, pairs), 1),
        "celu": ops.celu(x) + ops.log1p(ops.abs(x)),
        "chosen": ops.cast(ops.where(pairs > 0, pairs > 1, pairs < -1), "float32"),
        "backwards": ops.cast(ops.flip(pairs > 0, axis=1), "float32"),
        "causal": layers.MultiHeadAttention(2, 3)(free, free, use_causal_mask=True),
        "projected": layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")(free),
    }
    return keras.Model([x, tokens, pairs, free], outputs)


MODELS = {
    build.__name__: build
    for build in (
        mlp,
        cnn,
        two_inputs_two_outputs,
        dict_with_equal_names,
        embedding,
        layer_normalization,
        exact_gelu,
        adapted_normalization,
        grouped_convolution,
        lstm,
        gru,
        attention,
        masks,
        equal_outputs,
        free_height_and_width,
        lowered_images,
        lowered_rows,
    )
}


def build_model(name):
    """A model whose biases and statistics are not the zeros and ones that hide mistakes."""
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def rows_for(signature, rows, seed=3):
    rng = np.random.default_rng(seed)
    feed = {}
    for spec in signature.inputs:
        shape = [rows, *(9 if size is None else size for size in spec.shape[1:])]
        values = rng.integers(0, 50, shape) if spec.dtype == "int32" else rng.normal(size=shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


def run(path, signature, feed):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = session.run(
        [spec.native for spec in signature.outputs],
        {spec.native: feed[spec.name] for spec in signature.inputs},
    )
    return {spec.name: value for spec, value in zip(signature.outputs, values, strict=True)}


def reference(model, feed):
    outputs = model(feed if len(feed) > 1 else next(iter(feed.values())), training=False)
    if isinstance(outputs, dict):
        return {name: np.asarray(value) for name, value in outputs.items()}
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return {n: np.asarray(v) for n, v in zip(model.output_names, outputs, strict=True)}


def snr_db(got, expected):
    """The worst output's signal-to-noise ratio; the signal is what varies from row to row."""
    ratios = []
    for name, value in expected.items():
        signal = np.square(value - value.mean(axis=0), dtype=np.float64).mean()
        noise = np.square(got[name] - value, dtype=np.float64).mean()
        ratios.append(10 * np.log10(signal / max(noise, 1e-30)))
    return min(ratios)


def nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def described(values):
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
        for v in values
        for dims in [v.type.tensor_type.shape.dim]
    ]

"""Every kind of the zoo: the layers of `_zoo_layers.py`, and models that are special as a whole.

A builder takes the family's module (`keras` or `tf_keras`) and gives a model, or a model and its
rows.
"""

from __future__ import annotations

import numpy as np
from _zoo_layers import LAYERS, Builder, between, scores

ROWS = 64
VOCABULARY = 20
WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away"]

KINDS: dict[str, Builder] = dict(LAYERS)
"""Every kind, in the order of the table."""

LACKING = {
    "tf_keras": {
        "hard_swish": "Keras 2 has no such activation",
        "spectral_normalization": "tf-keras 2.21 cannot build it (TypeError: input_spec)",
        "rms_normalization": "Keras 2 has no such layer",
        "grouped_query_attention": "Keras 2 has no such layer",
    },
    "keras": {},
}
"""What a family does not have."""


def kind(build: Builder) -> Builder:
    KINDS[build.__name__] = build
    return build


@kind
def gelu_tanh(keras):
    x = keras.Input((12,), name="features")
    y = keras.activations.gelu(keras.layers.Dense(16)(x), approximate=True)
    return keras.Model(x, scores(keras, y))


@kind
def operators(keras):
    """Python operators and slices on tensors, as in x[:, 1:] * 2 - 1."""
    x = keras.Input((12, 4), name="steps")
    y = keras.layers.Dense(8)(x)
    return keras.Model(x, scores(keras, (y[:, 1:] - y[:, :-1] / 2.0) * 0.5 + 1.0))


@kind
def rms_normalization(keras):
    return between((12,), "features", lambda L: L.Dense(16), lambda L: L.RMSNormalization())(keras)


@kind
def rescaling(keras):
    """Bytes of an image, scaled in the model."""
    L = keras.layers
    x = keras.Input((12, 12, 3), dtype="uint8", name="image")
    y = L.Conv2D(8, 3, strides=2, activation="relu")(L.Rescaling(1 / 127.5, offset=-1)(x))
    return keras.Model(x, scores(keras, y))


@kind
def normalization(keras):
    L = keras.layers
    feed = _normal((ROWS, 12)) * np.linspace(1, 50, 12, dtype="float32") + 100
    adapted = L.Normalization()
    adapted.adapt(feed)
    x = keras.Input((12,), name="features")
    y = L.Dense(16, activation="relu")(adapted(x))
    return keras.Model(x, scores(keras, y)), {"features": feed}


@kind
def embedding(keras):
    L = keras.layers
    x = keras.Input((10,), dtype="int32", name="tokens")
    return keras.Model(x, scores(keras, L.Embedding(VOCABULARY, 8)(x)))


def _attended(keras, attend):
    """A linear layer on steps, attention over them, scores."""
    x = keras.Input((10, 6), name="steps")
    return keras.Model(x, scores(keras, attend(keras.layers.Dense(8)(x))))


@kind
def attention(keras):
    return _attended(keras, lambda y: keras.layers.Attention(use_scale=True)([y, y]))


@kind
def additive_attention(keras):
    return _attended(keras, lambda y: keras.layers.AdditiveAttention()([y, y]))


@kind
def multi_head_attention(keras):
    return _attended(keras, lambda y: keras.layers.MultiHeadAttention(2, 4)(y, y))


@kind
def causal_attention(keras):
    layer = keras.layers.MultiHeadAttention(2, 4)
    return _attended(keras, lambda y: layer(y, y, use_causal_mask=True))


@kind
def grouped_query_attention(keras):
    return _attended(keras, lambda y: keras.layers.GroupQueryAttention(4, 4, 2)(y, y))


@kind
def masked_attention(keras):
    """A transformer's encoder block; padding is masked by the Embedding."""
    L = keras.layers
    x = keras.Input((10,), dtype="int32", name="tokens")
    y = L.Embedding(VOCABULARY, 8, mask_zero=True)(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 4)(y, y)]))
    y = L.GlobalAveragePooling1D()(L.Dense(16, activation="gelu")(y))
    return keras.Model(x, scores(keras, y)), {"tokens": _padded_tokens()}


@kind
def stacked_lstm(keras):
    L = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 4), name="steps"),
            L.LSTM(8, return_sequences=True),
            L.LSTM(6, dropout=0.2),
            L.Dense(6, name="scores"),
        ]
    )


@kind
def seq2seq(keras):
    """return_state and initial_state: an encoder's state starts the decoder."""
    L = keras.layers
    source, target = keras.Input((8, 4), name="source"), keras.Input((6, 3), name="target")
    _, h, c = L.LSTM(8, return_state=True)(source)
    y = L.LSTM(8, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], [L.Dense(5, name="next")(y), h])


@kind
def conv_lstm2d(keras):
    L = keras.layers
    x = keras.Input((4, 8, 8, 2), name="frames")
    return keras.Model(x, scores(keras, L.ConvLSTM2D(4, 3, padding="same")(x)))


@kind
def masking_lstm(keras):
    L = keras.layers
    x = keras.Input((12, 4), name="steps")
    feed = _normal((ROWS, 12, 4)) * _lengths(12)[..., np.newaxis]
    return keras.Model(x, scores(keras, L.LSTM(8)(L.Masking()(x)))), {"steps": feed}


@kind
def mask_zero_gru(keras):
    L = keras.layers
    x = keras.Input((10,), dtype="int32", name="tokens")
    y = L.GRU(8)(L.Embedding(VOCABULARY, 8, mask_zero=True)(x))
    return keras.Model(x, scores(keras, y)), {"tokens": _padded_tokens()}


@kind
def unknown_length(keras):
    """A sequence of any length."""
    L = keras.layers
    x = keras.Input((None, 4), name="steps")
    y = L.GRU(8, return_sequences=True)(L.Conv1D(8, 3, padding="same")(x))
    return keras.Model(x, scores(keras, L.GlobalAveragePooling1D()(y)))


@kind
def stateful_lstm(keras):
    """Keeps its state from call to call: no format can do that in one file."""
    L = keras.layers
    x = keras.Input((6, 4), batch_size=4, name="steps")
    return keras.Model(x, scores(keras, L.LSTM(8, stateful=True)(x)))


@kind
def dynamic_size(keras):
    """An image of any height and width; padding and head are those of MobileNetV3."""
    L = keras.layers
    x = keras.Input((None, None, 3), name="image")
    y = L.ZeroPadding2D(((0, 1), (0, 1)))(L.Conv2D(8, 3, padding="same", activation="relu")(x))
    y = L.GlobalAveragePooling2D(keepdims=True)(L.DepthwiseConv2D(3, strides=2)(y))
    y = L.Conv2D(12, 1, activation="relu")(y)
    return keras.Model(x, L.Flatten(name="scores")(L.Conv2D(6, 1)(y)))


@kind
def fixed_batch(keras):
    L = keras.layers
    x = keras.Input((12, 4), batch_size=4, name="steps")
    return keras.Model(x, scores(keras, L.Conv1D(8, 3, activation="relu")(x)))


@kind
def sequential(keras):
    L = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            L.Conv2D(8, 3),
            L.BatchNormalization(),
            L.ReLU(),
            L.DepthwiseConv2D(3),
            L.Flatten(),
            L.Dense(6, activation="softmax"),
        ]
    )


@kind
def nested_model(keras):
    L = keras.layers
    inner_x = keras.Input((12, 12, 3))
    inner_y = L.BatchNormalization()(L.Conv2D(8, 3, activation="relu")(inner_x))
    inner = keras.Model(inner_x, inner_y, name="backbone")
    tail = keras.Sequential([L.GlobalAveragePooling2D(), L.Dense(8)], name="tail")
    x = keras.Input((12, 12, 3), name="image")
    return keras.Model(x, scores(keras, tail(inner(x))))


@kind
def shared_layers(keras):
    """Twins: one encoder for both inputs, compared by distance."""
    L = keras.layers
    left, right = keras.Input((12,), name="left"), keras.Input((12,), name="right")
    first, second = L.Dense(16, activation="relu"), L.Dense(8)
    y = L.Subtract()([second(first(left)), second(first(right))])
    return keras.Model([left, right], scores(keras, L.Multiply()([y, y])))


@kind
def multi_input_output(keras):
    """Names in no alphabetical order; two outputs of one shape, one straight from a branch."""
    L = keras.layers
    zebra, ant = keras.Input((8,), name="zebra"), keras.Input((12, 4), name="ant")
    y = L.Concatenate()([L.Dense(8, activation="relu")(zebra), L.Flatten()(ant)])
    wide, deep = L.Dense(5, name="wide")(y), L.Dense(5, name="deep")(L.Dense(9)(y))
    return keras.Model([zebra, ant], [wide, deep])


@kind
def dict_input_output(keras):
    L = keras.layers
    x = {name: keras.Input((n,), name=name) for name, n in (("width", 4), ("age", 6))}
    y = L.Dense(8, activation="relu")(L.Concatenate()([x["width"], x["age"]]))
    return keras.Model(
        x, {"price": L.Dense(1, name="price")(y), "kind": L.Dense(3, name="kind")(y)}
    )


@kind
def custom_layer(keras):
    x = keras.Input((12,), name="features")
    return keras.Model(x, scores(keras, keras.zoo.Gate()(keras.layers.Dense(16)(x))))


@kind
def registered_layer(keras):
    x = keras.Input((12,), name="features")
    y = keras.layers.Dense(16, activation=keras.zoo.squash)(x)
    return keras.Model(x, scores(keras, keras.zoo.Shift(0.5)(y)))


@kind
def subclassed_model(keras):
    feed = {"x": _normal((ROWS, 12))}
    model = keras.zoo.Tower()
    model(feed["x"])
    return model, feed


@kind
def lambda_layer(keras):
    """Python code inside of the file: to be refused."""
    x = keras.Input((12,), name="features")
    y = keras.layers.Lambda(lambda v: v * 2)(keras.layers.Dense(16)(x))
    return keras.Model(x, scores(keras, y))


@kind
def mixed_float16(keras):
    L = keras.layers
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        x = keras.Input((12, 12, 3), name="image")
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3)(x)))
        y = L.Dense(6, dtype="float32", name="scores")(L.GlobalAveragePooling2D()(y))
        return keras.Model(x, y)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@kind
def text_vectorization(keras):
    L = keras.layers
    x = keras.Input((1,), dtype="string", name="text")
    tokens = L.TextVectorization(vocabulary=WORDS[:8], output_sequence_length=6)(x)
    random = np.random.default_rng(0)
    text = [" ".join(random.choice(WORDS, 1 + i % 6)) for i in range(ROWS)]
    feed = {"text": np.array(text)[:, np.newaxis]}
    return keras.Model(x, scores(keras, L.Embedding(VOCABULARY, 8)(tokens))), feed


@kind
def string_lookup(keras):
    """A table's row: a category as text, and numbers."""
    L = keras.layers
    x = keras.Input((1,), dtype="string", name="word")
    numbers = keras.Input((6,), name="numbers")
    category = L.StringLookup(vocabulary=WORDS[:8], output_mode="one_hot")(x)
    y = L.Dense(16, activation="relu")(L.Concatenate()([category, numbers]))
    feed = {"word": _words(), "numbers": _normal((ROWS, 6))}
    return keras.Model([x, numbers], scores(keras, y)), feed


@kind
def integer_lookup(keras):
    L = keras.layers
    x = keras.Input((3,), dtype="int64", name="codes")
    indices = L.IntegerLookup(vocabulary=[3, 17, 5, 11, 2])(x)
    return keras.Model(x, scores(keras, L.Embedding(VOCABULARY, 8)(indices)))


@kind
def hashing(keras):
    L = keras.layers
    x = keras.Input((1,), dtype="string", name="word")
    y = L.Embedding(VOCABULARY, 8)(L.Hashing(VOCABULARY)(x))
    return keras.Model(x, scores(keras, y)), {"word": _words()}


@kind
def discretization(keras):
    L = keras.layers
    x = keras.Input((4,), name="features")
    bins = L.Discretization([-1.0, -0.5, 0.0, 0.5, 1.5])(x)
    return keras.Model(x, scores(keras, L.Embedding(VOCABULARY, 8)(bins)))


@kind
def category_encoding(keras):
    L = keras.layers
    x = keras.Input((3,), dtype="int32", name="codes")
    y = L.CategoryEncoding(VOCABULARY, output_mode="multi_hot")(x)
    return keras.Model(x, scores(keras, L.Dense(16, activation="relu")(y)))


@kind
def saved_model(keras):
    return sequential(keras)


@kind
def saved_model_string(keras):
    return text_vectorization(keras)


@kind
def saved_model_subclassed(keras):
    return subclassed_model(keras)


def _normal(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _lengths(longest: int) -> np.ndarray:
    """(ROWS, longest) of 1 and then 0: rows of every length, padded at the end."""
    return (np.arange(longest) < 1 + np.arange(ROWS)[:, np.newaxis] % longest).astype("int32")


def _padded_tokens() -> np.ndarray:
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, (ROWS, 10), dtype="int32")
    return tokens * _lengths(10)


def _words() -> np.ndarray:
    return np.random.default_rng(0).choice(WORDS, (ROWS, 1))

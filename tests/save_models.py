"""Save the .keras files that command-line tests start from: `python save_models.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers


def two_inputs() -> keras.Model:
    """Names in no alphabetical order, one layer shared, two kinds of outputs."""
    zebra, ant = keras.Input((4,), name="zebra"), keras.Input((3,), name="ant")
    shared = layers.Dense(6, activation="relu")
    joined = layers.Concatenate()([shared(zebra), ant])
    wide = layers.Dense(2, name="wide")(joined)
    deep = layers.Dense(5, activation="softmax", name="deep")(shared(zebra))
    return keras.Model([zebra, ant], [wide, deep])


def twins() -> keras.Model:
    """Two outputs of one shape: only the numbers tell them apart."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, [layers.Dense(3, name="right")(x), layers.Dense(3, name="left")(x)])


def detector() -> keras.Model:
    """Boxes in pixels and scores in [0, 1] in one tensor, which has one int8 scale."""
    x = keras.Input((8,), name="x")
    boxes = layers.Rescaling(640.0)(layers.Dense(4, activation="sigmoid")(x))
    scores = layers.Dense(3, activation="sigmoid")(x)
    return keras.Model(x, layers.Concatenate(name="found")([boxes, scores]))


def fixed_batch() -> keras.Model:
    """Built for four rows, and of no use for any other number."""
    x = keras.Input((6,), batch_size=4, name="x")
    return keras.Model(x, layers.Dense(2, name="y")(keras.ops.reshape(x * 2, (4, 6))))


def lstm() -> keras.Model:
    """Its int8 conversion kills the TFLite converter."""
    return keras.Sequential(
        [keras.Input((6, 3), name="steps"), layers.LSTM(8), layers.Dense(2, name="next")]
    )


def spread() -> keras.Model:
    """A regression whose hidden channels differ a thousandfold: int8 has one step for all."""
    random = np.random.default_rng(0)
    x = keras.Input((16,), name="x")
    first, second = layers.Dense(48, "relu", name="first"), layers.Dense(24, "relu", name="second")
    model = keras.Model(x, layers.Dense(1, name="y")(second(first(x))))
    for giver, taker in ((first, second), (second, model.get_layer("y"))):
        factors = (10 ** random.uniform(0, 3, giver.units)).astype("float32")
        kernel, bias = giver.get_weights()
        giver.set_weights([kernel * factors, (bias + 0.1) * factors])
        kernel, bias = taker.get_weights()
        taker.set_weights([kernel / factors[:, None], bias])
    return model


def unbuilt() -> keras.Model:
    return keras.Sequential([layers.Dense(2)])


def gives_nan() -> keras.Model:
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Dense(2, name="y")(x))
    model.set_weights([w * float("nan") for w in model.get_weights()])
    return model


def logarithm() -> keras.Model:
    """NaN for rows below zero."""
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Dense(2, name="y")(keras.ops.log(x)))


def with_lambda() -> keras.Model:
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Lambda(lambda v: v * 2)(x))


def text() -> keras.Model:
    """Text and a category, each with its own lookup; the category's rows are numbers."""
    words = keras.Input((1,), dtype="string", name="words")
    age = keras.Input((1,), dtype="int64", name="age")
    vectorize = layers.TextVectorization(20, output_sequence_length=4, name="vectorize")
    vectorize.adapt(["one two three", "two three four"])
    lookup = layers.IntegerLookup(vocabulary=[18, 30, 65], name="lookup")
    encode = layers.CategoryEncoding(4, output_mode="one_hot", name="encode")
    mean = layers.GlobalAveragePooling1D()(layers.Embedding(20, 3)(vectorize(words)))
    joined = layers.Concatenate()([mean, encode(lookup(age))])
    return keras.Model([words, age], layers.Dense(2, name="mood")(joined))


def mixed() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image = keras.Input((8, 8, 3), name="image")
        y = layers.Conv2D(4, 3, activation="relu")(image)
        y = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(y))
        return keras.Model(image, layers.Dense(3, dtype="float32", name="kind")(y))
    finally:
        keras.config.set_dtype_policy("float32")


def any_size() -> keras.Model:
    image = keras.Input((None, None, 3), name="image")
    y = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    return keras.Model(image, layers.Dense(2, name="y")(layers.GlobalAveragePooling2D()(y)))


def any_length() -> keras.Model:
    """Padded words, which the mask keeps out of the state."""
    words = keras.Input((None,), dtype="int32", name="words")
    y = layers.GRU(5)(layers.Embedding(30, 6, mask_zero=True)(words))
    return keras.Model(words, layers.Dense(2, name="y")(y))


def no_builtin() -> keras.Model:
    """TFLite has no Cholesky decomposition."""
    x = keras.Input((3,), name="x")
    y = layers.Dense(3, activation="tanh")(x)
    outer = keras.ops.expand_dims(y, 1) * keras.ops.expand_dims(y, 2)
    root = keras.ops.cholesky(4 * keras.ops.eye(3) + outer)
    return keras.Model(x, layers.Flatten(name="y")(root))


def branches() -> keras.Model:
    """Keys that are not the names of the Inputs, tensors that are taken twice, two branches."""
    left, right = keras.Input((6,), name="left_in"), keras.Input((6,), name="right_in")
    wide = layers.Dense(5, name="wide")(left)
    row = layers.Reshape((1, 5), name="row")(wide)
    seen = layers.MultiHeadAttention(1, 4, name="attention")(row, row)
    flat = layers.Flatten(name="flat")(seen)
    met = layers.Add(name="met")([flat, wide, layers.Dense(5, name="other")(right)])
    twice = layers.Add(name="twice")([met, met])
    return keras.Model({"left": left, "right": right}, {"found": layers.Dense(2)(twice)})


def categories() -> keras.Model:
    """Every way that text and categories are looked up, by dict keys that are not Input names."""
    age = keras.Input((1,), name="age_in")
    stations = keras.Input((2,), dtype="string", name="stations_in")
    review = keras.Input((), dtype="string", name="review_in")
    code = keras.Input((), dtype="int64", name="code_in")
    grade = keras.Input((1,), dtype="int64", name="grade_in")
    station = layers.StringLookup(
        vocabulary=["Rome", "Oslo"], output_mode="one_hot", name="station"
    )
    tags = layers.StringLookup(vocabulary=["Oslo", "Rome"], output_mode="multi_hot", name="tags")
    counts = layers.StringLookup(vocabulary=["Rome"], output_mode="count", name="counts")
    words = layers.TextVectorization(output_mode="tf_idf", ngrams=2, name="words")
    words.adapt(["a good film", "A bad film!", "good, bad, ugly"])
    order = layers.TextVectorization(output_sequence_length=3, name="order")
    order.adapt(["a good film", "A bad film!"])
    lookup = layers.IntegerLookup(vocabulary=[30, 7], name="lookup")
    nested = keras.Sequential([keras.Input((1,), dtype="int64"), lookup], name="nested")
    bins = layers.Discretization(bin_boundaries=[18.0, 65.0], name="bins")
    encode = layers.CategoryEncoding(3, output_mode="one_hot", name="encode")
    numbers = [
        age,
        encode(bins(age)),
        station(stations[:, 0:1]),
        station(stations[:, 1:2]),
        tags(stations),
        counts(stations),
        words(review),
        layers.Flatten()(layers.Embedding(9, 2)(order(review))),
        layers.Flatten()(layers.Embedding(3, 2)(nested(keras.ops.expand_dims(code, -1)))),
        layers.Normalization(mean=2.0, variance=4.0, name="normal")(age),
        layers.Flatten()(layers.Embedding(3, 2)(lookup(grade))),
    ]
    inputs = {"age": age, "stations": stations, "review": review, "code": code, "grade": grade}
    joined = layers.Concatenate()(numbers)
    return keras.Model(inputs, {"good": layers.Dense(1)(joined), "bad": layers.Dense(2)(joined)})


def lookup_behind() -> keras.Model:
    """A lookup that is not the first thing that happens."""
    number = keras.Input((1,), dtype="int64", name="number")
    stages = [layers.IntegerLookup(vocabulary=[3, 4], name="look"), layers.Embedding(3, 4)]
    nested = keras.Sequential([keras.Input((1,), dtype="int64"), *stages], name="nested")
    flat = layers.Flatten(name="flat")(nested(number + 1))
    return keras.Model(number, layers.Dense(2, name="y")(flat))


class Tripled(keras.Model):
    """A graph of layers, and something else."""

    def call(self, x, training=None, mask=None):
        return super().call(x, training=training) * 3.0


def tripled() -> keras.Model:
    words = keras.Input((1,), dtype="string", name="words")
    vector = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot", name="look")(words)
    return Tripled(words, layers.Dense(2, name="y")(vector), name="tripled")


class Hashing(layers.Layer):
    """The user's own, with the name of one of Keras."""

    def call(self, x):
        return keras.ops.floor(x * 7.0)


def own_hashing() -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="y")(Hashing(name="hash")(x)))


MODELS = (
    two_inputs,
    twins,
    detector,
    fixed_batch,
    lstm,
    unbuilt,
    gives_nan,
    logarithm,
    with_lambda,
    text,
    mixed,
    any_size,
    any_length,
    no_builtin,
    branches,
    categories,
    lookup_behind,
    tripled,
    own_hashing,
    spread,
)


def save_with_code(folder: Path) -> None:
    """Files that need tests/my_layers.py."""
    sys.path.insert(0, str(Path(__file__).parent))
    import my_layers

    x = keras.Input((6,), name="x")
    y = layers.Dense(8, activation=my_layers.sharp, name="first")(x)
    y = my_layers.Scale(2.0, name="scale")(y)
    keras.Model(x, layers.Dense(3, name="y")(y)).save(folder / "custom.keras")
    my_layers.build().save_weights(folder / "built.weights.h5")
    model = my_layers.TwoHeads(name="heads")
    model({"zebra": np.zeros((2, 4), "float32")})
    model.save(folder / "heads.keras")
    model = my_layers.TwoArguments(name="arguments")
    model(np.zeros((2, 4), "float32"), np.zeros((2, 4), "float32"))
    model.save(folder / "arguments.keras")
    model = my_layers.Forgetful(name="forgetful")
    model(np.zeros((2, 4), "float32"), np.zeros((2, 4), "float32"))
    model.save(folder / "forgetful.keras")


def save_odd(folder: Path) -> None:
    """What no format can hold, or nobody can compare."""
    import my_layers

    x = keras.Input((4,), name="x")
    steps = keras.Input((5, 3), name="steps")
    dropping = layers.LSTM(4, dropout=0.5, name="dropping")(steps, training=True)
    keras.Model(steps, layers.Dense(2)(dropping)).save(folder / "dropping.keras")
    z = my_layers.Sample(name="z")(layers.Dense(2)(x))
    keras.Model(x, z).save(folder / "random.keras")
    back = layers.StringLookup(vocabulary=["a", "b"], invert=True, name="word")
    index = keras.ops.argmax(layers.Dense(3)(x), axis=-1)
    keras.Model(x, back(index)).save(folder / "text_out.keras")
    columns = keras.ops.mean(layers.Dense(3)(x), axis=0)
    keras.Model(x, columns).save(folder / "no_rows.keras")
    x64 = keras.Input((4,), dtype="float64", name="x")
    keras.Model(x64, layers.Dense(2, dtype="float64")(x64)).save(folder / "float64.keras")
    model = my_layers.Long(name="long")
    model(np.zeros((1, 300, 2), "float32"))
    model.save(folder / "long.keras")
    my_layers.build_unnamed().save_weights(folder / "unnamed.weights.h5")
    a, b, c = (keras.Input((3,), name=name) for name in "abc")
    inputs = {"pair": [a, b], "single": c}
    outputs = {"two": [layers.Dense(2)(a), layers.Dense(2)(b)], "sum": layers.Add()([a, b, c])}
    keras.Model(inputs, outputs).save(folder / "nested.keras")


def save_functions(folder: Path) -> None:
    """SavedModels: of a plain tf.Module, of text, without a signature, and Keras 3's export."""
    import tensorflow as tf

    class Matrix(tf.Module):
        def __init__(self) -> None:
            self.weight = tf.Variable(np.random.default_rng(0).standard_normal((4, 3)), name="w")

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="query")])
        def product(self, query):
            return {"result": query @ tf.cast(self.weight, tf.float32)}

    class Text(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="words")])
        def length(self, words):
            return {"length": tf.strings.length(words)}

    class Untyped(tf.Module):
        @tf.function
        def double(self, x):
            return x * 2

    matrix, text = Matrix(), Text()
    tf.saved_model.save(matrix, folder / "matrix", signatures=matrix.product)
    tf.saved_model.save(text, folder / "length", signatures=text.length)
    tf.saved_model.save(Untyped(), folder / "no_signature")
    two_inputs().export(folder / "exported", verbose=False)
    lstm().export(folder / "exported_lstm", verbose=False)


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    folder = Path(sys.argv[1])
    for build in MODELS:
        build().save(folder / f"{build.__name__}.keras")
    save_with_code(folder)
    save_odd(folder)
    save_functions(folder)

"""IMDB film reviews, good or bad: the books' 16-16-1 network on the 10,000 most frequent words.

The books give it a multi-hot row: 10,000 numbers, 1 where the review has the word. Such a row is
40 kB, nearly all zeros, and a dense layer on it only adds up the rows of its matrix that belong to
the words. So the files here take the words' ids and look these rows up: the same sums, of a
twentieth of the input. A bias is the row of word 1, which starts every review.

The alternatives are the books' ways against overfitting, and what they are compared with.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import different_words, load_text_split

DESCRIPTION = "film reviews, the words they have: 16-16-1 tells good from bad"
DATA = "IMDB"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.86
EPOCHS = 8
BATCH = 512
LABELS = ("bad", "good")
VOCABULARY = 10_000
# One review in some thousand has more different words, and loses the rarest.
WORDS = 512
PADDING = 0


def build(units=16, l2=0.0, dropout=0.0):
    """Input `words`: (N, 512) int32, each id once, then 0. Output `good`: (N, 1) from 0 to 1."""
    import keras
    from keras import layers, ops

    decay = keras.regularizers.L2(l2) if l2 else None
    words = keras.Input((WORDS,), dtype="int32", name="words")
    # A dense layer's matrix, by its name and first values too.
    rows = layers.Embedding(
        VOCABULARY, units, embeddings_initializer="glorot_uniform", embeddings_regularizer=decay
    )(words)
    there = ops.cast(ops.not_equal(words, PADDING), "float32")
    x = layers.ReLU()(ops.squeeze(ops.matmul(ops.expand_dims(there, 1), rows), 1))
    x = layers.Dropout(dropout)(x)
    x = layers.Dense(units, activation="relu", kernel_regularizer=decay)(x)
    x = layers.Dropout(dropout)(x)
    good = layers.Dense(1, activation="sigmoid", name="good")(x)
    model = keras.Model(words, good, name="imdb_mlp")
    model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def build_l2():
    return build(l2=0.002)


def build_dropout():
    return build(dropout=0.5)


def build_smaller():
    return build(units=4)


def build_larger():
    return build(units=512)


def train(model, epochs=EPOCHS, callbacks=()):
    """It overfits after some epochs, each alternative after others: edgekit keeps the best."""
    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=BATCH,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """The first 5,000 training reviews validate, the others train; the test set is whole."""
    words, labels = _examples(split)
    return {"words": words}, {"good": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean((outputs["good"] >= 0.5) == targets["good"]))}


def _examples(split):
    words, labels = load_text_split("imdb", split, _words, validation=5_000)
    return words, labels[:, np.newaxis]


def _words(tokens, lengths):
    return different_words(tokens, lengths, vocabulary=VOCABULARY, width=WORDS)

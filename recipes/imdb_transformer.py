"""IMDB film reviews, good or bad, with one transformer encoder block.

The last 200 words of a review, where it comes to its verdict, as ids; one block of attention and a
small network as the books write it; the mean over all positions. The order of the words is not
told: for good or bad it matters little, and the books leave it out at first. A short review is
padded with 0, which is a word like any other: see reuters_transformer for why there is no mask.

The books take the maximum over all words. Each of its 32 numbers comes from one word, the only one
to learn from it, so it learns more slowly: in the second epoch it is right about 83 to 84 % of the
training reviews; with the mean, to which all words add, about 90 % (three seeds each).
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_text_split

DESCRIPTION = "film reviews, their last 200 words: one transformer block tells good from bad"
DATA = "IMDB"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.84
# In a third the validation loss rises.
EPOCHS = 2
BATCH = 64
LABELS = ("bad", "good")
WORDS = 200
VOCABULARY = 10_000
PADDING, UNKNOWN = 0, 2


def build():
    """Input `tokens`: (N, 200) int32, ids below 10,000. Output `good`: (N, 1) from 0 to 1."""
    import keras
    from keras import layers

    width = 32

    def encoded(x):
        attended = layers.MultiHeadAttention(num_heads=2, key_dim=16)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.3)(attended)]))
        hidden = layers.Dense(32, activation="relu")(x)
        hidden = layers.Dropout(0.3)(layers.Dense(width)(hidden))
        return layers.LayerNormalization()(layers.Add()([x, hidden]))

    tokens = keras.Input((WORDS,), dtype="int32", name="tokens")
    x = layers.Dropout(0.3)(layers.Embedding(VOCABULARY, width)(tokens))
    x = layers.GlobalAveragePooling1D()(encoded(x))
    good = layers.Dense(1, activation="sigmoid", name="good")(layers.Dropout(0.3)(x))
    model = keras.Model(tokens, good, name="imdb_transformer")
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=BATCH,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """The first 2,000 training reviews validate, the others train; the test set is whole.

    Some reviews are there twice, over a hundred of them once to train and once to test. Such a one
    stays in the test set alone, or in the training set once.
    """
    tokens, labels = _examples(split)
    return {"tokens": tokens}, {"good": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean((outputs["good"] >= 0.5) == targets["good"]))}


def _examples(split):
    tokens, labels = load_text_split("imdb", split, _last_words, validation=2_000)
    return tokens, labels[:, np.newaxis]


def _last_words(tokens, lengths):
    """(texts, WORDS) int32: the end of each text, rare words as UNKNOWN, behind PADDING."""
    rows = np.full((len(lengths), WORDS), PADDING, np.int32)
    for row, end, length in zip(rows, np.cumsum(lengths), lengths, strict=True):
        words = tokens[max(end - length, end - WORDS) : end]
        row[WORDS - len(words) :] = words
    rows[rows >= VOCABULARY] = UNKNOWN
    return rows

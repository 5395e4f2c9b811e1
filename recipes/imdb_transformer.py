"""IMDB film reviews, good or bad, with one transformer encoder block.

The last 200 words of a review, where it comes to its verdict, as ids; one block of attention and a
small network as the books write it; the maximum over all words. The order of the words is not
told: for good or bad it matters little, and the books leave it out at first. A short review is
padded with 0, which is a word like any other: see reuters_transformer for why there is no mask.
"""

from __future__ import annotations

import numpy as np

from edgekit.datasets import load_texts

DESCRIPTION = "film reviews, their last 200 words: one transformer block tells good from bad"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.84
EPOCHS = 2
BATCH = 32
LABELS = ("bad", "good")
WORDS = 200
VOCABULARY = 20_000
PADDING, UNKNOWN = 0, 2


def build():
    """Input `tokens`: (N, 200) int32, ids below 20,000. Output `good`: (N, 1) from 0 to 1."""
    import keras
    from keras import layers

    width = 32

    def encoded(x):
        attended = layers.MultiHeadAttention(num_heads=2, key_dim=width)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        hidden = layers.Dense(32, activation="relu")(x)
        return layers.LayerNormalization()(layers.Add()([x, layers.Dense(width)(hidden)]))

    tokens = keras.Input((WORDS,), dtype="int32", name="tokens")
    x = encoded(layers.Embedding(VOCABULARY, width)(tokens))
    x = layers.Dropout(0.5)(layers.GlobalMaxPooling1D()(x))
    good = layers.Dense(1, activation="sigmoid", name="good")(x)
    model = keras.Model(tokens, good, name="imdb_transformer")
    model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
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
    """The first 2,000 training reviews validate, the others train; the test set is whole."""
    tokens, labels = _examples(split)
    return {"tokens": tokens}, {"good": labels}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean((outputs["good"] >= 0.5) == targets["good"]))}


def _examples(split):
    texts = load_texts("imdb")
    part, rows = {
        "train": ("train", slice(2_000, None)),
        "validation": ("train", slice(2_000)),
        "calibration": ("train", slice(2_000, 2_500)),
        "test": ("test", slice(None)),
    }[split]
    tokens = _last_words(texts[f"{part}_tokens"], texts[f"{part}_lengths"], rows)
    return tokens, texts[f"{part}_labels"][rows, np.newaxis].astype(np.int64)


def _last_words(tokens, lengths, which):
    """(texts, WORDS) int32: the end of each text, rare words as UNKNOWN, behind PADDING."""
    ends, lengths = np.cumsum(lengths)[which], np.minimum(lengths[which], WORDS)
    rows = np.full((len(lengths), WORDS), PADDING, np.int32)
    for row, end, length in zip(rows, ends, lengths, strict=True):
        row[WORDS - length :] = tokens[end - length : end]
    rows[rows >= VOCABULARY] = UNKNOWN
    return rows

"""Reuters news wires by topic, with a small transformer encoder.

The first 160 words of a wire, as ids; two blocks of attention and a GELU network; the mean over
all positions. A short wire is padded with 0, which is a word like any other here: a mask would add
a huge negative number to the attention scores, and an int8 TFLite file would have no steps left
for the scores themselves. The model learns what the padding means, and is as accurate without.
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.datasets import load_text_split

DESCRIPTION = "news wires, 160 words: a small transformer encoder tells the topic"
DATA = "Reuters"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
# For Keras's copy of the data, in which the books reach 0.80. On the wires that have one topic only
# (ApteMod) it is 0.945 and more.
FLOOR = 0.75
EPOCHS = 8
PEAK_RATE = 2e-3
WORDS = 160
VOCABULARY = 10_000
# Keras has 46 topics; other copies of the data may have fewer, or number them otherwise.
TOPICS = 46
UNKNOWN = 2


def build():
    """Input `tokens`: (N, 160) int32, ids below 10,000. Output `topic`: 46 probabilities."""
    import keras
    from keras import layers

    width = 64

    def encoded(x):
        normalized = layers.LayerNormalization()(x)
        attended = layers.MultiHeadAttention(num_heads=4, key_dim=16)(normalized, normalized)
        x = layers.Add()([x, layers.Dropout(0.3)(attended)])
        hidden = layers.Dense(128, activation="gelu")(layers.LayerNormalization()(x))
        return layers.Add()([x, layers.Dropout(0.3)(layers.Dense(width)(hidden))])

    tokens = keras.Input((WORDS,), dtype="int32", name="tokens")
    # Counted from the tokens: a constant would leave its embedding out of the model.
    positions = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
    word = layers.Embedding(VOCABULARY, width)(tokens)
    place = layers.Embedding(WORDS, width)(positions)
    x = layers.Dropout(0.3)(layers.Add()([word, place]))
    x = layers.LayerNormalization()(encoded(encoded(x)))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling1D()(x))
    topic = layers.Dense(TOPICS, activation="softmax", name="topic")(x)
    model = keras.Model(tokens, topic, name="reuters_transformer")
    model.compile(
        optimizer=keras.optimizers.Adam(PEAK_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """The learning rate falls from its peak towards 0 along half a cosine."""
    import keras

    def rate(epoch):
        return PEAK_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2

    model.fit(
        *_examples("train"),
        validation_data=_examples("validation"),
        epochs=epochs,
        batch_size=64,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
        verbose=0,
    )


def data(split):
    """The first 500 training wires validate, the others train; the test set is whole."""
    tokens, topics = _examples(split)
    return {"tokens": tokens}, {"topic": topics}


def evaluate(outputs, targets):
    return {"accuracy": float(np.mean(outputs["topic"].argmax(axis=1) == targets["topic"]))}


def _examples(split):
    return load_text_split("reuters", split, _first_words, validation=500)


def _first_words(tokens, lengths):
    """(texts, WORDS) int32: the start of each text, rare words as UNKNOWN, then 0."""
    ends = np.cumsum(lengths)
    rows = np.zeros((len(lengths), WORDS), np.int32)
    for row, end, length in zip(rows, ends, lengths, strict=True):
        text = tokens[end - length : end][:WORDS]
        row[: len(text)] = np.where(text < VOCABULARY, text, UNKNOWN)
    return rows

"""A small language model: a GRU reads 30 words of a film review and predicts the next.

Perplexity is how many words it hesitates between, so lower is better: a model that knows only how
frequent each word is has about 200 here. All reviews stand end to end, a 1 before each; words
beyond the most frequent ones are one word, "unknown".
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.datasets import load_texts

DESCRIPTION = "film reviews, 30 words: a small GRU predicts the next one"
DATA = "IMDB"
TASK = "classification"
METRIC = "perplexity"
HIGHER_IS_BETTER = False
FLOOR = 95.0
EPOCHS = 8
PEAK_RATE = 7e-3
WORDS = 30
VOCABULARY = 2_000
UNKNOWN = 2
BATCH = 64


def build():
    """Input `words`: (N, 30) int32, ids below 2,000. Output `next_word`: 2,000 logits.

    Not probabilities: 8 bits hold those in steps of 1/256, and most words are rarer.
    """
    import keras
    from keras import layers

    words = keras.Input((WORDS,), dtype="int32", name="words")
    x = layers.Embedding(VOCABULARY, 64)(words)
    read = layers.GRU(128, return_sequences=True, name="read")(x)
    next_word = layers.Dense(VOCABULARY, name="next_word")(read[:, -1])
    model = keras.Model(words, next_word, name="imdb_gru_lm")
    _compile(model)
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """An epoch is an eighth of the text, and the learning rate falls along half a cosine.

    The same layers are trained to predict the next word at every position of a window, not only
    after its last: thirty times as much to learn from, at the price of one.
    """
    import keras
    import tensorflow as tf

    def rate(epoch):
        return PEAK_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2

    everywhere = keras.Model(
        model.input, model.get_layer("next_word")(model.get_layer("read").output)
    )
    _compile(everywhere)
    windows, unseen = _windows("train"), _windows("validation")
    batches = tf.data.Dataset.from_tensor_slices((windows[:, :-1], windows[:, 1:]))
    everywhere.fit(
        batches.shuffle(len(windows)).repeat().batch(BATCH),
        validation_data=(unseen[:, :-1], unseen[:, 1:]),
        epochs=epochs,
        steps_per_epoch=math.ceil(len(windows) / (8 * BATCH)),
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
        verbose=0,
    )


def data(split):
    """Windows side by side of the training reviews: the first 2,000 validate, the others train.

    The test split is 10,000 windows from anywhere in the test reviews, always the same.
    """
    windows = _windows(split)
    return {"words": windows[:, :-1]}, {"next_word": windows[:, -1].astype(np.int64)}


def evaluate(outputs, targets):
    scores, wanted = outputs["next_word"].astype(np.float64), targets["next_word"]
    scores = scores - scores.max(axis=1, keepdims=True)
    surprise = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(wanted)), wanted]
    return {
        "perplexity": float(np.exp(surprise.mean())),
        "accuracy": float(np.mean(scores.argmax(axis=1) == wanted)),
    }


def _compile(model):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(PEAK_RATE), loss=loss)


def _windows(split):
    """(windows, WORDS + 1) int32: what is read, and the word after it."""
    part = "test" if split == "test" else "train"
    text = load_texts("imdb")[f"{part}_tokens"].astype(np.int32)
    text[text >= VOCABULARY] = UNKNOWN
    if split == "test":
        anywhere = np.lib.stride_tricks.sliding_window_view(text, WORDS + 1)
        return anywhere[np.random.default_rng(0).choice(len(anywhere), 10_000, replace=False)]
    windows = text[: len(text) // (WORDS + 1) * (WORDS + 1)].reshape(-1, WORDS + 1)
    return {"validation": windows[:2_000], "train": windows[2_000:]}.get(
        split, windows[2_000:2_500]
    )

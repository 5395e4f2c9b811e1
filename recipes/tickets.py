"""Customers' tickets, read by a model of three inputs and two outputs: how urgent, and for whom.

In the books the tickets are made up. Here they are reviews of clothes: their title and text, and
as a tag the department of the shop; `priority` is whether the customer recommends the piece, and
`department` which of 20 classes it is of. The same network is written in three ways: as a graph of
layers (`build`), as a subclass of keras.Model with dicts, and as a graph with a subclassed head.

The files take multi-hot rows, so what ships with them is the list of words: vocabulary() gives it
for each text, and multi_hot() is all that an application has to do by itself.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from edgekit.datasets import load_reviews

DESCRIPTION = "customers' tickets: title, body and tags; who recommends, and which class of clothes"
DATA = "clothing reviews"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
# The mean of both. Who always says the most frequent class has 0.55: 0.81 and 0.28.
FLOOR = 0.80
EPOCHS = 4
TRAINING = slice(-5_500)
TITLE_WORDS, BODY_WORDS = 1_000, 2_000
TAGS = ("Bottoms", "Dresses", "Intimate", "Jackets", "Tops", "Trend")
DEPARTMENTS = (
    *("Blouses", "Casual bottoms", "Chemises", "Dresses", "Fine gauge", "Intimates", "Jackets"),
    *("Jeans", "Knits", "Layering", "Legwear", "Lounge", "Outerwear", "Pants", "Shorts", "Skirts"),
    *("Sleep", "Sweaters", "Swim", "Trend"),
)


def build():
    """Inputs `title` (N, 1000), `body` (N, 2000), `tags` (N, 6): float32, 0 or 1.

    Outputs `priority` (N, 1), from 0 to 1, and `department`: 20 probabilities.
    """
    import keras
    from keras import layers

    inputs = _inputs()
    x = layers.Dense(64, activation="relu", name="mixed")(layers.Concatenate()([*inputs.values()]))
    outputs = {
        "priority": layers.Dense(1, activation="sigmoid", name="priority")(x),
        "department": layers.Dense(len(DEPARTMENTS), activation="softmax", name="department")(x),
    }
    return _compiled(keras.Model(inputs, outputs, name="tickets"))


def build_subclassed():
    """The dicts that call() takes and gives are what the files' inputs and outputs are called."""
    import keras
    from keras import layers

    class Tickets(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.mixed = layers.Dense(64, activation="relu")
            self.priority = layers.Dense(1, activation="sigmoid")
            self.department = layers.Dense(len(DEPARTMENTS), activation="softmax")

        def call(self, inputs):
            every = [inputs["title"], inputs["body"], inputs["tags"]]
            x = self.mixed(keras.ops.concatenate(every, axis=-1))
            return {"priority": self.priority(x), "department": self.department(x)}

    model = Tickets(name="tickets_subclassed")
    # Called once, so that it has its weights, and for them a place to be loaded into.
    model({name: np.zeros((1, size), np.float32) for name, size in _sizes().items()})
    return _compiled(model)


def build_subclassed_head():
    """A graph of layers again; one of them is a class of this recipe, and gives both outputs."""
    import keras
    from keras import layers

    class Head(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.priority = layers.Dense(1, activation="sigmoid")
            self.department = layers.Dense(len(DEPARTMENTS), activation="softmax")

        def call(self, x):
            return {"priority": self.priority(x), "department": self.department(x)}

    inputs = _inputs()
    x = layers.Dense(64, activation="relu", name="mixed")(layers.Concatenate()([*inputs.values()]))
    return _compiled(keras.Model(inputs, Head(name="head")(x), name="tickets_subclassed_head"))


def train(model, epochs=EPOCHS, callbacks=()):
    feed, targets = data("train")
    model.fit(
        feed,
        targets,
        validation_data=data("validation"),
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def data(split):
    """The last 4,000 reviews test, the 1,500 before them validate, the others train."""
    table = _table()
    part = {
        "train": TRAINING,
        "validation": slice(-5_500, -4_000),
        "calibration": slice(500),
        "test": slice(-4_000, None),
    }[split]
    titles, bodies = _vocabularies(table)
    classes = {name: i for i, name in enumerate(DEPARTMENTS)}
    feed = {
        "title": multi_hot(table["title"][part], titles),
        "body": multi_hot(table["review"][part], bodies),
        "tags": (table["department"][part, np.newaxis] == np.array(TAGS)).astype(np.float32),
    }
    targets = {
        "priority": table["recommended"][part, np.newaxis].astype(np.int64),
        "department": np.array([classes[name] for name in table["class"][part]]),
    }
    return feed, targets


def evaluate(outputs, targets):
    """Both accuracies, and their mean."""
    priority = np.mean((outputs["priority"] >= 0.5) == targets["priority"])
    department = np.mean(outputs["department"].argmax(axis=1) == targets["department"])
    return {
        "accuracy": float(priority + department) / 2,
        "accuracy_priority": float(priority),
        "accuracy_department": float(department),
    }


def vocabulary():
    """The words of `title` and of `body` in the order of their places."""
    return dict(zip(("title", "body"), _vocabularies(_table()), strict=True))


def multi_hot(texts, vocabulary):
    """(texts, words) float32: 1 where a text has the word."""
    places = {word: place for place, word in enumerate(vocabulary)}
    rows = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[[places[word] for word in _words(text) if word in places]] = 1
    return rows


def _vocabularies(table):
    """What the training texts have most often; other texts must not have a say in this."""
    sizes = {"title": TITLE_WORDS, "review": BODY_WORDS}
    for column, size in sizes.items():
        counts = Counter(word for text in table[column][TRAINING] for word in _words(text))
        yield [word for word, _ in counts.most_common(size)]


def _words(text):
    return re.findall(r"[a-z']+", text.lower())


def _table():
    """Each text once: a few reviews are there twice, for two pieces of a set."""
    table = load_reviews()
    _, first = np.unique(table["review"], return_index=True)
    return {name: column[np.sort(first)] for name, column in table.items()}


def _sizes():
    return {"title": TITLE_WORDS, "body": BODY_WORDS, "tags": len(TAGS)}


def _inputs():
    import keras

    return {name: keras.Input((size,), name=name) for name, size in _sizes().items()}


def _compiled(model):
    model.compile(
        optimizer="rmsprop",
        loss={"priority": "binary_crossentropy", "department": "sparse_categorical_crossentropy"},
        metrics={"priority": ["accuracy"], "department": ["accuracy"]},
    )
    return model

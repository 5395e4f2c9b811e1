"""The recipe imdb_transformer: what it is made of, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.recipe import load_recipe
from tests.recipe_splits import write_texts

RECIPE = load_recipe("imdb_transformer")
GOOD, BAD = 7, 8


def test_one_encoder_block():
    model = RECIPE.build()
    assert [x.name for x in model.inputs] == ["tokens"]
    assert model.inputs[0].dtype == "int32"
    assert model.input_shape == (None, 200)
    assert model.output_names == ["good"]
    assert model.output_shape == (None, 1)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("MultiHeadAttention") == 1
    assert model.count_params() == 326_497
    ids = np.stack([np.zeros(200, np.int32), np.full(200, 9_999, np.int32)])
    good = np.asarray(model(ids))
    assert ((good > 0) & (good < 1)).all()


def test_it_learns_what_words_say_wherever_they_stand(tmp_path, monkeypatch):
    import keras

    random = np.random.default_rng(0)

    def text(part, row):
        words = random.integers(20, 60, random.integers(40, 220))
        words[-40:][random.permutation(40)[:10]] = GOOD if row % 2 else BAD
        return words

    write_texts(tmp_path / "imdb.npz", {"train": 3_000, "test": 200}, text)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    keras.utils.set_random_seed(0)
    model = RECIPE.build()
    feed, targets = RECIPE.data("test")

    def good(tokens):
        return model.predict(tokens, verbose=0)

    assert RECIPE.evaluate({"good": good(feed["tokens"])}, targets)["accuracy"] < 0.8
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(set(logs)))
    RECIPE.train(model, epochs=2, callbacks=[watch])
    assert len(seen) == 2
    assert "val_loss" in seen[0]  # by which edgekit keeps the best epoch
    told = good(feed["tokens"])
    assert RECIPE.evaluate({"good": told}, targets)["accuracy"] > 0.95
    assert told == pytest.approx(good(feed["tokens"][:, ::-1]), abs=1e-5)
    assert np.ptp(told) > 0.5

"""Variants of models, whatever the technique: what is trained by whom, and what is saved."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgekit.errors import ConversionError, RecipeError
from edgekit.types import Pruning
from tests.formats.variant_models import images, load, make, recipe_file, saved, small_cnn

pytestmark = pytest.mark.filterwarnings(
    # Keras saves so.
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)


def attention(keras):
    x = keras.Input((6, 8), name="x")
    attended = keras.layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(x, keras.layers.Dense(2, name="y")(keras.layers.Add()([x, attended])))


def einsum(keras):
    x = keras.Input((6, 8), name="x")
    dense = keras.layers.EinsumDense("abc,cd->abd", (None, 4), activation="gelu", name="einsum")
    return keras.Model(x, keras.layers.Dense(2, name="y")(dense(x)))


def recurrent(keras):
    x = keras.Input((6, 8), name="x")
    y = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True), name="both")(x)
    y = keras.layers.TimeDistributed(keras.layers.Dense(3))(y)
    return keras.Model(x, keras.layers.Dense(2, name="y")(y))


def nested(keras):
    inner = keras.Sequential([keras.Input((6, 8)), keras.layers.Dense(4)], name="inner")
    x = keras.Input((6, 8), name="x")
    return keras.Model(x, keras.layers.Dense(2, name="y")(inner(x)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (attention, "tf_keras does not take the layer 'multi_head_attention'"),
        (einsum, "TFMOT does not quantize EinsumDense ('einsum')"),
        (recurrent, "TFMOT does not quantize Bidirectional ('both')"),
        (nested, "TFMOT does not quantize a model in a model ('inner')"),
    ],
)
def test_what_tfmot_cannot_follow_is_trained_natively_and_said(build, reason, tmp_path):
    import keras

    keras.backend.clear_session()  # layers are numbered from the start
    keras.utils.set_random_seed(3)
    model = build(keras)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    path = saved(model, tmp_path / "m.keras")
    rows = np.random.default_rng(0).standard_normal((64, 6, 8)).astype(np.float32)
    targets = rows[..., :2] * 0.5
    trained, done = make(path, tmp_path, feed={"x": rows}, targets={"y": targets}, epochs=20)
    assert done["engine"] == "native"
    assert done["notes"][0].startswith(f"fine-tuned without TFMOT, which cannot follow: {reason}")
    model, before = load(trained), load(path)
    assert model.get_config() == before.get_config()
    assert not any(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), before.get_weights(), strict=True)
    )

    def error(model):
        return np.square(model.predict(rows, verbose=0) - targets).mean()

    assert error(model) < 0.9 * error(before)


def test_tfmot_alone_refuses(tmp_path):
    import keras

    path = saved(einsum(keras), tmp_path / "m.keras")
    rows = np.zeros((8, 6, 8), np.float32)
    with pytest.raises(ConversionError, match="does not quantize EinsumDense"):
        make(path, tmp_path, feed={"x": rows}, targets={"y": rows[..., :2]}, engine="tfmot")


@pytest.mark.parametrize(
    ("check", "engine"),
    [
        ("assert keras.__version__.startswith('2')", "tfmot"),
        ("keras.ops.zeros(2)", "native"),  # Keras 2 has no ops
    ],
)
def test_a_recipe_trains_in_either_keras(check, engine, tmp_path):
    from edgekit.recipe import load_recipe

    recipe = recipe_file(tmp_path, check=check, rate=0.2)
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    trained, done = make(path, tmp_path, recipe=str(recipe))
    assert done["engine"].partition(" ")[0] == engine
    figures = [line for line in done["said"] if line.startswith("epoch ")]
    assert len(figures) == 2  # a quarter of its own
    assert "mae" in figures[0]
    feed, targets = load_recipe(recipe).data("test")

    def error(path):
        return np.square(load(path).predict(feed["x"], verbose=0) - targets["y"]).mean()

    assert error(trained) < 0.5 * error(path)


def test_an_error_of_the_recipe_is_told(tmp_path):
    from edgekit.recipe import load_recipe

    recipe = recipe_file(tmp_path, check="raise OSError('no data')")
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    with pytest.raises(RecipeError, match="no data"):
        make(path, tmp_path, recipe=str(recipe), engine="native")


def test_samples_train_the_part_that_is_exported(tmp_path):
    """Rows are those behind the preprocessing; what is saved is the whole model."""
    import keras
    from keras import layers

    kind = keras.Input((1,), dtype="int64", name="kind")
    amount = keras.Input((2,), name="amount")
    lookup = layers.IntegerLookup(vocabulary=[3, 5, 9], output_mode="one_hot", name="lookup")
    x = layers.Dense(6, activation="relu", name="mix")(layers.Concatenate()([lookup(kind), amount]))
    model = keras.Model([kind, amount], layers.Dense(1, name="y")(x))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    path = saved(model, tmp_path / "m.keras")
    random = np.random.default_rng(0)
    rows = {
        "amount": random.standard_normal((64, 2)).astype(np.float32),
        "lookup": np.eye(4, dtype=np.float32)[random.integers(0, 4, 64)],
    }
    trained, done = make(path, tmp_path, feed=rows, targets={"y": rows["amount"][:, :1]}, epochs=5)
    assert done["notes"] == []
    before, after = load(path), load(trained)
    raw = {"kind": np.array([[3], [5]]), "amount": np.ones((2, 2), np.float32)}
    assert after.get_config() == before.get_config()
    assert not np.allclose(before.predict(raw, verbose=0), after.predict(raw, verbose=0))


def test_only_the_layers_of_the_part_are_trained(tmp_path):
    import keras
    from keras import layers

    x = keras.Input((4,), name="x")
    hidden = layers.Dense(3, activation="relu", name="hidden")(x)
    path = saved(keras.Model(x, layers.Dense(2, name="y")(hidden)), tmp_path / "m.keras")
    rows = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    trained, _ = make(
        path,
        tmp_path,
        feed={"x": rows},
        targets={"hidden": rows[:, :3]},
        epochs=3,
        until_layer="hidden",
    )
    before, after = load(path), load(trained)
    for name, is_same in (("hidden", False), ("y", True)):
        kernels = [model.get_layer(name).get_weights()[0] for model in (before, after)]
        assert np.array_equal(*kernels) is is_same


KERAS_2 = """
import sys
from pathlib import Path

import numpy as np
import tf_keras as keras

from edgekit.agent.arrays import save_arrays
from edgekit.toolchain.fine_tuning import Lesson
from edgekit.toolchain.variants import make_variant
from edgekit.types import Pruning, Source

folder = Path(sys.argv[1])
x = keras.Input((6,), dtype="int32", name="x")
embedded = keras.layers.Embedding(9, 4)(x)
rows = np.random.default_rng(0).integers(0, 9, (64, 6)).astype(np.int32)
for engine, layer in (("native", keras.layers.GRU(5)), ("tfmot", keras.layers.Flatten())):
    y = rows[:, :2] / 9
    if engine == "tfmot":
        x = embedded = keras.Input((6,), name="x")
        rows = rows.astype(np.float32)
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(layer(embedded))
    model = keras.Model(x, keras.layers.Dense(2, name="y")(hidden))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    path, trained = folder / f"{engine}.keras", folder / f"{engine}_qat.keras"
    model.save(path)
    lesson = Lesson(
        inputs=save_arrays({"x": rows}, folder / "x"),
        targets=save_arrays({"y": y}, folder / "y"),
        epochs=5,
    )
    source = Source(str(path), "tf-keras")
    done = make_variant(source, None, lesson, trained, print)
    after = keras.models.load_model(trained)
    assert done["engine"].partition(" ")[0] == engine, done
    assert after.get_config() == model.get_config()
    errors = [np.square(m.predict(rows, verbose=0) - y).mean() for m in (model, after)]
    assert errors[1] < 0.9 * errors[0], errors
    for pruning, taught, used in (
        (Pruning("sparse", 0.5), lesson, "tfmot"),
        (Pruning("sparse", 0.5, pattern="2:4"), lesson, "native"),
        (Pruning("cluster", 4), lesson, engine),
        (Pruning("structured", 0.5), lesson, "native"),
    ):
        path = folder / f"{engine}_{pruning.variant}.keras"
        done = make_variant(source, pruning, taught, path, print)
        assert done["engine"].partition(" ")[0] == used, (pruning, done)
        assert done["layers"] or pruning.kind == "structured", done
        after = keras.models.load_model(path)
        assert np.isfinite(after.predict(rows, verbose=0)).all()
        if pruning.kind != "structured":
            assert after.get_config() == model.get_config()
assert "keras" not in sys.modules
"""


def test_models_of_keras_2_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    run = [sys.executable, "-c", KERAS_2, tmp_path]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_channels_go_and_the_rest_is_trained(tmp_path):
    import keras

    model = small_cnn(keras)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    path = saved(model, tmp_path / "m.keras")
    feed, targets = images()
    pruning = Pruning("structured", 0.5)
    at_once, done = make(path, tmp_path, pruning)
    assert done["engine"] == "native"
    fewer = {layer["name"]: (layer["before"], layer["after"]) for layer in done["layers"]}
    assert fewer.keys() == {"conv", "separable", "transposed"}
    assert not any("label" in note for note in done["notes"])  # an output, as in every model
    small = load(at_once)
    for name, (before, after) in fewer.items():
        assert load(path).get_layer(name).output.shape[-1] == before
        assert small.get_layer(name).output.shape[-1] == after < before
    weights = small.get_weights()
    trained, _ = make(path, tmp_path, pruning, feed=feed, targets=targets, epochs=40)
    assert load(trained).get_config() == small.get_config()
    assert not any(map(np.array_equal, load(trained).get_weights(), weights))
    found = load(trained).predict(feed["x"], verbose=0).argmax(axis=1)
    assert np.mean(found == targets["label"]) > 0.6


def test_without_labels_fewer_channels_learn_from_the_whole_model(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(32, activation="tanh", name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(3, name="y")(hidden))
    path = saved(model, tmp_path / "m.keras")
    rows = np.random.default_rng(0).normal(size=(256, 6)).astype(np.float32)
    errors = []
    for lesson in ({}, {"feed": {"x": rows}, "epochs": 40}):
        made, _ = make(path, tmp_path, Pruning("structured", 0.5), **lesson)
        errors.append(np.square(load(made).predict(rows, verbose=0) - model(rows)).mean())
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("end", ["until_layer", "from_layer"])
def test_the_ends_of_an_exported_part_keep_their_channels(end, tmp_path):
    import keras

    path = saved(small_cnn(keras), tmp_path / "m.keras")
    place = {"until_layer": "separable", "from_layer": "transposed"}[end]
    made, done = make(path, tmp_path, Pruning("structured", 0.5), **{end: place})
    assert "separable" not in {layer["name"] for layer in done["layers"]}
    assert load(made).get_layer("separable").output.shape[-1] == 8
    assert {layer["name"] for layer in done["layers"]} >= {"conv"}


BUILDER = """
import keras


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def build():
    x = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    hidden = keras.layers.Dense(16, activation="relu", name="second")(hidden)
    return keras.Model(x, Doubled()(keras.layers.Dense(3, name="y")(hidden)))
"""


@pytest.mark.parametrize("kind", ["structured", "sparse", "cluster"])
def test_weights_with_a_builder_and_layers_of_the_users_own(kind, tmp_path, monkeypatch):
    import keras

    from edgekit.toolchain.source import load_keras
    from edgekit.toolchain.variants import make_variant
    from edgekit.types import Code, Source

    (tmp_path / "mine.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    weights = tmp_path / "m.weights.h5"
    mine.build().save_weights(weights)
    source = Source(str(weights), "keras", builder=Code("mine:build"))
    is_cut = kind == "structured"
    path = tmp_path / ("variant.keras" if is_cut else "variant.weights.h5")
    amount = 4 if kind == "cluster" else 0.5
    make_variant(source, Pruning(kind, amount), None, path, print)
    if is_cut:
        again = Source(str(path), "keras", custom_objects=Code("mine"))
    else:
        again = Source(str(path), "keras", builder=Code("mine:build"))
    model = load_keras(again)
    assert model(np.ones((2, 6), np.float32)).shape == (2, 3)
    assert model.get_layer("hidden").units == (8 if is_cut else 16)
    assert isinstance(model, keras.Model)

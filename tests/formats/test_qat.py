"""Quantization-aware training, ending in int8 files that LiteRT runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.arrays import save_arrays
from edgekit.errors import ConversionError, RecipeError
from edgekit.types import Source

pytestmark = pytest.mark.filterwarnings(
    # Keras saves so.
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)

ARMS, TRAIN = 3, 2000


@pytest.fixture(scope="module")
def points():
    """(feed, labels) of three spiral arms, and an amount that tells nothing and is rarely large."""
    random = np.random.default_rng(1)
    rows = 2 * TRAIN
    labels = random.integers(0, ARMS, rows)
    radius = random.uniform(0.1, 1, rows)
    angle = radius * 3 + 2 * np.pi * labels / ARMS + random.normal(0, 0.08, rows)
    point = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    amount = random.exponential(1.0, (rows, 1)) ** 2
    feed = {"point": point, "amount": np.minimum(amount / amount[:TRAIN].max(), 1) * 1000}
    return {name: value.astype(np.float32) for name, value in feed.items()}, labels


def part(feed, rows):
    return {name: value[rows] for name, value in feed.items()}


@pytest.fixture(scope="module")
def hurt(points, tmp_path_factory):
    """A model that int8 hurts: amounts in one tensor with what counts leave that few steps."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    point, amount = keras.Input((2,), name="point"), keras.Input((1,), name="amount")
    large = layers.Dense(2, activation="relu", kernel_initializer="ones", name="large")(amount)
    small = layers.Dense(16, activation="relu", name="small")(point)
    x = layers.Dense(16, activation="relu", name="both")(layers.Concatenate()([small, large]))
    label = layers.Dense(ARMS, activation="softmax", name="label")(x)
    model = keras.Model([point, amount], label, name="spiral")
    feed, labels = part(points[0], slice(TRAIN)), points[1][:TRAIN]
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 80 * 32)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(feed, labels, batch_size=64, epochs=80, verbose=0)
    model.compile(keras.optimizers.Adam(3e-2), "sparse_categorical_crossentropy")
    path = tmp_path_factory.mktemp("hurt") / "spiral.keras"
    model.save(path)
    return path


def load(path):
    import keras

    return keras.models.load_model(path, compile=False)


@pytest.fixture
def train(tmp_path):
    """Fine-tune what a file holds: `train(path, feed, targets, ...)`; the new file and answer."""
    from edgekit.toolchain.fine_tuning import Lesson
    from edgekit.toolchain.qat import fine_tune_quantized

    def run(path, feed=(), targets=(), *, engine="auto", recipe=None, epochs=None, **source):
        lesson = Lesson(
            recipe,
            save_arrays(dict(feed), tmp_path / "inputs"),
            save_arrays(dict(targets), tmp_path / "targets"),
            epochs=epochs,
        )
        trained = tmp_path / "qat.keras"
        told = Source(str(path), "keras", **source)
        said = []
        done = fine_tune_quantized(
            lambda: load(path), told, lesson, trained, said.append, engine=engine
        )
        return trained, {**done, "said": said}

    return run


def saved(model, path):
    model.save(path)
    return path


def int8_accuracy(model, feed, labels, folder: Path):
    """Of the int8 TFLite file, calibrated with the training rows, on the other ones."""
    from edgekit.agent.rows import run_rows
    from edgekit.agent.runners import open_runner
    from edgekit.toolchain import tflite, tflite_file, tflite_quantize
    from edgekit.toolchain.calibration import calibrate
    from edgekit.toolchain.canonical import trace
    from edgekit.toolchain.model import of_keras
    from edgekit.toolchain.taps import TfliteTaps

    content, signature = tflite.floats(trace(of_keras(model), 1))
    ranges = calibrate(TfliteTaps(content, signature), part(feed, slice(TRAIN)))
    made = tflite_quantize.quantize(content, signature, ranges, precision="int8")
    signature = tflite_file.signature(made, signature)
    path = folder / "int8.tflite"
    path.write_bytes(made)
    outputs = run_rows(
        open_runner("tflite", str(path), signature, 1), signature, part(feed, slice(TRAIN, None))
    )
    return float(np.mean(outputs["label"].argmax(axis=1) == labels[TRAIN:]))


@pytest.fixture(scope="module")
def without_training(hurt, points, tmp_path_factory):
    """(float, int8) accuracy of the model as it is."""
    model, (feed, labels) = load(hurt), points
    outputs = model.predict(part(feed, slice(TRAIN, None)), verbose=0)
    floats = float(np.mean(outputs.argmax(axis=1) == labels[TRAIN:]))
    return floats, int8_accuracy(model, feed, labels, tmp_path_factory.mktemp("int8"))


@pytest.mark.parametrize("engine", ["tfmot", "native"])
def test_training_wins_back_what_int8_loses(
    engine, train, hurt, points, without_training, tmp_path
):
    floats, before = without_training
    assert floats - before > 0.05
    feed, labels = points
    trained, done = train(
        hurt, part(feed, slice(TRAIN)), {"label": labels[:TRAIN]}, engine=engine, epochs=30
    )
    assert done["engine"].partition(" ")[0] == engine
    assert done["notes"] == []
    assert sum(line.startswith("epoch ") for line in done["said"]) == 30
    model = load(trained)
    assert model.get_config() == load(hurt).get_config()
    after = int8_accuracy(model, feed, labels, tmp_path)
    assert floats - after < (floats - before) / 4, (floats, before, after)


@pytest.mark.parametrize("engine", ["tfmot", "native"])
def test_the_same_again_gives_the_same_weights(engine, train, points, tmp_path):
    import keras
    from keras import layers

    def weights():
        model = load(path)
        assert isinstance(model.layers[2], layers.Dropout)
        trained, _ = train(path, feed, {"y": labels}, engine=engine, epochs=2)
        return load(trained).get_weights()

    x = keras.Input((2,), name="point")
    hidden = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(x))
    model = keras.Model(x, layers.Dense(ARMS, name="y")(hidden))
    path = saved(model, tmp_path / "m.keras")
    feed, labels = {"point": points[0]["point"][:500]}, points[1][:500]
    first, again = weights(), weights()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(
        np.array_equal(a, b) for a, b in zip(first, load(path).get_weights(), strict=True)
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
def test_what_tfmot_cannot_follow_is_trained_natively_and_said(build, reason, train, tmp_path):
    import keras

    keras.backend.clear_session()  # layers are numbered from the start
    keras.utils.set_random_seed(3)
    model = build(keras)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    path = saved(model, tmp_path / "m.keras")
    rows = np.random.default_rng(0).standard_normal((64, 6, 8)).astype(np.float32)
    targets = rows[..., :2] * 0.5
    trained, done = train(path, {"x": rows}, {"y": targets}, epochs=20)
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


def test_tfmot_alone_refuses(train, tmp_path):
    import keras

    path = saved(einsum(keras), tmp_path / "m.keras")
    rows = np.zeros((8, 6, 8), np.float32)
    with pytest.raises(ConversionError, match="does not quantize EinsumDense"):
        train(path, {"x": rows}, {"y": rows[..., :2]}, engine="tfmot")


RECIPE = '''
import numpy as np

DESCRIPTION = "a line"
TASK, METRIC, HIGHER_IS_BETTER, FLOOR, EPOCHS = "regression", "error", False, 1.0, 8


def build():
    import keras

    x = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(1, name="y")(hidden))
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return model


def train(model, epochs=EPOCHS, callbacks=()):
    """Another model of the same layers is trained, at a rate that is set."""
    import keras

    {check}
    twice = keras.Model(model.input, model.get_layer("y")(model.get_layer("hidden").output) * 2)
    twice.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    feed, targets = data("train")
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.2)
    callbacks = [scheduler, *callbacks]
    twice.fit(feed["x"], 2 * targets["y"], epochs=epochs, callbacks=callbacks, verbose=0)


def data(split):
    x = np.random.default_rng(0).standard_normal((256, 3)).astype(np.float32)
    return {{"x": x}}, {{"y": x.sum(axis=1, keepdims=True)}}


def evaluate(outputs, targets):
    return {{"error": float(np.square(outputs["y"] - targets["y"]).mean())}}
'''


@pytest.mark.parametrize(
    ("check", "engine"),
    [
        ("assert keras.__version__.startswith('2')", "tfmot"),
        ("keras.ops.zeros(2)", "native"),  # Keras 2 has no ops
    ],
)
def test_a_recipe_trains_in_either_keras(check, engine, train, tmp_path):
    from edgekit.recipe import load_recipe

    recipe = tmp_path / "line.py"
    recipe.write_text(RECIPE.format(check=check))
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    trained, done = train(path, recipe=str(recipe))
    assert done["engine"].partition(" ")[0] == engine
    figures = [line for line in done["said"] if line.startswith("epoch ")]
    assert len(figures) == 2  # a quarter of its own
    assert "mae" in figures[0]
    feed, targets = load_recipe(recipe).data("test")

    def error(path):
        return np.square(load(path).predict(feed["x"], verbose=0) - targets["y"]).mean()

    assert error(trained) < 0.5 * error(path)


def test_an_error_of_the_recipe_is_told(train, tmp_path):
    from edgekit.recipe import load_recipe

    recipe = tmp_path / "line.py"
    recipe.write_text(RECIPE.format(check="raise OSError('no data')"))
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    with pytest.raises(RecipeError, match="no data"):
        train(path, recipe=str(recipe), engine="native")


def test_samples_train_the_part_that_is_exported(train, tmp_path):
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
    trained, done = train(path, rows, {"y": rows["amount"][:, :1]}, epochs=5)
    assert done["notes"] == []
    before, after = load(path), load(trained)
    raw = {"kind": np.array([[3], [5]]), "amount": np.ones((2, 2), np.float32)}
    assert after.get_config() == before.get_config()
    assert not np.allclose(before.predict(raw, verbose=0), after.predict(raw, verbose=0))


def test_only_the_layers_of_the_part_are_trained(train, tmp_path):
    import keras
    from keras import layers

    x = keras.Input((4,), name="x")
    hidden = layers.Dense(3, activation="relu", name="hidden")(x)
    path = saved(keras.Model(x, layers.Dense(2, name="y")(hidden)), tmp_path / "m.keras")
    rows = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    trained, _ = train(path, {"x": rows}, {"hidden": rows[:, :3]}, epochs=3, until_layer="hidden")
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
from edgekit.toolchain.qat import fine_tune_quantized
from edgekit.types import Source

folder = Path(sys.argv[1])
x = keras.Input((6,), dtype="int32", name="x")
embedded = keras.layers.Embedding(9, 4)(x)
rows = np.random.default_rng(0).integers(0, 9, (64, 6)).astype(np.int32)
for engine, layer in (("native", keras.layers.GRU(5)), ("tfmot", keras.layers.Flatten())):
    y = rows[:, :2] / 9
    if engine == "tfmot":
        x = embedded = keras.Input((6,), name="x")
        rows = rows.astype(np.float32)
    model = keras.Model(x, keras.layers.Dense(2, name="y")(layer(embedded)))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    path, trained = folder / f"{engine}.keras", folder / f"{engine}_qat.keras"
    model.save(path)
    lesson = Lesson(
        inputs=save_arrays({"x": rows}, folder / "x"),
        targets=save_arrays({"y": y}, folder / "y"),
        epochs=5,
    )
    source = Source(str(path), "tf-keras")
    load = lambda: keras.models.load_model(path, compile=False)
    done = fine_tune_quantized(load, source, lesson, trained, print)
    after = keras.models.load_model(trained)
    assert done["engine"].partition(" ")[0] == engine, done
    assert after.get_config() == model.get_config()
    errors = [np.square(m.predict(rows, verbose=0) - y).mean() for m in (model, after)]
    assert errors[1] < 0.9 * errors[0], errors
assert "keras" not in sys.modules
"""


def test_models_of_keras_2_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    run = [sys.executable, "-c", KERAS_2, tmp_path]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

"""Quantization-aware training, ending in int8 files that LiteRT runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.formats.variant_models import load, make, saved

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
def test_training_wins_back_what_int8_loses(engine, hurt, points, without_training, tmp_path):
    floats, before = without_training
    assert floats - before > 0.05
    feed, labels = points
    trained, done = make(
        hurt,
        tmp_path,
        feed=part(feed, slice(TRAIN)),
        targets={"label": labels[:TRAIN]},
        engine=engine,
        epochs=30,
    )
    assert done["engine"].partition(" ")[0] == engine
    assert done["notes"] == done["layers"] == []
    assert sum(line.startswith("epoch ") for line in done["said"]) == 30
    model = load(trained)
    assert model.get_config() == load(hurt).get_config()
    after = int8_accuracy(model, feed, labels, tmp_path)
    assert floats - after < (floats - before) / 4, (floats, before, after)


@pytest.mark.parametrize("engine", ["tfmot", "native"])
def test_the_same_again_gives_the_same_weights(engine, points, tmp_path):
    import keras
    from keras import layers

    def weights():
        model = load(path)
        assert isinstance(model.layers[2], layers.Dropout)
        trained, _ = make(path, tmp_path, feed=feed, targets={"y": labels}, engine=engine, epochs=2)
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


@pytest.mark.parametrize("engine", ["tfmot", "native"])
def test_zeros_are_kept_where_asked(engine, hurt, points, tmp_path):
    import keras

    model = load(hurt)
    kernel, bias = model.get_layer("both").get_weights()
    zeros = np.abs(kernel) < np.quantile(np.abs(kernel), 0.6)
    model.get_layer("both").set_weights([np.where(zeros, 0, kernel), bias])
    model.compile(keras.optimizers.Adam(3e-2), "sparse_categorical_crossentropy")
    path = saved(model, tmp_path / "sparse.keras")
    lesson = {
        "feed": part(points[0], slice(TRAIN)),
        "targets": {"label": points[1][:TRAIN]},
        "engine": engine,
        "epochs": 2,
    }
    for keeps_zeros in (True, False):
        trained, done = make(path, tmp_path, **lesson, keeps_zeros=keeps_zeros)
        assert done["engine"].partition(" ")[0] == engine
        after = load(trained).get_layer("both").get_weights()[0]
        assert bool((after[zeros] == 0).all()) is keeps_zeros
        assert not np.isclose(after[~zeros], kernel[~zeros], rtol=1e-4).all()

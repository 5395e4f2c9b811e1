"""`edgekit train` and `edgekit run` with recipes of the user's, of every kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from edgekit.workspace import Workspace
from tests.conftest import run_edgekit

RECIPE = """\
import numpy as np

DESCRIPTION = "three clouds of points"
TASK = "classification"
METRIC = "accuracy"
HIGHER_IS_BETTER = True
FLOOR = 0.9
EPOCHS = 6
PRUNE = "structured:0.5"


def build():
    import keras

    layers = keras.layers
    stack = [layers.Dense(16, "relu"), layers.Dense(3, "softmax", name="cloud")]
    model = keras.Sequential([keras.Input((2,), name="point"), *stack])
    rate = keras.optimizers.Adam(0.03)
    model.compile(rate, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_own():
    import keras

    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    point = keras.Input((2,), name="point")
    x = keras.layers.Dense(16, "relu")(Twice()(point))
    cloud = keras.layers.Dense(3, "softmax", name="cloud")(x)
    model = keras.Model(point, cloud)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_tensors():
    import tensorflow as tf

    class Linear(tf.Module):
        def __init__(self):
            self.weights = tf.Variable(tf.zeros((2, 3)))

        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="point")])
        def __call__(self, point):
            return {"cloud": tf.nn.softmax(point @ self.weights)}

    return Linear()


def train(model, epochs=EPOCHS, callbacks=()):
    feed, targets = data("train")
    if not hasattr(model, "fit"):
        import tensorflow as tf

        for _ in range(100):
            with tf.GradientTape() as tape:
                scores = tf.math.log(model(tf.constant(feed["point"]))["cloud"])
                loss = -tf.reduce_mean(tf.gather(scores, targets["cloud"], batch_dims=1))
            model.weights.assign_sub(0.1 * tape.gradient(loss, model.weights))
        return
    held = data("validation")
    model.fit(
        feed["point"],
        targets["cloud"],
        validation_data=(held[0]["point"], held[1]["cloud"]),
        epochs=epochs,
        callbacks=[*own(), *callbacks],
        verbose=0,
    )


def own():
    return []


def data(split):
    rows = {"train": 600, "validation": 90, "calibration": 91, "test": 300}[split]
    random = np.random.default_rng(rows)
    classes = random.integers(0, 3, rows)
    centers = np.array([(3, 0), (-3, 2), (0, -4)])
    points = centers[classes] + random.normal(size=(rows, 2))
    return {"point": points.astype(np.float32)}, {"cloud": classes}


def evaluate(outputs, targets):
    return {"accuracy": float((outputs["cloud"].argmax(1) == targets["cloud"]).mean())}
"""

SLOW = """\
    import keras
    import time

    return [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(1))]
"""
WORSE = """\
    import keras

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 5:
                kernel = self.model.layers[-1].kernel
                kernel.assign(-50 * kernel)
                self.model.optimizer.learning_rate = 0.0

    return [Spoil()]
"""


@pytest.fixture
def recipe(tmp_path):
    """Writes the recipe, with other callbacks of its own, and returns the path."""

    def write(callbacks="    return []\n"):
        path = tmp_path / "clouds.py"
        path.write_text(RECIPE.replace("    return []\n", callbacks))
        return path

    return write


def test_a_training_goes_on_after_it_was_killed(recipe, tmp_path):
    path, folder = recipe(SLOW), tmp_path / "ws"
    command = [sys.executable, "-m", "edgekit", "train", path, "-o", folder]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as it:
        assert any("epoch 3/6" in line for line in it.stderr)
        time.sleep(0.5)  # the backup of that epoch is written
        os.killpg(it.pid, signal.SIGKILL)
    assert [p.name for p in folder.iterdir()] == [".training"]
    done = run_edgekit("train", path, "-o", folder)
    assert done.code == 0, done.err
    assert "going on after epoch" in done.err
    assert "epoch 1/6" not in done.err
    assert "epoch 6/6" in done.err
    assert not (folder / ".training").exists()
    assert "6 epochs" in (folder / "curves.svg").read_text()
    assert Workspace.open(folder).manifest.accuracy[0].metrics["accuracy"] > 0.9
    assert {p.name for p in (folder / "logs").iterdir()} == {"train", "validation"}


def test_the_best_epoch_is_kept(recipe, tmp_path):
    done = run_edgekit("train", recipe(WORSE), "-o", tmp_path / "ws")
    assert done.code == 0, done.err  # the last epoch alone is below the floor
    assert "the best epoch was" in done.err


def test_a_recipe_that_fails_leaves_nothing_behind(recipe, tmp_path):
    path = recipe("    raise ValueError('no callbacks today')\n")
    done = run_edgekit("train", path, "-o", tmp_path / "ws")
    assert done.code == 1
    line = next(i for i, x in enumerate(path.read_text().splitlines(), 1) if "raise Val" in x)
    assert f"clouds.py:{line}: " in done.err
    assert "no callbacks today" in done.err
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("alternative", ["own", "tensors"])
def test_models_that_keras_alone_cannot_load_are_exported_and_proved(recipe, tmp_path, alternative):
    folder = tmp_path / "ws"
    done = run_edgekit("train", f"{recipe()}:{alternative}", "-o", folder, "--json")
    assert done.code == 0, done.err
    assert done.json["metrics"]["accuracy"] > 0.7
    done = run_edgekit("export", folder, "--precision", "fp32", "--json")
    assert done.code == 0, done.err
    for record in done.json["accuracy"]:
        assert record["metrics"]["accuracy"] > 0.7


def test_the_whole_way_once_and_then_only_what_is_missing(recipe, tmp_path):
    path, folder = recipe(), tmp_path / "ws"
    done = run_edgekit("run", path, "-o", folder, "--json")
    assert done.code == 0, done.err
    verbs = ("train", "export", "quantize", "prune", "verify", "bench")
    assert [s["verb"] for s in done.json["steps"]] == list(verbs)
    made = Workspace.open(folder).manifest
    ids = {a.id for a in made.artifacts}
    assert {"fp32.tfjs", "int8.tflite", "int8.onnx", "structured50-int8.tflite"} <= ids
    assert {r.artifact for r in made.latency} == {"keras", *ids}
    again = run_edgekit("run", path, "-o", folder, "--json")
    assert again.code == 0, again.err
    assert not any(s["is_new"] for s in again.json["steps"])
    (folder / "int8.onnx").unlink()
    done = run_edgekit("run", path, "-o", folder, "--json")
    assert done.code == 0, done.err
    new = {s["verb"] for s in done.json["steps"] if s["is_new"]}
    assert "quantize" in new
    assert not {"train", "export", "prune"} & new

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.errors import SourceError

pytestmark = pytest.mark.filterwarnings(
    # Keras reads the learning rate so.
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)

ROWS = 40


def model_of(activation=None, units=3):
    import keras

    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.layers.Dense(units, activation=activation, name="y")(x))


@pytest.fixture
def complete(tmp_path):
    """What `completed` makes of samples: (lesson, notes)."""
    from edgekit.toolchain.fine_tuning import Lesson, completed

    def run(model, file=tmp_path / "none", **targets):
        rows = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)
        lesson = Lesson(
            inputs=save_arrays({"x": rows}, tmp_path / "x"),
            targets=save_arrays(targets, tmp_path / "y"),
        )
        notes = []
        return completed(lesson, model, None, file, notes), notes

    return run


INDICES = np.arange(ROWS) % 3
FLAGS = np.arange(ROWS) % 2


@pytest.mark.parametrize(
    ("activation", "units", "targets", "loss"),
    [
        ("softmax", 3, INDICES, ("SparseCategoricalCrossentropy", {"from_logits": False})),
        (None, 3, INDICES, ("SparseCategoricalCrossentropy", {"from_logits": True})),
        (None, 3, INDICES[:, None], ("SparseCategoricalCrossentropy", {"from_logits": True})),
        ("softmax", 3, np.eye(3)[INDICES], ("CategoricalCrossentropy", {})),
        ("sigmoid", 1, FLAGS, ("BinaryCrossentropy", {})),
        ("sigmoid", 3, np.eye(3)[INDICES], ("BinaryCrossentropy", {})),
        ("sigmoid", 1, FLAGS * 0.5, ("MeanSquaredError", {})),
        (None, 1, FLAGS * 3, ("MeanSquaredError", {})),
        (None, 3, np.ones((ROWS, 3)), ("MeanSquaredError", {})),
    ],
)
def test_outputs_and_targets_tell_the_loss(activation, units, targets, loss, complete):
    lesson, notes = complete(model_of(activation, units), y=targets)
    assert notes == []
    told = lesson.compiled["loss"]
    assert (told["class_name"], told["config"]) == loss


def test_without_labels_the_models_own_outputs_are_kept(complete):
    model = model_of("softmax")
    lesson, notes = complete(model)
    assert notes == ["fine-tuned towards the float model's own outputs: no labels judge them all"]
    rows, targets = load_arrays(lesson.inputs)["x"], load_arrays(lesson.targets)["y"]
    assert np.allclose(targets, model(rows), atol=1e-6)
    assert lesson.compiled["loss"]["class_name"] == "CategoricalCrossentropy"


def test_labels_for_some_outputs_only_are_refused(complete):
    import keras

    x = keras.Input((4,), name="x")
    heads = [keras.layers.Dense(2, name=name)(x) for name in ("b", "a")]
    with pytest.raises(SourceError, match="no labels for the output 'b'"):
        complete(keras.Model(x, heads), a=np.ones((ROWS, 2)))


def test_several_outputs_have_a_loss_each_in_the_models_order(complete):
    import keras

    x = keras.Input((4,), name="x")
    heads = [
        keras.layers.Dense(3, name="b", activation="softmax")(x),
        keras.layers.Dense(2, name="a")(x),
    ]
    lesson, _ = complete(keras.Model(x, heads), a=np.ones((ROWS, 2)), b=INDICES)
    assert list(lesson.targets) == ["b", "a"]
    assert [told["class_name"] for told in lesson.compiled["loss"]] == [
        "SparseCategoricalCrossentropy",
        "MeanSquaredError",
    ]


def file_with(path, compiled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"compile_config": compiled}))
    return path


def test_the_file_tells_how_it_was_compiled(complete, tmp_path):
    import keras

    from edgekit.toolchain.fine_tuning import Lesson, fine_tune

    model = model_of()
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, 100), momentum=0.9),
        [keras.losses.Huber()],
        loss_weights=[0.3],
    )
    path = file_with(tmp_path / "m.keras", model.get_compile_config())
    lesson, notes = complete(model_of(), path, y=np.ones((ROWS, 3), np.float32))
    assert notes == []
    again = model_of()
    fine_tune(again, Lesson(**{**vars(lesson), "epochs": 1}), lambda text: None)
    assert again.optimizer.momentum == 0.9
    assert isinstance(again.loss[0], keras.losses.Huber)
    assert again._compile_config.config["loss_weights"] == [0.3]


def test_a_loss_of_the_users_own_is_not_guessed_at_in_silence(complete, tmp_path):
    told = {"loss": {"class_name": "Mine", "config": {}}, "optimizer": None}
    path = file_with(tmp_path / "m.keras", told)
    lesson, notes = complete(model_of(), path, y=np.ones((ROWS, 3)))
    assert "not Keras's own" in notes[0]
    assert lesson.compiled["loss"]["class_name"] == "MeanSquaredError"


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "a schedule"])
def test_the_rate_is_lowered_whoever_sets_it(optimizer, scheduled):
    import keras

    from edgekit.toolchain.callbacks import lower_rate

    def moved(share):
        keras.utils.set_random_seed(0)
        ones = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), ones])
        made = {
            "SGD": lambda: keras.optimizers.SGD(1e-4),
            "Adam": lambda: keras.optimizers.Adam(1e-4),
            "a schedule": lambda: keras.optimizers.SGD(
                keras.optimizers.schedules.ExponentialDecay(1e-4, 10, 0.5)
            ),
        }[optimizer]()
        model.compile(made, "mse")
        callbacks = [lower_rate(keras, share)]
        if scheduled and optimizer != "a schedule":
            rise = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 2 * rate)
            callbacks = [rise, *callbacks]
        rows = np.ones((64, 1), np.float32)
        model.fit(rows, 0 * rows, batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
        return 1 - model.get_weights()[0][0, 0], float(made.learning_rate)

    (full, rate), (tenth, seen) = moved(1.0), moved(0.1)
    assert tenth / full == pytest.approx(0.1, rel=0.02)
    if optimizer != "a schedule":
        assert seen == rate == pytest.approx(8e-4 if scheduled else 1e-4)


def test_the_rate_is_held_before_it_falls():
    import keras

    from edgekit.toolchain.callbacks import lower_rate

    class Seen(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    rates = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.4), "mse")
    rows = np.ones((64, 1), np.float32)
    callbacks = [lower_rate(keras, 0.5, hold=0.5), Seen()]
    model.fit(rows, rows, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    assert rates[:9] == pytest.approx([0.2] * 9)
    assert rates[12] == pytest.approx(0.1)
    assert rates[-1] < 0.01

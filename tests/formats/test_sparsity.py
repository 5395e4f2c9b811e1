"""Magnitude pruning of models of either Keras, by TFMOT and natively."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import ConversionError
from edgekit.types import Pruning
from tests.formats.variant_models import (
    images,
    kernels_of,
    load,
    make,
    recipe_file,
    saved,
    small_cnn,
)

pytestmark = pytest.mark.filterwarnings(
    # Keras saves so.
    "ignore:__array__ implementation doesn't:DeprecationWarning"
)

ENGINES = ("tfmot", "native")


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """A trained model."""
    import keras

    keras.utils.set_random_seed(0)
    model = small_cnn(keras)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    feed, targets = images()
    model.fit(feed["x"], targets["label"], epochs=10, verbose=0)
    return saved(model, tmp_path_factory.mktemp("cnn") / "small.keras")


@pytest.fixture
def lesson():
    feed, targets = images()
    return {"feed": feed, "targets": targets, "epochs": 3}


def zeros_of(path):
    """The share of zeros in each layer; none of them is -0."""
    found = kernels_of(path)
    for kernel in (kernel for kernels in found.values() for kernel in kernels):
        assert not np.signbit(kernel[kernel == 0]).any()
    return {name: np.mean([k == 0 for k in kernels]) for name, kernels in found.items()}


def accuracy(path):
    feed, targets = images()
    return np.mean(load(path).predict(feed["x"], verbose=0).argmax(axis=1) == targets["label"])


@pytest.mark.parametrize("engine", ENGINES)
def test_each_layer_has_the_zeros_that_are_asked_for(engine, cnn, lesson, tmp_path):
    pruning = Pruning("sparse", 0.75, layers=(("transp*", 0.5),), skip_last=True)
    made, done = make(cnn, tmp_path, pruning, **lesson, engine=engine)
    assert done["engine"].partition(" ")[0] == engine
    assert zeros_of(made) == {"conv": 0.75, "separable": 0.75, "transposed": 0.5, "label": 0}
    assert done["layers"] == [
        {"name": "conv", "before": 0.0, "after": 0.75},
        {"name": "separable", "before": 0.0, "after": 0.75},
        {"name": "transposed", "before": 0.0, "after": 0.5},
    ]
    [note] = done["notes"]
    assert note.startswith("depthwise kernels")
    assert note.endswith(": depthwise, separable")
    assert load(made).get_config() == load(cnn).get_config()
    at_once, _ = make(cnn, tmp_path, pruning)
    assert zeros_of(at_once) == {"conv": 0.75, "separable": 0.75, "transposed": 0.5, "label": 0}


@pytest.mark.parametrize("engine", ENGINES)
def test_training_wins_back_what_zeros_lose(engine, cnn, lesson, tmp_path):
    pruning = Pruning("sparse", 0.9)
    lost = accuracy(cnn) - accuracy(make(cnn, tmp_path, pruning)[0])
    assert lost > 0.3
    made, _ = make(cnn, tmp_path, pruning, **{**lesson, "epochs": 60}, engine=engine)
    assert accuracy(cnn) - accuracy(made) < lost / 3, (accuracy(cnn), lost, accuracy(made))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_again_gives_the_same_weights(engine, cnn, lesson, tmp_path):
    first, again = (
        load(make(cnn, tmp_path, Pruning("sparse", 0.6), **lesson, engine=engine)[0]).get_weights()
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("amount", [0.3, 0.7])
def test_zeros_that_are_there_stay(engine, amount, cnn, lesson, tmp_path):
    model = load(cnn)
    kernel = model.get_layer("conv").kernel
    gone = np.random.default_rng(0).random(kernel.shape) < 0.5
    kernel.assign(np.where(gone, 0, kernel))
    model.compile("adam", "sparse_categorical_crossentropy")
    path = saved(model, tmp_path / "sparse.keras")
    made, _ = make(path, tmp_path, Pruning("sparse", amount), **lesson, engine=engine)
    [after] = kernels_of(made)["conv"]
    assert (after[gone] == 0).all()
    assert np.mean(after == 0) == pytest.approx(max(amount, gone.mean()), abs=2e-3)


def has_pattern(kernel, pattern):
    """`kernel` is (places, inputs, outputs)."""
    for place in kernel:
        for top in range(0, len(place), 4):
            part = place[top : top + 4]
            if pattern == "2:4" and (np.count_nonzero(part, axis=0) > 2).any():
                return False
            if pattern == "4x1" and not set(np.count_nonzero(part, axis=0)) <= {0, len(part)}:
                return False
    return True


@pytest.mark.parametrize("pattern", ["2:4", "4x1"])
@pytest.mark.parametrize("trained", [True, False])
def test_zeros_lie_in_a_pattern_along_the_inputs(pattern, trained, cnn, lesson, tmp_path):
    taught = lesson if trained else {}
    made, done = make(cnn, tmp_path, Pruning("sparse", 0.5, pattern=pattern), **taught)
    assert done["engine"] == "native"
    assert not any("TFMOT" in note for note in done["notes"])
    for name, kernels in kernels_of(made).items():
        for kernel in kernels:
            lying = kernel.swapaxes(-1, -2) if name == "transposed" else kernel
            lying = lying.reshape(-1, *lying.shape[-2:])
            assert has_pattern(lying, pattern)
            # The last ones of three or six inputs are no four: two of them stay.
            is_short = pattern == "2:4" and name in ("conv", "label")
            wanted = 1 / 3 if is_short else 0.5
            assert np.mean(kernel == 0) == pytest.approx(wanted, abs=0.01)


def test_without_training_the_smallest_weights_go_and_the_rest_stays(cnn, tmp_path):
    made, done = make(cnn, tmp_path, Pruning("sparse", 0.8))
    assert done["engine"] == "native"
    before, after = load(cnn), load(made)
    for old, new in zip(before.weights, after.weights, strict=True):
        old, new = np.asarray(old), np.asarray(new)
        same = np.isclose(new, old, rtol=0, atol=0)
        assert (same | (new == 0)).all()
        if not same.all():
            assert np.abs(old[~same]).max() <= np.abs(old[same]).min()


@pytest.mark.parametrize(
    ("check", "engine"),
    [
        ("assert keras.__version__.startswith('2')", "tfmot"),
        ("keras.ops.zeros(2)", "native"),  # Keras 2 has no ops
    ],
)
def test_a_recipe_trains_another_model_of_the_same_layers(check, engine, tmp_path):
    from edgekit.recipe import load_recipe

    recipe = recipe_file(tmp_path, check=check)
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    made, done = make(path, tmp_path, Pruning("sparse", 0.5), recipe=str(recipe))
    assert done["engine"].partition(" ")[0] == engine
    assert zeros_of(made) == {"hidden": 0.5, "y": 0.5}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"callbacks": "[]"}, "'hidden' was not pruned: 0.0% of its weights are 0, 50.0% are"),
        ({"after": "twice.train_on_batch(feed['x'], targets['y'])"}, "'hidden' was not pruned"),
    ],
)
def test_a_recipe_that_undoes_it_is_found_out(fault, said, tmp_path):
    from edgekit.recipe import load_recipe

    recipe = recipe_file(tmp_path, **fault)
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    with pytest.raises(ConversionError, match=said) as error:
        make(path, tmp_path, Pruning("sparse", 0.5), recipe=str(recipe))
    assert "pass the callbacks" in error.value.hint


def test_early_stopping_neither_stops_nor_brings_back_an_epoch_before_the_zeros(tmp_path):
    from edgekit.recipe import load_recipe

    stop = "[keras.callbacks.EarlyStopping('loss', min_delta=99, patience=1, "
    recipe = recipe_file(tmp_path, callbacks=stop + "restore_best_weights=True), *callbacks]")
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    made, done = make(path, tmp_path, Pruning("sparse", 0.5), recipe=str(recipe), epochs=20)
    assert any(line.startswith("epoch 20/20") for line in done["said"])
    assert zeros_of(made) == {"hidden": 0.5, "y": 0.5}


def test_what_tfmot_cannot_follow_is_pruned_natively_and_said(tmp_path):
    import keras

    x = keras.Input((6, 8), name="x")
    y = keras.layers.EinsumDense("abc,cd->abd", (None, 4), name="einsum")(x)
    y = keras.layers.Bidirectional(keras.layers.GRU(4), name="both")(y)
    model = keras.Model(x, keras.layers.Dense(2, name="y")(y))
    path = saved(model, tmp_path / "m.keras")
    rows = np.random.default_rng(0).normal(size=(32, 6, 8)).astype(np.float32)
    lesson = {"feed": {"x": rows}, "targets": {"y": rows[:, 0, :2]}, "epochs": 1}
    made, done = make(path, tmp_path, Pruning("sparse", 0.5), **lesson)
    assert done["engine"] == "native"
    assert "TFMOT does not prune EinsumDense ('einsum')" in done["notes"][0]
    assert zeros_of(made) == {"einsum": 0.5, "both": 0.5, "y": 0.5}


def test_equal_weights_are_pruned_all_the_same(tmp_path):
    """TFMOT keeps all weights that are as large as the last one that stays."""
    import keras

    x = keras.Input((8,), name="x")
    model = keras.Model(x, keras.layers.Dense(4, kernel_initializer="ones", name="y")(x))
    path = saved(model, tmp_path / "m.keras")
    made, done = make(
        path,
        tmp_path,
        Pruning("sparse", 0.5),
        feed={"x": np.zeros((32, 8), np.float32)},
        targets={"y": np.zeros((32, 4), np.float32)},
        epochs=1,
    )
    assert done["engine"] == "native"
    assert "'y' was not pruned" in done["notes"][0]
    assert zeros_of(made) == {"y": 0.5}


def test_zeros_come_fast_at_first_and_are_all_there_before_the_end():
    from edgekit.toolchain.sparsity import RAMP, Schedule

    schedule = Schedule()
    levels = []
    for step in range(1, 301):
        schedule.is_due(step / 300)
        levels.append(schedule.level)
    assert levels == sorted(levels)
    assert levels[0] >= 0
    assert levels[int(150 * RAMP)] == pytest.approx(1 - 0.5**3, abs=0.02)
    assert levels.index(1) == round(300 * RAMP) - 1
    assert Schedule().is_due(1)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("is_counted", [True, False])
def test_the_share_of_the_training_that_is_done_is_told(is_counted):
    import keras
    import tensorflow as tf

    from edgekit.toolchain.callbacks import as_it_goes

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    rows = tf.data.Dataset.from_tensors((np.ones((2, 1)), np.ones((2, 1)))).repeat(4)
    if not is_counted:
        rows = rows.filter(lambda x, y: True)
    before, after = [], []
    callback = as_it_goes(keras, before=before.append, after=after.append)
    model.fit(rows, epochs=2, shuffle=False, verbose=0, callbacks=[callback])
    if is_counted:
        assert before == [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1.0]
        assert after == [*before, 1.0]
    else:
        assert sorted(set(before)) == [0.0, 0.5]
        assert sorted(set(after)) == [0.0, 0.5, 1.0]

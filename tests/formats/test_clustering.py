"""Weights that share a few values, by TFMOT and natively."""

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
    import keras

    keras.utils.set_random_seed(0)
    model = small_cnn(keras)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    return saved(model, tmp_path_factory.mktemp("cnn") / "small.keras")


@pytest.fixture
def lesson():
    feed, targets = images()
    return {"feed": feed, "targets": targets, "epochs": 2}


def values_of(path):
    return {name: max(len(np.unique(k)) for k in ks) for name, ks in kernels_of(path).items()}


@pytest.mark.parametrize("engine", [*ENGINES, "at once"])
def test_each_layer_has_as_many_values_as_asked_for(engine, cnn, lesson, tmp_path):
    pruning = Pruning("cluster", 16, layers=(("conv", 6), ("label", 0)))
    taught = {} if engine == "at once" else {**lesson, "engine": engine}
    made, done = make(cnn, tmp_path, pruning, **taught)
    assert done["engine"].partition(" ")[0] == ("native" if engine == "at once" else engine)
    before, after = values_of(cnn), values_of(made)
    assert 4 <= after["conv"] <= 6
    assert 12 <= after["separable"] <= 16
    assert 12 <= after["transposed"] <= 16
    assert after["label"] > 16
    assert done["layers"] == [
        {"name": name, "before": before[name], "after": after[name]}
        for name in ("conv", "separable", "transposed")
    ]
    old, new = load(cnn), load(made)
    assert new.get_config() == old.get_config()
    for name in ("separable", "transposed"):
        [one], [other] = kernels_of(cnn)[name], kernels_of(made)[name]
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97
    if engine != "at once":
        assert not np.array_equal(*(m.get_layer("label").get_weights()[0] for m in (old, new)))


@pytest.mark.parametrize("engine", [*ENGINES, "at once"])
def test_zeros_are_kept_where_asked(engine, cnn, lesson, tmp_path):
    sparse, _ = make(cnn, tmp_path, Pruning("sparse", 0.7))
    path = saved(load(sparse), tmp_path / "sparse.keras")
    taught = {} if engine == "at once" else {**lesson, "engine": engine}
    clustered, done = make(path, tmp_path, Pruning("cluster", 8), **taught, keeps_zeros=True)
    assert done["engine"].partition(" ")[0] == ("native" if engine == "at once" else engine)
    for name, kernels in kernels_of(path).items():
        for before, after in zip(kernels, kernels_of(clustered)[name], strict=True):
            assert (after[before == 0] == 0).all()
            assert len(np.unique(after)) <= 8
            assert (after[before != 0] != 0).mean() > 0.9


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_again_gives_the_same_weights(engine, cnn, lesson, tmp_path):
    first, again = (
        load(make(cnn, tmp_path, Pruning("cluster", 8), **lesson, engine=engine)[0]).get_weights()
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("fault", [{"callbacks": "[]"}, {"after": "twice.train_on_batch({0})"}])
def test_a_recipe_that_undoes_it_is_found_out(fault, tmp_path):
    from edgekit.recipe import load_recipe

    said = {k: v.format("feed['x'], targets['y']") for k, v in fault.items()}
    recipe = recipe_file(tmp_path, **said)
    path = saved(load_recipe(recipe).build(), tmp_path / "m.keras")
    with pytest.raises(ConversionError, match="'hidden' was not clustered"):
        make(path, tmp_path, Pruning("cluster", 4), recipe=str(recipe), engine="native")


def test_what_tfmot_cannot_follow_is_clustered_natively_and_said(tmp_path):
    import keras

    x = keras.Input((6, 8), name="x")
    y = keras.layers.Bidirectional(keras.layers.GRU(4), name="both")(x)
    path = saved(keras.Model(x, keras.layers.Dense(12, name="y")(y)), tmp_path / "m.keras")
    rows = np.random.default_rng(0).normal(size=(32, 6, 8)).astype(np.float32)
    lesson = {"feed": {"x": rows}, "targets": {"y": np.zeros((32, 12))}, "epochs": 1}
    made, done = make(path, tmp_path, Pruning("cluster", 4), **lesson)
    assert done["engine"] == "native"
    assert "TFMOT does not cluster Bidirectional ('both')" in done["notes"][0]
    assert max(values_of(made).values()) <= 4


@pytest.mark.parametrize("keeps_zeros", [False, True])
def test_a_kernel_with_few_values_stays_as_it_is(keeps_zeros, tmp_path):
    import keras

    x = keras.Input((2,), name="x")
    path = saved(keras.Model(x, keras.layers.Dense(3, name="y")(x)), tmp_path / "m.keras")
    made, _ = make(path, tmp_path, Pruning("cluster", 16), keeps_zeros=keeps_zeros)
    assert np.array_equal(kernels_of(path)["y"], kernels_of(made)["y"])


def test_clusters_are_intervals_of_the_same_width():
    from edgekit.toolchain.clustering import clusters

    values = np.random.default_rng(0).normal(size=5000)
    labels = clusters(values, 16)
    assert sorted(set(labels)) == list(range(labels.max() + 1))
    assert 12 <= labels.max() < 16
    assert (np.diff(labels[np.argsort(values)]) >= 0).all()
    widths = [np.ptp(values[labels == i]) for i in range(labels.max() + 1)]
    assert max(widths) <= np.ptp(values) / 15
    few = np.array([3.0, 1.0, 3.0, 2.0])
    assert clusters(few, 4).tolist() == [2, 0, 2, 1]

"""The recipes of small data: which rows each split has, and what their figures are."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest

from edgekit.recipe import SPLITS, load_recipe

CALIFORNIA = [
    "california_mlp",
    "wide_deep",
    "wide_deep_multi_input",
    "wide_deep_multi_output",
    "wide_deep_subclassed",
    "mlp_search",
]
MNIST = ["mnist_mlp", "mnist_functional"]


def splits_of(name, row_of):
    """The rows of each split as a set of ids; no two rows of a split may be the same."""
    ids = {}
    for split in SPLITS:
        feed, targets = load_recipe(name).data(split)
        rows = row_of(feed, targets)
        ids[split] = set(rows)
        again = load_recipe(name).data(split)[0]
        for key, array in feed.items():
            np.testing.assert_array_equal(array, again[key])
    assert not ids["test"] & (ids["train"] | ids["validation"] | ids["calibration"])
    assert not ids["train"] & ids["validation"]
    assert ids["calibration"] <= ids["train"]
    return ids


@pytest.mark.parametrize("name", CALIFORNIA)
def test_california_splits(name, tmp_path, monkeypatch):
    # Each district has its number in every feature but the fifth, and in its price.
    rows = 1_600
    x = np.repeat(np.arange(rows, dtype=np.float64)[:, np.newaxis], 8, axis=1)
    x[:, 5] = np.where(np.arange(rows) % 10 == 0, 500, 3)
    np.savez(tmp_path / "california_housing.npz", x=x, y=np.arange(rows, dtype=np.float64))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    crowded = {}

    def row_of(feed, targets):
        assert all(a.dtype == np.float32 for a in [*feed.values(), *targets.values()])
        assert all(price.shape == (len(price), 1) for price in targets.values())
        [first, *others] = feed.values()
        if others:
            assert list(feed) == ["wide", "deep"]
            assert feed["wide"].shape[1:] == (5,)
            assert feed["deep"].shape[1:] == (6,)
            np.testing.assert_array_equal(feed["deep"][:, 0], feed["wide"][:, 2])
            people = feed["deep"][:, 3]
        else:
            assert feed["district"].shape[1:] == (8,)
            people = feed["district"][:, 5]
        for price in targets.values():
            np.testing.assert_array_equal(price[:, 0], first[:, 0])
        crowded[len(crowded)] = (people == 500).any()
        return [int(number) for number in first[:, 0]]

    ids = splits_of(name, row_of)
    assert {k: len(v) for k, v in ids.items() if k != "validation"} == {
        "train": 900,
        "calibration": 500,
        "test": 400,
    }
    everything = ids["train"] | ids["validation"] | ids["test"]
    assert all(number % 10 == 0 for number in set(range(rows)) - everything)
    assert list(crowded.values()) == [split != "validation" for split in SPLITS]


@pytest.mark.parametrize("name", CALIFORNIA)
def test_prices_are_judged_by_the_root_mean_square(name):
    recipe = load_recipe(name)
    assert (recipe.task, recipe.metric, recipe.higher_is_better) == ("regression", "rmse", False)
    wanted = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    off = wanted + np.array([[3], [-3], [3], [5]], np.float32)
    outputs = {"price": off, "deep_price": wanted + 2}
    targets = {"price": wanted, "deep_price": wanted}
    figures = recipe.evaluate(outputs, targets)
    assert figures["rmse"] == pytest.approx(np.sqrt(13))
    assert figures.get("rmse_deep", 2) == pytest.approx(2)
    has_two = name in ("wide_deep_multi_output", "wide_deep_subclassed")
    assert ("rmse_deep" in figures) is has_two


def test_boston_splits_are_those_of_the_books(tmp_path, monkeypatch):
    x = np.repeat(np.arange(506.0)[:, np.newaxis], 13, axis=1)
    np.savez(tmp_path / "boston_housing.npz", x=x, y=np.arange(506.0))
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        np.testing.assert_array_equal(feed["house"][:, :1], targets["price"])
        assert feed["house"].shape[1:] == (13,)
        return [int(number) for number in targets["price"][:, 0]]

    ids = splits_of("boston_kfold", row_of)
    assert {k: len(v) for k, v in ids.items()} == {
        "train": 360,
        "validation": 44,
        "calibration": 360,
        "test": 102,
    }
    indices = np.arange(506)
    np.random.RandomState(113).shuffle(indices)  # keras.datasets.boston_housing.load_data()
    assert ids["test"] == set(indices[404:])


def test_boston_is_judged_by_the_mean_absolute_error():
    recipe = load_recipe("boston_kfold")
    assert (recipe.task, recipe.metric, recipe.higher_is_better) == ("regression", "mae", False)
    outputs, targets = {"price": np.array([[1.0], [5.0]])}, {"price": np.array([[3.0], [4.0]])}
    assert recipe.evaluate(outputs, targets) == {"mae": 1.5}


def test_single_epochs_do_not_decide_how_long_is_trained():
    smooth = load_recipe("boston_kfold").module._smooth
    errors = np.abs(np.arange(100) - 60) / 10 + 3
    assert np.argmin(smooth(errors)) == 60
    errors[20] = 2  # a lucky one
    assert np.argmin(errors) == 20
    assert np.argmin(smooth(errors)) == 60
    assert len(smooth(errors)) == 100
    for few in (1, 2, 5):
        assert len(smooth(errors[:few])) == few


@pytest.mark.parametrize("name", MNIST)
def test_mnist_splits(name, tmp_path, monkeypatch):
    # Each image tells its part, 0 for training and 1 for the test, and its row.
    arrays = {}
    for is_test, (part, rows) in enumerate({"train": 10_020, "test": 30}.items()):
        images = np.zeros((rows, 28, 28), np.uint8)
        images[:, 0, 0] = is_test
        images[:, 0, 1], images[:, 0, 2] = np.divmod(np.arange(rows), 256)
        arrays |= {f"x_{part}": images, f"y_{part}": (np.arange(rows) % 10).astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        assert feed["image"].shape[1:] == (28, 28)
        assert feed["image"].dtype == np.float32
        ids = feed["image"][:, 0, :3].astype(int)
        np.testing.assert_array_equal((256 * ids[:, 1] + ids[:, 2]) % 10, targets["digit"])
        return [tuple(row) for row in ids]

    assert {k: len(v) for k, v in splits_of(name, row_of).items()} == {
        "train": 9_000,
        "validation": 1_000,
        "calibration": 500,
        "test": 30,
    }


@pytest.mark.parametrize("name", MNIST)
def test_digits_are_judged_by_their_accuracy(name):
    outputs = {"digit": np.eye(10, dtype=np.float32)}
    targets = {"digit": np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0])}
    figures = load_recipe(name).evaluate(outputs, targets)
    assert figures["accuracy"] == 0.8
    if name == "mnist_functional":  # two rows of ten have two of ten probabilities off by 1
        assert figures["rmse"] == pytest.approx(np.sqrt(4 / 100))


def test_the_drawn_loss_rises_and_falls():
    blocks = load_recipe("mnist_functional").module.blocks
    assert blocks([8.0, 4.0, 0.0]) == "█▄▁"
    assert blocks([8.0] * 80 + [0.0] * 80, width=4) == "██▁▁"


def test_iris_flowers_with_the_same_petals_stay_together():
    def row_of(feed, targets):
        assert targets["setosa"].shape == (len(feed["petal"]), 1)
        # Of the three kinds, setosa alone has petals shorter than 2.5 cm.
        np.testing.assert_array_equal(feed["petal"][:, :1] < 2.5, targets["setosa"] == 1)
        assert 0 < targets["setosa"].mean() < 1
        rows[len(rows)] = len(feed["petal"])
        return [tuple(petal) for petal in feed["petal"].tolist()]

    rows = {}
    splits_of("perceptron_iris", row_of)
    counts = dict(zip(SPLITS, rows.values(), strict=True))
    assert counts["train"] + counts["validation"] + counts["test"] == 150
    assert counts["test"] >= 30


def test_two_clouds():
    def row_of(feed, targets):
        assert feed["point"].dtype == np.float32
        assert 0.4 < targets["cloud"].mean() < 0.6
        second = targets["cloud"][:, 0] == 1
        assert feed["point"][second].mean(axis=0) == pytest.approx([3, 0], abs=0.3)
        assert feed["point"][~second].mean(axis=0) == pytest.approx([0, 3], abs=0.3)
        return [tuple(point) for point in feed["point"].tolist()]

    assert {k: len(v) for k, v in splits_of("linear_2d", row_of).items()} == {
        "train": 1_300,
        "validation": 200,
        "calibration": 300,
        "test": 500,
    }


@pytest.mark.parametrize("split", SPLITS)
def test_xor_is_exclusive_or(split):
    feed, targets = load_recipe("xor_mlp").data(split)
    a, b = feed["bits"].astype(bool).T
    np.testing.assert_array_equal(targets["xor"][:, 0], a ^ b)
    assert {tuple(bits) for bits in feed["bits"]} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("perceptron_iris", "setosa"),
        ("xor_mlp", "xor"),
        ("linear_2d", "cloud"),
        ("imdb_mlp", "good"),
    ],
)
def test_one_score_is_for_the_second_class_from_a_half_on(name, output):
    recipe = load_recipe(name)
    assert (recipe.task, recipe.metric) == ("classification", "accuracy")
    scores = np.array([[0.5], [0.49], [1.2], [-0.3]], np.float32)
    targets = np.array([[1], [0], [1], [1]])
    assert recipe.evaluate({output: scores}, {output: targets}) == {"accuracy": 0.75}


def write_texts(path, rows, texts):
    """`texts(part, row)` are the ids of a text; the labels take turns."""
    arrays = {}
    for part, count in rows.items():
        these = [np.array(texts(part, row), np.uint16) for row in range(count)]
        arrays |= {
            f"{part}_tokens": np.concatenate(these),
            f"{part}_lengths": np.array([len(text) for text in these]),
            f"{part}_labels": (np.arange(count) % 2).astype(np.uint8),
        }
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("name", "data", "rows", "width"),
    [
        ("imdb_mlp", "imdb", {"train": 5_510, "validation": 5_000}, 512),
        ("reuters_mlp", "reuters", {"train": 1_010, "validation": 500}, 448),
    ],
)
def test_words_come_once(name, data, rows, width, tmp_path, monkeypatch):
    # Words 100 to 9,999 stand for the row; test texts have the word 50 as well.
    def text(part, row):
        own = [100 + row // 90, 5_000 + row % 90]
        return [1, own[1], 7, 20_003, 7, own[0], 10_000, *([50] if part == "test" else [])]

    count = sum(rows.values())
    write_texts(tmp_path / f"{data}.npz", {"train": count, "test": 4}, text)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def row_of(feed, targets):
        words = feed["words"]
        assert words.dtype == np.int32
        assert words.shape[1] == width
        in_test = words[:, 3] == 50
        own = np.where(in_test[:, np.newaxis], words[:, 4:6], words[:, 3:5])
        numbers = 90 * (own[:, 0] - 100) + own[:, 1] - 5_000
        np.testing.assert_array_equal(next(iter(targets.values())).ravel(), numbers % 2)
        np.testing.assert_array_equal(words[:, :3], [[1, 2, 7]] * len(words))
        np.testing.assert_array_equal(np.count_nonzero(words, axis=1), 5 + in_test)
        assert not words[:, 6:].any()
        return [(bool(test), int(number)) for test, number in zip(in_test, numbers, strict=True)]

    assert {k: len(v) for k, v in splits_of(name, row_of).items()} == {
        **rows,
        "train": count - rows["validation"],
        "calibration": 500,
        "test": 4,
    }


@pytest.mark.parametrize(("name", "width"), [("imdb_mlp", 512), ("reuters_mlp", 448)])
def test_of_too_many_different_words_the_rare_ones_are_left_out(name, width):
    module = load_recipe(name).module
    tokens = np.concatenate([[9, 9], np.arange(600, 0, -1), [8]])
    long, short = module._different_words(tokens, np.array([2, 600, 1]), slice(1, None))
    np.testing.assert_array_equal(long, np.arange(1, width + 1))
    np.testing.assert_array_equal(short[:2], [8, 0])


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    """6,003 reviews, each with its number in title and text; two of them are there again."""
    module = load_recipe("tickets").module
    with gzip.open(tmp_path / "clothing_reviews.csv.gz", "wt", newline="") as file:
        out = csv.writer(file)
        out.writerow(["title", "review", "department", "class", "rating", "recommended"])
        for row in [*range(6_000), 0, 0, 5_999]:
            number = f"{7_919 * row % 6_000:04}"  # the first 500 have every digit at every place
            pairs = zip("wxyz", number, strict=True)
            words = " ".join(place + "abcdefghij"[int(digit)] for place, digit in pairs)
            late = "zz " if row >= 500 else ""  # a word that no training review has
            tag, kind = module.TAGS[row % 6], module.DEPARTMENTS[row % 20]
            out.writerow([words.upper(), f"{late}It's {words}!", tag, kind, 1 + row % 5, row % 2])
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    return module


def test_ticket_splits(tickets):
    places = tickets.vocabulary()
    assert set(places["body"]) - set(places["title"]) == {"it's"}
    assert "zz" not in places["body"]

    def row_of(feed, targets):
        assert list(feed) == ["title", "body", "tags"]
        assert all(array.dtype == np.float32 for array in feed.values())
        rows = []
        for title, body in zip(feed["title"], feed["body"], strict=True):
            words = sorted(places["title"][i] for i in np.flatnonzero(title))
            assert {places["body"][i] for i in np.flatnonzero(body)} == {*words, "it's"}
            number = int("".join(str("abcdefghij".index(word[1])) for word in words))
            rows.append(number * pow(7_919, -1, 6_000) % 6_000)
        np.testing.assert_array_equal(targets["priority"][:, 0], np.array(rows) % 2)
        np.testing.assert_array_equal(targets["department"], np.array(rows) % 20)
        np.testing.assert_array_equal(feed["tags"], np.eye(6)[np.array(rows) % 6])
        return rows

    assert splits_of("tickets", row_of) == {
        "train": set(range(500)),
        "validation": set(range(500, 2_000)),
        "calibration": set(range(500)),
        "test": set(range(2_000, 6_000)),
    }


def test_tickets_are_judged_by_both_accuracies():
    recipe = load_recipe("tickets")
    outputs = {
        "priority": np.array([[0.5], [0.2], [0.7], [0.1]], np.float32),
        "department": np.eye(20, dtype=np.float32)[[0, 5, 7, 19]],
    }
    targets = {"priority": np.array([[1], [0], [0], [1]]), "department": np.array([0, 5, 7, 1])}
    assert recipe.evaluate(outputs, targets) == {
        "accuracy": 0.625,
        "accuracy_priority": 0.5,
        "accuracy_department": 0.75,
    }


def test_loudness_splits(tmp_path, monkeypatch):
    # 600 recordings of 22 or 23 frames, each frame a little louder, and of a silent rest.
    counts = np.array([22, 23] * 300)
    lengths = 80 * counts + 11
    samples = np.zeros(lengths.sum(), np.int16)
    starts = np.cumsum(lengths) - lengths
    firsts = np.cumsum(counts) - counts
    for start, first, count in zip(starts, firsts, counts, strict=True):
        loud = 1_000 + 2 * np.arange(first, first + count)
        samples[start : start + 80 * count] = np.repeat(loud, 80)
    takes = np.arange(600) % 50
    arrays = dict.fromkeys(("labels", "speakers", "sample_rate"), np.zeros(600))
    np.savez(tmp_path / "spoken_digits", samples=samples, lengths=lengths, takes=takes, **arrays)
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))

    def numbers(levels):
        return np.round((32_768 * 10 ** (levels / 20.0) - 1_000) / 2).astype(int)

    def row_of(feed, targets):
        assert feed["frames"].shape[1:] == (20, 9)
        assert targets["level"].shape[1:] == (1,)
        assert feed["frames"].dtype == targets["level"].dtype == np.float32
        found = numbers(targets["level"][:, 0])
        np.testing.assert_array_equal(
            numbers(feed["frames"][:, :, 0]), found[:, np.newaxis] + np.arange(-20, 0)
        )
        return found.tolist()

    ids = splits_of("loudness_gru", row_of)
    recordings = {k: {np.searchsorted(firsts, i, "right") - 1 for i in v} for k, v in ids.items()}
    assert {k: {takes[i] for i in v} for k, v in recordings.items()} == {
        "train": set(range(10, 50)),
        "validation": set(range(5, 10)),
        "calibration": set(range(10, 50)),
        "test": set(range(5)),
    }
    # Two windows fit into 22 frames, three into 23.
    assert {k: len(v) for k, v in ids.items()} == {
        "train": 1_200,
        "validation": 156,
        "calibration": 600,
        "test": 144,
    }


def test_levels_are_in_decibels():
    module = load_recipe("loudness_gru").module
    time = np.arange(800) / 8_000
    found = module.frames(np.sin(2 * np.pi * 600 * time))  # in the fourth band, 500 to 800 Hz
    assert found.shape == (10, 9)
    assert found[:, 0] == pytest.approx(10 * np.log10(0.5), abs=0.01)
    assert set(found[:, 1:].argmax(axis=1)) == {3}
    assert module.frames(0.1 * np.sin(2 * np.pi * 600 * time))[:, 0] == pytest.approx(
        found[:, 0] - 20, abs=0.01
    )
    assert (module.frames(np.zeros(100)) == -70).all()


def test_a_forecast_is_judged_by_the_mean_absolute_error():
    recipe = load_recipe("loudness_gru")
    assert (recipe.task, recipe.metric, recipe.higher_is_better) == ("regression", "mae", False)
    outputs, targets = (
        {"level": np.array([[-20.0], [-5.0]])},
        {"level": np.array([[-23.0], [-4.0]])},
    )
    assert recipe.evaluate(outputs, targets) == {"mae": 2}

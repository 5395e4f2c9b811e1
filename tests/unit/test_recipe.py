from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import usercode
from edgekit.errors import RecipeError, WorkspaceError
from edgekit.recipe import load_recipe, recipe_names

USER_RECIPE = """\
import numpy as np

DESCRIPTION = "a line through points"
TASK = "regression"
METRIC = "mae"
HIGHER_IS_BETTER = False
FLOOR = 0.5
EPOCHS = 3


def build():
    return []


def train(model, epochs=EPOCHS, callbacks=()):
    model.append((epochs, list(callbacks)))


def data(split):
    rows = {"train": 8, "validation": 4, "calibration": 2, "test": 4}[split]
    x = np.arange(rows, dtype=np.float32)
    return {"x": x[:, np.newaxis]}, {"y": 2 * x}


def evaluate(outputs, targets):
    return {"mae": np.abs(outputs["y"] - targets["y"]).mean()}
"""


@pytest.fixture
def user_file(tmp_path):
    """Writes a recipe, with one piece of it replaced, and returns its path."""

    def write(old: str = "", new: str = "", name: str = "line.py") -> Path:
        assert old in USER_RECIPE
        path = tmp_path / name
        path.write_text(USER_RECIPE.replace(old, new) if old else USER_RECIPE)
        return path

    return write


def test_loading_imports_no_framework():
    code = (
        "import sys; from edgekit.recipe import load_recipe, recipe_names\n"
        "[load_recipe(name) for name in recipe_names()]\n"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.strip() == "[]"


def test_installed_recipes_come_first(tmp_path, monkeypatch, user_file):
    monkeypatch.setattr(usercode, "__file__", str(tmp_path / "edgekit" / "recipe.py"))
    (tmp_path / "edgekit" / "recipes").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    user_file(name="recipes/beside.py")
    user_file(name="edgekit/recipes/inside.py")
    user_file(name="edgekit/recipes/__init__.py")
    assert recipe_names() == ["inside"]
    assert load_recipe("inside").path == tmp_path / "edgekit" / "recipes" / "inside.py"


def test_an_alternative_is_another_model_of_the_same_recipe(user_file):
    path = user_file("def train(", "def build_small():\n    return ['small']\n\n\ndef train(")
    plain, small = load_recipe(path), load_recipe(f"{path}:small")
    assert (plain.name, small.name) == ("line", "line:small")
    assert (plain.build(), small.build()) == ([], ["small"])
    assert load_recipe(small.reference).build() == ["small"]
    with pytest.raises(RecipeError, match="no alternative 'large'") as caught:
        load_recipe(f"{path}:large")
    assert caught.value.hint == "it has: small"


@pytest.mark.parametrize(
    ("text", "prune"),
    [("structured:0.5", ("structured", 0.5)), ("sparse:.85", ("sparse", 0.85))],
)
def test_a_recipe_may_say_what_is_pruned(user_file, text, prune):
    assert load_recipe(user_file("EPOCHS = 3", f'EPOCHS = 3\nPRUNE = "{text}"')).prune == prune
    assert load_recipe(user_file()).prune is None


@pytest.mark.parametrize("text", ["half", "structured:1.5", "sparse", "cluster:16"])
def test_a_pruning_that_means_nothing_is_refused(user_file, text):
    with pytest.raises(RecipeError, match="PRUNE is"):
        load_recipe(user_file("EPOCHS = 3", f'EPOCHS = 3\nPRUNE = "{text}"'))


def test_user_file(user_file):
    path = user_file()
    recipe = load_recipe(path)
    assert (recipe.name, recipe.path) == ("line", path)
    assert (recipe.task, recipe.metric, recipe.floor) == ("regression", "mae", 0.5)
    assert recipe.higher_is_better is False
    assert recipe.labels is None
    model = recipe.build()
    recipe.train(model)
    recipe.train(model, epochs=1, callbacks=["one"])
    assert model == [(3, []), (1, ["one"])]
    feed, targets = recipe.data("test")
    assert recipe.evaluate({"y": targets["y"] + 0.25}, targets) == {"mae": 0.25}
    assert feed["x"].shape == (4, 1)


def test_reading_writes_nothing_and_sees_every_edit(user_file, tmp_path):
    assert load_recipe(user_file()).epochs == 3
    assert load_recipe(user_file("EPOCHS = 3", "EPOCHS = 4")).epochs == 4
    assert [p.name for p in tmp_path.iterdir()] == ["line.py"]


def test_dataclasses_work_in_a_recipe(user_file):
    dataclass = "@dataclasses.dataclass\nclass Size:\n    width: 'int' = 1\n"
    path = user_file("import numpy as np", f"import dataclasses\nimport numpy as np\n{dataclass}")
    assert load_recipe(path).module.Size().width == 1


def test_unknown_name_lists_the_known_and_the_closest():
    with pytest.raises(RecipeError, match="unknown recipe 'digit_mlp'") as caught:
        load_recipe("digit_mlp")
    assert "did you mean digits_mlp?" in caught.value.hint
    for name in recipe_names():
        assert name in caught.value.hint


def test_missing_file(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe file .*gone\.py"):
        load_recipe(tmp_path / "gone.py")


@pytest.mark.parametrize("name", ["build", "train", "data", "evaluate"])
def test_missing_function_is_named(user_file, name):
    path = user_file(f"def {name}(", f"def {name}_(")
    with pytest.raises(RecipeError, match=rf"line\.py does not define {name}$"):
        load_recipe(path)


def test_all_missing_constants_are_named(user_file):
    path = user_file('METRIC = "mae"\nHIGHER_IS_BETTER = False\n', "")
    with pytest.raises(RecipeError, match=r"does not define METRIC, HIGHER_IS_BETTER$"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"regression"', '"clustering"'),
        ("HIGHER_IS_BETTER = False", "HIGHER_IS_BETTER = 0"),
        ("FLOOR = 0.5", "FLOOR = float('nan')"),
        ("FLOOR = 0.5", "FLOOR = '0.5'"),
        ("EPOCHS = 3", "EPOCHS = 0"),
        ("EPOCHS = 3", "EPOCHS = True"),
        ('METRIC = "mae"', "METRIC = None"),
        ("EPOCHS = 3", "EPOCHS = 3\nLABELS = 'ab'"),
        ("EPOCHS = 3", "EPOCHS = 3\nLABELS = (1, 2)"),
    ],
)
def test_wrong_constant(user_file, old, new):
    with pytest.raises(RecipeError, match=r"line\.py: [A-Z_]+ is ") as caught:
        load_recipe(user_file(old, new))
    assert caught.value.hint.startswith("it must be ")


def test_wrong_arguments(user_file):
    path = user_file("def train(model, epochs=EPOCHS, callbacks=()):", "def train(model, epochs):")
    with pytest.raises(RecipeError, match=r"train cannot be called: .*callbacks") as caught:
        load_recipe(path)
    assert "train(model, epochs=..., callbacks=...)" in caught.value.hint


def test_constant_in_place_of_a_function(user_file):
    path = user_file("def build():\n    return []", "build = []")
    with pytest.raises(RecipeError, match="build cannot be called"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import no_such_package", r"line\.py:1: ModuleNotFoundError: No module named"),
        ("x = 1\ny = x / 0", r"line\.py:2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", r"line\.py:1: SystemExit: 3"),
        ("x = (1,\ny = 2 3", r"line\.py:\d: SyntaxError: "),
    ],
)
def test_broken_file_names_the_line(user_file, statement, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(user_file("import numpy as np", statement))
    assert "\n" not in str(caught.value)


def test_error_in_a_function_names_the_line(user_file):
    path = user_file("    return []", "    items = []\n    return items[1]")
    with pytest.raises(RecipeError, match=r"line\.py:13: build\(\) failed: IndexError: list index"):
        load_recipe(path).build()


def test_own_errors_and_interrupts_pass_through(user_file):
    path = user_file("    model.append((epochs, list(callbacks)))", "    callbacks[0]()")

    def stop(error):
        raise error

    for error in (WorkspaceError("full"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            load_recipe(path).train(None, callbacks=[lambda error=error: stop(error)])
        assert caught.value is error


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"x": x[:, np.newaxis]}, {"y": 2 * x}', "x, 2 * x"),
        ('{"x": x[:, np.newaxis]}, {"y": 2 * x}', '{"x": x}, {}'),
        ('{"y": 2 * x}', '{"y": [1.0, 2.0]}'),
        ('{"y": 2 * x}', '{"y": x[1:]}'),
        ("np.arange(rows", "np.arange(0"),
        ('{"y": 2 * x}', '{"y": x.sum().reshape(())}'),
    ],
)
def test_data_of_another_shape_than_promised(user_file, old, new):
    with pytest.raises(RecipeError, match=r"line\.py: data\('test'\) must return "):
        load_recipe(user_file(old, new)).data("test")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("return 0.5", "must return a dict of numbers"),
        ('return {"mae": "low"}', "must return a dict of numbers"),
        ('return {"mse": 0.5}', "gave no finite 'mae'"),
        ('return {"mae": np.float32("nan")}', "gave no finite 'mae'"),
    ],
)
def test_figures_of_another_shape_than_promised(user_file, new, message):
    path = user_file('return {"mae": np.abs(outputs["y"] - targets["y"]).mean()}', new)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path).evaluate({}, {})


def test_missing_data_reaches_the_user_of_a_recipe(user_file, monkeypatch):
    monkeypatch.delenv("EDGEKIT_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "keras.datasets.tiny", None)  # as if Keras had none
    load = '    from edgekit.datasets import load_npz\n    load_npz("tiny")\n'
    path = user_file("    rows =", f"{load}    rows =")
    with pytest.raises(RecipeError, match="no data set 'tiny'"):
        load_recipe(path).data("train")

"""Recipes: one Python file that builds, trains and judges a model.

A recipe defines, at module level:

    DESCRIPTION = "one line"
    TASK = "classification"                     or "regression"
    METRIC = "accuracy"                         the figure by which models are compared
    HIGHER_IS_BETTER = True
    FLOOR = 0.95                                what METRIC must reach on the test split
    EPOCHS = 20
    DATA = "CIFAR-10"                           optional: what it is trained and tested on
    LABELS = ("cat", "dog")                     optional: the names of the classes
    PRUNE = "structured:0.5"                    optional: what `edgekit run` prunes, or "sparse:0.8"

    build()                                     -> a compiled keras.Model, or a tf.Module
    train(model, epochs=EPOCHS, callbacks=())   fits the model in place
    data(split)                                 -> (feed, targets), for each split of SPLITS
    evaluate(outputs, targets)                  -> {METRIC: figure, ...}, by NumPy alone

A recipe may have alternatives: `build_small()` is that of `name:small`. FLOOR is of `build` alone.
The `__call__` of a tf.Module is a tf.function with an input signature, and gives outputs by name.
A model with classes of the recipe's own is loaded by `build`, too: it has all its weights then.

`feed` holds arrays by input name, as the model takes them; `targets` and `outputs` by output
name. All arrays of a split have the same number of rows. "calibration" is a few hundred rows of
"train"; "test" shares no row with the others.

Keras, TensorFlow and scikit-learn are imported inside the functions, so that reading a recipe
costs nothing. Whoever calls `build` or `train` seeds first (keras.utils.set_random_seed), so
that every recipe is reproducible without saying so; `data` gives the same rows each time.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit import usercode
from edgekit.errors import RecipeError
from edgekit.usercode import bundled_recipes

if TYPE_CHECKING:
    from edgekit.types import Feed

__all__ = ["SPLITS", "Recipe", "Split", "Task", "load_recipe", "recipe_names"]

Split = Literal["train", "validation", "calibration", "test"]
Task = Literal["classification", "regression"]
SPLITS: tuple[Split, ...] = ("train", "validation", "calibration", "test")

_EXAMPLE = "digits_mlp"
_CONSTANTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "DESCRIPTION": ("a string", lambda v: isinstance(v, str)),
    "TASK": ('"classification" or "regression"', lambda v: v in ("classification", "regression")),
    "METRIC": ("a string", lambda v: isinstance(v, str)),
    "HIGHER_IS_BETTER": ("True or False", lambda v: isinstance(v, bool)),
    "FLOOR": ("a number", lambda v: isinstance(v, (int, float)) and math.isfinite(v)),
    "EPOCHS": ("a whole number above 0", lambda v: type(v) is int and v > 0),
    "DATA": ("a string, or left out", lambda v: v is None or isinstance(v, str)),
    "LABELS": ("a tuple of strings, or left out", lambda v: v is None or _is_strings(v)),
    "PRUNE": ('"structured:0.5", "sparse:0.8", or left out', lambda v: v is None or _is_amount(v)),
}
_CALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # function: positional and keyword arguments it is called with
    "build": ((), ()),
    "train": (("model",), ("epochs", "callbacks")),
    "data": (("split",), ()),
    "evaluate": (("outputs", "targets"), ()),
}


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and found complete.

    Its methods call the functions of the file. What goes wrong in there, or comes back in another
    shape than promised, is a RecipeError that names the file and line.
    """

    name: str
    path: Path
    sha256: str
    description: str
    data_set: str | None
    task: Task
    metric: str
    higher_is_better: bool
    floor: float
    epochs: int
    labels: tuple[str, ...] | None
    module: ModuleType = field(repr=False)
    alternative: str = ""
    """The one of its models that is meant; "": the recipe's own."""
    prune: tuple[str, float] | None = None
    """The kind of pruning that `edgekit run` does, and how much."""

    @property
    def reference(self) -> str:
        """The file and the alternative, as `load_recipe` takes them."""
        return f"{self.path}:{self.alternative}" if self.alternative else str(self.path)

    @property
    def builder(self) -> str:
        """The name of the function that builds the model."""
        return f"build_{self.alternative}" if self.alternative else "build"

    def build(self) -> Any:
        """A new compiled `keras.Model`, or a `tf.Module`."""
        return self._call(self.builder)

    def train(self, model: Any, epochs: int | None = None, callbacks: Sequence[Any] = ()) -> None:
        """Fit `model` in place, for the recipe's own number of epochs unless told."""
        self._call(
            "train", model, epochs=self.epochs if epochs is None else epochs, callbacks=callbacks
        )

    def data(self, split: Split) -> tuple[Feed, Feed]:
        """Feed by input name and targets by output name, each array with a row per example."""
        answer = self._call("data", split)
        if not (isinstance(answer, tuple) and len(answer) == 2 and all(map(_is_feed, answer))):
            raise self._broken(
                f"data({split!r})", "must return (feed, targets), two dicts of NumPy arrays by name"
            )
        feed, targets = answer
        rows = {name: len(array) for arrays in answer for name, array in arrays.items()}
        if len(set(rows.values())) != 1 or 0 in rows.values():
            raise self._broken(
                f"data({split!r})", f"must return as many rows for each name, and some: {rows}"
            )
        return feed, targets

    def evaluate(self, outputs: Feed, targets: Feed) -> dict[str, float]:
        """The figures of these outputs; the recipe's `metric` is among them."""
        answer = self._call("evaluate", outputs, targets)
        try:
            figures = {str(name): float(value) for name, value in answer.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise self._broken("evaluate", "must return a dict of numbers by name") from error
        if not math.isfinite(figures.get(self.metric, math.nan)):
            raise self._broken("evaluate", f"gave no finite {self.metric!r}: {figures}")
        return figures

    def _call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        with usercode.errors_of(self.path, RecipeError, f"{function}() failed: "):
            return getattr(self.module, function)(*args, **kwargs)

    def _broken(self, function: str, promise: str) -> RecipeError:
        return RecipeError(
            f"{self.path}: {function} {promise}", hint=f"compare with the recipe {_EXAMPLE}"
        )


def recipe_names() -> list[str]:
    """Names of the recipes that come with edgekit."""
    return sorted(p.stem for p in bundled_recipes().glob("*.py") if not p.name.startswith("_"))


def load_recipe(name_or_path: str | Path, *, sha256: str | None = None) -> Recipe:
    """Read a recipe: one that comes with edgekit, by name, or a file of the user's, by path.

    ":NAME" behind it is one of its alternatives. With `sha256`, a file of another content is
    refused before any of it runs.

    Raises:
        RecipeError: there is none, it is another one than asked for, it cannot be run, or
            something is missing in it.
    """
    name, _, alternative = str(name_or_path).rpartition(":")
    if not (name and alternative.isidentifier()):
        name, alternative = str(name_or_path), ""
    if name in recipe_names():
        return _load(bundled_recipes() / f"{name}.py", alternative, sha256)
    path = Path(name).expanduser()
    if path.suffix == ".py" and path.is_file():
        return _load(path.resolve(), alternative, sha256)
    close = difflib.get_close_matches(path.stem, recipe_names(), n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise RecipeError(
        f"there is no recipe file {name}" if path.suffix == ".py" else f"unknown recipe {name!r}",
        hint=f"{guess}known: {', '.join(recipe_names())}; or give the path of a .py file",
    )


def _load(path: Path, alternative: str, wanted: str | None) -> Recipe:
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if wanted not in (None, digest):
        raise RecipeError(
            f"the recipe {path} was edited, or replaced by another version, after it was used",
            hint="train again into a new folder, or restore the recipe",
        )
    module = usercode.run(source, path, RecipeError, DATA=None, LABELS=None, PRUNE=None)
    _check(module, path)
    if alternative and not callable(getattr(module, f"build_{alternative}", None)):
        known = [name.removeprefix("build_") for name in vars(module) if name.startswith("build_")]
        raise RecipeError(
            f"{path} has no alternative {alternative!r}",
            hint=f"it has: {', '.join(known) or 'none: leave out what follows the colon'}",
        )
    kind, _, amount = (module.PRUNE or "").partition(":")
    return Recipe(
        name=f"{path.stem}:{alternative}" if alternative else path.stem,
        path=path,
        sha256=digest,
        description=module.DESCRIPTION,
        data_set=module.DATA,
        task=module.TASK,
        metric=module.METRIC,
        higher_is_better=module.HIGHER_IS_BETTER,
        floor=float(module.FLOOR),
        epochs=module.EPOCHS,
        labels=None if module.LABELS is None else tuple(module.LABELS),
        module=module,
        alternative=alternative,
        prune=(kind, float(amount)) if kind else None,
    )


def _check(module: ModuleType, path: Path) -> None:
    missing = [name for name in (*_CONSTANTS, *_CALLS) if not hasattr(module, name)]
    if missing:
        raise RecipeError(
            f"{path} does not define {', '.join(missing)}",
            hint=f"compare with the recipe {_EXAMPLE}",
        )
    for name, (wanted, is_valid) in _CONSTANTS.items():
        value = getattr(module, name)
        if not is_valid(value):
            raise RecipeError(f"{path}: {name} is {value!r}", hint=f"it must be {wanted}")
    for name, (positional, keywords) in _CALLS.items():
        try:
            inspect.signature(getattr(module, name)).bind(*positional, **dict.fromkeys(keywords))
        except TypeError as error:
            call = ", ".join([*positional, *(f"{k}=..." for k in keywords)])
            raise RecipeError(
                f"{path}: {name} cannot be called: {error}",
                hint=f"it is called as {name}({call})",
            ) from error


def _is_strings(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)


def _is_amount(value: object) -> bool:
    kind, _, amount = str(value).partition(":")
    return kind in ("structured", "sparse") and bool(re.fullmatch(r"0?\.\d+", amount))


def _is_feed(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in value.items())
        and all(v.ndim > 0 for v in value.values())
    )

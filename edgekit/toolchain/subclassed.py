"""What a subclassed model takes: no graph of layers tells it, but the calls that built it do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.errors import SourceError


@dataclass(frozen=True)
class Taken:
    """`inputs` are (name, shape, dtype) of each tensor, for any number of rows.

    `arguments` makes of the tensors, in this order, what call() takes: positional ones and others
    by name.
    """

    inputs: list[tuple[str, tuple[int | None, ...], Any]]
    arguments: Callable[[list[Any]], tuple[list[Any], dict[str, Any]]]


def taken(model: Any) -> Taken:
    """The inputs of a subclassed keras.Model or tf_keras.Model that was called or built.

    Keras 3 keeps shapes only: such inputs are taken as float32.

    Raises:
        SourceError: it was not, or its file tells less than its call() needs.
    """
    shapes = _built_by(model)
    if len(shapes) > 1:  # build() has an argument for each of call()'s
        names = [key.removesuffix("_shape") for key in shapes]
        inputs = [_described(n, s) for n, s in zip(names, shapes.values(), strict=True)]
        return Taken(inputs, lambda flat: ([], dict(zip(names, flat, strict=True))))
    argument = _only_argument(model)
    given = next(iter(shapes.values()))
    if isinstance(given, dict):
        keys = sorted(given)
        inputs = [_described(key, given[key]) for key in keys]
        return Taken(inputs, lambda flat: ([dict(zip(keys, flat, strict=True))], {}))
    if _is_several(given):
        inputs = [_described(f"{argument}_{i}", item) for i, item in enumerate(given)]
        return Taken(inputs, lambda flat: ([flat], {}))
    return Taken([_described(argument, given)], lambda flat: (flat, {}))


def _built_by(model: Any) -> dict[str, Any]:
    """Shapes, or TensorSpecs, by the argument of build() that has them; each may be nested."""
    try:
        (first, *_), _ = model.save_spec()  # tf_keras
        return {"input_shape": first}
    except (AttributeError, TypeError, ValueError):
        pass
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes and getattr(model, "_build_input_shape", None):  # tf_keras, from a .keras file
        shapes = {"input_shape": model._build_input_shape}
    if not shapes:
        raise SourceError(
            f"the model {model.name!r} has no defined inputs: it was saved before it was built",
            hint="call it once on a batch of data, then save it again",
        )
    return dict(shapes)


def _only_argument(model: Any) -> str:
    """The name of call()'s argument, where Keras keeps the shape of one alone."""
    parameters = inspect.signature(model.call).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    if len(needed) > 1:
        raise SourceError(
            f"the model {model.name!r} takes {', '.join(needed)}, and its file tells the shape of "
            f"{needed[0]} alone",
            hint="let call() take one dict of inputs, or define build() with a shape for each",
        )
    return needed[0] if needed else "inputs"


def _is_several(given: Any) -> bool:
    """Whether it is a list of shapes rather than one shape."""
    is_list = isinstance(given, (list, tuple))
    return is_list and any(isinstance(g, (list, tuple)) or hasattr(g, "shape") for g in given)


def _described(name: str, given: Any) -> tuple[str, tuple[int | None, ...], Any]:
    shape = getattr(given, "shape", given)
    return name, (None, *tuple(shape)[1:]), getattr(given, "dtype", "float32")

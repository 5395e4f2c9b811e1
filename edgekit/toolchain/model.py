"""A loaded model as a function of tensors by Keras name, whatever made it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.types import TensorSpec

Tensors = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """A model's inference, `call`, from tensors by input name to tensors by output name.

    Both in the model's own order; a dict's names are sorted, as Keras flattens them. `inputs` have
    the Keras names; a `shape` begins with the number of rows the model is fixed to, or None.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    call: Callable[[Mapping[str, Any]], Tensors]
    variables: tuple[Any, ...]
    parameters: int
    layers: tuple[Any, ...] = ()
    """All Keras layers, nested ones included; a SavedModel has none."""

    @property
    def fixed_batch(self) -> int | None:
        """The number of rows that the model was built for; None: any."""
        return self.inputs[0].shape[0]


def of_keras(model: Any, input_names: Sequence[str] | None = None) -> Model:
    """The `Model` of a built keras.Model or tf_keras.Model.

    `input_names` take the place of the names that Keras gave to the inputs.

    Raises:
        SourceError: the model was never built, so that nothing tells its inputs.
    """
    inputs = _symbolic_inputs(model)
    if inputs is None:
        specs, feed = _inputs_of_calls(model)
    else:
        names, tensors = inputs
        names = list(input_names or names)
        specs = [_spec(n, t.shape, t.dtype) for n, t in zip(names, tensors, strict=True)]
        structure = _structure(model, "inputs")
        order = [spec.name for spec in specs]

        def feed(given: Mapping[str, Any]) -> Any:
            return _pack(structure, [given[name] for name in order])

    def call(given: Mapping[str, Any]) -> Tensors:
        packed = feed(given)
        if isinstance(packed, _Keywords):
            return _name_outputs(model, model(**packed, training=False))
        return _name_outputs(model, model(packed, training=False))

    return Model(
        name=model.name,
        inputs=tuple(specs),
        call=call,
        variables=tuple(_variables(model)),
        parameters=int(model.count_params()),
        layers=tuple(model._flatten_layers()),
    )


def functional_of(model: Any) -> Any:
    """The graph of layers of a Functional or Sequential model, or None where there is none."""
    functional = getattr(model, "_functional", None) or model  # a Keras 3 Sequential wraps one
    is_graph = getattr(functional, "_nodes_by_depth", None) and _symbolic_inputs(model)
    return functional if is_graph else None


def unique(names: Sequence[str]) -> list[str]:
    """Names made unique by _1, _2 ..., as two outputs of one layer share the layer's name."""
    seen: dict[str, int] = {}
    numbered = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        numbered.append(name if count == 0 else f"{name}_{count}")
    return numbered


class _Keywords(dict[str, Any]):
    """Inputs that a subclassed model takes as separate arguments."""


def _variables(model: Any) -> Iterator[tf.Variable]:
    """TensorFlow's variables, which Keras 3 has behind its own; Keras 2 also lists tables."""
    for variable in model.variables:
        found = variable if isinstance(variable, tf.Variable) else getattr(variable, "value", None)
        if isinstance(found, tf.Variable):
            yield found


def _spec(name: str, shape: Any, dtype: Any) -> TensorSpec:
    dims = tuple(None if d is None else int(d) for d in shape)
    return TensorSpec(name=name, native=name, shape=dims, dtype=tf.as_dtype(dtype).name)


def _symbolic_inputs(model: Any) -> tuple[list[str], list[Any]] | None:
    """Names and symbolic tensors of the inputs; None: it is no graph of layers."""
    try:
        tensors = list(model.inputs)
    except (AttributeError, ValueError, TypeError):
        tensors = []
    if not tensors:
        return None
    structure = _structure(model, "inputs")
    if isinstance(structure, dict):
        # Keras flattens a dict in sorted key order; its keys are what the user feeds.
        return sorted(structure), [structure[k] for k in sorted(structure)]
    return unique([t.name for t in tensors]), tensors


def _structure(model: Any, side: str) -> Any:
    """The model's inputs or outputs as the user nested them."""
    functional = getattr(model, "_functional", None) or model
    if hasattr(functional, f"_{side}_struct"):
        return getattr(functional, f"_{side}_struct")
    return getattr(functional, f"_nested_{side}")  # tf_keras


def _pack(structure: Any, flat: list[Any]) -> Any:
    if isinstance(structure, dict):
        return dict(zip(sorted(structure), flat, strict=True))
    if isinstance(structure, (list, tuple)):
        return tf.nest.pack_sequence_as(tf.nest.map_structure(lambda _: 0, structure), flat)
    return flat[0]


def _inputs_of_calls(model: Any) -> tuple[list[TensorSpec], Callable[[Mapping[str, Any]], Any]]:
    """What a subclassed model was called with when it was built; any number of rows.

    Keras 3 keeps shapes only: such inputs are taken as float32.
    """
    saved = _saved_spec(model)
    shapes = getattr(model, "_build_shapes_dict", None) or {}
    if saved is None and not shapes and getattr(model, "_build_input_shape", None):  # tf_keras
        shapes = {"input_shape": model._build_input_shape}
    if saved is None and not shapes:
        raise SourceError(
            f"the model {model.name!r} has no defined inputs: it was saved before it was built",
            hint="call it once on a batch of data, then save it again",
        )
    if saved is not None:
        given: Any = saved
    elif len(shapes) == 1:
        given = next(iter(shapes.values()))
        _check_arguments(model)
        if not isinstance(given, dict) and not _is_shapes(given):
            given = {_first_argument(model): given}
            single = next(iter(given))
            return [_free(single, given[single])], lambda feed: feed[single]
    else:  # one entry per argument of call(): "<argument>_shape"
        named = {key.removesuffix("_shape"): shape for key, shape in shapes.items()}
        return [_free(n, s) for n, s in named.items()], lambda feed: _Keywords(feed)
    if isinstance(given, dict):
        order = sorted(given)
        return [_free(n, given[n]) for n in order], lambda feed: {n: feed[n] for n in order}
    if isinstance(given, (list, tuple)):
        names = unique([getattr(s, "name", None) or f"input_{i}" for i, s in enumerate(given)])
        specs = [_free(n, s) for n, s in zip(names, given, strict=True)]
        return specs, lambda feed: [feed[n] for n in names]
    name = given.name or _first_argument(model)
    return [_free(name, given)], lambda feed: feed[name]


def _saved_spec(model: Any) -> Any:
    """tf_keras keeps the TensorSpecs of the first call."""
    try:
        (first, *_), _ = model.save_spec()
    except (AttributeError, TypeError, ValueError):
        return None
    return first


def _is_shapes(value: Any) -> bool:
    """Whether it is a list of shapes rather than one shape."""
    return isinstance(value, (list, tuple)) and any(isinstance(v, (list, tuple)) for v in value)


def _free(name: str, shape: Any) -> TensorSpec:
    dtype = getattr(shape, "dtype", "float32")
    dims = getattr(shape, "shape", shape)
    return _spec(name, (None, *list(dims)[1:]), dtype)


def _check_arguments(model: Any) -> None:
    """Keras keeps the shape of one argument where build() takes one."""
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


def _first_argument(model: Any) -> str:
    return next(iter(inspect.signature(model.call).parameters))


def _name_outputs(model: Any, outputs: Any) -> Tensors:
    """Outputs by Keras name, in the model's order."""
    if isinstance(outputs, Mapping):
        return {str(k): outputs[k] for k in sorted(outputs)}
    flat = tf.nest.flatten(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    functional = getattr(model, "_functional", None) or model
    names = list(getattr(functional, "output_names", None) or [])
    if len(names) != len(flat):
        names = [f"output_{i}" for i in range(len(flat))]
    return dict(zip(unique(names), flat, strict=True))

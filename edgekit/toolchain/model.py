"""A loaded model as a function of tensors by Keras name, whatever made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from edgekit.toolchain import subclassed
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
        taken = subclassed.taken(model)
        specs = [_spec(*described) for described in taken.inputs]
        arguments = taken.arguments
    else:
        names, tensors = inputs
        names = list(input_names or names)
        specs = [_spec(n, t.shape, t.dtype) for n, t in zip(names, tensors, strict=True)]
        structure = _structure(model, "inputs")

        def arguments(flat: list[Any]) -> tuple[list[Any], dict[str, Any]]:
            return [_pack(structure, iter(flat))], {}

    def call(given: Mapping[str, Any]) -> Tensors:
        values, keywords = arguments([given[spec.name] for spec in specs])
        return _name_outputs(model, model(*values, **keywords, training=False))

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
    taken = set(names)
    seen: set[str] = set()
    numbered = []
    for name in names:
        free, count = name, 0
        while free in seen or (count and free in taken):
            count += 1
            free = f"{name}_{count}"
        seen.add(free)
        numbered.append(free)
    return numbered


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
    if isinstance(structure, Mapping):
        # What the user feeds are the keys, which Keras sorts.
        return tuple(map(list, zip(*_flat_dict(structure), strict=True)))  # type: ignore[return-value]
    return unique([t.name for t in tensors]), tensors


def _structure(model: Any, side: str) -> Any:
    """The model's inputs or outputs as the user nested them."""
    functional = getattr(model, "_functional", None) or model
    if hasattr(functional, f"_{side}_struct"):
        return getattr(functional, f"_{side}_struct")
    return getattr(functional, f"_nested_{side}")  # tf_keras


def _pack(structure: Any, flat: Iterator[Any]) -> Any:
    """`structure` with the next items of `flat` for its tensors; dicts in the order of keys."""
    if isinstance(structure, Mapping):
        return {key: _pack(structure[key], flat) for key in sorted(structure)}
    if isinstance(structure, (list, tuple)):
        items = [_pack(item, flat) for item in structure]
        return tuple(items) if isinstance(structure, tuple) else items
    return next(flat)


def _name_outputs(model: Any, outputs: Any) -> Tensors:
    """Outputs by Keras name, in the model's order; those inside of others are numbered."""
    if isinstance(outputs, Mapping):
        return dict(_flat_dict(outputs))
    functional = getattr(model, "_functional", None) or model
    names = list(getattr(functional, "output_names", None) or [])
    flat = tf.nest.flatten(outputs)
    if len(names) != len(flat):
        names = [f"output_{i}" for i in range(len(flat))]
    return dict(zip(unique(names), flat, strict=True))


def _flat_dict(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in sorted(values):
        yield from _flat(str(key), values[key])


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat(f"{name}_{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _flat(f"{name}_{i}", item)
    else:
        yield name, value

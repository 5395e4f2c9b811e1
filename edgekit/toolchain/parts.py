"""Parts of a graph of layers: what the user names, and what is left without its preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from edgekit.errors import SourceError
from edgekit.toolchain import preprocessing
from edgekit.toolchain.calls import Call, calls_of, layer_name, nested_outputs, rebuild
from edgekit.toolchain.model import functional_of, of_keras, unique
from edgekit.toolchain.preprocessing import Preprocessing


@dataclass(frozen=True)
class Part:
    """A model whose inputs may be tensors inside of another; `input_names` are their new names."""

    model: Any
    input_names: list[str] | None = None


def cut(model: Any, from_layer: str | None, until_layer: str | None) -> Part:
    """The part of `model` from one layer's input until another's output, both included.

    It takes no more than it needs. Inputs of the model keep their names, other tensors have that
    of the layer which makes them.

    Raises:
        SourceError: there is no such layer or part, or the part needs more than the layer's input.
    """
    if from_layer is None and until_layer is None:
        return Part(model)
    graph = functional_of(model)
    if graph is None:
        raise SourceError(
            f"the model {model.name!r} is no graph of layers, from which a part could be taken",
            hint="--from and --until need a Functional or Sequential model",
        )
    calls = calls_of(graph)
    first = None if from_layer is None else _call_named(model, calls, from_layer)
    last = None if until_layer is None else _call_named(model, calls, until_layer)
    outputs = nested_outputs(model) if last is None else last.outputs
    if first is None:
        inputs = list(model.inputs)
    else:
        inputs = first.outputs if first.is_input else _distinct(first.inputs)
    names = _input_names(Part(model))
    needed = _leading_to(outputs, inputs, calls)
    begin = "its inputs" if from_layer is None else repr(from_layer)
    end = "its outputs" if until_layer is None else repr(until_layer)
    part = f"part from {begin} until {end}"
    if all(call.is_input for call in needed) or not (
        first is None or first.is_input or first in needed
    ):
        raise SourceError(
            f"{model.name!r} has no {part}: nothing leads from the one to the other",
            hint="name a layer behind the first as the last",
        )
    open_ends = {id(t) for call in needed if call.is_input for t in call.outputs}
    if others := [name for end, name in names.items() if end in open_ends]:
        raise SourceError(
            f"{model.name!r} has no {part} that stands alone: it needs {', '.join(others)} as well",
            hint="begin behind the point where the branches meet, or at an earlier layer before "
            "they part, or end before they meet: --until LAYER",
        )
    taken = {id(t) for call in needed for t in call.inputs}
    inputs = [t for t in inputs if id(t) in taken]
    _check_cuttable(t for t in inputs if id(t) not in names)
    found = rebuild(model, inputs, outputs, model.name)
    return Part(found, unique([names.get(id(t)) or layer_name(t) for t in inputs]))


def split(part: Part) -> tuple[Part, Preprocessing | None]:
    """`part` without the preprocessing layers that its inputs go through first, and those.

    Raises:
        SourceError: there is nothing else in it, or text and categories are looked up inside too.
    """
    preprocessing.check_adapted(part.model)
    graph = functional_of(part.model)
    calls = [] if graph is None else calls_of(graph)
    before = preprocessing.first_calls(calls)
    if not before:
        preprocessing.check_none_left(part.model)
        return part, None
    raw = _input_names(part)
    made = {id(t) for call in before for t in call.outputs}
    outputs = tf.nest.flatten(nested_outputs(part.model))
    if any(id(t) in made for t in outputs):
        raise SourceError(
            f"an output of {part.model.name!r} comes from preprocessing layers alone "
            f"({', '.join(call.layer.name for call in before)}): no format has them",
            hint="export a model that computes something with it",
        )
    after = [call for call in calls if call not in before and not call.is_input]
    taken = [t for call in after for t in call.inputs] + outputs
    ends = _distinct(t for t in taken if id(t) in made or id(t) in raw)
    _check_cuttable(t for t in ends if id(t) in made)
    rest = rebuild(part.model, ends, nested_outputs(part.model), part.model.name)
    preprocessing.check_none_left(rest)
    found = Preprocessing(
        rebuild(part.model, list(part.model.inputs), ends, "preprocessing"),
        before,
        raw_inputs=list(raw.values()),
        tensor_names=preprocessing.name_tensors(before, raw, set(raw.values())),
        ends=[id(t) for t in ends],
    )
    return Part(rest, found.names), found


def _input_names(part: Part) -> dict[int, str]:
    """What the user calls each input, by the id of its tensor."""
    names = part.input_names or [spec.name for spec in of_keras(part.model).inputs]
    return dict(zip(map(id, part.model.inputs), names, strict=True))


def _call_named(model: Any, calls: Sequence[Call], name: str) -> Call:
    found = [call for call in calls if call.layer.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(
            f"the layer {name!r} is used {len(found)} times in {model.name!r}",
            hint="name the layer before or behind it",
        )
    known = list(dict.fromkeys(call.layer.name for call in calls))
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    raise SourceError(f"{model.name!r} has no layer {name!r}", hint=f"it has: {shown}")


def _leading_to(outputs: Any, inputs: Iterable[Any], calls: Sequence[Call]) -> list[Call]:
    """The calls that make `outputs` of `inputs`, with the model's inputs that these leave open."""
    given = {id(t) for t in inputs}
    wanted = {id(t) for t in tf.nest.flatten(outputs)} - given
    found = []
    for call in reversed(calls):
        if not wanted.isdisjoint(map(id, call.outputs)):
            found.append(call)
            wanted.update({id(t) for t in call.inputs} - given)
    return found


def _distinct(tensors: Iterable[Any]) -> list[Any]:
    return list({id(t): t for t in tensors}.values())


def _check_cuttable(tensors: Iterable[Any]) -> None:
    """Refuse tensors inside of a model that no input of a file can be."""
    for tensor in tensors:
        name, dtype = layer_name(tensor), tf.as_dtype(tensor.dtype).name
        if dtype in ("float16", "bfloat16"):
            raise SourceError(
                f"what the layer {name!r} gives is {dtype}, and so would be the input of files "
                "that begin behind it",
                hint="load and save the model in float32 (keras.config.set_dtype_policy), or "
                "begin at an input of the model",
            )
        kind = type(tensor).__name__  # tf_keras
        for form in ("sparse", "ragged"):
            if getattr(tensor, form, False) or kind.lower().startswith(form):
                raise SourceError(
                    f"what the layer {name!r} gives is a {form} tensor, which no format takes",
                    hint=f"build the layer with {form}=False, or begin behind its use: "
                    "--from LAYER",
                )

"""A model built again with fewer channels, and the proof that it lost those channels alone."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.errors import ConversionError
from edgekit.toolchain import synthetic
from edgekit.toolchain.calls import Call, calls_of, nested_outputs, of_keras_itself, runs_its_graph
from edgekit.toolchain.channel_dependencies import Channels
from edgekit.toolchain.model import functional_of, of_keras
from edgekit.toolchain.translation import keras_of, nested_inputs, outputs_of

SAME = 1e-5
"""How far outputs may be apart, as a share of the largest: what the order of sums explains."""

SAME_IN_16_BITS = 2e-2
"""The same where a layer computes in 16 bits."""

ROWS = 4
"""Random rows for the proof."""


def without(model: Any, channels: Channels, removed: Collection[int]) -> Any:
    """A new model like `model` without the `removed` channels; `model` stays as it is.

    Sequential models stay Sequential, others become Functional, nested ones alike. Layers keep
    their names, settings and weights. It is not compiled.

    Raises:
        ConversionError: a layer cannot be built again, or the new model computes something else
            than `model` with zeros in the weights that take these channels.
    """
    smaller = _Smaller(channels, np.array(sorted(removed), np.int64))
    with keras_of(model).utils.custom_object_scope(_users_objects(model)):
        found = smaller.model(model, zip(model.inputs, model.inputs, strict=True))
    smaller.copy_weights()
    _copy_trainable(model, found)
    _prove(model, found, smaller)
    return found


@dataclass
class _Smaller:
    """Layers built so far, by the id of the old one."""

    channels: Channels
    removed: np.ndarray
    layers: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def model(self, old: Any, inputs: Iterable[tuple[Any, Any]]) -> Any:
        """The model `old` with new weights; it is called with `inputs`, the old and the new."""
        keras, graph = keras_of(old), functional_of(old)
        taken = [_input(keras, t, *pair) for t, pair in zip(graph.inputs, inputs, strict=True)]
        tensors = {id(t): new for t, new in zip(graph.inputs, taken, strict=True)}
        calls = [call for call in calls_of(graph) if not call.is_input]
        if isinstance(old, keras.Sequential):
            found = keras.Sequential(name=old.name)
            found.add(taken[0])
            for call in calls:
                found.add(self.layer(call, taken))
                taken = found.outputs
            return found

        def filled(given: Any) -> Any:
            return tf.nest.map_structure(lambda x: tensors.get(id(x), x), given)

        for call in calls:
            layer = self.layer(call, [tensors[id(t)] for t in call.inputs])
            with _explained(layer):
                made = layer(*filled(tuple(call.args)), **filled(dict(call.kwargs)))
            for tensor, new in zip(call.outputs, tf.nest.flatten(made), strict=True):
                tensors[id(tensor)] = new
        ends = filled(nested_inputs(graph)), filled(nested_outputs(old))
        return keras.Model(*ends, name=old.name)

    def layer(self, call: Call, inputs: Sequence[Any]) -> Any:
        """The new layer, operation or nested model of a call with the new `inputs`."""
        old = call.layer
        if id(old) not in self.layers:
            with _explained(old):
                if _is_graph(old):
                    new = self.model(old, zip(call.inputs, inputs, strict=True))
                else:
                    new = self._built(old)
            self.layers[id(old)] = old, new
        return self.layers[id(old)][1]

    def _built(self, old: Any) -> Any:
        if hasattr(old, "get_vocabulary"):
            return old  # its table is no weight, and not in its configuration
        config = old.get_config()
        if id(old) in self.channels.sizes:
            setting, ids = self.channels.sizes[id(old)]
            count, before = int(self.stays(ids).sum()), config[setting]
            if setting != "target_shape":
                config[setting] = count
            elif before[-1] != -1:
                config[setting] = (*before[:-1], count)
        if type(old).__name__ == "Lambda" and of_keras_itself(old):
            return _lambda(old, config)
        return type(old).from_config(config)

    def stays(self, ids: np.ndarray) -> np.ndarray:
        """(C,) bool: which of these channels do."""
        return ~np.isin(ids, self.removed)

    def copy_weights(self) -> None:
        """Give the new layers what is left of the weights of the old ones."""
        axes: dict[int, list[tuple[int, np.ndarray]]] = {}
        for a in self.channels.axes:
            axes.setdefault(id(a.variable), []).append((a.axis, self.stays(a.ids)))
        for old, new in self.layers.values():
            if _is_graph(old):
                continue
            weights = list(getattr(old, "weights", ())), list(getattr(new, "weights", ()))
            if len(weights[0]) != len(weights[1]):
                raise _not_cut(f"{old.name!r} has another number of weights")
            for one, other in zip(*weights, strict=True):
                value = np.asarray(one)
                for axis, stays in axes.get(id(one), ()):
                    value = np.compress(stays, value, axis)
                if value.shape != tuple(other.shape):
                    raise _not_cut(f"{old.name!r} wants {tuple(other.shape)}, not {value.shape}")
                other.assign(value)

    @contextlib.contextmanager
    def silenced(self) -> Iterator[None]:
        """Within the block, no old layer sees the removed channels."""
        variables = {id(a.variable): a.variable for a in self.channels.axes}
        before = [(v, np.asarray(v).copy()) for v in variables.values()]
        try:
            for axis in self.channels.axes:
                if axis.role == "takes":
                    value = np.moveaxis(np.asarray(axis.variable).copy(), axis.axis, 0)
                    value[~self.stays(axis.ids)] = 0
                    axis.variable.assign(np.moveaxis(value, 0, axis.axis))
            yield
        finally:
            for variable, value in before:
                variable.assign(value)


def _lambda(old: Any, config: Mapping[str, Any]) -> Any:
    """The same function again: Keras would read it from bytes, which it may refuse."""
    settings = {k: config[k] for k in ("name", "trainable", "dtype", "arguments") if k in config}
    return type(old)(old.function, output_shape=old._output_shape, mask=old.mask, **settings)


def _is_graph(layer: Any) -> bool:
    return functional_of(layer) is not None and runs_its_graph(layer)


def _input(keras: Any, symbol: Any, old: Any, new: Any) -> Any:
    """An input like `symbol` for what is given as `new` instead of `old`."""
    shape = tuple(symbol.shape)
    if (len(old.shape), old.shape[-1]) == (len(shape), shape[-1]):  # else Keras makes it so
        shape = (*shape[:-1], new.shape[-1])
    return keras.Input(
        batch_shape=shape,
        dtype=tf.as_dtype(symbol.dtype).name,
        name=symbol.name.removesuffix(":0"),
        sparse=bool(getattr(symbol, "sparse", False)),
    )


def _prove(model: Any, found: Any, smaller: _Smaller) -> None:
    """Compare the new model with the old one that does not see the removed channels.

    Raises:
        ConversionError: they differ.
    """
    described = of_keras(model)
    feed = synthetic.feed(described, described.fixed_batch or ROWS, 0)
    with smaller.silenced():
        wanted = outputs_of(model, feed)
    outputs = outputs_of(found, feed)
    if list(outputs) != list(wanted) or list(feed) != [s.name for s in of_keras(found).inputs]:
        raise _not_cut("inputs or outputs have other names")
    types = {str(getattr(layer, "compute_dtype", "")) for layer in described.layers}
    share = SAME_IN_16_BITS if types & {"float16", "bfloat16"} else SAME
    for name, value in wanted.items():
        one, other = outputs[name].astype(np.float64), value.astype(np.float64)
        if one.shape != other.shape:
            raise _not_cut(f"{name!r} has the shape {one.shape}, not {other.shape}")
        error, scale = (float(np.abs(v).max(initial=0.0)) for v in (one - other, other))
        if not error <= share * scale:  # neither where it is NaN
            raise _not_cut(f"{name!r} is off by {error:.1e} of {scale:.1e}")


def _not_cut(what: str) -> ConversionError:
    return ConversionError(
        f"the model was not cut: with the channels gone, {what}",
        hint="this is a fault of edgekit's: please report it with the model's layers. "
        "--layer NAME=0 leaves a layer out",
    )


@contextlib.contextmanager
def _explained(layer: Any) -> Iterator[None]:
    """Whatever Keras raises, as a ConversionError about `layer`."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as e:  # any of Keras's or of the user's layer, of every kind
        first = next((x.strip() for x in str(e).splitlines() if x.strip()), type(e).__name__)
        raise ConversionError(
            f"the layer {layer.name!r} ({type(layer).__name__}) cannot be built again: {first}",
            hint="does its get_config() tell all that its __init__() takes?",
        ) from e


def _users_objects(model: Any) -> Mapping[str, Any]:
    """Classes and functions that the model's layers have and Keras does not, by their names."""
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        for value in (layer, *vars(layer).values()):
            thing = value if hasattr(value, "__name__") else type(value)
            package = str(getattr(thing, "__module__", "")).partition(".")[0]
            if callable(thing) and package not in ("keras", "tf_keras", "tensorflow", "builtins"):
                found[thing.__name__] = thing
    return found


def _copy_trainable(old: Any, new: Any) -> None:
    """Freeze the layers that are frozen; of a model first, as it does the same to its layers."""
    if hasattr(old, "trainable") and new.trainable != old.trainable:
        new.trainable = old.trainable
    for layer in old.layers if _is_graph(old) else ():
        if type(layer).__name__ != "InputLayer":
            _copy_trainable(layer, new.get_layer(layer.name))

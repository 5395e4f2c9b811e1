"""A graph of Keras layers as plain data, built again in tf_keras: TFMOT knows nothing else.

Layers travel as their configurations, their wiring as the list of their calls. Keras's own
configuration of a whole model counts nodes, each family in its own way, and tf_keras's
`Model.from_config` does not return where a number is wrong.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.errors import ConversionError
from edgekit.toolchain.calls import Call, calls_of, nested_outputs, of_keras_itself, runs_its_graph
from edgekit.toolchain.model import functional_of, of_keras
from edgekit.types import Feed

TOLERANCE = 1e-5
"""How far the outputs of the two models may be apart, as a share of the largest."""

_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
"""Arguments that have another name in tf_keras, by class."""

_OF_ANY_LAYER = {
    "name",
    "trainable",
    "dtype",
    "activity_regularizer",
    "batch_input_shape",
    "implementation",
}
"""Arguments that tf_keras takes through **kwargs."""

Described = dict[str, Any]
"""A model as JSON: `layers` by name, `inputs` and `calls` in the order of their computation, and
what the model `takes` and `gives`; symbolic tensors are {"tensor": number}."""


def keras_of(model: Any) -> Any:
    """The module that the class of `model` comes from: `keras` (3) or `tf_keras`."""
    families = [c.__module__.partition(".")[0] for c in type(model).__mro__]
    return importlib.import_module(next(f for f in families if f in ("keras", "tf_keras")))


def describe(model: Any) -> Described:
    """A Functional or Sequential model of either family, without its weights.

    Raises:
        ConversionError: it is more than a graph of Keras's own layers.
    """
    graph = functional_of(model)
    if graph is None or not runs_its_graph(model):
        raise ConversionError(f"{model.name!r} ({type(model).__name__}) is no graph of layers")
    keras, calls, numbers = keras_of(model), calls_of(graph), dict[int, int]()
    for tensor in (t for call in calls for t in call.outputs):
        numbers.setdefault(id(tensor), len(numbers))
    return {
        "name": model.name,
        "layers": {str(c.layer.name): _describe_layer(keras, c) for c in calls if not c.is_input},
        "inputs": [_describe_input(c, numbers) for c in calls if c.is_input],
        "calls": [_describe_call(c, numbers) for c in calls if not c.is_input],
        "takes": _numbered(nested_inputs(graph), numbers),
        "gives": _numbered(nested_outputs(model), numbers),
    }


def build(described: Described) -> Any:
    """The tf_keras model that `describe` saw, with new weights.

    Raises:
        ConversionError: tf_keras has no such layer, or does not take it with these arguments.
    """
    keras = importlib.import_module("tf_keras")
    layers = {n: _build_layer(keras, n, told) for n, told in described["layers"].items()}
    tensors: dict[int, Any] = {}
    for told in described["inputs"]:
        tensors[told["tensor"]] = keras.Input(
            batch_shape=told["shape"], dtype=told["dtype"], name=told["name"]
        )
    for call in described["calls"]:
        with _refused(f"the layer {call['layer']!r}"):
            made = layers[call["layer"]](
                *_filled(call["args"], tensors), **_filled(call["kwargs"], tensors)
            )
            tensors.update(zip(call["outputs"], tf.nest.flatten(made), strict=True))
    with _refused("the model"):
        takes, gives = _filled(described["takes"], tensors), _filled(described["gives"], tensors)
        return keras.Model(takes, gives, name=described["name"])


def weights_of(model: Any) -> Feed:
    """The float weights by layer and place: "conv/0", in nested models "block/conv/0"."""
    return {
        f"{path}/{i}": np.asarray(weight)
        for path, weights in _weighted(model)
        for i, weight in enumerate(weights)
    }


def set_weights(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Give `model` the weights that `weights_of` took from a model of the same layers.

    Raises:
        ConversionError: the layers differ in their weights.
    """
    own = {f"{path}/{i}": w for path, found in _weighted(model) for i, w in enumerate(found)}
    if other := sorted(own.keys() ^ weights.keys()):
        raise ConversionError(f"Keras and tf_keras differ in the weight {other[0]!r}")
    for name, variable in own.items():
        if tuple(variable.shape) != weights[name].shape:
            raise ConversionError(f"Keras and tf_keras differ in the shape of {name!r}")
        variable.assign(weights[name])
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):  # what Normalization computes with is made of them
            layer.finalize_state()


def outputs_of(model: Any, feed: Mapping[str, np.ndarray]) -> Feed:
    """What `model` gives for `feed` (Keras input name -> array), by output name."""
    outputs = of_keras(model).call({name: tf.constant(value) for name, value in feed.items()})
    return {name: np.asarray(value) for name, value in outputs.items()}


def check_same(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """The outputs of a model before and after it changed families.

    Raises:
        ConversionError: they differ.
    """
    for one, other in zip(outputs.values(), expected.values(), strict=True):
        if one.shape != other.shape:
            raise ConversionError(f"tf_keras gives the shape {one.shape}, Keras {other.shape}")
        error = float(np.abs(one - other).max(initial=0.0))
        scale = float(np.abs(other).max(initial=0.0))
        if not error <= TOLERANCE * scale:
            raise ConversionError(f"tf_keras computes something else: {error:.1e} of {scale:.1e}")


def _describe_layer(keras: Any, call: Call) -> Described:
    layer = call.layer
    if not isinstance(layer, keras.layers.Layer):
        raise ConversionError(f"{layer.name!r} is an operation ({type(layer).__name__}), no layer")
    if functional_of(layer) is not None:
        return {"model": describe(layer)}
    if not of_keras_itself(layer):
        raise ConversionError(f"{layer.name!r} is a layer of the user's ({type(layer).__name__})")
    told = keras.saving.serialize_keras_object(layer)
    defaults = {
        p.name: p.default
        for p in inspect.signature(type(layer).__init__).parameters.values()
        if p.default is not p.empty
    }
    defaults["data_format"] = "channels_last"
    config = told["config"]
    default = [k for k, v in config.items() if not v or (k in defaults and defaults[k] == v)]
    return {"class": told["class_name"], "config": config, "default": default}


def _describe_input(call: Call, numbers: Mapping[int, int]) -> Described:
    [tensor] = call.outputs
    dtype = tf.as_dtype(tensor.dtype).name
    if dtype == "string" or getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
        raise ConversionError(f"the input {call.layer.name!r} holds text, or no plain tensor")
    shape, number = [None if d is None else int(d) for d in tensor.shape], numbers[id(tensor)]
    # The tensor's name is the input's; the layer's is another in keras.applications.
    name = tensor.name.removesuffix(":0")
    return {"name": name, "tensor": number, "shape": shape, "dtype": dtype}


def _describe_call(call: Call, numbers: Mapping[int, int]) -> Described:
    kwargs = {key: value for key, value in call.kwargs.items() if value is not None}
    if keras_of(call.layer).__name__ == "keras":
        # Here the model's own always counts; a loaded model has the default written down, False,
        # which tf_keras would take for the user's will.
        kwargs.pop("training", None)
    return {
        "layer": str(call.layer.name),
        "args": [_numbered(value, numbers) for value in call.args],
        "kwargs": _numbered(kwargs, numbers),
        "outputs": [numbers[id(t)] for t in call.outputs],
    }


def nested_inputs(graph: Any) -> Any:
    """The symbolic inputs as the user nested them."""
    keras_3 = getattr(graph, "_inputs_struct", None)
    return graph._nested_inputs if keras_3 is None else keras_3


def _numbered(value: Any, numbers: Mapping[int, int]) -> Any:
    """A nested argument, with numbers for symbolic tensors."""
    if id(value) in numbers:
        return {"tensor": numbers[id(value)]}
    if isinstance(value, (list, tuple)):
        return {"list": [_numbered(item, numbers) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": {str(key): _numbered(item, numbers) for key, item in value.items()}}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise ConversionError(f"a layer is called with {type(value).__name__}, which is no plain data")


def _filled(value: Any, tensors: Mapping[int, Any]) -> Any:
    """The inverse of `_numbered`, with tensors of the model that is built."""
    if isinstance(value, list):
        return [_filled(item, tensors) for item in value]
    [(kind, content)] = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "list":
        return [_filled(item, tensors) for item in content]
    return {k: _filled(v, tensors) for k, v in content.items()} if kind == "dict" else content


def _build_layer(keras: Any, name: str, told: Described) -> Any:
    if "model" in told:
        return build(told["model"])
    cls = getattr(keras.layers, told["class"], None)
    if cls is None:
        raise ConversionError(f"tf_keras has no layer {told['class']} ({name!r})")
    accepted = arguments_of(cls)
    config = _renamed(told["class"], told["config"])
    lost = [k for k in config if k not in accepted and k not in told["default"]]
    if lost:
        raise ConversionError(f"{told['class']} of tf_keras has no {lost[0]!r} ({name!r})")
    with _refused(f"the layer {name!r}"):
        return cls.from_config(_legacy(keras, {k: v for k, v in config.items() if k in accepted}))


def arguments_of(cls: type) -> set[str]:
    """The names of all arguments that `cls` or what it inherits from takes."""
    found = set(_OF_ANY_LAYER)
    for base in cls.__mro__:
        if "__init__" in vars(base):
            found.update(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return found


def _renamed(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's configuration in the words of tf_keras, without what only new weights need."""
    names = _RENAMED.get(kind, {})
    kept = {k: v for k, v in config.items() if not k.endswith("_initializer")}
    return {names.get(key, key): value for key, value in kept.items()}


def _legacy(keras: Any, value: Any) -> Any:
    """Serialized Keras objects as tf_keras reads them."""
    if isinstance(value, list):
        return [_legacy(keras, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kind = value.get("class_name")
    if kind is None:
        return {key: _legacy(keras, item) for key, item in value.items()}
    if kind == "__tuple__":
        return tuple(_legacy(keras, item) for item in value["items"])
    if kind == "__numpy__":
        return np.array(value["config"]["value"], value["config"]["dtype"])
    config = value["config"]
    if kind in ("DTypePolicy", "Policy"):
        return config["name"]
    if layer := getattr(keras.layers, kind, None):  # what a wrapper wraps
        accepted = arguments_of(layer)
        config = {k: v for k, v in _renamed(kind, config).items() if k in accepted}
    return {"class_name": kind, "config": _legacy(keras, config)}


def _weighted(model: Any) -> Iterator[tuple[str, list[Any]]]:
    """The float weights of each layer; others are states of random generators and counters."""
    for layer in model.layers:
        if functional_of(layer) is not None:
            yield from ((f"{layer.name}/{path}", found) for path, found in _weighted(layer))
        else:
            yield str(layer.name), [w for w in layer.weights if tf.as_dtype(w.dtype).is_floating]


@contextlib.contextmanager
def _refused(what: str) -> Iterator[None]:
    """Whatever tf_keras raises, as a ConversionError about `what`."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as e:  # any of Keras's, of every kind
        first = next((x.strip() for x in str(e).splitlines() if x.strip()), type(e).__name__)
        raise ConversionError(f"tf_keras does not take {what}: {first}") from e

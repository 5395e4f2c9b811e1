"""Models from files: the loader that fits, the user's code that it needs, the part wanted."""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit import usercode
from edgekit.errors import SourceError
from edgekit.toolchain import layers, parts, saved_model
from edgekit.toolchain.calls import calls_of
from edgekit.toolchain.model import Model, functional_of, of_keras
from edgekit.toolchain.parts import Part
from edgekit.toolchain.preprocessing import Preprocessing
from edgekit.types import Code, Source, TensorSpec

PACKAGES = {"keras": "keras", "tf-keras": "tf_keras"}


@dataclass(frozen=True, eq=False)
class Loaded:
    """What came of a source: the model to convert, and what was done to have it."""

    model: Model
    version: str
    """The loader and its version, as "keras 3.15.1"."""
    code: dict[str, str]
    """SHA-256 of the user's files by what they are for: "custom_objects", "builder"."""
    notes: tuple[str, ...]
    """What the user should know of it."""
    preprocessing: Preprocessing | None
    keras: Any = None
    """The Keras model itself; None for a SavedModel."""


def load(source: Source) -> Loaded:
    """Load a model by the loader of its family, without its training state.

    Raises:
        SourceError: it cannot be loaded, needs code that is not given, or takes text.
    """
    if source.family == "saved-model":
        return _load_saved_model(source)
    keras = importlib.import_module(PACKAGES[source.family])
    model, code = _load_keras(keras, source)
    part, preprocessing = parts.split(parts.cut(model, source.from_layer, source.until_layer))
    found = of_keras(part.model, part.input_names)
    _check_inputs(found.inputs)
    _check_inference(part.model)
    layers.keep_no_state(found.layers)
    policies = layers.use_float32(found.layers)
    notes = _notes(policies, part, preprocessing)
    version = f"{source.family} {keras.__version__}"
    return Loaded(found, version, code, notes, preprocessing, part.model)


def load_keras(source: Source) -> Any:
    """The Keras model in a file as it was saved, to be trained on.

    Raises:
        SourceError: it cannot be loaded, or is a SavedModel without layers.
    """
    if source.family == "saved-model":
        raise SourceError(
            f"{source.path} is a SavedModel without layers, which cannot be trained on",
            hint="give the .keras or .h5 file",
        )
    return _load_keras(importlib.import_module(PACKAGES[source.family]), source)[0]


def _load_saved_model(source: Source) -> Loaded:
    if source.from_layer or source.until_layer:
        raise SourceError(
            f"{source.path} is a SavedModel without layers, from which no part can be taken",
            hint="export the part from the .keras or .h5 file",
        )
    model = saved_model.load(Path(source.path))
    _check_inputs(model.inputs)
    tensorflow = importlib.import_module("tensorflow")
    return Loaded(model, f"saved-model {tensorflow.__version__}", {}, (), None)


def _load_keras(keras: Any, source: Source) -> tuple[Any, dict[str, str]]:
    path, code = Path(source.path), {}
    objects: dict[str, Any] = {}
    if source.custom_objects is not None:
        module, code["custom_objects"] = _module(source.custom_objects)
        objects = {
            name: value
            for name, value in vars(module).items()
            if callable(value) and not name.startswith("_")
        }
    # Keras counts the names that it makes up: without, a second load gives others.
    keras.backend.clear_session()
    with keras.utils.custom_object_scope(objects):
        if source.builder is not None:
            model, code["builder"] = _build(keras, source.builder, path)
            return model, code
        if path.is_dir():
            saved_model.refuse_effects(path, every_function=True)
        try:
            load_model = getattr(keras, "saving", keras.models).load_model
            return load_model(path, compile=False), code
        except Exception as e:  # Keras raises anything from KeyError to zipfile's own errors
            raise _explained(source, e, keras.__version__) from e


def _module(code: Code) -> tuple[types.ModuleType, str]:
    return usercode.load(code.name, code.sha256, SourceError)


def _build(keras: Any, code: Code, weights: Path) -> tuple[Any, str]:
    """The model that the user's function builds, with the weights of the file."""
    name, _, function = code.name.rpartition(":")
    module, digest = _module(replace(code, name=name))
    builder: Callable[[], Any] | None = getattr(module, function, None)
    if not callable(builder):
        known = [n for n, v in vars(module).items() if isinstance(v, types.FunctionType)]
        raise SourceError(
            f"{name} has no function {function!r} to build the model",
            hint=f"it has: {', '.join(known) or 'none'}",
        )
    with usercode.errors_of(Path(module.__file__ or name), SourceError, f"{function}() failed: "):
        model = builder()
    if not (hasattr(model, "load_weights") and hasattr(model, "layers")):
        raise SourceError(
            f"{code.name}() gave {type(model).__name__}, not a Keras model",
            hint="return the built keras.Model",
        )
    if not weights.name.endswith((".h5", ".keras", ".hdf5")):
        raise SourceError(
            f"{weights} is not a file of weights", hint="save_weights('m.weights.h5')"
        )
    try:
        model.load_weights(weights)
    except Exception as e:  # as above
        raise SourceError(
            f"{weights}: its weights do not fit the model of {code.name}(): {_first_line(e)}",
            hint="build it as it was when the weights were saved; a subclassed model must be "
            "called once on a batch of data",
        ) from e
    return model, digest


def _check_inputs(inputs: tuple[TensorSpec, ...]) -> None:
    texts = [spec.name for spec in inputs if spec.dtype == "string"]
    if texts:
        raise SourceError(
            f"the input {texts[0]!r} takes text, and no format does",
            hint="export the part behind the text layers: --from LAYER, or save the model "
            "without them and turn text into numbers in the application",
        )
    odd = [s for s in inputs if s.dtype in ("variant", "resource") or s.dtype.startswith("complex")]
    if odd:
        raise SourceError(
            f"the input {odd[0].name!r} is of type {odd[0].dtype}, which no format takes",
            hint="export the part behind it: --from LAYER",
        )


def _check_inference(model: Any) -> None:
    """Refuse recurrent layers that drop out in inference too, as that would be lost.

    Raises:
        SourceError: one is called with training=True.
    """
    graph = functional_of(model)
    for call in [] if graph is None else calls_of(graph):
        _check_inference(call.layer)
        inside: list[Any] = list(getattr(call.layer, "_flatten_layers", list)())
        if call.kwargs.get("training") and layers.recurrent(inside):
            raise SourceError(
                f"the layer {call.layer.name!r} is called with training=True: it drops out at "
                "random, which no exported file does",
                hint="build the model without training=True",
            )


def _notes(policies: list[str], part: Part, preprocessing: Preprocessing | None) -> tuple[str, ...]:
    notes = []
    if policies:
        notes.append(f"computes in float32 instead of {', '.join(policies)}")
    if preprocessing is not None:
        cut = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in preprocessing.layers)
        notes.append(
            f"split off: {cut}; the files take {', '.join(preprocessing.names)}, "
            "preprocessing.json says how to make it"
        )
    return tuple(notes)


def _explained(source: Source, error: Exception, version: str) -> SourceError:
    path, text = source.path, str(error)
    if found := re.search(
        r"Could not locate (?:class|function) '([^']+)'|"
        r"Unknown (?:layer|object|\w+ function|\w+): '?\"?([\w>]+)",
        text,
    ):
        name = found[1] or found[2]
        hint = "give the module that defines it: --custom-objects module, or FILE.py"
        if source.custom_objects is not None:
            hint = f"{source.custom_objects.name} does not define it under this name"
        return SourceError(f"{path}: the model needs {name!r}, not part of Keras", hint=hint)
    return SourceError(
        f"{path}: {source.family} {version} cannot load it: {_first_line(error)}",
        hint="is it the whole model, as model.save() writes it? of weights alone, say how the "
        "model is built: --builder module:function",
    )


def _first_line(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )

"""What a user exports: a model's file or folder, or the model itself as a Python object."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.formats.sources import find_source
from edgekit.types import Code, Source
from edgekit.workspace import MANIFEST

ModelSource = str | os.PathLike[str] | Any
"""A path, or a keras.Model or tf_keras.Model."""


def is_workspace(source: ModelSource) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source, MANIFEST).is_file()


@contextlib.contextmanager
def opened_source(
    source: ModelSource,
    *,
    custom_objects: str | os.PathLike[str] | None = None,
    builder: str | None = None,
    from_layer: str | None = None,
    until_layer: str | None = None,
) -> Iterator[Source]:
    """The model as the toolchain takes it; an object is saved for as long as the block runs.

    Raises:
        SourceError: there is no such file, it is no model, or Keras cannot save the object.
    """
    if builder is not None and ":" not in builder:
        raise SourceError(
            f"{builder!r} names no function", hint="give module:function, or FILE.py:function"
        )
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            path = str(source)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
            path = str(_save(source, Path(folder)))
            custom_objects = custom_objects or _module_of_classes(source)
        wanted = Source(
            path,
            family="",
            custom_objects=_code(custom_objects),
            builder=_code(builder),
            from_layer=from_layer,
            until_layer=until_layer,
        )
        yield find_source(wanted)


def name_of(source: ModelSource) -> str:
    """What a workspace of the model is called."""
    if not isinstance(source, (str, os.PathLike)):
        return str(source.name)
    path = Path(source).resolve()
    return (
        path.name
        if path.is_dir()
        else path.name.removesuffix(".weights.h5").removesuffix(path.suffix)
    )


def _code(name: str | os.PathLike[str] | None) -> Code | None:
    """Files by their whole path, as the worker and later commands run elsewhere."""
    if name is None:
        return None
    file, colon, function = os.fspath(name).partition(".py:")
    if colon:
        return Code(f"{Path(file + '.py').expanduser().absolute()}:{function}")
    return Code(str(Path(file).expanduser().absolute()) if file.endswith(".py") else file)


def _save(model: Any, folder: Path) -> Path:
    if not (callable(getattr(model, "save", None)) and hasattr(model, "layers")):
        raise SourceError(
            f"{type(model).__name__} is no model",
            hint="give a path, a keras.Model or a tf_keras.Model",
        )
    path = folder / "model.keras"
    try:
        model.save(path)
    except Exception as e:  # whatever a layer's get_config raises
        raise SourceError(
            f"Keras cannot save the model {model.name!r}: {e}",
            hint="give its custom layers a get_config(), or export a file that you saved",
        ) from e
    return path


def _module_of_classes(model: Any) -> str | None:
    """The file that defines the model's own classes, if there are any."""
    classes = {type(layer) for layer in model._flatten_layers()}
    own = {c.__module__ for c in classes} - {"__main__"}
    own = {name for name in own if name.partition(".")[0] not in ("keras", "tf_keras")}
    in_main = [c.__name__ for c in classes if c.__module__ == "__main__"]
    files = {getattr(sys.modules.get(name), "__file__", None) for name in own} - {None}
    if in_main or len(files) > 1:
        what = in_main[0] if in_main else ", ".join(sorted(own))
        raise SourceError(
            f"the model needs classes that another process cannot find: {what}",
            hint="define them in one module, and name it: custom_objects='my_layers.py'",
        )
    return str(files.pop()) if files else None

"""What a user exports: a model's file or folder, or the model itself as a Python object."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.formats.sources import find_source
from edgekit.manifest import MANIFEST
from edgekit.types import Code, Source

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


def refuse_loading(workspace: Path, loading: Mapping[str, Any]) -> None:
    """Refuse to be told again how the model of a workspace is loaded."""
    for name, value in loading.items():
        if value is not None:
            option = name.removesuffix("_layer").replace("_", "-")
            raise SourceError(
                f"{workspace} is a workspace: how its model is loaded was said when it was made",
                hint=f"leave out --{option}, or export the model in it into a new workspace",
            )


def name_of(source: ModelSource) -> str:
    """What a workspace of the model is called."""
    if not isinstance(source, (str, os.PathLike)):
        return re.sub(r"[^\w-]+", "_", str(source.name)) or "model"
    path = Path(source).resolve()
    if path.is_dir():
        return path.name
    return path.name.removesuffix(".weights.h5").removesuffix(path.suffix)


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
    path = folder / "saved.keras"
    try:
        model.save(path)
    except Exception as e:  # whatever a layer's get_config raises
        raise SourceError(
            f"Keras cannot save the model {model.name!r}: {e}",
            hint="give its custom layers a get_config(), or export a file that you saved",
        ) from e
    return _without_dates(path, folder / "model.keras")


def _without_dates(saved: Path, path: Path) -> Path:
    """The same .keras archive, but for when it was saved: a model is the same each time."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "metadata.json":
                metadata = json.loads(content)
                metadata.pop("date_saved", None)
                content = json.dumps(metadata).encode()
            new.writestr(zipfile.ZipInfo(member, date_time=(1980, 1, 1, 0, 0, 0)), content)
    return path


def _module_of_classes(model: Any) -> str | None:
    """The module that defines the model's own classes, if there are any.

    A module in a package goes by its dotted name, as its imports may be relative.
    """
    classes = [type(layer) for layer in model._flatten_layers()]
    own = [c for c in classes if c.__module__.partition(".")[0] not in ("keras", "tf_keras")]
    modules = {c.__module__ for c in own}
    if not modules:
        return None
    [name, *others] = sorted(modules)
    file = getattr(sys.modules.get(name), "__file__", None)
    if others or name == "__main__" or file is None:
        raise SourceError(
            f"another process cannot find {', '.join(sorted({c.__name__ for c in own}))}, which "
            f"the model needs, in {', '.join(sorted(modules))}",
            hint="define them in one module, or import them into one, and name it: "
            "custom_objects='my_layers.py'",
        )
    return name if "." in name else str(file)

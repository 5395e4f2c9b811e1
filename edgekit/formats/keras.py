"""Reads .keras and Keras .h5 files without Keras: the configuration and the weights."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.formats import hdf5
from edgekit.formats.description import (
    FileDescription,
    Role,
    Tensor,
    groups_of,
    parameters_of,
    quantization_of,
    sparsity_of,
)
from edgekit.processes import describe_exit
from edgekit.types import Signature, TensorSpec

READING_S = 30.0
"""Time limit for the HDF5 library, in seconds; and one more for each 10 MB."""

SAME_SHAPE = {
    "Activation", "BatchNormalization", "Dropout", "ELU", "GroupNormalization",
    "LayerNormalization", "LeakyReLU", "Normalization", "PReLU", "ReLU", "Rescaling", "Softmax",
    "UnitNormalization",
}  # fmt: skip
COMPUTES_IN = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}


def read(path: Path) -> FileDescription:
    """Describe a .keras archive or a Keras .h5 file.

    Raises:
        SourceError: it is no Keras model, or holds weights without a model.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    if is_archive:
        return _read_archive(path)
    content = _measure(path)
    config, version = (content["attributes"][k] for k in ("model_config", "keras_version"))
    if config is None:
        raise SourceError(
            f"{path} holds weights without a model",
            hint="save the whole model: model.save('model.keras')",
        )
    return _describe("h5", path, json.loads(config), version, content["datasets"])


def _read_archive(path: Path) -> FileDescription:
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        names = set(archive.namelist())
        if not {"config.json", "model.weights.h5"} <= names:
            raise SourceError(
                f"{path} is a zip archive, but not a Keras model",
                hint="a .keras file holds config.json and model.weights.h5",
            )
        for member in archive.infolist():
            hdf5.check_expansion(member.filename, member.file_size, member.compress_size)
        config = json.loads(archive.read("config.json"))
        metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
        weights = Path(archive.extract("model.weights.h5", folder))  # checks the CRC
        datasets = _measure(weights)["datasets"]
    version, saved = metadata.get("keras_version"), metadata.get("date_saved")
    description = _describe("keras", path, config, version, datasets)
    return replace(description, metadata={"date_saved": saved} if isinstance(saved, str) else {})


def _describe(
    format: str, path: Path, config: Any, version: Any, datasets: list[dict[str, Any]]
) -> FileDescription:
    tensors = [
        Tensor(
            name=_weight_name(dataset),
            role=_role(dataset),
            dtype=dataset["dtype"],
            elements=math.prod(dataset["shape"]),
            size_bytes=dataset["size_bytes"],
            zeros=dataset["zeros"],
        )
        for dataset in datasets
    ]
    return FileDescription(
        format=format,
        path=str(path),
        size_bytes=path.stat().st_size,
        signature=signature_of(config),
        ops=dict(layers_of(config).most_common()),
        parameters=parameters_of(tensors),
        groups=groups_of(tensors),
        quantization=quantization_of(tensors),
        sparsity=sparsity_of(tensors),
        float_tensors=tuple(
            t.name
            for t in tensors
            if t.role in ("weights", "biases") and t.dtype.startswith(("float", "bfloat"))
        ),
        producer=f"Keras {version}" if isinstance(version, str) else None,
    )


def _weight_name(dataset: dict[str, Any]) -> str:
    """layer/variable: a .keras file numbers the variables, an .h5 file names them."""
    path: str = dataset["path"]
    if dataset["layer"] is not None and path.startswith("layers/"):
        return f"{dataset['layer']}/{path.rpartition('/')[2]}"
    parts = path.split("/")
    return "/".join(parts[2:]) if parts[0] == "model_weights" and len(parts) > 3 else path


def _role(dataset: dict[str, Any]) -> Role:
    is_number = dataset["dtype"].startswith(("float", "bfloat", "int8", "uint8"))
    if dataset["path"].startswith("optimizer") or not is_number:
        return "other"
    return "weights" if len(dataset["shape"]) > 1 else "biases"


def layers_of(config: Any) -> Counter[str]:
    """Number of layers of each class, those of nested models included, inputs left out."""
    layers: Counter[str] = Counter()
    for layer in config["config"].get("layers", []):
        if layer["class_name"] != "InputLayer":
            layers[str(layer["class_name"])] += 1
        if isinstance(layer["config"].get("layers"), list):
            layers.update(layers_of(layer))
    return layers


def signature_of(config: Any) -> Signature:
    """Inputs and outputs of a Functional or Sequential configuration; of others, none.

    The shape of an output is in the file only where another layer takes it too, or where the
    last layer's kind tells it (Dense, activations, normalizations); elsewhere it is ().
    """
    body = config["config"]
    layers = {_name(layer): layer for layer in body.get("layers", [])}
    if not layers:
        return Signature((), ())
    if "output_layers" in body:
        inputs, outputs = _references(body["input_layers"]), _references(body["output_layers"])
    else:
        first, last = next(iter(layers)), next(reversed(layers))
        inputs, outputs = [(None, (first, 0, 0))], [(None, (last, 0, 0))]
    shapes = dict(_tensor_shapes([layer.get("inbound_nodes") for layer in layers.values()]))

    def spec(key: str | None, layer: Any, shape: tuple[int | None, ...]) -> TensorSpec:
        name = key or _name(layer)
        return TensorSpec(name=name, native=name, shape=shape, dtype=_dtype(layer["config"]))

    return Signature(
        inputs=_unique([spec(k, layers[r[0]], _input_shape(layers[r[0]])) for k, r in inputs]),
        outputs=_unique(
            [
                spec(k, layers[r[0]], shapes.get(r) or _output_shape(layers[r[0]]))
                for k, r in outputs
            ]
        ),
    )


def _name(layer: Any) -> str:
    return str(layer.get("name") or layer["config"]["name"])


_Reference = tuple[str, int, int]


def _references(value: Any, key: str | None = None) -> list[tuple[str | None, _Reference]]:
    """(key, (layer, node, tensor)) of nested lists; a dict's keys are the names, sorted."""
    if isinstance(value, dict):
        return [r for k in sorted(value) for r in _references(value[k], k)]
    if len(value) == 3 and isinstance(value[0], str):
        return [(key, (value[0], int(value[1]), int(value[2])))]
    return [r for item in value for r in _references(item, key)]


def _tensor_shapes(value: Any) -> Iterator[tuple[_Reference, tuple[int | None, ...]]]:
    """Shapes of all tensors that some layer takes."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            layer, node, tensor = value["config"]["keras_history"]
            yield (layer, node, tensor), _shape(value["config"]["shape"])
        else:
            yield from _tensor_shapes(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _tensor_shapes(item)


def _input_shape(layer: Any) -> tuple[int | None, ...]:
    config = layer["config"]
    return _shape(config.get("batch_shape") or config.get("batch_input_shape"))


def _output_shape(layer: Any) -> tuple[int | None, ...]:
    taken = [shape for _, shape in _tensor_shapes(layer.get("inbound_nodes"))]
    built = (layer.get("build_config") or {}).get("input_shape")
    shape = taken[0] if taken else _shape(built)
    if shape and layer["class_name"] == "Dense":
        return (*shape[:-1], int(layer["config"]["units"]))
    return shape if layer["class_name"] in SAME_SHAPE else ()


def _shape(value: Any) -> tuple[int | None, ...]:
    return tuple(None if d is None else int(d) for d in value or ())


def _dtype(config: Any) -> str:
    policy = config.get("dtype")
    if isinstance(policy, dict):
        policy = policy["config"]["name"]
    return COMPUTES_IN.get(policy, policy) if isinstance(policy, str) else "float32"


def _unique(specs: list[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Outputs of one layer share its name; the later ones get _1, _2 ..."""
    seen: Counter[str] = Counter()
    unique = []
    for spec in specs:
        name = f"{spec.name}_{seen[spec.name]}" if seen[spec.name] else spec.name
        seen[spec.name] += 1
        unique.append(replace(spec, name=name, native=name))
    return tuple(unique)


def attributes_of(path: Path) -> Any:
    """Keras' attributes of an HDF5 file and the groups at its top, as hdf5.py prints them."""
    return _measure(path, "--attributes")


def _measure(path: Path, *options: str) -> Any:
    """What hdf5.py prints about the file, from a child process."""
    limit = READING_S + path.stat().st_size / 10e6
    program = [sys.executable, "-P", hdf5.__file__, *options, str(path)]
    try:
        child = subprocess.run(program, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library did not finish in {limit:.0f} s") from error
    if child.returncode < 0:
        raise ValueError(f"the HDF5 library {describe_exit(child.returncode)}")
    if child.returncode > 0:
        said = child.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(said[-1] if said else f"HDF5 {describe_exit(child.returncode)}")
    return json.loads(child.stdout)

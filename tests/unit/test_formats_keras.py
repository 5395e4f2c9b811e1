"""What edgekit.formats reads from .keras and .h5 files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from edgekit.errors import SourceError
from edgekit.formats import describe, keras
from edgekit.types import TensorSpec
from tests.model_files import DATA, group, kernel


def test_keras_archive() -> None:
    found = describe(DATA / "two_inputs.keras")
    assert found.format == "keras"
    assert found.signature.inputs == (
        TensorSpec("a", "a", (None, 4), "float32"),
        TensorSpec("b", "b", (None, 3), "int32"),
    )
    assert found.signature.outputs == (
        TensorSpec("y", "y", (None, 2), "float32"),
        TensorSpec("z", "z", (None, 1), "float32"),
    )
    assert found.ops["Dense"] == 3
    assert found.ops["BatchNormalization"] == 1
    assert "InputLayer" not in found.ops
    assert found.parameters == (4 * 6 + 6) + 5 * 2 + 4 * 12 + (12 * 2 + 2) + (12 + 1)
    assert group(found, "weights", "float32") == (4, 70, 280)
    assert "left/0" in found.float_tensors
    assert found.producer is not None
    assert found.producer.startswith("Keras 3.")


def test_keras_h5() -> None:
    found = describe(DATA / "line.h5")
    assert (found.format, found.parameters, found.ops) == ("h5", 3, {"Dense": 1})
    assert found.signature.inputs[0].shape == (None, 2)


def layer(name: str, kind: str, inbound: list[str], **config: Any) -> dict[str, Any]:
    tensors = [
        {"class_name": "__keras_tensor__",
         "config": {"shape": [None, 4], "dtype": "float32", "keras_history": [i, 0, 0]}}
        for i in inbound
    ]  # fmt: skip
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, "dtype": "float32", **config},
        "inbound_nodes": [{"args": tensors, "kwargs": {}}] if tensors else [],
    }


def test_keras_signature_of_nested_shared_and_dict_models() -> None:
    inner = layer("inner", "Functional", ["x"], layers=[layer("d", "Dense", [], units=4)])
    half = {"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}
    body = {
        "layers": [
            layer("x", "InputLayer", [], batch_shape=[None, 4]),
            inner,
            layer("act", "Softmax", ["inner"], dtype=half),
        ],
        "input_layers": ["x", 0, 0],
        "output_layers": [["act", 0, 0], ["act", 1, 0], ["inner", 0, 0]],
    }
    config = {"class_name": "Functional", "config": body}
    assert keras.layers_of(config) == {"Functional": 1, "Dense": 1, "Softmax": 1}
    outputs = keras.signature_of(config).outputs
    assert [(o.name, o.shape, o.dtype) for o in outputs] == [
        ("act", (None, 4), "float16"),
        ("act_1", (None, 4), "float16"),
        ("inner", (None, 4), "float32"),
    ]
    body["output_layers"] = {"late": ["act", 0, 0], "early": ["inner", 0, 0]}
    assert [o.name for o in keras.signature_of(config).outputs] == ["early", "late"]


def test_keras_weights_without_a_model(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layer/kernel"] = kernel()
    with pytest.raises(SourceError, match="weights without a model"):
        describe(tmp_path / "w.h5")


def test_keras_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(80 << 20))
    with pytest.raises(SourceError, match="claims to grow"):
        describe(path)


def test_keras_dataset_larger_than_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("huge", (2**40,), "float32", chunks=(1024,))
    with pytest.raises(SourceError, match="claims to grow"):
        describe(tmp_path / "w.h5")


def test_keras_weights_in_another_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", (4,), "uint8", external=[("/etc/passwd", 0, 4)])
    with pytest.raises(SourceError, match="another file"):
        describe(tmp_path / "w.h5")


# Bytes of line.h5 at which HDF5 1.14.6 crashes, loops for ever, and takes 2 GB.
CRASH = [(296, 167), (619, 183), (646, 54), (857, 43), (3884, 101), (5442, 67), (11048, 224)]
LOOP = [(109, 198), (3360, 66), (3879, 118), (4025, 14), (8461, 247), (9925, 179), (10835, 167)]
GREED = [(891, 145), (1685, 5), (1872, 83), (2026, 125), (2625, 92), (3516, 123), (3530, 100)]


@pytest.mark.parametrize("edits", [CRASH, LOOP, GREED], ids=["crash", "loop", "greed"])
def test_keras_hdf5_library_may_die_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(keras, "READING_S", 1.0)
    data = bytearray((DATA / "line.h5").read_bytes())
    for at, value in edits:
        data[at] = value
    path = tmp_path / "x.h5"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=str(path)):
        describe(path)

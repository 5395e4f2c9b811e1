"""What edgekit.formats reads from TensorFlow.js folders."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import SourceError
from edgekit.formats import describe
from edgekit.types import TensorSpec
from tests.model_files import DATA, FLOAT_DATA, FLOATS, group, save_tfjs


def test_tfjs_fp32(tmp_path: Path) -> None:
    tensor = {"name": "x:0", "dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "-1"}]}}
    signature = {"inputs": {"image": tensor}, "outputs": {"probs": {**tensor, "name": "y:0"}}}
    folder = save_tfjs(tmp_path / "m", FLOATS, FLOAT_DATA, signature=signature)
    found = describe(folder)
    assert found.signature.inputs == (TensorSpec("image", "x:0", (None,), "float32"),)
    assert found.ops == {"_FusedMatMul": 1}
    assert group(found, "weights", "float32") == (1, 6, 24)
    assert group(found, "biases", "float32") == (1, 2, 8)
    assert found.sparsity.share == pytest.approx(2 / 6)
    assert found.size_bytes == sum(f.stat().st_size for f in folder.iterdir())
    by_file = describe(folder / "model.json")
    assert (by_file.signature, by_file.groups) == (found.signature, found.groups)


def test_tfjs_without_signature(tmp_path: Path) -> None:
    signature = describe(save_tfjs(tmp_path / "m", FLOATS, FLOAT_DATA)).signature
    assert signature.inputs == (TensorSpec("x", "x", (None, 3), "float32"),)
    assert [o.name for o in signature.outputs] == ["y"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16"])
def test_tfjs_quantized(tmp_path: Path, dtype: str) -> None:
    affine = {"dtype": dtype, "min": -0.5, "scale": 0.25}
    weights = [{**FLOATS[0], "quantization": affine}, FLOATS[1]]
    data = np.array([2, 0, 1, 2, 2, 255], dtype).tobytes() + FLOAT_DATA[24:]
    if dtype == "float16":
        affine = {"dtype": "float16"}
        weights[0] = {**FLOATS[0], "quantization": affine}
    found = describe(save_tfjs(tmp_path / "m", weights, data))
    assert group(found, "weights", dtype) == (1, 6, 6 * np.dtype(dtype).itemsize)
    assert found.float_tensors == ("w", "b")
    if dtype == "float16":
        assert found.quantization.tensors == ()
        assert found.sparsity.share == pytest.approx(1 / 6)
    else:
        (tensor,) = found.quantization.tensors
        assert (tensor.scale_min, tensor.zero_point_min) == (0.25, 2)
        assert found.sparsity.share == pytest.approx(3 / 6)


def test_tfjs_layers_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "two_inputs.keras") as archive:
        config = json.loads(archive.read("config.json"))
    topology = {"model_config": config, "keras_version": "2.15.0"}
    folder = save_tfjs(
        tmp_path / "m", FLOATS, FLOAT_DATA, modelTopology=topology, format="layers-model"
    )
    found = describe(folder)
    assert found.ops["Dense"] == 3
    assert [s.name for s in found.signature.outputs] == ["y", "z"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"paths": ["../a.bin"]}, "not in the model's folder"),
        ({"paths": ["/etc/passwd"]}, "not in the model's folder"),
        ({"paths": ["a.bin", "c.bin"]}, "c.bin is missing"),
        ({"paths": ["a.bin"]}, "end before weight 'w'"),
        ({"weights": FLOATS[:1]}, "32 bytes, its weights take 24"),
        ({"weights": [{**FLOATS[0], "shape": [2**40, 2**40]}]}, "end before weight"),
        ({"weights": [{**FLOATS[0], "shape": [-1, 2]}]}, "of shape"),
        ({"weights": [{**FLOATS[0], "dtype": "object"}]}, "'object'"),
        ({"weights": [{"name": "w", "shape": [2**50], "dtype": "string"}]}, "inside a string"),
        ({"weights": 7}, "broken"),
    ],
)
def test_tfjs_broken(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    manifest = [{"paths": ["a.bin", "b.bin"], "weights": FLOATS, **change}]
    folder = save_tfjs(tmp_path / "m", FLOATS, FLOAT_DATA, weightsManifest=manifest)
    (tmp_path / "a.bin").write_bytes(FLOAT_DATA)
    with pytest.raises(SourceError, match=says):
        describe(folder)

"""What a model takes in memory, told from what the runtime takes."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.agent import machine
from edgekit.agent.protocol import Job
from edgekit.formats import describe
from edgekit.targets.local import LocalTarget
from tests.model_files import DATA

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell"
)


def taken(path, tmp_path):
    """Bytes, as the agent measures them in a process of its own."""
    signature = describe(path).signature
    (spec,) = signature.inputs
    shape = [size or 1 for size in spec.shape]
    np.save(tmp_path / "x.npy", np.zeros(shape, spec.dtype))
    inputs = {spec.name: str(tmp_path / "x.npy")}
    form = path.suffix[1:]
    job = Job("time", form, str(path), signature, inputs, out="", seconds=0.02)
    return LocalTarget().execute(job).timing.model_memory_bytes


def dense(path, width, layers=4):
    """An ONNX file of `layers` matrices of `width` x `width`."""
    random = np.random.default_rng(0)
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(layers)]
    weights = [
        numpy_helper.from_array(random.random((width, width), np.float32), f"w{i}")
        for i in range(layers)
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_small_model_does_not_count_the_runtime(tmp_path):
    # ONNX Runtime itself takes 30 MB, LiteRT 12.
    assert 0 < taken(dense(tmp_path / "small.onnx", 16), tmp_path) < 400_000
    assert 0 < taken(DATA / "fp32.tflite", tmp_path) < 400_000


def test_it_grows_with_the_weights(tmp_path):
    small, large = dense(tmp_path / "1.onnx", 256), dense(tmp_path / "4.onnx", 512)
    more = taken(large, tmp_path) - taken(small, tmp_path)
    weights = 4 * 4 * (512**2 - 256**2)
    assert 0.9 * weights < more < 2.5 * weights


def test_it_is_the_same_again(tmp_path):
    path = dense(tmp_path / "1.onnx", 256)
    first, second = taken(path, tmp_path), taken(path, tmp_path)
    assert abs(first - second) < 0.2 * first


def test_a_mapped_file_counts_as_far_as_it_was_read(tmp_path):
    path, other = tmp_path / "model.tflite", tmp_path / "other.tflite"
    path.write_bytes(bytes(1 << 22))
    other.write_bytes(bytes(1 << 20))
    assert machine.mapped_bytes(str(path)) == 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert machine.mapped_bytes(str(path)) == 1 << 22
        assert machine.mapped_bytes(str(other)) == 0
        link = tmp_path / "link.tflite"
        link.symlink_to(path)
        assert machine.mapped_bytes(str(link)) == 1 << 22
    assert machine.mapped_bytes(str(path)) == 0


def test_what_is_written_counts_and_what_is_mapped_does_not(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(bytes(1 << 24))
    before = machine.allocated_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert machine.allocated_bytes() - before < 1 << 21
    with mmap.mmap(-1, 1 << 24, flags=mmap.MAP_PRIVATE) as written:
        written.write(bytes(1 << 24))
        assert machine.allocated_bytes() - before > 0.9 * (1 << 24)

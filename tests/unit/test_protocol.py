from __future__ import annotations

import json

import pytest

from edgekit.agent.protocol import DecodeError, Job, Signature, TensorSpec, decode, encode
from edgekit.types import Pruning

SIGNATURE = Signature(
    inputs=(TensorSpec("image", "image:0", (None, 8, 8), "float32"),),
    outputs=(TensorSpec("label", "label", (1, 10), "int8", 1 / 256, -128),),
)
JOB = Job("run", "tflite", "a.tflite", SIGNATURE, {"image": "0.npy"}, out="out", threads=2)


def test_a_job_survives_json():
    assert decode(Job, json.loads(json.dumps(encode(JOB)))) == JOB


def test_defaults_may_be_left_out():
    data = encode(JOB)
    del data["threads"]
    assert decode(Job, data).threads == 1


def test_pairs_of_two_kinds_survive_json():
    pruning = Pruning("sparse", 0.8, layers=(("head", 0.0), ("body", 1)))
    data = json.loads(json.dumps(encode(pruning)))
    assert decode(Pruning, data) == pruning
    data["layers"][0] = ["head"]
    with pytest.raises(DecodeError, match=r"layers\[0\]: expected 2 items, found 1"):
        decode(Pruning, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"threads": "two"}, "threads: expected int, found str"),
        ({"threads": True}, "threads: expected int, found bool"),
        ({"action": "delete"}, "action: 'delete' is not one of 'run', 'time'"),
        ({"inputs": ["image"]}, "inputs: expected dict, found list"),
        ({"signature": {"inputs": []}}, "field 'outputs' is missing"),
        ({"signature": {"inputs": [{}], "outputs": []}}, "inputs\\[0\\]: field 'name' is missing"),
    ],
)
def test_json_of_another_shape_is_refused_with_its_place(change, message):
    with pytest.raises(DecodeError, match=message):
        decode(Job, {**encode(JOB), **change})

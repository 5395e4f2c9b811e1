"""The time of an invocation by operator: what is made of what the runtimes tell."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.agent.litert_names import Node, names_of
from edgekit.agent.litert_profiler import LitertProfiler, _calls, _Event
from edgekit.agent.profiling import Call, Invocation, _onnx_invocations, summarize
from edgekit.agent.protocol import Job, OperatorTime, Profile, Runtime, Signature
from edgekit.errors import RunnerError
from edgekit.formats import describe
from edgekit.tables import timings
from edgekit.targets.local import LocalTarget
from edgekit.types import Machine, ProfileRecord
from tests.model_files import DATA


def profile(path, tmp_path, signature=None):
    """By the agent in a process of its own."""
    signature = signature or describe(path).signature
    inputs = {}
    for i, spec in enumerate(signature.inputs):
        inputs[spec.name] = str(tmp_path / f"{i}.npy")
        np.save(inputs[spec.name], np.ones([d or 1 for d in spec.shape], spec.dtype))
    job = Job("profile", path.suffix[1:], str(path), signature, inputs, out="", seconds=0.02)
    return LocalTarget().execute(job).profile


def test_a_disturbed_invocation_does_not_count():
    calm = Invocation(10, [Call((0,), "Conv", "a", 6), Call((1,), "Relu", "b", 2)] * 2)
    disturbed = Invocation(9000, [Call((0,), "Conv", "a", 8000), Call((1,), "Relu", "b", 2)] * 2)
    found = summarize([calm, disturbed, calm, calm, disturbed, calm, calm, calm], 1000)
    assert found == Profile(
        (OperatorTime("Conv", "a", 2, 12), OperatorTime("Relu", "b", 2, 4)), 4, 10, 1000
    )


def node(name, kind, start, elapsed):
    args = {"op_name": kind, "node_index": "0"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": elapsed, "args": args}


def test_onnx_runtime_writes_a_loop_after_what_is_in_it():
    run = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 100, "args": {}}
    trace = [
        node("first", "Conv", 0, 10),
        node("step", "MatMul", 20, 5),
        node("step", "MatMul", 30, 5),
        node("loop", "Loop", 15, 30),
        node("last", "Softmax", 50, 1),
        run,
        node("first", "Conv", 100, 10),
        run,
    ]
    first, second = _onnx_invocations(trace)
    assert [(c.type, c.ns) for c in first] == [
        ("Conv", 10_000),
        ("MatMul", 5_000),
        ("MatMul", 5_000),
        ("Loop", 20_000),
        ("Softmax", 1_000),
    ]
    assert len({c.key for c in first}) == 4
    assert [c.name for c in second] == ["first"]


def event(tag, kind, node=0, subgraph=0, start=0, elapsed=0):
    return _Event(
        tag=tag.encode(),
        kind=kind,
        node=node,
        subgraph=subgraph,
        start_us=start,
        elapsed_us=elapsed,
    )


def test_litert_tells_a_loop_before_what_is_in_it():
    region, operator, delegated = 1, 2, 8
    step = [
        event("Invoke", region, subgraph=2, start=20, elapsed=30),
        event("GATHER", operator, 6, 2, 21, 3),
        event("Fully Connected", delegated, 0, 2, 0, 20),
    ]
    events = [
        event("Invoke", region, start=0, elapsed=120),
        event("Multiply", delegated, 0, 0, 0, 2),
        event("WHILE", operator, 4, 0, 10, 100),
        *step,
        *step,
        event("SOFTMAX", operator, 5, 0, 115, 1),
        event("Multiply", delegated, 0, 0, 0, 4),
    ]
    calls = _calls((_Event * len(events))(*events))
    assert [(c.type, c.ns) for c in calls] == [
        ("Multiply", 2_000),
        ("WHILE", 54_000),  # 100 without two times 3 and 20
        ("GATHER", 3_000),
        ("Fully Connected", 20_000),
        ("GATHER", 3_000),
        ("Fully Connected", 20_000),
        ("SOFTMAX", 1_000),
        ("Multiply", 4_000),
    ]
    keys = [c.key for c in calls]
    assert keys[2:4] == keys[4:6]  # the same operators in the second step
    assert keys[0] != keys[-1]  # the first of another part that is delegated
    assert calls[3].name == "subgraph 2, XNNPACK 0"


def test_a_loop_of_a_tflite_file(tmp_path):
    found = {(o.type, o.name): o for o in profile(DATA / "lstm.tflite", tmp_path).operators}
    steps = 3
    assert found["LESS", "subgraph 1, node 0"].calls == steps + 1
    assert found["GATHER", "subgraph 2, node 4"].calls == steps
    (loop,) = (o for (kind, _), o in found.items() if kind == "WHILE")
    assert loop.calls == 1
    assert loop.name.endswith("state_1/while")  # of the layer "state"


NODES = [
    Node(0, "CONV_2D", "stem"),
    Node(1, "MUL", "scale"),
    Node(2, "CUMSUM", "sums"),
    Node(3, "FULLY_CONNECTED", "head"),
    Node(4, "MUL", "gain"),
]
ALONE = {(0, 2): "CUMSUM"}


@pytest.mark.parametrize(
    ("delegated", "names"),
    [
        # One part: the products are in their order, whatever else XNNPACK adds.
        (
            {(0, -1, 0, b"a"): "Convolution (NHWC)", (0, -1, 1, b"b"): "Static Reshape (NC)"}
            | {(0, -1, 2, b"c"): "Fully Connected (NC)"},
            {(0, -1, 0, b"a"): "stem", (0, -1, 2, b"c"): "head"},
        ),
        # Two parts, which may run in any order.
        (
            {(0, -1, 0, b"a"): "Convolution (NHWC)", (0, 2, 0, b"c"): "Fully Connected (NC)"},
            {},
        ),
        # Joined with another: one of two is left.
        ({(0, -1, 0, b"a"): "Multiply (ND)"}, {}),
        # In the body of a loop, of which the main graph says nothing.
        ({(1, -1, i, b"a"): "Multiply (ND)" for i in range(2)}, {}),
    ],
)
def test_an_operator_of_xnnpack_is_named_where_there_is_no_choice(delegated, names):
    assert names_of(ALONE | delegated, NODES) == {(0, 2): "sums"} | names


def test_a_number_that_is_another_operator_is_not_named():
    assert names_of({(0, 1): "CUMSUM", (0, 9): "MUL"}, NODES) == {}


def test_another_litert_is_not_trusted(monkeypatch):
    """Nobody promises that its C interface stays."""
    import ai_edge_litert

    monkeypatch.setattr(ai_edge_litert, "__version__", "2.4.0")
    with pytest.raises(ValueError, match=r"LiteRT 2\.3\.x only, not 2\.4\.0"):
        LitertProfiler(str(DATA / "lstm.tflite"), Signature((), ()), 1)


def test_a_broken_tflite_file_is_an_error(tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model" * 100)
    with pytest.raises(RunnerError, match=r"cannot run broken\.tflite: LiteRT's Create"):
        profile(broken, tmp_path, describe(DATA / "lstm.tflite").signature)


def test_a_tflite_file_of_free_shape_is_refused(tmp_path):
    with pytest.raises(RunnerError, match="'image' has a free dimension"):
        profile(DATA / "fp32.tflite", tmp_path)


def test_the_operator_that_takes_longest_and_its_name(tmp_path):
    """Four million products beside four thousand additions."""
    width = 2048
    weights = np.random.default_rng(0).random((width, width), np.float32)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["x"], ["a"], name="encoder/abs"),
            helper.make_node("MatMul", ["a", "w"], ["b"], name="encoder/dense/MatMul"),
            helper.make_node("Sin", ["b"], ["y"], name="encoder/sin"),
        ],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(weights, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "large.onnx"
    path.write_bytes(proto.SerializeToString())
    found = profile(path, tmp_path)
    assert {o.name for o in found.operators} >= {"encoder/abs", "encoder/sin"}
    longest = max(found.operators, key=lambda o: o.ns)
    assert "encoder/dense/MatMul" in longest.name
    assert longest.ns > 0.5 * sum(o.ns for o in found.operators)


def record(operators, p50_ns, resolution_ns=1000):
    total = sum(o.ns for o in operators)
    return ProfileRecord(
        "fp32.onnx",
        "",
        "local",
        1,
        1,
        Profile(tuple(operators), 100, total + 5000, resolution_ns),
        total,
        p50_ns,
        Runtime("onnxruntime", "1", "cpu"),
        Machine("cpu", "x86_64", 1, 0, "os"),
    )


def cells(table):
    return [list(column.cells) for column in table.columns]


def test_a_long_tail_is_one_line_and_nothing_is_lost():
    operators = [OperatorTime("Conv", f"layer{i}", 2, 1000 * i) for i in range(40)]
    table = timings.operators(record(operators, 800_000))
    kinds, names, calls, _, shares = cells(table)
    assert len(kinds) == timings.MOST_OPERATORS
    assert names[0] == "layer39"
    assert kinds[-1] == f"{40 - timings.MOST_OPERATORS + 1} others"
    assert sum(float(c) for c in calls) == 80
    assert sum(float(s.rstrip("%")) for s in shares) == pytest.approx(100, abs=1)


@pytest.mark.parametrize(
    ("operators_us", "p50_us", "said"),
    [
        (90, 100, None),
        (136, 100, "more than the whole"),
        (60, 100, "not the whole: calls are cut to whole steps of 1.00 µs"),
        (0, 2, "not the whole"),
    ],
)
def test_a_sum_that_is_off_is_said(operators_us, p50_us, said):
    found = record([OperatorTime("Conv", "a", 1, operators_us * 1000)], p50_us * 1000)
    first, *warnings = timings.profile_summary(found)
    assert f"({operators_us / p50_us:.0%} of it are operators)" in first
    assert [w.startswith(f"warning: {said}") for w in warnings] == ([True] if said else [])
    assert ("< 1.00 µs" in cells(timings.operators(found))[3]) == (operators_us == 0)

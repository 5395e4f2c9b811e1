"""LiteRT with its own profiler, which its Python package does not show: by the C interface.

The package brings libLiteRt.so, whose functions are called here by ctypes. Its makers promise
neither these functions nor the layout of an event, so only the version that was looked at is used.
It computes with the kernels of the interpreter that is timed, but is called in another way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from .profiling import Call
from .protocol import Runtime, Signature, TensorSpec
from .runners import quantize

VERSION = "2.3."
_CPU = 1
_WRITE = 1
_OPTIONS = {"runtime_options_string": "enable_profiling = true\n"}
_TYPE_BYTES = 512  # a tensor's type and shape, of which nothing is read
_REGION, _OPERATOR, _IN_DELEGATE = 1, 2, 8
"""Kinds of events: a stretch of the runtime's own work, an operator, one inside a delegate."""

_Handle = ctypes.c_void_p
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Event(ctypes.Structure):
    """`subgraph` and `node` say where an operator is; one in a delegate has no start."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int32),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_uint64 * 6),
        ("node", ctypes.c_int64),
        ("subgraph", ctypes.c_int64),
        ("source", ctypes.c_int32),
    )


class LitertProfiler:
    """One TFLite file on the CPU, with the times of its operators."""

    def __init__(self, path: str, signature: Signature, threads: int) -> None:
        """Load `path`.

        Raises:
            ValueError: it cannot be loaded, has a free dimension, or this LiteRT is another one
                than is known here.
        """
        import ai_edge_litert

        version = ai_edge_litert.__version__
        if not version.startswith(VERSION):
            raise ValueError(f"operators are timed with LiteRT {VERSION}x only, not {version}")
        free = [spec.name for spec in signature.inputs if None in spec.shape]
        if free:
            raise ValueError(
                f"'{free[0]}' has a free dimension; operators are timed with fixed ones only: "
                "export with --batch 1"
            )
        self._library = ctypes.CDLL(str(Path(ai_edge_litert.__file__).with_name("libLiteRt.so")))
        self.runtime = Runtime("litert", version, "cpu, compiled model")
        self._free = _FREE(lambda data: None)
        self._kept: list[object] = []
        environment = self._new("CreateEnvironment", 0, None)
        model = self._new("CreateModelFromFile", environment, path.encode())
        options = self._options({**_OPTIONS, "xnnpack": f"num_threads = {threads}\n"})
        self._model = self._new("CreateCompiledModel", environment, model, options)
        self._profiler = self._new("CompiledModelGetProfiler", self._model)
        self._signature = self._new("GetModelSignature", model, ctypes.c_size_t(0))
        self._specs = signature.inputs
        self._inputs = self._buffers("Input", environment)
        self._outputs = self._buffers("Output", environment)

    def bind(self, feed: Mapping[str, np.ndarray]) -> None:
        """Copy the inputs in.

        Raises:
            ValueError: the file has other inputs, or takes another shape.
        """
        for spec in self._specs:
            self._write(self._inputs.get(spec.native), quantize(feed[spec.name], spec), spec)

    def invoke(self) -> None:
        inputs, outputs = list(self._inputs.values()), list(self._outputs.values())
        self._call(
            "RunCompiledModel",
            self._model,
            ctypes.c_size_t(0),
            *(ctypes.c_size_t(len(inputs)), (_Handle * len(inputs))(*inputs)),
            *(ctypes.c_size_t(len(outputs)), (_Handle * len(outputs))(*outputs)),
        )

    def start(self) -> None:
        """Take down what happens from here on."""
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)

    def stop(self) -> list[Call]:
        """The operators that ran since `start`."""
        self._call("StopProfiler", self._profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", self._profiler, count, events)
        return _calls(events)

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, f"LiteRt{function}")(*arguments)
        if status != 0:
            raise ValueError(f"LiteRT's {function} failed with status {status}")

    def _new(self, function: str, *arguments: object) -> _Handle:
        """What `function` makes, as its last argument."""
        made = _Handle()
        self._call(function, *arguments, ctypes.byref(made))
        if not made.value:
            raise ValueError(f"LiteRT's {function} gave nothing")
        return made

    def _options(self, payloads: Mapping[str, str]) -> _Handle:
        options = self._new("CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, _CPU)
        for name, text in payloads.items():
            payload = ctypes.create_string_buffer(text.encode())
            self._kept.append(payload)  # LiteRT reads it later, and would free it
            more = self._new("CreateOpaqueOptions", name.encode(), payload, self._free)
            self._call("AddOpaqueOptions", options, more)
        return options

    def _buffers(self, kind: str, environment: _Handle) -> dict[str, _Handle]:
        """Memory for all tensors of `kind`, by the names of the file."""
        count = ctypes.c_size_t()
        self._call(f"GetNumSignature{kind}s", self._signature, ctypes.byref(count))
        found = {}
        for i in map(ctypes.c_size_t, range(count.value)):
            name = ctypes.c_char_p()
            self._call(f"GetSignature{kind}Name", self._signature, i, ctypes.byref(name))
            tensor = self._new(f"GetSignature{kind}TensorByIndex", self._signature, i)
            shape = ctypes.create_string_buffer(_TYPE_BYTES)
            self._call("GetRankedTensorType", tensor, shape)
            needs = self._new(
                f"GetCompiledModel{kind}BufferRequirements", self._model, ctypes.c_size_t(0), i
            )
            found[(name.value or b"").decode()] = self._new(
                "CreateManagedTensorBufferFromRequirements", environment, shape, needs
            )
        return found

    def _write(self, buffer: _Handle | None, value: np.ndarray, spec: TensorSpec) -> None:
        size = ctypes.c_size_t()
        if buffer is None:
            raise ValueError(f"the file has no input {spec.native}")
        self._call("GetTensorBufferPackedSize", buffer, ctypes.byref(size))
        if size.value != value.nbytes:
            raise ValueError(f"'{spec.name}' is {value.nbytes} bytes, the file takes {size.value}")
        address = _Handle()
        self._call("LockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
        ctypes.memmove(address, value.ctypes.data, value.nbytes)
        self._call("UnlockTensorBuffer", buffer)


def _calls(events: ctypes.Array[_Event]) -> list[Call]:
    """Operators in the order of their events; of loops and branches what is their own.

    An operator that calls others (WHILE) comes before them, and they are in another subgraph.
    """
    calls: list[Call] = []
    own: list[int] = []  # microseconds of each call without those inside it
    within: list[tuple[int, int, float]] = []  # open operators: index, subgraph, end
    last: dict[int, int] = {}  # the last operator outside a delegate, by subgraph
    for event in events:
        graph, node = event.subgraph, event.node
        if event.kind == _REGION and event.tag == b"Invoke":
            last[graph] = -1
        if event.kind not in (_OPERATOR, _IN_DELEGATE):
            continue
        starts = event.start_us if event.kind == _OPERATOR else None
        while within and (
            within[-1][1] == graph or (starts is not None and within[-1][2] <= starts)
        ):
            within.pop()
        if within:
            own[within[-1][0]] -= event.elapsed_us
        key: tuple[object, ...] = (graph, node)
        if starts is None:
            # Each part that is delegated counts its operators anew.
            key = (graph, last.get(graph, -1), node, event.tag)
        else:
            last[graph] = node
            within.append((len(calls), graph, starts + event.elapsed_us))
        calls.append(Call(key, event.tag.decode(errors="replace"), _place(graph, node, starts), 0))
        own.append(event.elapsed_us)
    pairs = zip(calls, own, strict=True)
    return [replace(call, ns=max(0, us) * 1000) for call, us in pairs]


def _place(graph: int, node: int, starts: int | None) -> str:
    """Where an operator is; `litert_names.py` knows better names for some."""
    inside = "" if graph == 0 else f"subgraph {graph}, "
    return f"{inside}{'XNNPACK' if starts is None else 'node'} {node}"

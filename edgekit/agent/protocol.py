"""What an agent is asked (Job) and what it answers (JobResult), as versioned JSON."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

PROTOCOL_VERSION = 1

T = TypeVar("T")


class DecodeError(ValueError):
    """JSON that does not have the shape of the dataclass it is read as."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    `name` is the Keras name and the same in every format; `native` is what the file itself calls
    it. `shape` has None where a dimension is free. `scale` and `zero_point` are set when the file
    takes or gives quantized integers: real = (integer - zero_point) * scale.
    """

    name: str
    native: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the order of the Keras model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Runtime:
    """The program that ran a model: `backend` is the one that really ran, not the one asked for."""

    name: str
    version: str
    backend: str


@dataclass(frozen=True)
class Machine:
    """Where it ran."""

    cpu: str
    arch: str
    cores: int
    memory_bytes: int
    os: str
    governor: str | None = None
    accelerator: str | None = None
    """The GPU that computed, where one did."""


@dataclass(frozen=True)
class Job:
    """One request to an agent.

    `run`: every row of `inputs` through the model, outputs written as .npy into `out`.
    `time`: the first row again and again; only the invocation is timed.
    `count`: the first row a few times, each marked for the emulator, which counts instructions.
    `model`: as count, and the emulator keeps which instructions, for a model of the processor.
    `profile`: the first row again and again, with the runtime's own times of operators.
    `inputs` maps Keras names to .npy files; all files have the same number of rows.
    `accelerator`: None is the CPU; "gpu" any GPU, "cuda", "tensorrt" and "webgpu" by that way only.
    """

    action: Literal["run", "time", "count", "model", "profile"]
    format: str
    artifact: str
    signature: Signature
    inputs: Mapping[str, str]
    out: str
    threads: int = 1
    seconds: float = 1.0
    accelerator: str | None = None
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Energy:
    """What one invocation takes of all that a meter sees, which a machine at rest takes, too."""

    joules: float
    meter: str


@dataclass(frozen=True)
class Timing:
    """One process's measurement of one model.

    Each value of `samples_ns` is the time of one invocation in nanoseconds, averaged over `loops`
    invocations in a row (1 unless the model is too fast for the clock).
    """

    samples_ns: tuple[float, ...]
    loops: int
    warmup_invocations: int
    stable: bool
    load_ns: int
    peak_memory_bytes: int | None = None
    """Largest resident size of the process, runtime included."""
    model_memory_bytes: int | None = None
    """Memory that it took to load the model and run it once, its file included as far as that is
    mapped, the code of the runtime not; None where it cannot be told."""
    busy_fraction: float | None = None
    """Share of the machine's CPU time that other processes used meanwhile."""
    energy: Energy | None = None
    """Where the machine has a meter; measured after the times."""


@dataclass(frozen=True)
class OperatorTime:
    """What one operator takes in one invocation, all its calls together, in nanoseconds.

    `type` and `name` are the runtime's, which joins and renames operators. Operators inside a loop
    or a branch are listed by themselves and not a part of it.
    """

    type: str
    name: str
    calls: float
    ns: float


@dataclass(frozen=True)
class Profile:
    """The operators of a file in the order of their first call: means over `invocations`.

    `invocation_ns` is one invocation from outside, while it was profiled, which costs time. The
    runtime's clock cuts each call to whole steps of `resolution_ns`: many short ones are too low.
    """

    operators: tuple[OperatorTime, ...]
    invocations: int
    invocation_ns: float
    resolution_ns: float


@dataclass(frozen=True)
class ModelledCycles:
    """What a model of a processor makes of one invocation's instructions: no measurement.

    `core` and `tool` are the model's, `coverage` is the share of instructions that it was given.
    """

    cycles: int
    clock_hz: int
    core: str
    tool: str
    coverage: float
    label: str = "modelled, uncalibrated"


@dataclass(frozen=True)
class Conditions:
    """The state of a machine at one moment, as far as it tells."""

    temperature_c: float | None = None
    """Of its hottest zone."""
    throttled_bits: int | None = None
    """What a Raspberry Pi's firmware answers to get_throttled."""
    cooling: bool = False
    """Whether the system holds the clock down because of heat."""
    governor: str | None = None


@dataclass(frozen=True)
class JobResult:
    """An agent's answer.

    `outputs` (Keras name -> .npy file) for run, `timing` for time. `instructions` for count: those
    of one invocation after the other; the k-th of two runs are equal, those of one run need not be.
    `modelled`, besides, for model: of the first of these.
    `profile` for profile.
    `conditions` are those before and after a time, `warnings` why they call it into question.
    """

    runtime: Runtime
    machine: Machine
    outputs: Mapping[str, str] = field(default_factory=dict)
    timing: Timing | None = None
    instructions: tuple[int, ...] | None = None
    modelled: ModelledCycles | None = None
    profile: Profile | None = None
    conditions: tuple[Conditions, ...] = ()
    warnings: tuple[str, ...] = ()
    version: int = PROTOCOL_VERSION


def encode(value: Any) -> Any:
    """A dataclass, however nested, as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    return value


def decode(kind: type[T], data: Any, where: str = "") -> T:
    """JSON values as the dataclass `kind`; a field that is unknown, missing or mistyped raises."""
    return typing.cast(T, _decode(kind, data, where or kind.__name__))


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        return _decode(next(a for a in args if a is not type(None)), data, where)
    if origin is Literal:
        if data not in args:
            raise DecodeError(f"{where}: {data!r} is not one of {', '.join(map(repr, args))}")
        return data
    if origin is tuple:
        _expect(data, list, where)
        kinds = [args[0]] * len(data) if args[-1] is ... else args
        if len(kinds) != len(data):
            raise DecodeError(f"{where}: expected {len(kinds)} items, found {len(data)}")
        found = enumerate(zip(kinds, data, strict=True))
        return tuple(_decode(each, v, f"{where}[{i}]") for i, (each, v) in found)
    if origin is not None and issubclass(origin, Mapping):
        _expect(data, dict, where)
        return {k: _decode(args[1], v, f"{where}.{k}") for k, v in data.items()}
    if kind is float and type(data) is int:
        return float(data)
    _expect(data, kind, where)
    return data


def _decode_dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(data, dict, where)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise DecodeError(f"{where}: unknown field {unknown[0]!r}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise DecodeError(f"{where}: field {name!r} is missing")
    return kind(**{k: _decode(hints[k], v, f"{where}.{k}") for k, v in data.items()})


def _expect(data: Any, kind: type, where: str) -> None:
    wrong_bool = kind is not bool and isinstance(data, bool)
    if wrong_bool or not isinstance(data, kind):
        raise DecodeError(f"{where}: expected {kind.__name__}, found {type(data).__name__}")

"""Models on a GPU: LiteRT's GPU accelerator, and ONNX Runtime's providers for GPUs.

Both runtimes would rather run on the CPU than fail, and say so on stderr at most. Here that is an
error, for a part of the model, too. What computes, computes in float32 as the file says: a GPU's
own shortcuts (16-bit floats, TF32) would be seen as the file's errors. An invocation ends when the
outputs are in the memory of this process; until then a GPU has not necessarily begun.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, Any

import numpy as np

from . import adapters
from .adapters import Adapter
from .protocol import Runtime, Signature
from .runners import IDENTITY, OnnxRunner, Runner, by_native, dequantize, quantize

ANY = "gpu"
"""Whichever provider starts."""
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
"""Of ONNX Runtime, by the name in a target's URI, best first."""
_CPU = "CPUExecutionProvider"


def open_accelerated(form: str, path: str, signature: Signature, accelerator: str) -> Runner:
    """Load the file `path` of format `form` ("tflite" or "onnx") on a GPU.

    `accelerator` is `ANY` or one of `PROVIDERS`.

    Raises:
        RuntimeError: no GPU can be used, or it cannot run all of the model.
    """
    if form == "tflite":
        return TfliteGpuRunner(path, signature)
    if form == "onnx":
        return OnnxGpuRunner(path, signature, start_provider(accelerator))
    raise ValueError(f"GPUs run tflite and onnx here, not {form!r}")


class TfliteGpuRunner:
    """LiteRT's CompiledModel on its GPU accelerator alone, which on a computer is WebGPU."""

    def __init__(self, path: str, signature: Signature) -> None:
        import ai_edge_litert
        from ai_edge_litert.compiled_model import (
            CompiledModel,
            GpuOptions,
            HardwareAccelerator,
            Options,
        )

        for spec in signature.inputs:
            if None in spec.shape:
                raise ValueError(
                    f"'{spec.name}' has a free dimension; LiteRT's GPUs run fixed shapes only: "
                    "export with --batch 1"
                )
        options = Options(HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=True))
        with _native_log() as log:
            try:
                self._model = CompiledModel.from_file(path, options=options)
            except RuntimeError as e:
                raise RuntimeError(_reason(log.read(), str(e))) from e
            said = log.read()
        if not self._model.is_fully_accelerated():
            raise RuntimeError(_reason(said, "a part of the model was left to the CPU"))
        signatures = self._model.get_signature_list()
        if len(signatures) != 1:
            raise ValueError(f"expected one signature in the file, found {list(signatures)}")
        ((key, names),) = signatures.items()
        details = (
            self._model.get_input_tensor_details(key),
            self._model.get_output_tensor_details(key),
        )
        self._inputs = [spec for spec, _ in by_native(signature.inputs, details[0])]
        self._outputs = [spec for spec, _ in by_native(signature.outputs, details[1])]
        self._types = {n: (tuple(d["shape"]), np.dtype(d["dtype"])) for n, d in details[1].items()}
        self._in = dict(zip(names["inputs"], self._model.create_input_buffers(0), strict=True))
        self._out = dict(zip(names["outputs"], self._model.create_output_buffers(0), strict=True))
        self._results: dict[str, np.ndarray] = {}
        adapter = _selected(said)
        self.adapter = adapter.name if adapter else None
        self.runtime = Runtime(
            name="litert",
            version=ai_edge_litert.__version__,
            backend=adapters.label("webgpu", [adapter] if adapter else []),
        )

    def bind(self, feed: Mapping[str, np.ndarray]) -> None:
        for spec in self._inputs:
            self._in[spec.native].write(quantize(feed[spec.name], spec))

    def invoke(self) -> None:
        self._model.run_by_index(0, list(self._in.values()), list(self._out.values()))
        for name, (shape, dtype) in self._types.items():
            values = self._out[name].read(int(np.prod(shape)), dtype)
            self._results[name] = values.reshape(shape)

    def read(self) -> dict[str, np.ndarray]:
        return {s.name: dequantize(self._results[s.native], s) for s in self._outputs}


class OnnxGpuRunner(OnnxRunner):
    """ONNX Runtime on one provider for GPUs, and on nothing else."""

    def __init__(self, path: str, signature: Signature, provider: str) -> None:
        self._provider = provider
        super().__init__(path, signature, threads=1)
        backend = self.runtime.backend
        if backend != provider:  # asked again, after loading
            raise RuntimeError(f"{provider} was asked for, and {backend} runs it")
        found = self._adapters()
        self.adapter = adapters.fastest(found)
        self.runtime = replace(self.runtime, backend=adapters.label(backend, found))

    def _open(self, path: str, options: Any) -> Any:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            return _session(path, options, self._provider)
        except Exception as e:  # each of the runtime's errors has a type of its own
            if "assigned to the default CPU EP" in str(e):
                raise RuntimeError(_left_to_cpu(path, self._provider)) from e
            raise

    def _adapters(self) -> tuple[Adapter, ...]:
        """Those that the provider chooses from; CUDA tells which it took."""
        known = adapters.find()
        if self._provider == PROVIDERS["webgpu"]:
            return known.vulkan
        options = self._session.get_provider_options().get(self._provider, {})
        return known.cuda[int(options.get("device_id", 0)) :][:1]


@functools.cache
def start_provider(accelerator: str) -> str:
    """The first provider that really starts here.

    Raises:
        RuntimeError: none does, and why.
    """
    import onnxruntime

    present = onnxruntime.get_available_providers()
    wanted = [p for name, p in PROVIDERS.items() if accelerator in (ANY, name)]
    problems = []
    for provider in (p for p in wanted if p in present):
        if provider != PROVIDERS["webgpu"]:
            # Before CUDA is loaded. TF32 keeps 10 bits of a float32's 23.
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
            onnxruntime.preload_dlls()
        with _native_log() as log:
            try:
                started = _session(IDENTITY, _quiet(), provider).get_providers()[0]
            except Exception as e:
                problems.append(f"{provider} does not start: {_brief(str(e))}")
                continue
            said = log.read()
        if started == provider:
            return provider
        why = re.search(r"Failed to load library .* with error: (.+)", said)
        reason = f"{started} would run in its place{f' ({why[1].strip()})' if why else ''}"
        problems.append(f"{provider} does not start: {reason}")
    absent = [p for p in wanted if p not in present]
    if not problems:
        problems = [f"it has no {' or '.join(absent)}, only {', '.join(present)}"]
    raise RuntimeError("; ".join(problems))


def _session(model: str | bytes, options: Any, provider: str) -> Any:
    """A session on `provider`; an error where ONNX Runtime would take the CPU instead."""
    import onnxruntime

    providers = [provider]
    if provider == PROVIDERS["tensorrt"]:
        providers.append(PROVIDERS["cuda"])  # for what TensorRT does not have
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=False)


def _quiet() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def _left_to_cpu(path: str, provider: str) -> str:
    """Which operators `provider` leaves to the CPU, in words."""
    options = _quiet()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = _session(path, options, provider)
    parts = [p for p in session.get_provider_graph_assignment_info() if p.ep_name == _CPU]
    counts = Counter(node.op_type for part in parts for node in part.get_nodes())
    return f"{provider} would leave a part to the CPU: {_counted(counts)}"


def _counted(counts: Mapping[str, int]) -> str:
    words = [name if n == 1 else f"{n} {name}" for name, n in sorted(counts.items())]
    return ", ".join(words) or "operators that it does not name"


@contextlib.contextmanager
def _native_log() -> Iterator[_Log]:
    """What native code writes to stderr meanwhile; it goes there afterwards."""
    sys.stderr.flush()
    with tempfile.TemporaryFile(buffering=0) as file:
        log, real = _Log(file), os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(real, 2)
            os.close(real)
            print(log.read(), end="", file=sys.stderr, flush=True)


class _Log:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self) -> str:
        """All so far; what is written next comes behind it."""
        self._file.seek(0)
        return self._file.read().decode(errors="replace")


def _reason(log: str, error: str) -> str:
    """Why LiteRT refuses a model: what it logs says more than its error."""
    refused = re.findall(r"not supported by GPU delegate:\n((?:[A-Z0-9_]+: .*\n)+)", log)
    if refused:
        lines = list(dict.fromkeys(line.strip() for part in refused for line in part.splitlines()))
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        return f"a part would be left to the CPU: {'; '.join(lines[:3])}{more}"
    if "dynamic-sized tensors" in log:
        return "tensors of varying size do not run on the GPU"
    if "No adapters found" in log:
        return "LiteRT found no adapter that it can use"
    return error.strip().splitlines()[-1].removeprefix("└ ")


def _selected(log: str) -> Adapter | None:
    """The adapter that LiteRT says it took."""
    found = re.search(r"Selected adapter: (.+?), arch=.*adapterType=(.*)", log)
    return None if found is None else adapters.named(found[1], on_cpu="CPU" in found[2])


def _brief(error: str) -> str:
    """A message of C++ without the function and the condition that it begins with."""
    return re.split(r"\) | was false\. ", error.strip().split("\n", 1)[0])[-1].rstrip(".")

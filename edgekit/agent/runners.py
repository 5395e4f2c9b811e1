"""One runner per runtime: bind (copy inputs in), invoke (the only part timed), read (copy out).

Feeds and results are always by Keras name. Values are real numbers: where a file takes or gives
quantized integers the runner converts, as an application would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from .protocol import Runtime, Signature, TensorSpec

IDENTITY = bytes.fromhex(
    "08073a370a100a017812017922084964656e746974791201675a0f0a0178120a"
    "0a08080112040a020801620f0a0179120a0a08080112040a02080142040a0010"
    "0d"
)
"""An ONNX file of one Identity node: the first session in a process takes memory for all."""


class Runner(Protocol):
    """A loaded model."""

    runtime: Runtime
    adapter: str | None
    """The GPU that it runs on."""

    @property
    def invoke(self) -> Callable[[], object]: ...

    def bind(self, feed: Mapping[str, np.ndarray]) -> None: ...

    def read(self) -> dict[str, np.ndarray]: ...


def open_runner(
    form: str, path: str, signature: Signature, threads: int, accelerator: str | None = None
) -> Runner:
    """Load the file `path` of format `form` ("tflite" or "onnx"), on the CPU unless told."""
    if accelerator is not None:
        from .accelerated import open_accelerated

        return open_accelerated(form, path, signature, accelerator)
    if form == "tflite":
        return TfliteRunner(path, signature, threads)
    if form == "onnx":
        return OnnxRunner(path, signature, threads)
    raise ValueError(f"this agent runs tflite and onnx, not {form!r}")


def load_runtime(form: str, accelerator: str | None = None) -> None:
    """Load the runtime for files of format `form` itself: its memory and time are not a model's."""
    if form == "onnx" and accelerator is not None:
        from .accelerated import start_provider

        start_provider(accelerator)
    elif form == "tflite":
        import ai_edge_litert.interpreter  # noqa: F401
    elif form == "onnx":
        import onnxruntime

        onnxruntime.InferenceSession(IDENTITY, providers=["CPUExecutionProvider"])


class TfliteRunner:
    """LiteRT's interpreter; inputs and outputs found through the file's signature."""

    adapter: str | None = None

    def __init__(self, path: str, signature: Signature, threads: int) -> None:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_path=path, num_threads=threads)
        self._interpreter.allocate_tensors()
        keys = list(self._interpreter.get_signature_list())
        if len(keys) != 1:
            raise ValueError(f"expected one signature in the file, found {keys}")
        native = self._interpreter.get_signature_runner(keys[0])
        self._inputs = by_native(signature.inputs, native.get_input_details())
        self._outputs = by_native(signature.outputs, native.get_output_details())
        self.invoke = self._interpreter.invoke
        delegated = any(op["op_name"] == "DELEGATE" for op in self._interpreter._get_ops_details())
        self.runtime = Runtime(
            name="litert",
            version=ai_edge_litert.__version__,
            backend="cpu, XNNPACK" if delegated else "cpu",
        )

    def bind(self, feed: Mapping[str, np.ndarray]) -> None:
        arrays = [(i, quantize(feed[spec.name], spec)) for spec, i in self._inputs]
        current = {d["index"]: tuple(d["shape"]) for d in self._interpreter.get_input_details()}
        resized = [(i, a.shape) for i, a in arrays if current[i] != a.shape]
        for index, shape in resized:
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        if resized:
            self._interpreter.allocate_tensors()
        for index, array in arrays:
            self._interpreter.set_tensor(index, array)

    def read(self) -> dict[str, np.ndarray]:
        return {
            spec.name: dequantize(self._interpreter.get_tensor(i), spec)
            for spec, i in self._outputs
        }


def by_native(
    specs: tuple[TensorSpec, ...], details: Mapping[str, Mapping[str, int]]
) -> list[tuple[TensorSpec, int]]:
    missing = [s.native for s in specs if s.native not in details]
    if missing or len(specs) != len(details):
        raise ValueError(
            f"the file has {', '.join(sorted(details))}; expected {[s.native for s in specs]}"
        )
    return [(s, details[s.native]["index"]) for s in specs]


class OnnxRunner:
    """ONNX Runtime on its CPU provider."""

    adapter: str | None = None

    def __init__(
        self, path: str, signature: Signature, threads: int, profile: str | None = None
    ) -> None:
        """Load `path`; `profile` is how the file begins that the times of operators go to."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = self._open(path, options)
        self._specs = signature
        self._names = [s.native for s in signature.outputs]
        present = {t.name for t in (*self._session.get_inputs(), *self._session.get_outputs())}
        expected = {s.native for s in (*signature.inputs, *signature.outputs)}
        if present != expected:
            raise ValueError(f"the file has {sorted(present)}; expected {sorted(expected)}")
        self._feed: dict[str, np.ndarray] = {}
        self._results: list[np.ndarray] = []
        self.runtime = Runtime(
            name="onnxruntime",
            version=onnxruntime.__version__,
            backend=self._session.get_providers()[0],
        )

    def _open(self, path: str, options: Any) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def bind(self, feed: Mapping[str, np.ndarray]) -> None:
        self._feed = {s.native: quantize(feed[s.name], s) for s in self._specs.inputs}

    def invoke(self) -> None:
        self._results = self._session.run(self._names, self._feed)

    def read(self) -> dict[str, np.ndarray]:
        pairs = zip(self._specs.outputs, self._results, strict=True)
        return {spec.name: dequantize(value, spec) for spec, value in pairs}

    def end_profiling(self) -> str:
        """The file that the times of operators are in, now complete."""
        return str(self._session.end_profiling())


def quantize(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Real numbers as the tensor's own dtype: round(x / scale) + zero_point, clipped to it."""
    dtype = np.dtype(spec.dtype)
    if spec.scale is None:
        return np.ascontiguousarray(value, dtype)
    limits = np.iinfo(dtype)
    steps = np.round(np.asarray(value, np.float64) / spec.scale) + (spec.zero_point or 0)
    return np.ascontiguousarray(np.clip(steps, limits.min, limits.max).astype(dtype))


def dequantize(value: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The tensor's integers as real numbers: (q - zero_point) * scale."""
    if spec.scale is None:
        return np.array(value)
    steps = value.astype(np.float32) - np.float32(spec.zero_point or 0)
    return np.asarray(steps * np.float32(spec.scale))

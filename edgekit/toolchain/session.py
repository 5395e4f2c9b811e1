"""The verbs of the worker. Arrays travel as .npy files, everything else as JSON."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edgekit.agent import machine
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import Job, JobResult, Signature, decode, encode
from edgekit.agent.rows import pad, time_first_row
from edgekit.errors import SourceError
from edgekit.recipe import Split, load_recipe
from edgekit.toolchain import onnx, synthetic, tfjs, tflite
from edgekit.toolchain.canonical import Canonical, call, fixed_batch, trace
from edgekit.toolchain.keras_runner import KerasRunner
from edgekit.toolchain.source import load_model
from edgekit.types import Progress

_TOOLS = {
    "tflite": ("tensorflow", "keras", "ai-edge-litert"),
    "onnx": ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime"),
    "tfjs": ("tensorflow", "keras"),
}


SEED = 0
"""Training a recipe twice on one machine gives the same model."""


REFERENCE_ELEMENTS = 2_500_000
"""Input elements per eager call: above, TensorFlow spends its time on fresh memory (measured)."""


class Session:
    """One loaded model at a time, with what was made from it so far."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._model: keras.Model | None = None
        self._traces: dict[int | None, Canonical] = {}
        self._onnx: dict[tuple[int | None, int], tuple[Path, Signature]] = {}
        self._scratch = Path(tempfile.gettempdir())  # the host's: it cleans up

    def load(self, *, source: str, progress: Progress) -> dict[str, Any]:
        """What the model in the file `source` is."""
        model = self._load(source)
        # First, as it refuses a model that was never built.
        signature = self._trace(fixed_batch(model)).signature
        return {
            "name": model.name,
            "parameters": model.count_params(),
            "signature": encode(signature),
            "family": f"keras {keras.__version__}",
        }

    def train(
        self, *, recipe: str, epochs: int | None, path: str, progress: Progress
    ) -> dict[str, Any]:
        """Train `recipe` and save the model as the .keras file `path`."""
        lesson = load_recipe(recipe)
        keras.utils.set_random_seed(SEED)
        model = lesson.build()
        lesson.train(model, epochs=epochs, callbacks=[_EpochReport(progress)])
        # Without the optimizer, which doubles the file or more: this model is to be shipped.
        model.optimizer, model.compiled = None, False
        model.save(path)
        return {"parameters": model.count_params()}

    def split(
        self, *, recipe: str, split: Split, folder: str, progress: Progress
    ) -> dict[str, Any]:
        """The rows of one split of a recipe: inputs and targets."""
        feed, targets = load_recipe(recipe).data(split)
        return {
            "inputs": save_arrays(feed, Path(folder, "inputs")),
            "targets": save_arrays(targets, Path(folder, "targets")),
        }

    def synthesize(
        self, *, source: str, rows: int, seed: int, folder: str, progress: Progress
    ) -> dict[str, str]:
        """Random rows that the model accepts."""
        model = self._load(source)
        signature = self._trace(fixed_batch(model)).signature
        feed = synthetic.feed(model, signature, rows, seed)
        return save_arrays(feed, Path(folder))

    def predict(
        self, *, source: str, inputs: Mapping[str, str], folder: str, progress: Progress
    ) -> dict[str, str]:
        """The Keras model's own outputs for every row.

        Called eagerly, not through the traced function that is converted: a fault of that one
        would be on both sides of the comparison.
        """
        model = self._load(source)
        feed = load_arrays(inputs)
        batch = fixed_batch(model)
        rows = len(next(iter(feed.values())))
        elements = sum(v[0].size for v in feed.values())
        step = batch or min(256, max(1, REFERENCE_ELEMENTS // elements))
        parts = []
        for start in range(0, rows, step):
            chunk = {n: v[start : start + step] for n, v in feed.items()}
            results = call(model, {n: tf.constant(pad(v, batch)) for n, v in chunk.items()})
            parts.append({n: np.asarray(v)[: rows - start] for n, v in results.items()})
        outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        for name, value in outputs.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise SourceError(
                    f"the Keras model itself gives NaN or infinity in its output {name!r}",
                    hint="check the model and the samples; nothing can be compared with that",
                )
        return save_arrays(outputs, Path(folder))

    def convert(
        self,
        *,
        source: str,
        form: str,
        precision: str,
        path: str,
        batch: int | None,
        opset: int,
        int8_io: bool,
        calibration: Mapping[str, str] | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Write one format in one precision to `path`; ONNX in fp32 only."""
        self._load(source)
        model = self._trace(batch)
        samples = load_arrays(calibration) if calibration else None
        if form == "tflite":
            signature = tflite.convert(
                model,
                Path(path),
                precision=precision,
                calibration=samples,
                int8_io=int8_io,
            )
        elif form == "onnx":
            signature = self._convert_onnx(batch, opset, Path(path))
        else:
            # 8 bits in TF.js are a storage format of the weights.
            stored = "uint8" if precision == "int8" else precision
            signature = tfjs.convert(model, stored, Path(path))
        return {
            "signature": encode(signature),
            "tools": {name: version(name) for name in _TOOLS[form]},
        }

    def time(self, *, source: str, job: Mapping[str, Any], progress: Progress) -> Any:
        """Time the Keras model itself as `job` asks."""
        self._load(source)
        wanted = decode(Job, job)
        before = machine.resident_bytes()
        runner = KerasRunner(self._trace(wanted.signature.inputs[0].shape[0] or 1))
        timing = time_first_row(runner, wanted, load_arrays(wanted.inputs), 0, before)
        return encode(JobResult(runner.runtime, machine.describe(), timing=timing))

    def _load(self, source: str) -> keras.Model:
        path = Path(source)
        if self._model is None or path != self._path:
            self._model, self._path = load_model(path), path
            self._traces.clear()
            self._onnx.clear()
        return self._model

    def _trace(self, batch: int | None) -> Canonical:
        if batch not in self._traces:
            self._traces[batch] = trace(self._model, batch)
        return self._traces[batch]

    def _convert_onnx(self, batch: int | None, opset: int, path: Path) -> Signature:
        """The float file, made once: int8 is made from it, by the quantizer."""
        if (batch, opset) not in self._onnx:
            fp32 = self._scratch / f"{batch}-{opset}.onnx"
            self._onnx[batch, opset] = fp32, onnx.convert(self._trace(batch), fp32, opset=opset)
        fp32, signature = self._onnx[batch, opset]
        shutil.copyfile(fp32, path)
        return signature


class _EpochReport(keras.callbacks.Callback):
    """One line per epoch."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        figures = ", ".join(f"{k} {float(v):.4f}" for k, v in (logs or {}).items())
        self._progress(f"epoch {epoch + 1}/{self.params['epochs']}: {figures}")

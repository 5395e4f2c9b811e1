"""The verbs of the worker. Arrays travel as .npy files, everything else as JSON."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.agent import machine
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import Job, JobResult, Signature, decode, encode
from edgekit.agent.rows import pad, time_first_row
from edgekit.errors import SourceError
from edgekit.recipe import Split, load_recipe
from edgekit.toolchain import layers, onnx, reference, synthetic, tfjs, tflite
from edgekit.toolchain.canonical import Canonical, trace
from edgekit.toolchain.keras_runner import KerasRunner
from edgekit.toolchain.source import Loaded, load
from edgekit.types import Progress, Source

_TOOLS = {
    "tflite": ("tensorflow", "keras", "ai-edge-litert"),
    "onnx": ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime"),
    "tfjs": ("tensorflow", "keras"),
}


SOME_ROWS = 4
"""Rows that are run twice more, to see whether the model gives the same again."""

REFERENCE_ELEMENTS = 600_000
"""Input elements per eager call, as 4 images of 224²: more of them take gigabytes (measured)."""


class Session:
    """One loaded model at a time, with what was made from it so far."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._loaded: Loaded | None = None
        self._traces: dict[tuple[int | None, bool], Canonical] = {}
        self._onnx: dict[tuple[Canonical, int], tuple[Path, Signature]] = {}
        self._scratch = Path(tempfile.gettempdir())  # the host's: it cleans up

    def load(self, *, source: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """What the model in the file `source` is."""
        loaded = self._load(source)
        model, before = loaded.model, loaded.preprocessing
        return {
            "name": model.name,
            "parameters": model.parameters,
            "signature": encode(self._trace(model.fixed_batch).signature),
            "family": loaded.version,
            "code": loaded.code,
            "notes": loaded.notes,
            "raw": None if before is None else encode(before.signature),
            "preprocessing": None if before is None else before.describe(),
        }

    def moved(self, *, source: Mapping[str, Any], progress: Progress) -> None:
        """The model that was loaded last is copied to `source`: it need not be loaded again."""
        if self._loaded is not None:
            self._source = decode(Source, source)

    def train(
        self, *, recipe: str, epochs: int | None, path: str, progress: Progress
    ) -> dict[str, Any]:
        """Train `recipe` and save the model as the .keras file `path`."""
        from edgekit.toolchain import training  # Keras 3: the worker of Keras 2 must not have it

        return {"parameters": training.train(load_recipe(recipe), epochs, Path(path), progress)}

    def split(
        self, *, recipe: str, split: Split, folder: str, progress: Progress
    ) -> dict[str, Any]:
        """The rows of one split of a recipe: inputs and targets."""
        feed, targets = load_recipe(recipe).data(split)
        return {
            "inputs": save_arrays(feed, Path(folder, "inputs")),
            "targets": save_arrays(targets, Path(folder, "targets")),
        }

    def preprocess(
        self,
        *,
        source: Mapping[str, Any],
        inputs: Mapping[str, str],
        folder: str,
        progress: Progress,
    ) -> dict[str, str]:
        """Raw rows as the layers that were split off give them to the model."""
        before = self._load(source).preprocessing
        if before is None:
            raise SourceError("the model has no preprocessing that was split off")
        return save_arrays(before.apply(load_arrays(inputs)), Path(folder))

    def synthesize(
        self,
        *,
        source: Mapping[str, Any],
        rows: int,
        seed: int,
        folder: str,
        progress: Progress,
    ) -> dict[str, str]:
        """Random rows that the model accepts."""
        return save_arrays(synthetic.feed(self._load(source).model, rows, seed), Path(folder))

    def predict(
        self,
        *,
        source: Mapping[str, Any],
        inputs: Mapping[str, str],
        folder: str,
        progress: Progress,
    ) -> dict[str, str]:
        """The Keras model's own outputs for every row.

        Called eagerly, not through the traced function that is converted: a fault of that one
        would be on both sides of the comparison.
        """
        model = self._load(source).model
        feed = load_arrays(inputs)
        batch = model.fixed_batch
        rows = len(next(iter(feed.values())))
        elements = sum(v[0].size for v in feed.values())
        step = batch or min(256, max(1, REFERENCE_ELEMENTS // elements))

        def call(start: int, count: int) -> dict[str, np.ndarray]:
            chunk = {n: v[start : start + count] for n, v in feed.items()}
            results = model.call({n: tf.constant(pad(v, batch)) for n, v in chunk.items()})
            return {n: np.asarray(v)[: rows - start] for n, v in results.items()}

        parts = [call(start, step) for start in range(0, rows, step)]
        few = batch or min(step, SOME_ROWS)
        reference.check_repeatable(call(0, few), call(0, few))
        outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        reference.check_comparable(outputs, rows)
        return save_arrays(outputs, Path(folder))

    def convert(
        self,
        *,
        source: Mapping[str, Any],
        form: str,
        precision: str,
        path: str,
        batch: int | None,
        opset: int,
        int8_io: bool,
        flex: bool,
        calibration: Mapping[str, str] | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Write one format in one precision to `path`; ONNX in fp32, to be quantized after."""
        keras_layers = self._load(source).model.layers
        int8 = precision == "int8" and form != "tfjs"
        unroll = int8 and bool(layers.recurrent(keras_layers))
        model = self._trace(batch, unroll)
        samples = load_arrays(calibration) if calibration else None
        options: dict[str, Any] = {"unrolled": True} if unroll else {}
        if form == "tflite":
            signature = tflite.convert(
                model,
                Path(path),
                precision=precision,
                calibration=samples,
                int8_io=int8_io,
                flex=flex,
            )
        elif form == "onnx":
            signature = self._convert_onnx(model, opset, Path(path))
        else:
            # 8 bits in TF.js are a storage format of the weights.
            stored = "uint8" if precision == "int8" else precision
            signature = tfjs.convert(model, stored, Path(path))
        return {
            "signature": encode(signature),
            "options": options,
            "tools": {name: version(name) for name in _TOOLS[form]},
        }

    def time(self, *, source: Mapping[str, Any], job: Mapping[str, Any], progress: Progress) -> Any:
        """Time the Keras model itself as `job` asks."""
        self._load(source)
        wanted = decode(Job, job)
        before = machine.resident_bytes()
        runner = KerasRunner(self._trace(wanted.signature.inputs[0].shape[0] or 1))
        timing = time_first_row(runner, wanted, load_arrays(wanted.inputs), 0, before)
        return encode(JobResult(runner.runtime, machine.describe(), timing=timing))

    def _load(self, source: Mapping[str, Any]) -> Loaded:
        wanted = decode(Source, source)
        if self._loaded is None or wanted != self._source:
            self._loaded = None  # two large models need not be here at a time
            self._traces.clear()
            self._onnx.clear()
            self._loaded, self._source = load(wanted), wanted
        return self._loaded

    def _trace(self, batch: int | None, unroll: bool = False) -> Canonical:
        if (batch, unroll) not in self._traces:
            assert self._loaded is not None
            model = self._loaded.model
            with layers.unrolled(model.layers if unroll else ()):
                self._traces[batch, unroll] = trace(model, batch)
        return self._traces[batch, unroll]

    def _convert_onnx(self, model: Canonical, opset: int, path: Path) -> Signature:
        """The float file, made once: int8 is made from it, by the quantizer."""
        if (model, opset) not in self._onnx:
            fp32 = self._scratch / f"{len(self._onnx)}.onnx"
            self._onnx[model, opset] = fp32, onnx.convert(model, fp32, opset=opset)
        fp32, signature = self._onnx[model, opset]
        shutil.copyfile(fp32, path)
        return signature

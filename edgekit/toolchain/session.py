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
from edgekit.agent.protocol import Job, JobResult, decode, encode
from edgekit.agent.rows import pad, time_first_row
from edgekit.errors import SourceError
from edgekit.recipe import Split, load_recipe
from edgekit.toolchain import reference, synthetic, tflite_sparse
from edgekit.toolchain.conversions import INTEGER, Conversions
from edgekit.toolchain.fine_tuning import Lesson
from edgekit.toolchain.keras_runner import KerasRunner
from edgekit.toolchain.source import load
from edgekit.types import Feed, Progress, Pruning, Quantization, Source

_TOOLS = {
    "tflite": ("tensorflow", "keras", "ai-edge-litert"),
    "onnx": ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime"),
    "tfjs": ("tensorflow", "keras"),
}


SOME_ROWS = 4
"""Rows that are run twice more, to see whether the model gives the same again."""

SOME_UNSEEN = 64
"""Rows on which ranges are checked, and layers compared."""

REFERENCE_ELEMENTS = 600_000
"""Input elements per eager call, as 4 images of 224²: more of them take gigabytes (measured)."""


class Session:
    """One loaded model at a time, with what was made from it so far."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._made: Conversions | None = None
        self._rows: dict[tuple[str, ...], Feed] = {}

    def load(self, *, source: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        """What the model in the file `source` is."""
        made = self._load(source)
        loaded = made.loaded
        model, before = loaded.model, loaded.preprocessing
        return {
            "name": model.name,
            "parameters": model.parameters,
            "signature": encode(made.trace(model.fixed_batch).signature),
            "family": loaded.version,
            "code": loaded.code,
            "notes": loaded.notes,
            "raw": None if before is None else encode(before.signature),
            "preprocessing": None if before is None else before.describe(),
        }

    def moved(self, *, source: Mapping[str, Any], progress: Progress) -> None:
        """The model that was loaded last is copied to `source`: it need not be loaded again."""
        if self._made is not None:
            self._source = decode(Source, source)

    def train(
        self, *, recipe: str, epochs: int | None, folder: str, progress: Progress
    ) -> dict[str, Any]:
        """Train `recipe` and save the model in `folder`: see `training.train`."""
        from edgekit.toolchain import training  # Keras 3: the worker of Keras 2 must not have it

        return training.train(load_recipe(recipe), epochs, Path(folder), progress)

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
        before = self._load(source).loaded.preprocessing
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
        return save_arrays(
            synthetic.feed(self._load(source).loaded.model, rows, seed), Path(folder)
        )

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
        model = self._load(source).loaded.model
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
        quantization: Mapping[str, Any],
        calibration: Mapping[str, str] | None,
        unseen: Mapping[str, str] | None,
        sparse_encoding: bool = False,
        progress: Progress,
    ) -> dict[str, Any]:
        """Write one format in one precision to `path`.

        Of ONNX, fp32 only: "made_from" is the float file that the light worker makes others from.
        """
        if sparse_encoding:
            tflite_sparse.check(form, precision)
        made = self._load(source)
        how, rows = decode(Quantization, quantization), self._read(calibration)
        made_from, keep = "", list[str]()
        warnings: list[str] = []
        if form == "tflite":
            signature = made.tflite(
                Path(path),
                precision,
                batch=batch,
                quantization=how,
                rows=rows,
                int8_io=int8_io,
                flex=flex,
                sparse_encoding=sparse_encoding,
            )
            if rows is not None and unseen is not None:
                warnings = made.departures(rows, self._some(unseen), batch, how.equalize)
        elif form == "onnx":
            fp32, signature, keep = made.onnx(
                precision, batch=batch, opset=opset, quantization=how, rows=rows
            )
            if precision == "fp32":
                shutil.copyfile(fp32, path)
            made_from = str(fp32)
        else:
            signature = made.tfjs(Path(path), precision, batch=batch)
        is_unrolled = form != "tfjs" and precision in INTEGER and made.is_recurrent
        return {
            "signature": encode(signature),
            "options": {"unrolled": True} if is_unrolled else {},
            "made_from": made_from,
            "keep": keep,
            "warnings": warnings,
            "tools": {name: version(name) for name in _TOOLS[form]},
        }

    def make_variant(
        self,
        *,
        source: Mapping[str, Any],
        pruning: Mapping[str, Any] | None,
        keeps_zeros: bool,
        recipe: str | None,
        feed: Mapping[str, str] | None,
        targets: Mapping[str, str] | None,
        epochs: int | None,
        path: str,
        progress: Progress,
    ) -> dict[str, Any]:
        """Prune or cluster a model, or train it for 8 bits (no `pruning`), and save it to `path`.

        By the recipe, or on `feed`; without both, at once.
        """
        from edgekit.toolchain import variants

        lesson = Lesson(recipe, feed or {}, targets or {}, epochs=epochs)
        done = variants.make_variant(
            decode(Source, source),
            None if pruning is None else decode(Pruning, pruning),
            lesson if recipe or feed else None,
            Path(path),
            progress,
            keeps_zeros=keeps_zeros,
        )
        packages = {"tfmot": "tensorflow-model-optimization"}
        used = ["tensorflow", *(packages[n] for n in packages if done["engine"].startswith(n))]
        return {**done, "tools": {name: version(name) for name in used}}

    def explain(
        self,
        *,
        source: Mapping[str, Any],
        form: str,
        precision: str,
        batch: int | None,
        opset: int,
        quantization: Mapping[str, Any],
        calibration: Mapping[str, str] | None,
        rows: Mapping[str, str],
        progress: Progress,
    ) -> Any:
        """What error each layer adds in one format and precision."""
        found = self._load(source).explain(
            form,
            precision,
            batch=batch,
            opset=opset,
            quantization=decode(Quantization, quantization),
            calibration=self._read(calibration),
            rows=self._some(rows),
        )
        return encode(found)

    def time(self, *, source: Mapping[str, Any], job: Mapping[str, Any], progress: Progress) -> Any:
        """Time the Keras model itself as `job` asks."""
        made = self._load(source)
        wanted = decode(Job, job)
        runner = KerasRunner(made.trace(wanted.signature.inputs[0].shape[0] or 1))
        # The model was loaded before: what it takes cannot be told from the rest of TensorFlow.
        timing = time_first_row(runner, wanted, load_arrays(wanted.inputs), 0, None)
        return encode(JobResult(runner.runtime, machine.describe(), timing=timing))

    def _load(self, source: Mapping[str, Any]) -> Conversions:
        wanted = decode(Source, source)
        if self._made is None or wanted != self._source:
            self._made = None  # two large models need not be here at a time
            # The host's folder for temporary files: it cleans up.
            scratch = Path(tempfile.mkdtemp())
            self._made, self._source = Conversions(load(wanted), scratch), wanted
        return self._made

    def _read(self, paths: Mapping[str, str] | None) -> Feed | None:
        """The rows in .npy files: the same object for the same files."""
        if paths is None:
            return None
        key = tuple(paths.values())
        if key not in self._rows:
            self._rows[key] = load_arrays(paths)
        return self._rows[key]

    def _some(self, paths: Mapping[str, str]) -> Feed:
        return {name: value[:SOME_UNSEEN] for name, value in load_arrays(paths).items()}

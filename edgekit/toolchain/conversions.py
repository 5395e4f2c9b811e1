"""One loaded model, and what was made from it so far: no step is done twice for several files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from edgekit.errors import ConversionError
from edgekit.toolchain import layers, onnx, tfjs, tflite
from edgekit.toolchain.calibration import departures
from edgekit.toolchain.canonical import Canonical, trace
from edgekit.toolchain.equalization import equalized
from edgekit.toolchain.explanation import explain, layers_of
from edgekit.toolchain.layer_graph import LayerGraph, layer_graph
from edgekit.toolchain.matching import match
from edgekit.toolchain.onnx_quantize import FloatFile
from edgekit.toolchain.operators import OpenFile, open_onnx, open_tflite
from edgekit.toolchain.quantizable import Quantizable
from edgekit.toolchain.quantizer import write
from edgekit.toolchain.segments import kept, segments
from edgekit.toolchain.source import Loaded
from edgekit.types import Explanation, Feed, Quantization, Signature

INTEGER = ("int8", "int16x8")
"""Precisions whose activations are integers."""


class Conversions:
    """Converts `loaded`; float ONNX files are kept in the folder `scratch`."""

    def __init__(self, loaded: Loaded, scratch: Path) -> None:
        self.loaded = loaded
        self._scratch = scratch
        self._traces: dict[tuple[int | None, bool], Canonical] = {}
        self._onnx: dict[object, tuple[Path, Signature]] = {}
        self._quantizable: dict[object, Quantizable] = {}
        self._even: dict[int, list[str]] = {}
        self._layers: dict[int, dict[str, str]] = {}

    @property
    def is_recurrent(self) -> bool:
        return bool(layers.recurrent(self.loaded.model.layers))

    def trace(self, batch: int | None, unroll: bool = False) -> Canonical:
        """The canonical function, with the loops of recurrent layers unrolled if asked."""
        if (batch, unroll) not in self._traces:
            self._traces[batch, unroll] = self._traced(batch, unroll)
        return self._traces[batch, unroll]

    def tflite(
        self,
        path: Path,
        precision: str,
        *,
        batch: int | None,
        quantization: Quantization,
        rows: Feed | None,
        int8_io: bool = False,
        flex: bool = False,
        sparse_encoding: bool = False,
    ) -> Signature:
        """Write a TFLite file; `rows` calibrate an integer one."""
        if precision not in INTEGER or rows is None:
            with self._equalized(rows if quantization.equalize else None) as trace:
                return tflite.convert(
                    trace(batch),
                    path,
                    precision=precision,
                    flex=flex,
                    sparse_encoding=sparse_encoding,
                )
        source = self._for_tflite(batch, rows, quantization.equalize)
        keep: list[str] = []
        if quantization.keep_float:
            file = open_tflite(source.content, source.signature)
            keep = self._kept(file, rows, quantization)
        content = source.quantize(precision, quantization, int8_io=int8_io, keep=keep)
        return source.write(path, content)

    def onnx(
        self,
        precision: str,
        *,
        batch: int | None,
        opset: int,
        quantization: Quantization,
        rows: Feed | None,
    ) -> tuple[Path, Signature, list[str]]:
        """The float ONNX file that one of `precision` is made from, not to be changed.

        Returns:
            The file, its signature, and the tensors whose operators are to stay float.
        """
        fp32, signature = self._for_onnx(batch, opset, precision, rows, quantization.equalize)
        keep: list[str] = []
        if quantization.keep_float and rows is not None:
            keep = self._kept(open_onnx(fp32, signature), rows, quantization)
        return fp32, signature, keep

    def tfjs(self, path: Path, precision: str, *, batch: int | None) -> Signature:
        """Write a TF.js folder; 8 bits there are a storage format of the weights."""
        stored = "uint8" if precision == "int8" else precision
        return tfjs.convert(self.trace(batch), stored, path)

    def departures(self, rows: Feed, unseen: Feed, batch: int | None, equalize: bool) -> list[str]:
        """Warnings that activations leave their ranges on rows that had no part in them."""
        source = self._for_tflite(batch, rows, equalize)
        ranges = source.ranges("minmax", 100.0)
        return departures(
            source.taps,
            ranges,
            unseen,
            source.signature,
            lambda: self._layers_of(source, rows, equalize),
        )

    def explain(
        self,
        form: str,
        precision: str,
        *,
        batch: int | None,
        opset: int,
        quantization: Quantization,
        calibration: Feed | None,
        rows: Feed,
    ) -> Explanation:
        """What error each layer adds in a file of `form` and `precision`, which is not kept.

        Raises:
            ConversionError: it cannot be made, or the model is no graph of layers.
        """
        how = quantization
        path, id = self._scratch / f"explained.{form}", f"{precision}.{form}"
        if form == "tflite" and precision in INTEGER and calibration is not None:
            source = self._for_tflite(batch, calibration, how.equalize)
            floats = open_tflite(source.content, source.signature)
            keep: Collection[str] = ()
            if how.keep_float:
                keep = self._kept(floats, calibration, how)
            file = open_tflite(source.quantize(precision, how, keep=keep), source.signature)
        elif form == "tflite":
            signature = tflite.convert(self.trace(batch), path, precision="fp32")
            floats = file = open_tflite(path.read_bytes(), signature)
            if precision != "fp32":
                signature = tflite.convert(self.trace(batch), path, precision=precision)
                file = open_tflite(path.read_bytes(), signature)
        else:
            fp32, signature, kept_ = self.onnx(
                precision, batch=batch, opset=opset, quantization=how, rows=calibration
            )
            floats = file = open_onnx(fp32, signature)
            if precision != "fp32":
                write(FloatFile(fp32, signature, calibration or {}), path, precision, how, kept_)
                file = open_onnx(path, signature)
        with self._equalized(calibration if how.equalize else None):
            graph = self._graph()
            matches = None if floats is file else match(graph, floats, calibration or rows)
            return explain(
                graph,
                rows,
                file,
                matches,
                artifact=id,
                # What is evened out already cannot be again.
                evened=lambda: [] if how.equalize else self._evened(calibration),
            )

    def _evened(self, rows: Feed | None) -> list[str]:
        """The layers whose ranges equalization would change."""
        if rows is None:
            return []
        if id(rows) not in self._even:
            with equalized(self.loaded.model, self._graph(), rows) as changed:
                self._even[id(rows)] = changed
        return self._even[id(rows)]

    def _layers_of(self, source: Quantizable, rows: Feed, equalize: bool) -> dict[str, str]:
        """The layers that compute the tensors of a float file, if the model is a graph of them."""
        if id(source) not in self._layers:
            self._layers[id(source)] = {}
            floats = open_tflite(source.content, source.signature)
            with contextlib.suppress(ConversionError), self._equalized(rows if equalize else None):
                self._layers[id(source)] = layers_of(self._graph(), floats, rows)
        return self._layers[id(source)]

    def _for_tflite(self, batch: int | None, rows: Feed, equalize: bool) -> Quantizable:
        key = batch, id(rows), equalize
        if key not in self._quantizable:
            with self._equalized(rows if equalize else None) as trace:
                self._quantizable[key] = Quantizable(trace(batch, self.is_recurrent), rows)
        return self._quantizable[key]

    def _for_onnx(
        self, batch: int | None, opset: int, precision: str, rows: Feed | None, equalize: bool
    ) -> tuple[Path, Signature]:
        """The float file, made once; unrolled where integers are made of it."""
        unroll = precision in INTEGER and self.is_recurrent
        equalizing = rows if equalize else None
        key = batch, opset, unroll, None if equalizing is None else id(equalizing)
        if key not in self._onnx:
            path = self._scratch / f"{len(self._onnx)}.onnx"
            with self._equalized(equalizing) as trace:
                signature = onnx.convert(trace(batch, unroll), path, opset=opset)
            self._onnx[key] = path, signature
        return self._onnx[key]

    def _traced(self, batch: int | None, unroll: bool = False) -> Canonical:
        model = self.loaded.model
        with layers.unrolled(model.layers if unroll else ()):
            return trace(model, batch)

    @contextlib.contextmanager
    def _equalized(self, rows: Feed | None) -> Iterator[Callable[..., Canonical]]:
        """The weights evened out on `rows` within the block; None: as they are.

        Gives what traces the model then: a trace that is kept would have other weights.
        """
        if rows is None:
            yield self.trace
            return
        with equalized(self.loaded.model, self._graph(), rows) as changed:
            if not changed:
                raise ConversionError(
                    "there are no layers between which ranges could be evened out",
                    hint="leave out --equalize",
                )
            yield self._traced

    def _graph(self) -> LayerGraph:
        if self.loaded.keras is None:
            raise ConversionError(
                "a SavedModel has no layers that could be told apart",
                hint="start from the .keras or .h5 file",
            )
        return layer_graph(self.loaded.keras)

    def _kept(self, file: OpenFile, rows: Feed, quantization: Quantization) -> list[str]:
        """The tensors of a float file whose operators compute the layers to keep in float."""
        with self._equalized(rows if quantization.equalize else None):
            graph = self._graph()
            found = segments(graph, file, match(graph, file, rows))
        return kept(found, quantization.keep_float)

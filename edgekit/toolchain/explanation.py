"""Which layer of a file hurts: Keras and the file side by side, layer by layer.

Each layer is computed by Keras, in float, from the file's own tensors before it. How the file's
own result differs from that is the error which this layer adds, whatever the others did.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from edgekit.toolchain.activations import activations, as_keras, replaced, some_rows
from edgekit.toolchain.causes import FINE_DB, Evidence, Finding, cause_of
from edgekit.toolchain.layer_graph import LayerGraph, Values
from edgekit.toolchain.matching import FEW_ROWS, Matches, match
from edgekit.toolchain.noise import outlying, sqnr_db
from edgekit.toolchain.operators import OpenFile
from edgekit.toolchain.segments import Segment, segments
from edgekit.types import Explanation, Feed, LayerError

MOST_ROWS = 64
MOST_ELEMENTS = 60_000_000
"""Activations of the file that are held at a time, 240 MB; and as many of Keras."""

LOST_DB = 3.0
"""Below, half of a layer's channels are lost. Those behind it cannot be judged by it: an outlier
goes on through them. Of such layers the first is named first."""

HALF_DB = 3.0
"""What causes half of the noise or more leaves, alone, at most this much less of it."""


def explain(
    graph: LayerGraph,
    rows: Feed,
    file: OpenFile,
    floats: Matches | None = None,
    *,
    artifact: str = "",
    evened: Callable[[], Collection[str]] = tuple,
) -> Explanation:
    """Rank the layers of `graph` by the error that each adds in `file`.

    Args:
        graph: the Keras model.
        rows: (N, ...) typical rows by Keras input name; at most 64 are used.
        file: the file to explain.
        floats: of a quantized file: where the float file that it was made from has the Keras
            tensors (`match`). None: `file` itself is a float file, which should give the same.
        artifact: the file's id.
        evened: gives the layers whose ranges equalization would change; asked where it may help.
    """
    matches = match(graph, file, rows, floats)
    held = {m.tensor for m in matches.values()}
    rows = some_rows(file, rows, held, most=MOST_ROWS, elements=MOST_ELEMENTS)
    worlds = _Worlds(graph, file, rows, matches, activations(file, rows, held), evened)
    readers: list[_Reader] = []
    errors: list[LayerError] = []
    # From the end, as what to keep depends on the layers behind.
    for segment in reversed(segments(graph, file, matches)):
        if segment.operators:
            pair = worlds.pair(segment)
            keep = _keep(pair, readers, file)
            readers.append(_Reader(segment, outlying(pair.wanted) is not None))
            errors.append(worlds.error(pair, keep, is_float_file=floats is None))
    inputs = list(worlds.coarse_inputs(readers))
    errors = [
        _with_input(error, reader.segment, inputs)
        for error, reader in zip(reversed(errors), reversed(readers), strict=True)
    ]
    lost = [error for error in errors if error.sqnr_db < LOST_DB]
    others = [error for error in errors if error.sqnr_db >= LOST_DB]
    return Explanation(
        artifact=artifact,
        rows=len(next(iter(rows.values()))),
        layers=(*lost, *sorted(others, key=lambda error: error.sqnr_db)),
        notes=tuple(
            f"{i}; {i.finding.fix}" for i in inputs if all(e.detail != str(i) for e in errors)
        ),
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """What a segment gives from the file's own inputs, (N, ..., channels): by Keras and the file.

    `number` is the Keras tensor's, of several outputs the worst one's.
    """

    segment: Segment
    number: int
    tensor: str
    wanted: np.ndarray
    found: np.ndarray
    sqnr_db: float


@dataclass(frozen=True)
class _Reader:
    """A segment behind others, and whether one of its channels outlies the rest."""

    segment: Segment
    is_outlying: bool


@dataclass(frozen=True)
class _CoarseInput:
    """An input of the model that the file rounds too coarsely, and the layers that take it."""

    name: str
    tensor: str
    sqnr_db: float
    finding: Finding
    keep: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"the input {self.name!r}: {self.sqnr_db:.1f} dB, {self.finding.cause}: "
            f"{self.finding.detail}"
        )


class _Worlds:
    """The Keras model's tensors, and the file's own, on the same rows."""

    def __init__(
        self,
        graph: LayerGraph,
        file: OpenFile,
        rows: Feed,
        matches: Matches,
        seen: Feed,
        evened: Callable[[], Collection[str]],
    ) -> None:
        self._graph, self._file, self._rows = graph, file, rows
        self._matches, self._seen, self._evened = matches, seen, evened
        self._pure: Values = {
            number: tf.constant(rows[spec.name])
            for number, spec in zip(graph.inputs, file.signature.inputs, strict=True)
        }
        last = {n: place for place, call in enumerate(graph.calls) for n in call.inputs}
        for place, call in enumerate(graph.calls):
            self._pure.update(zip(call.outputs, call.compute(self._pure), strict=True))
            for number in set(call.inputs):
                if last[number] == place and number not in matches:
                    del self._pure[number]

    def pair(self, segment: Segment) -> _Pair:
        values = {n: replaced(self._pure[n], self._own(n)) for n in segment.taken}
        for call in segment.calls:
            values.update(zip(call.outputs, call.compute(values), strict=True))
        pairs = []
        for number in segment.given:
            wanted, found = np.asarray(values[number]), self._own(number)
            tensor = self._matches[number].tensor
            pairs.append(_Pair(segment, number, tensor, wanted, found, sqnr_db(wanted, found)))
        return min(pairs, key=lambda pair: pair.sqnr_db)

    def error(self, pair: _Pair, keep: tuple[str, ...], *, is_float_file: bool) -> LayerError:
        evidence = Evidence(
            name=keep[0],
            wanted=pair.wanted,
            found=pair.found,
            sqnr_db=pair.sqnr_db,
            tensor=pair.tensor,
            file=self._file,
            segment=pair.segment,
            keep=keep,
            is_float_file=is_float_file,
            inside=self._inside(pair.segment) if pair.sqnr_db < FINE_DB else {},
            evens_out=lambda: not {c.name for c in pair.segment.calls}.isdisjoint(self._evened()),
        )
        finding = cause_of(evidence)
        return LayerError(
            layers=pair.segment.layers,
            sqnr_db=round(pair.sqnr_db, 2),
            cumulative_sqnr_db=round(sqnr_db(np.asarray(self._pure[pair.number]), pair.found), 2),
            cause=finding.cause,
            detail=finding.detail,
            fix=finding.fix,
            keep=keep,
        )

    def _inside(self, segment: Segment) -> Feed:
        """The file's tensors between those of a segment, on a few rows."""
        ends = {*segment.outputs, *map(self._file.stored, segment.outputs)}
        names = [n for n in segment.operators if n not in ends]
        few = some_rows(self._file, self._rows, names, most=FEW_ROWS, elements=MOST_ELEMENTS)
        return activations(self._file, few, names)

    def coarse_inputs(self, readers: Sequence[_Reader]) -> Iterator[_CoarseInput]:
        """Inputs of which much is lost as the file rounds them."""
        for name, number in zip(self._graph.input_names, self._graph.inputs, strict=True):
            tensor = self._matches[number].tensor
            wanted, found = np.asarray(self._pure[number]), self._own(number)
            ratio = sqnr_db(wanted, found)
            if wanted.dtype.kind != "f" or tensor not in self._file.grids or ratio > FINE_DB:
                continue
            # Where the file gives nothing but constants, it has no layers that could be told apart.
            takers = (call.name for call in self._graph.readers.get(number, []))
            keep = _readers_of({tensor}, readers) or tuple(takers)
            evidence = Evidence(name, wanted, found, ratio, tensor, self._file, keep=keep)
            yield _CoarseInput(name, tensor, ratio, cause_of(evidence), keep)

    def _own(self, number: int) -> np.ndarray:
        """The file's values of a Keras tensor."""
        match = self._matches[number]
        return as_keras(self._seen[match.tensor], match.axes, self._pure[number].shape)


def _keep(pair: _Pair, readers: Sequence[_Reader], file: OpenFile) -> tuple[str, ...]:
    """The layers to keep float for the error of `pair` to go.

    Where it is the output's grid that loses, the layers that read it must be float as well: else
    it is quantized for them all the same. An outlying channel goes on through a depthwise
    convolution or an addition, to the layers behind those.
    """
    names = {_weighted(pair.segment): None}
    grid = file.grid(pair.tensor)
    if grid is None or pair.sqnr_db > FINE_DB:
        return tuple(names)
    if sqnr_db(pair.wanted, grid.rounded(pair.wanted)) > pair.sqnr_db + HALF_DB:
        return tuple(names)
    names.update(dict.fromkeys(_readers_of(set(pair.segment.outputs), readers)))
    return tuple(names)


def _readers_of(outputs: Collection[str], readers: Sequence[_Reader]) -> tuple[str, ...]:
    """The layers that take these tensors and, as far as an outlier goes on, those behind them.

    `readers` are in the order from the last one.
    """
    names: dict[str, None] = {}
    open_ends = [set(outputs)]
    while open_ends:
        outputs = open_ends.pop()
        for reader in reversed(readers):
            name = _weighted(reader.segment)
            if outputs & set(reader.segment.inputs) and name not in names:
                names[name] = None
                if reader.is_outlying:
                    open_ends.append(set(reader.segment.outputs))
    return tuple(names)


def _with_input(error: LayerError, segment: Segment, inputs: Sequence[_CoarseInput]) -> LayerError:
    """The error of a layer or, if that is worse, of a coarse input that it takes.

    From an input of which half is lost, whatever the layer gives tells nothing about the layer.
    """
    taken = [i for i in inputs if i.tensor in segment.inputs]
    worst = min(taken, key=lambda i: i.sqnr_db, default=None)
    if worst is None or worst.sqnr_db > max(error.sqnr_db, LOST_DB):
        return error
    return replace(
        error,
        sqnr_db=round(min(worst.sqnr_db, error.sqnr_db), 2),
        cause=worst.finding.cause,
        detail=str(worst),
        fix=worst.finding.fix,
        keep=worst.keep,
    )


def _weighted(segment: Segment) -> str:
    """The layer of a segment to call it by: the first with weights."""
    calls = [call for call in segment.calls if call.name in segment.layers]
    return next(
        (call.name for call in calls if getattr(call.layer, "weights", ())), segment.layers[0]
    )


def layers_of(graph: LayerGraph, file: OpenFile, rows: Feed) -> dict[str, str]:
    """The Keras layers that compute each tensor of a float file, in words; `rows` as in `match`."""
    return {
        tensor: " + ".join(segment.layers)
        for segment in segments(graph, file, match(graph, file, rows))
        for name in segment.operators
        for tensor in file.producers[name].outputs
    }

"""Which tensor of a file holds what a Keras layer gives: told by its values.

Names tell nothing, as each format has others. Each layer is computed by Keras from the file's own
tensors, as far as they are known: so one layer that differs does not hide those behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.activations import activations, as_keras, replaced, some_rows
from edgekit.toolchain.layer_graph import LayerCall, LayerGraph
from edgekit.toolchain.operators import OpenFile
from edgekit.types import Feed

SAME = 1e-4
"""Largest difference of equal tensors, as a share of a channel's scale: kernels differ in the
order of their sums. A tenth of it, as a share of the whole tensor's scale, is always allowed."""

ALIKE = 0.5
"""Largest share of a tensor's variance in which a quantized one may differ."""

AS_GOOD = 1e-3
"""Two tensors are as good as each other whose distances differ by less than this share."""

FEW_ROWS = 16
"""Rows that tell one tensor from another."""

MOST_ELEMENTS = 30_000_000
"""Activations of a file that are held at a time: 120 MB."""

AHEAD = 12
"""Calls behind a layer that differs in which one must be found again."""


@dataclass(frozen=True)
class Match:
    """A tensor of the file that holds a Keras tensor.

    `axes` are the file's axes in Keras' order; None where the shapes have nothing in common but
    their size. `distance` is the share of the Keras tensor's variance in which it differs.
    """

    tensor: str
    axes: tuple[int, ...] | None
    distance: float


Matches = dict[int, Match]
"""By the number of the Keras tensor."""


def match(graph: LayerGraph, file: OpenFile, rows: Feed, floats: Matches | None = None) -> Matches:
    """The Keras tensors that the file has, with its inputs and outputs.

    Args:
        graph: the model's layers.
        file: a file of that model.
        rows: (N, ...) by Keras input name; a few are used.
        floats: what was found in the float file, if this one was made from it: the same is looked
            for. None: this is a float file, whose tensors are the same as those of Keras, or wrong.
    """
    matching = _Matching(graph, file, rows, floats)
    matching.find(graph.calls)
    while floats is None and matching.bridge():
        pass
    return matching.found


@dataclass
class _State:
    """What is known of Keras' tensors, by number.

    `computed` by Keras from what was known; `values` the file's own where it was found, else
    those; `sources` the file's tensors that it was computed from.
    """

    found: Matches = field(default_factory=dict)
    computed: dict[int, Any] = field(default_factory=dict)
    values: dict[int, Any] = field(default_factory=dict)
    sources: dict[int, frozenset[str]] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(dict(self.found), dict(self.computed), dict(self.values), dict(self.sources))


class _Matching:
    """The search for Keras' tensors among those of a file."""

    def __init__(
        self, graph: LayerGraph, file: OpenFile, rows: Feed, floats: Matches | None
    ) -> None:
        self._graph, self._file, self._floats = graph, file, floats
        self._readers = graph.readers
        self._outputs = dict(zip(graph.outputs, map(file.quantized, file.outputs), strict=True))
        self._ancestry = _Ancestry(file)
        ends = {*file.inputs, *self._outputs.values()}
        names = [n for n in file.taps.tensors if n in self._ancestry and file.quantized(n) == n]
        few = some_rows(file, rows, names, most=FEW_ROWS, elements=MOST_ELEMENTS)
        self._tensors = {
            name: values
            for name, values in activations(file, few, names).items()
            if floats is not None or name in ends or _tells(values)
        }
        self._state = _State()
        for number, name, spec in zip(
            graph.inputs, file.inputs, file.signature.inputs, strict=True
        ):
            self._state.computed[number] = tf.constant(few[spec.name])
            self._hold(number, Match(file.quantized(name), None, 0.0))

    @property
    def found(self) -> Matches:
        return self._state.found

    def find(self, calls: Sequence[LayerCall]) -> None:
        """Compute `calls`, and look in the file for what they give."""
        state = self._state
        for call in calls:
            sources = frozenset[str]().union(*(state.sources[n] for n in call.inputs))
            for number, made in zip(call.outputs, call.compute(state.values), strict=True):
                state.computed[number] = made
                state.sources[number] = sources
                self._let_go(number)
                best = self._closest(number)
                if best is not None and self._is_free(best, number, call):
                    self._hold(number, best)

    def bridge(self) -> bool:
        """Go on behind a layer that differs, where the rest follows from a tensor of the file."""
        calls = self._graph.calls
        for number in sorted(n for n, match in self.found.items() if match.distance > 0):
            gap = sorted(self._graph.between(number, self.found))
            for place in gap[:-1]:
                anchors = [
                    (inside, anchor)
                    for inside in calls[place].outputs
                    for anchor in self._candidates(inside, exact=False)
                    if anchor.tensor not in self._held() and self._follows(place, inside, anchor)
                ]
                if anchors:
                    self._hold(*min(anchors, key=lambda found: found[1].distance))
                    self.find(calls[place + 1 :])
                    return True
        return False

    def _follows(self, place: int, number: int, anchor: Match) -> bool:
        """Whether something behind is the same again if the file has `number` as `anchor`."""
        before, self._state = self._state, self._state.copy()
        self._hold(number, anchor)
        behind = self._graph.calls[place + 1 : place + 1 + AHEAD]
        self.find(behind)
        found = [self.found[n] for call in behind for n in call.outputs if n in self.found]
        self._state = before
        return any(
            m.distance == 0
            and m.tensor != anchor.tensor
            and self._ancestry.leads(anchor.tensor, m.tensor)
            for m in found
        )

    def _closest(self, number: int) -> Match | None:
        """The tensor that holds `number`; of several as good, the first that is not yet taken."""
        floats, is_output = self._floats, number in self._outputs
        if floats is not None and number not in floats:
            return None
        named = None
        if floats is not None and not is_output:
            # Where a huge channel decides, values tell little; quantizers keep most names.
            named = self._candidate(number, self._file.quantized(floats[number].tensor))
            if named is not None and named.distance <= ALIKE:
                return named
        candidates = self._candidates(number, exact=floats is None and not is_output)
        if not candidates:
            return None
        least = min(match.distance for match in candidates)
        held = self._held()
        if floats is None or is_output or least <= ALIKE:
            good = [m for m in candidates if _is_as_good(m.distance, least)]
            return min(good, key=lambda m: m.tensor in held)
        # Nothing is alike: the layer is broken. Then it is where the float file has it.
        return named or next((m for m in candidates if m.tensor not in held), None)

    def _candidates(self, number: int, exact: bool) -> list[Match]:
        """The file's tensors that may hold `number`, in the order of their computation."""
        names = [self._outputs[number]] if number in self._outputs else list(self._tensors)
        found = (self._candidate(number, name, exact) for name in names)
        return [match for match in found if match is not None]

    def _candidate(self, number: int, name: str, exact: bool = False) -> Match | None:
        """How close a tensor of the file is to `number`; None: it cannot be the same."""
        wanted, values = np.asarray(self._state.computed[number]), self._tensors.get(name)
        if wanted.dtype.kind != "f" or not wanted.ndim or values is None:
            return None
        if values.size != wanted.size or not _tells(wanted):
            return None
        if not any(self._ancestry.leads(s, name) for s in self._state.sources[number]):
            return None
        if exact and not _may_be_same(wanted, values):
            return None
        best = Match(name, None, np.inf)
        for axes in _arrangements(values.shape[1:], wanted.shape):
            distance = _distance(wanted, as_keras(values, axes, wanted.shape))
            if distance < best.distance:
                best = Match(name, axes, distance)
        return None if exact and best.distance > 0 else best

    def _is_free(self, match: Match, number: int, call: LayerCall) -> bool:
        """Whether the tensor can be taken from who has it: by what is closer, or what it becomes.

        Of two layers of which the second changes nothing on these rows (an activation, dropout)
        the file may compute both as one: then the tensor is the second's.
        """
        holder = self._held().get(match.tensor)
        if holder is None or holder in self._graph.inputs:
            return True
        other = self.found[holder]
        if _is_as_good(match.distance, other.distance):
            if self._readers[holder] == [call]:
                self._let_go(holder)
            return True
        if match.distance < other.distance:
            self._let_go(holder)
            return True
        return number in self._outputs

    def _held(self) -> dict[str, int]:
        """Who has each tensor: the last of them."""
        return {match.tensor: number for number, match in self.found.items()}

    def _hold(self, number: int, match: Match) -> None:
        state = self._state
        computed = state.computed[number]
        state.found[number] = match
        state.sources[number] = frozenset({match.tensor})
        values = as_keras(self._tensors[match.tensor], match.axes, computed.shape)
        state.values[number] = replaced(computed, values)

    def _let_go(self, number: int) -> None:
        self._state.found.pop(number, None)
        self._state.values[number] = self._state.computed[number]


def _tells(values: np.ndarray) -> bool:
    """Whether a tensor can be known by its values."""
    return bool(np.isfinite(values).all() and np.ptp(values) > 0)


def _may_be_same(wanted: np.ndarray, found: np.ndarray) -> bool:
    """Whether the smallest and largest values are the same, which is quickly seen."""
    low, high = wanted.min(), wanted.max()
    room = 10 * SAME * max(abs(low), abs(high))
    return bool(abs(found.min() - low) <= room and abs(found.max() - high) <= room)


def _is_as_good(one: float, other: float) -> bool:
    return abs(one - other) <= AS_GOOD * max(one, other) + 1e-12


def _distance(wanted: np.ndarray, found: np.ndarray) -> float:
    """The share of the variance of `wanted` in which `found` differs; 0: they are the same."""
    difference = np.abs(found - wanted)
    channels = (-1, wanted.shape[-1] if wanted.ndim > 1 else 1)
    scales = np.abs(wanted).reshape(channels).max(axis=0)
    if (difference.reshape(channels).max(axis=0) <= SAME * (scales + scales.max() / 10)).all():
        return 0.0
    noise = np.square(difference).mean(dtype=np.float64)
    share = noise / wanted.var(dtype=np.float64)
    return float(share) if np.isfinite(share) else np.inf


def _arrangements(shape: Sequence[int], wanted: Sequence[int]) -> Iterator[tuple[int, ...] | None]:
    """Axes in orders that give the wanted shape, but for dimensions of 1; as it is comes first."""
    yield None
    dims = [d for d in wanted[1:] if d != 1]
    for axes in itertools.permutations(range(len(shape))):
        kept = [a for a in axes if shape[a] != 1]
        if kept != sorted(kept) and [shape[a] for a in kept] == dims:
            yield axes


class _Ancestry:
    """The operators that a tensor is computed by; as bits, as unrolled graphs have thousands."""

    def __init__(self, file: OpenFile) -> None:
        self._bit = {name: 1 << place for place, name in enumerate(file.inputs)}
        self._before = dict.fromkeys(file.inputs, 0)
        for place, op in enumerate(file.operators, len(file.inputs)):
            before = 0
            for name in op.inputs:
                before |= self._before.get(name, 0) | self._bit.get(name, 0)
            for name in op.outputs:
                self._bit[name], self._before[name] = 1 << place, before

    def __contains__(self, name: str) -> bool:
        return name in self._bit

    def leads(self, source: str, name: str) -> bool:
        """Whether `name` comes with `source`, out of the same operator, or is computed from it."""
        return bool(self._bit[source] & (self._bit[name] | self._before[name]))

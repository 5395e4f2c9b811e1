"""The operators of a float file that compute each Keras layer, and which of them to keep."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from edgekit.errors import ConversionError
from edgekit.toolchain.layer_graph import LayerCall, LayerGraph
from edgekit.toolchain.matching import Matches
from edgekit.toolchain.operators import OpenFile


@dataclass(frozen=True)
class Segment:
    """Keras layers that a file computes as one: a convolution, its batch norm and activation.

    `inputs` and `outputs` are the file's tensors, `operators` the first outputs of the operators
    in between. A layer without operators changes nothing in the file.
    """

    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[str, ...]
    calls: tuple[LayerCall, ...] = field(repr=False, compare=False)
    taken: tuple[int, ...] = field(repr=False, compare=False)
    given: tuple[int, ...] = field(repr=False, compare=False)
    """Numbers of the Keras tensors that `inputs` and `outputs` are."""


def segments(graph: LayerGraph, file: OpenFile, matches: Matches) -> list[Segment]:
    """The layers in the order of their computation, each operator in one segment at most.

    A layer that is called twice is in two segments.
    """
    ends = {match.tensor for match in matches.values()}
    claimed: set[str] = set()
    listed: set[int] = set()
    found = []
    for place, call in enumerate(graph.calls):
        given = tuple(n for n in call.outputs if n in matches)
        if not given:
            continue
        places = sorted(set().union(*(graph.between(n, matches) for n in given)))
        calls = tuple(graph.calls[p] for p in places)
        outputs = tuple(matches[n].tensor for n in given)
        operators = _operators_between(file, outputs, ends, claimed)
        claimed.update(operators)
        made = {n for c in calls for n in c.outputs}
        taken = tuple(dict.fromkeys(n for c in calls for n in c.inputs if n not in made))
        found.append(
            Segment(
                layers=tuple(graph.calls[p].name for p in places if p == place or p not in listed),
                inputs=tuple(matches[n].tensor for n in taken),
                outputs=outputs,
                operators=operators,
                calls=calls,
                taken=taken,
                given=given,
            )
        )
        listed.update(places)
    return found


def kept(found: Sequence[Segment], patterns: Sequence[str]) -> list[str]:
    """The operators of the layers whose names match one of `patterns` ("head/*", "conv?").

    A model inside the model stands for all of its layers. Of layers that are computed as one, all
    are kept if one is.

    Raises:
        ConversionError: a pattern matches no layer.
    """
    names = {name for segment in found for name in segment.layers}
    for pattern in patterns:
        if not _matching(names, pattern):
            raise ConversionError(
                f"no layer of the model matches {pattern!r}", hint=_closest(pattern, names)
            )
    return [
        operator
        for segment in found
        if any(_matching(segment.layers, pattern) for pattern in patterns)
        for operator in segment.operators
    ]


def _matching(names: Collection[str], pattern: str) -> list[str]:
    return fnmatch.filter(names, pattern) + fnmatch.filter(names, f"{pattern}/*")


def _closest(pattern: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(pattern.strip("*"), sorted(names), 5, 0.4)
    return f"the closest names: {', '.join(close or sorted(names)[:8])}"


def _operators_between(
    file: OpenFile, outputs: Sequence[str], ends: Collection[str], claimed: Collection[str]
) -> tuple[str, ...]:
    """First outputs of the operators that lead to `outputs` from other tensors that are known."""
    found: set[str] = set()
    open_ends = list(outputs)
    while open_ends:
        op = file.producers.get(open_ends.pop())
        if op is None or op.outputs[0] in found or op.outputs[0] in claimed:
            continue
        found.add(op.outputs[0])
        open_ends.extend(name for name in op.inputs if name not in ends)
    return tuple(op.outputs[0] for op in file.operators if op.outputs[0] in found)

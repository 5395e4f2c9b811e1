"""How much of each layer a pruning takes."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from edgekit.errors import ConversionError
from edgekit.types import Pruning


def amounts(pruning: Pruning, names: Sequence[str]) -> dict[str, float]:
    """The amount for each layer that is to be pruned; those that stay as they are are left out.

    Args:
        pruning: what is asked for.
        names: of the layers that can be pruned, in the order of their computation; in nested
            models with the names of these before: "encoder/conv".

    Raises:
        ConversionError: there is no such layer, or a pattern fits none.
    """
    if not names:
        raise ConversionError("the model has no layer that could be pruned")
    found = dict.fromkeys(names, pruning.amount)
    if pruning.skip_first:
        found[names[0]] = 0
    if pruning.skip_last:
        found[names[-1]] = 0
    for pattern, amount in pruning.layers:
        fitting = [n for n in names if fnmatch.fnmatch(n, pattern) or n.startswith(f"{pattern}/")]
        if not fitting:
            raise ConversionError(
                f"no layer that could be pruned fits {pattern!r}",
                hint=f"these can be: {', '.join(names)}",
            )
        found |= dict.fromkeys(fitting, amount)
    taken = {name: amount for name, amount in found.items() if amount}
    if not taken:
        raise ConversionError(
            "nothing is left to prune: every layer that could be is left as it is",
            hint=f"these can be: {', '.join(names)}",
        )
    return taken

"""Which rows calibrate, decide and judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from edgekit.errors import SourceError

SPLITS = {"calibration": "calibration", "validation": "validation", "verification": "test"}
"""The rows that calibrate, decide and judge, and what recipes call them."""

Origin = Literal["recipe", "samples", "third", "synthetic", "nothing"]
"""Where the rows of a split come from: "samples" are all of them, a "third" is its part of them."""


def plan_splits(
    there: Mapping[str, str], *, recipe: bool, samples: bool, hold_back: bool
) -> dict[str, Origin]:
    """Where the rows of each split are to come from; those that stay as they are are left out.

    With a recipe, samples calibrate in the command that they are given to; all else is the
    recipe's. Without one, the splits are always of one and the same samples: all of them calibrate
    and all are compared on or, from the first command on that holds rows back, a third calibrates,
    a third decides and a third judges. New samples start anew.

    Args:
        there: the splits of a workspace: "recipe", "samples" or "synthetic".
        recipe: whether a recipe trained the model.
        samples: whether new ones are given.
        hold_back: whether rows must decide, and others judge, that nothing else has seen.

    Raises:
        SourceError: there is nothing to hold back.
    """
    if recipe:
        wanted: dict[str, Origin] = {"calibration": "samples" if samples else "recipe"}
        wanted |= {"validation": "recipe"} if hold_back else {}
        wanted |= {"verification": "recipe"}
        return {s: o for s, o in wanted.items() if o == "samples" or there.get(s) != o}
    is_split = "validation" in there and not samples
    has_samples = samples or there.get("calibration") == "samples"
    if hold_back and not is_split:
        if not has_samples:
            raise SourceError(
                "there are no rows that could be held back to decide and to judge",
                hint="give --samples FILE.npz: a third of the rows decides, a third judges",
            )
        return dict.fromkeys(SPLITS, "third")
    if samples:
        return {"calibration": "samples", "validation": "nothing", "verification": "samples"}
    return {} if "verification" in there else {"verification": "synthetic"}

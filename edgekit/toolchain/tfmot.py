"""The verbs of the worker with TFMOT: it has Keras 2 alone, also for those who import `keras`."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tf_keras

from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.agent.protocol import decode
from edgekit.toolchain import translation
from edgekit.toolchain.callbacks import as_it_goes
from edgekit.toolchain.fine_tuning import Lesson, fine_tune
from edgekit.toolchain.kernels import is_kernel
from edgekit.toolchain.tfmot_clustering import train_clustered
from edgekit.toolchain.tfmot_pruning import train_pruned
from edgekit.toolchain.tfmot_quantization import train_quantized
from edgekit.toolchain.zeros import Zeros
from edgekit.types import Feed, Progress

_TECHNIQUES: dict[str, Callable[..., None]] = {
    "qat": train_quantized,
    "sparse": train_pruned,
    "cluster": train_clustered,
}
"""Each takes the model and what fits a copy of it, and leaves it with the new weights."""


class Session:
    """One tf_keras model, built of a description."""

    def __init__(self) -> None:
        self._model: Any = None
        self._feed: Feed = {}
        # A recipe imports keras where it needs it; here it gets what TFMOT understands.
        sys.modules["keras"] = tf_keras
        for name, module in vars(tf_keras).items():
            if isinstance(module, types.ModuleType):
                sys.modules[f"keras.{name}"] = module

    def build(
        self,
        *,
        described: dict[str, Any],
        weights: Mapping[str, str],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Build the model, and see that it computes `outputs` of `inputs`."""
        self._model = translation.build(described)
        translation.set_weights(self._model, load_arrays(weights))
        self._feed = load_arrays(inputs)
        given = translation.outputs_of(self._model, self._feed)
        translation.check_same(given, load_arrays(outputs))

    def train(
        self,
        *,
        technique: str,
        lesson: Mapping[str, Any],
        keeps_zeros: bool,
        folder: str,
        progress: Progress,
        **how: Any,
    ) -> dict[str, Any]:
        """Fine-tune with a technique of TFMOT's; `folder` gets the plain weights.

        And the outputs of the plain model with them, for the inputs that it was built with.
        """

        def fit(model: Any, callbacks: Sequence[Any] = ()) -> None:
            weights = [w for w in model.trainable_weights if is_kernel(w)]
            zeros = Zeros(weights if keeps_zeros else [])
            keep = as_it_goes(tf_keras, after=lambda done: zeros.restore())
            fine_tune(model, decode(Lesson, lesson), progress, [*callbacks, keep])

        _TECHNIQUES[technique](self._model, fit, **how)
        return {
            "engine": f"tfmot {version('tensorflow-model-optimization')}",
            "weights": save_arrays(translation.weights_of(self._model), Path(folder, "weights")),
            "outputs": save_arrays(
                translation.outputs_of(self._model, self._feed), Path(folder, "outputs")
            ),
        }

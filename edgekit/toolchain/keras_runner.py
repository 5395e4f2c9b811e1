"""The Keras model itself as a Runner: the reference, and the baseline of every benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.agent.protocol import Runtime
from edgekit.toolchain.canonical import Canonical


class KerasRunner:
    """Calls the model as a compiled graph (tf.function): the fastest way that Keras itself offers.

    `model.predict` and a plain `model(x)` take several times as long for one row.
    """

    adapter: str | None = None

    def __init__(self, model: Canonical) -> None:
        self._model = model
        self._arguments: list[Any] = []
        self._results: Any = None
        self.runtime = Runtime(name="tensorflow", version=tf.__version__, backend="tf.function")

    def bind(self, feed: Mapping[str, np.ndarray]) -> None:
        specs = self._model.signature.inputs
        self._arguments = [tf.constant(np.asarray(feed[s.name], s.dtype)) for s in specs]

    def invoke(self) -> None:
        self._results = self._model.function(*self._arguments)

    def read(self) -> dict[str, np.ndarray]:
        return {s.name: self._results[s.name].numpy() for s in self._model.signature.outputs}

"""Quantization-aware training: the same model again, with weights that 8 bits harm less.

What comes out is a float model like the one that went in. It is calibrated and converted as any
other; nothing of the fake quantization is left in it.

TFMOT knows where TFLite's kernels round, for few layers: convolutions in two dimensions, Dense, and
what stands between them. `fake_quantization` goes with any model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from edgekit.toolchain.fake_quantization import fake_quantized
from edgekit.toolchain.fine_tuning import Course
from edgekit.toolchain.technique import Act, Technique


@dataclass(frozen=True)
class QuantizationAwareness(Technique):
    """Weights and activations in 8 bits."""

    name: ClassVar[str] = "quantization-aware training"
    course: ClassVar[Course] = Course()

    def for_tfmot(self, model: Any) -> Mapping[str, Any]:
        return {"technique": "qat"}

    @contextlib.contextmanager
    def during(self, model: Any) -> Iterator[Act]:
        with fake_quantized(model):
            yield lambda done: None

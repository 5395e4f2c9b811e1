"""Weight clustering: the weights of each kernel share a few values.

They are grouped by value once, and trained together from then on: after each batch all weights of a
cluster become their mean (after Han et al., Deep Compression, ICLR 2016).

The clusters are intervals of the same width, as by TFMOT's LINEAR, and not those of k-means. These
are about equally full, so that a weight takes 3.7 of the 4 bits; in intervals, most weights are in
the few in the middle, and 2.6 bits are enough. That is a third off the compressed int8 file, at the
same accuracy once it is trained (fashion_mnist_mlp by TFMOT: -0.09 against -0.07 points).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from edgekit.errors import ConversionError
from edgekit.toolchain.amounts import amounts
from edgekit.toolchain.fine_tuning import Course
from edgekit.toolchain.kernels import Kernel, kernels
from edgekit.toolchain.sparsity import left_alone
from edgekit.toolchain.technique import Act, Technique
from edgekit.toolchain.zeros import LOST
from edgekit.types import Pruning


@dataclass(frozen=True)
class Clustering(Technique):
    """As many values in each kernel as `pruning` asks for."""

    pruning: Pruning
    keeps_zeros: bool = False
    name: ClassVar[str] = "clustering"
    # The mean of many weights moves slowly.
    course: ClassVar[Course] = Course(rate=1.0)

    def for_tfmot(self, model: Any) -> Mapping[str, Any] | None:
        by_name, found = kernels(model), self._amounts(model)
        # Where there are no more values already, TFMOT would look for more.
        needed = {n: c for n, c in found.items() if any(values_in(k) > c for k in by_name[n])}
        return {
            "technique": "cluster",
            "amounts": needed,
            "preserve_sparsity": self.keeps_zeros,
        }

    @contextlib.contextmanager
    def during(self, model: Any) -> Iterator[Act]:
        by_name = kernels(model)
        shared = [
            _shared(kernel, count, self.keeps_zeros)
            for name, count in self._amounts(model).items()
            for kernel in by_name[name]
        ]

        @tf.function
        def share() -> None:
            for variable, labels, sizes in shared:
                flat = tf.cast(tf.reshape(variable, [-1]), tf.float32)
                sums = tf.math.unsorted_segment_sum(flat, labels, sizes.shape[0])
                values = tf.cast(sums / sizes, variable.dtype)
                variable.assign(tf.reshape(tf.gather(values, labels), variable.shape))

        yield lambda done: share()

    def figures(self, model: Any) -> dict[str, float]:
        """The number of different values in the kernel of each layer that has the most."""
        by_name = kernels(model)
        return {name: max(map(values_in, by_name[name])) for name in self._amounts(model)}

    def check(self, model: Any) -> None:
        for name, count in self._amounts(model).items():
            if (found := self.figures(model)[name]) > count:
                raise ConversionError(
                    f"{name!r} was not clustered: it has {found:,} different weights, {count} are "
                    "asked for",
                    hint=LOST,
                )

    def notes(self, model: Any) -> list[str]:
        return left_alone(model)

    def _amounts(self, model: Any) -> dict[str, int]:
        found = amounts(self.pruning, list(kernels(model)))
        return {name: int(amount) for name, amount in found.items()}


def values_in(kernel: Kernel) -> int:
    """The number of different values of a kernel."""
    return len(np.unique(kernel.values()))


def clusters(values: np.ndarray, count: int) -> np.ndarray:
    """The cluster of each of `values`, from 0 on and none of them empty.

    What lies nearest to one of `count` values evenly between the smallest and the largest is a
    cluster; where there are no more values than that, each is one.
    """
    flat = values.ravel().astype(np.float64)
    distinct, places = np.unique(flat, return_inverse=True)
    if len(distinct) <= count:
        return places
    centers = np.linspace(distinct[0], distinct[-1], count)
    nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, flat)
    return np.unique(nearest, return_inverse=True)[1]


def _shared(kernel: Kernel, count: int, keeps_zeros: bool) -> tuple[Any, Any, Any]:
    """The variable, the cluster of each of its weights and the clusters' sizes."""
    values = np.asarray(kernel.variable).ravel()
    zeros = values == 0
    if keeps_zeros and zeros.any() and not zeros.all():
        labels = np.zeros(values.size, int)
        labels[~zeros] = 1 + clusters(values[~zeros], count - 1)
    else:
        labels = clusters(values, count)
    variable = kernel.variable
    raw = variable if isinstance(variable, tf.Variable) else variable.value
    sizes = np.bincount(labels).astype(np.float32)
    return raw, tf.constant(labels, tf.int32), tf.constant(sizes)

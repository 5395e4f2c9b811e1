"""Weight clustering by TFMOT, which trains the values and which weight has which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow_model_optimization as tfmot
from tensorflow_model_optimization.python.core.clustering.keras.cluster_config import (
    GradientAggregation,
)
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
    ClusteringRegistry,
)

from edgekit.errors import ConversionError
from edgekit.toolchain import translation
from edgekit.toolchain.tfmot_wrappers import wrapped

_clustering = tfmot.clustering.keras


def train_clustered(
    model: Any,
    fit: Callable[[Any], None],
    *,
    amounts: Mapping[str, int],
    preserve_sparsity: bool,
) -> None:
    """Train `model` with as many different values in a layer's kernel as `amounts` says.

    Args:
        model: gets the weights.
        fit: trains a model.
        amounts: by the layer's name.
        preserve_sparsity: whether weights that are 0 stay so.

    Raises:
        ConversionError: TFMOT does not cluster one of these layers.
    """

    def wrap(layer: Any, count: int) -> Any:
        if type(layer) not in ClusteringRegistry._LAYERS_WEIGHTS_MAP:
            raise ConversionError(f"TFMOT does not cluster {type(layer).__name__} ({layer.name!r})")
        # It takes the kernel out of the layer.
        copy = type(layer).from_config(layer.get_config())
        copy.build(layer.get_input_shape_at(0))
        copy.set_weights(layer.get_weights())
        return _clustering.cluster_weights(
            copy,
            number_of_clusters=count,
            cluster_centroids_init=_clustering.CentroidInitialization.LINEAR,
            preserve_sparsity=preserve_sparsity,
            # The sum over all weights of a cluster is a gradient thousands of times as large as
            # the optimizer's rate is made for.
            cluster_gradient_aggregation=GradientAggregation.AVG,
            name=layer.name,
        )

    trained = wrapped(model, amounts, wrap)
    fit(trained)
    plain = _clustering.strip_clustering(trained)
    translation.set_weights(model, translation.weights_of(plain))

"""What layers do with channels, by their kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from edgekit.toolchain.channels import COMMUTING
from edgekit.toolchain.layer_graph import LayerCall

ELEMENTWISE = {
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "mish"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "tanh", "hard_tanh", "tanh_shrink"),
    *("softplus", "softsign", "squareplus", "sparse_plus", "exponential", "threshold"),
    *("swish", "silu", "hard_swish", "hard_silu", "soft_shrink", "hard_shrink"),
}
"""Activations that compute each value from itself alone."""

HANDING_ON = {
    *(set(COMMUTING) - {"Flatten", "Reshape", "PReLU"}),
    *("ReLU", "ELU", "ThresholdedReLU", "Rescaling", "Resizing", "CenterCrop"),
    *("Relu6", "Elu", "Selu", "Gelu", "Silu", "HardSilu", "HardSwish", "Softplus", "Softsign"),
    *("Sigmoid", "HardSigmoid", "Tanh", "Exp", "Sqrt", "Square", "Abs", "Absolute", "Negative"),
}
"""Layers and operations that give each channel from that channel alone, without weights."""

ELEMENTWISE_MERGING = {
    *("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"),
    *("Divide", "TrueDivide", "Truediv"),
}

RECURRENT = ("GRU", "LSTM", "SimpleRNN")


def kind_of(layer: Any) -> str:
    """The name of its class; of an operation of tf_keras, that of Keras 3 for the same."""
    symbol = getattr(layer, "symbol", None)  # math.add, nn.relu
    if type(layer).__name__ == "TFOpLambda" and symbol:
        return str(symbol).rpartition(".")[2].capitalize()
    return type(layer).__name__


def is_elementwise(activation: Any) -> bool:
    """Whether an activation looks at one channel at a time for sure."""
    package = str(getattr(activation, "__module__", "")).partition(".")[0]
    is_known = package in ("keras", "tf_keras", "tensorflow")
    return activation is None or (is_known and name_of(activation) in ELEMENTWISE | HANDING_ON)


def name_of(activation: Any) -> str:
    """The name of a function, or of a layer's class."""
    return str(getattr(activation, "__name__", type(activation).__name__))


def has_constants(call: LayerCall) -> bool:
    """Whether it is called with more than tensors of the graph and single numbers."""
    return not all(map(is_scalar, tf.nest.flatten((call.args, call.kwargs))))


def is_scalar(value: Any) -> bool:
    """Whether it is one number, name or switch, or nothing."""
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    return is_plain or np.size(value) == 1

"""Layers of the zoo, each in a small model, built by one function for both Keras families.

A layer sits between others, as in practice: a linear convolution or Dense before it (so that it
sees negative numbers, and int8 has something to quantize), a flattening Dense behind it (so that no
two positions can be swapped unnoticed).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

IMAGE: dict[str, Callable[[Any], Any]] = {
    "conv2d": lambda L: L.Conv2D(6, 3, activation="relu"),
    "conv2d_strided": lambda L: L.Conv2D(6, 3, strides=2, padding="same"),
    "conv2d_dilated": lambda L: L.Conv2D(6, 3, dilation_rate=2, padding="same"),
    "conv2d_grouped": lambda L: L.Conv2D(8, 3, groups=4, padding="same"),
    "depthwise_conv2d": lambda L: L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
    "separable_conv2d": lambda L: L.SeparableConv2D(6, 3, padding="same"),
    "conv2d_transpose": lambda L: L.Conv2DTranspose(4, 3, strides=2, padding="same"),
    "max_pooling2d": lambda L: L.MaxPooling2D(3, strides=2, padding="same"),
    "average_pooling2d": lambda L: L.AveragePooling2D(3, strides=2, padding="same"),
    "global_max_pooling2d": lambda L: L.GlobalMaxPooling2D(),
    "global_average_pooling2d": lambda L: L.GlobalAveragePooling2D(keepdims=True),
    "batch_normalization": lambda L: L.BatchNormalization(),
    "layer_normalization": lambda L: L.LayerNormalization(),
    "group_normalization": lambda L: L.GroupNormalization(4),
    "unit_normalization": lambda L: L.UnitNormalization(),
    "spectral_normalization": lambda L: L.SpectralNormalization(L.Conv2D(6, 3)),
    "relu6": lambda L: L.ReLU(6.0),
    "leaky_relu": lambda L: L.LeakyReLU(0.2),
    "prelu": lambda L: L.PReLU(shared_axes=[1, 2]),
    "elu": lambda L: L.ELU(0.7),
    "selu": lambda L: L.Activation("selu"),
    "swish": lambda L: L.Activation("swish"),
    "hard_swish": lambda L: L.Activation("hard_swish"),
    "hard_sigmoid": lambda L: L.Activation("hard_sigmoid"),
    "tanh": lambda L: L.Activation("tanh"),
    "softplus": lambda L: L.Activation("softplus"),
    "softsign": lambda L: L.Activation("softsign"),
    "gelu": lambda L: L.Activation("gelu"),
    "mish": lambda L: L.Activation("mish"),
    "exponential": lambda L: L.Activation("exponential"),
    "softmax_axis": lambda L: L.Softmax(axis=1),
    "resizing_bilinear": lambda L: L.Resizing(18, 15),
    "resizing_nearest": lambda L: L.Resizing(18, 15, interpolation="nearest"),
    "center_crop": lambda L: L.CenterCrop(8, 8),
    "upsampling2d_nearest": lambda L: L.UpSampling2D(2),
    "upsampling2d_bilinear": lambda L: L.UpSampling2D(2, interpolation="bilinear"),
    "zero_padding2d": lambda L: L.ZeroPadding2D(((1, 2), (0, 3))),
    "cropping2d": lambda L: L.Cropping2D(((1, 2), (0, 3))),
    "permute": lambda L: L.Permute((3, 1, 2)),
    "reshape": lambda L: L.Reshape((6, 24, 8)),
    "random_flip": lambda L: L.RandomFlip(),
    "dropout": lambda L: L.SpatialDropout2D(0.5),
    "gaussian_noise": lambda L: L.GaussianNoise(0.5),
}
"""Layers in a small image classifier."""

SEQUENCE: dict[str, Callable[[Any], Any]] = {
    "conv1d": lambda L: L.Conv1D(6, 3, dilation_rate=2, padding="causal"),
    "depthwise_conv1d": lambda L: L.DepthwiseConv1D(3, depth_multiplier=2),
    "separable_conv1d": lambda L: L.SeparableConv1D(6, 3),
    "conv1d_transpose": lambda L: L.Conv1DTranspose(4, 3, strides=2),
    "max_pooling1d": lambda L: L.MaxPooling1D(2),
    "average_pooling1d": lambda L: L.AveragePooling1D(2),
    "global_max_pooling1d": lambda L: L.GlobalMaxPooling1D(),
    "global_average_pooling1d": lambda L: L.GlobalAveragePooling1D(),
    "einsum_dense": lambda L: L.EinsumDense("abc,cde->abde", (12, 2, 5), bias_axes="de"),
    "time_distributed": lambda L: L.TimeDistributed(L.Dense(5, activation="relu")),
    "simple_rnn": lambda L: L.SimpleRNN(8),
    "lstm": lambda L: L.LSTM(8),
    "gru": lambda L: L.GRU(8),
    "gru_reset_before": lambda L: L.GRU(8, reset_after=False),
    "bidirectional": lambda L: L.Bidirectional(L.LSTM(6, return_sequences=True)),
    "rnn_cells": lambda L: L.RNN([L.GRUCell(8), L.LSTMCell(6)], return_sequences=True),
}
"""Layers in a small classifier of time series."""

VOLUME: dict[str, Callable[[Any], Any]] = {
    "conv3d": lambda L: L.Conv3D(4, 3, activation="relu"),
    "conv3d_transpose": lambda L: L.Conv3DTranspose(3, 2, strides=2),
    "max_pooling3d": lambda L: L.MaxPooling3D(2),
    "average_pooling3d": lambda L: L.AveragePooling3D(2),
    "global_max_pooling3d": lambda L: L.GlobalMaxPooling3D(),
    "global_average_pooling3d": lambda L: L.GlobalAveragePooling3D(),
}
"""Layers in a small classifier of volumes."""

VECTOR: dict[str, Callable[[Any], Any]] = {
    "dense": lambda L: L.Dense(12, activation="relu"),
    "repeat_vector": lambda L: L.RepeatVector(3),
}
"""Layers in a small perceptron."""

MERGE: dict[str, Callable[[Any], Any]] = {
    "add": lambda L: L.Add(),
    "subtract": lambda L: L.Subtract(),
    "multiply": lambda L: L.Multiply(),
    "average": lambda L: L.Average(),
    "maximum": lambda L: L.Maximum(),
    "concatenate": lambda L: L.Concatenate(),
    "dot": lambda L: L.Dot(axes=2),
}
"""Layers that join two branches."""

Builder = Callable[[Any], Any]
"""Takes the family's module (`keras` or `tf_keras`), or its `layers`."""
LAYERS: dict[str, Builder] = {}
"""Every kind of layer, in the order of the table."""


def between(shape: tuple[int, ...], name: str, front: Builder, layer: Builder) -> Builder:
    def build(keras: Any) -> Any:
        x = keras.Input(shape, name=name)
        return keras.Model(x, scores(keras, layer(keras.layers)(front(keras.layers)(x))))

    return build


def _joined(merge: Builder) -> Builder:
    def build(keras: Any) -> Any:
        L = keras.layers
        left, right = keras.Input((10, 4), name="left"), keras.Input((10, 4), name="right")
        y = merge(L)([L.Dense(6)(left), L.Dense(6)(right)])
        return keras.Model([left, right], scores(keras, y))

    return build


def scores(keras: Any, y: Any) -> Any:
    if len(y.shape) > 2:
        y = keras.layers.Flatten()(y)
    return keras.layers.Dense(6, name="scores")(y)


for _name, _layer in IMAGE.items():
    LAYERS[_name] = between((12, 12, 3), "image", lambda L: L.Conv2D(8, 3, padding="same"), _layer)
for _name, _layer in VOLUME.items():
    LAYERS[_name] = between((6, 6, 6, 2), "volume", lambda L: L.Conv3D(4, 2), _layer)
for _name, _layer in VECTOR.items():
    LAYERS[_name] = between((12,), "features", lambda L: L.Dense(16), _layer)
for _name, _layer in MERGE.items():
    LAYERS[_name] = _joined(_layer)
for _name, _layer in SEQUENCE.items():
    LAYERS[_name] = between((12, 4), "steps", lambda L: L.Conv1D(8, 3, padding="same"), _layer)

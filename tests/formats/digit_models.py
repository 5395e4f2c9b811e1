"""Small classifiers of digits (8x8 pixels), trained for seconds: what quantization meets."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def digits():
    """Images (N, 8, 8, 1) float32 from 0 to 1, labels (N,)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images[..., None].astype(np.float32) / 16, found.target


def mlp():
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Flatten(),
            layers.Dense(48, activation="relu", name="first"),
            layers.Dense(32, activation="relu", name="second"),
            layers.Dropout(0.1),
            layers.Dense(24, activation="relu", name="third"),
            layers.Dense(10, activation="softmax", name="label"),
        ],
        name="mlp",
    )


def cnn():
    """As recipes/fashion_mnist_cnn.py: convolution, batch norm and ReLU as layers of their own."""
    import keras
    from keras import layers

    x = image = keras.Input((8, 8, 1), name="image")
    for name, channels, stride in (("first", 12, 1), ("second", 16, 2), ("third", 24, 1)):
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, name=name)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    label = layers.Dense(10, activation="softmax", name="label")(x)
    return keras.Model(image, label, name="cnn")


def mobile():
    """As MobileNetV2: expand, depthwise, project, add; twice."""
    import keras
    from keras import layers

    def normalized(x):
        return layers.BatchNormalization(momentum=0.9)(x)

    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU()(normalized(x))
    for block in "ab":
        y = layers.Conv2D(36, 1, use_bias=False, name=f"expand_{block}")(x)
        y = layers.ReLU()(normalized(y))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depthwise_{block}")(y)
        y = layers.ReLU()(normalized(y))
        y = normalized(layers.Conv2D(12, 1, use_bias=False, name=f"project_{block}")(y))
        x = layers.Add(name=f"add_{block}")([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    label = layers.Dense(10, activation="softmax", name="label")(x)
    return keras.Model(image, label, name="mobile")


def trained(build, epochs=12):
    """A model of `build`, trained on the digits; its accuracy is above 0.9."""
    import keras

    keras.utils.set_random_seed(5)
    model = build()
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    images, labels = digits()
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    accuracy = np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels)
    assert accuracy > 0.9, accuracy
    return model

"""Models whose channels can be cut, of every kind of connection; `k` is either Keras."""

from __future__ import annotations


def normalized(k, x):
    return k.layers.ReLU(6.0)(k.layers.BatchNormalization()(x))


def mlp(k):
    layers = k.layers
    stack = [layers.Dense(32, "tanh"), layers.Dropout(0.5), layers.Dense(16, "gelu")]
    stack += [layers.Dense(8), layers.ELU()]
    return k.Sequential([k.Input((6,), name="x"), *stack, layers.Dense(3, "softmax", name="y")])


def cnn(k):
    layers = k.layers
    image = k.Input((12, 12, 3), name="x")
    x = normalized(k, layers.Conv2D(16, 3, use_bias=False)(image))
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="elu")(x)
    x = layers.PReLU()(layers.ZeroPadding2D(1)(layers.MaxPooling2D(2)(x)))
    x = layers.Conv2D(8, 2, activation="swish")(x)
    x = layers.Dense(8, "sigmoid")(layers.Flatten()(x))
    return k.Model(image, layers.Dense(4, name="y")(x))


def mobile(k):
    """Expand, depthwise, project, add."""
    layers = k.layers
    image = k.Input((8, 8, 3), name="x")
    x = normalized(k, layers.Conv2D(8, 3, padding="same", use_bias=False)(image))
    for _ in range(2):
        y = normalized(k, layers.Conv2D(32, 1, use_bias=False)(x))
        y = normalized(k, layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y))
        y = layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(y))
        x = layers.Add()([x, y])
    return k.Model(image, layers.Dense(4, name="y")(layers.GlobalAveragePooling2D()(x)))


def residual(k):
    """Blocks with a projection on the shortcut, and without."""
    layers = k.layers
    image = k.Input((8, 8, 3), name="x")
    x = normalized(k, layers.Conv2D(8, 3, padding="same")(image))
    for width, stride in ((8, 1), (16, 2), (16, 1)):
        y = normalized(k, layers.Conv2D(width, 3, strides=stride, padding="same")(x))
        y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(y))
        if x.shape[-1] != width:
            x = layers.BatchNormalization()(layers.Conv2D(width, 1, strides=stride)(x))
        x = layers.ReLU()(layers.add([x, y]))
    return k.Model(image, layers.Dense(4, name="y")(layers.GlobalMaxPooling2D()(x)))


def dense_net(k):
    layers = k.layers
    image = k.Input((8, 8, 3), name="x")
    x = layers.Conv2D(8, 3, padding="same")(image)
    for _ in range(3):
        y = layers.Conv2D(8, 3, padding="same")(normalized(k, x))
        x = layers.Concatenate()([x, y])
    return k.Model(image, layers.Dense(4, name="y")(layers.Flatten()(normalized(k, x))))


def squeezed(k):
    """Squeeze and excite by a Reshape; and a map for all channels, which stays whole."""
    layers = k.layers
    image = k.Input((None, None, 3), name="x")
    x = layers.Conv2D(16, 3, activation="silu")(image)
    y = layers.Reshape((1, 1, 16))(layers.GlobalAveragePooling2D()(x))
    y = layers.Conv2D(16, 1, activation="sigmoid")(layers.Conv2D(8, 1, activation="relu")(y))
    x = layers.Multiply()([x, y])
    x = layers.Multiply()([layers.Conv2D(1, 1, activation="sigmoid")(x), x])
    return k.Model(image, layers.Dense(4, name="y")(layers.GlobalAveragePooling2D()(x)))


def u_net(k):
    layers = k.layers
    image = k.Input((8, 8, 3), name="x")
    a = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    b = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(a)
    c = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(b)
    b = layers.Concatenate()([b, layers.Conv2DTranspose(16, 2, strides=2)(c)])
    b = layers.Conv2D(16, 3, padding="same", activation="relu")(b)
    a = layers.Concatenate()([layers.UpSampling2D()(b), a])
    return k.Model(image, layers.Conv2D(2, 1, activation="sigmoid", name="y")(a))


def nested(k):
    """A model in a model in a model, called twice; its inputs have fewer channels too."""
    layers = k.layers
    inner = k.Sequential(
        [k.Input((4, 8)), layers.Conv1D(16, 1, activation="relu"), layers.Dense(8)], name="inner"
    )
    seen = k.Input((4, 8))
    block = k.Model(seen, layers.Add()([inner(seen), seen]), name="block")
    x = k.Input((6, 5), name="x")
    h = block(block(layers.Conv1D(8, 3)(x)))
    return k.Model(x, layers.Dense(4, name="y")(layers.GlobalAveragePooling1D()(h)), name="outer")


def backbone(k):
    """A model for images of any size, in a model for those of one."""
    layers = k.layers
    image = k.Input((None, None, 3))
    x = normalized(k, layers.Conv2D(16, 3, use_bias=False)(image))
    inner = k.Model(image, layers.Conv2D(8, 1, activation="elu")(x), name="backbone")
    image = k.Input((12, 12, 3), name="x")
    x = layers.GlobalAveragePooling2D()(inner(image))
    return k.Model(image, layers.Dense(4, name="y")(layers.Dense(8, "tanh")(x)))


def several(k):
    """Two inputs, two outputs, a table, two recurrent layers, a layer that is called twice."""
    layers = k.layers
    words, x = k.Input((7,), dtype="int32", name="words"), k.Input((5,), name="x")
    h = layers.Conv1D(16, 3, activation="relu")(layers.Embedding(9, 8)(words))
    h = layers.GRU(8)(layers.LSTM(16, return_sequences=True)(h))
    shared = layers.Dense(8, "relu")
    twice = shared(shared(layers.Dense(8, "relu")(x)))
    both = layers.Concatenate()([h, twice])
    outputs = [layers.Dense(2, name="y2")(both), layers.Dense(3, name="y")(twice)]
    return k.Model({"words": words, "x": x}, outputs)


def operations(k):
    """Operations of Keras 3, and of TensorFlow in tf_keras."""
    layers, x = k.layers, k.Input((5,), name="x")
    h = layers.Dense(8)(x)
    h = h * layers.ReLU(6.0)(h + 3.0) * (1 / 6) - 0.5
    return k.Model(x, layers.Dense(4, name="y")(h))


MODELS = [
    mlp,
    cnn,
    mobile,
    residual,
    dense_net,
    squeezed,
    u_net,
    nested,
    backbone,
    several,
    operations,
]

"""Makes the model files beside this script; run once, the files are committed.

    python tests/data/make.py

One small CNN (8x8x1 image, 4 classes; the Dense kernel is above the 1,024 elements from which
dynamic-range quantization starts) in each TFLite precision, and two Keras models.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edgekit.toolchain.canonical import trace
from edgekit.toolchain.model import of_keras

HERE = Path(__file__).parent


def cnn() -> keras.Model:
    keras.utils.set_random_seed(7)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    x = keras.layers.Flatten(name="flat")(x)
    probs = keras.layers.Dense(4, activation="softmax", name="probs")(x)
    model = keras.Model(image, probs, name="cnn")
    kernel, bias = model.get_layer("probs").get_weights()
    kernel[::2] = 0.0  # half of it, so that sparsity has something to find
    model.get_layer("probs").set_weights([kernel, bias])
    return model


def two_inputs() -> keras.Model:
    keras.utils.set_random_seed(7)
    a, b = keras.Input((4,), name="a"), keras.Input((3,), dtype="int32", name="b")
    e = keras.layers.Flatten()(keras.layers.Embedding(5, 2, name="embed")(b))
    x = keras.layers.Concatenate(name="join")([keras.layers.Dense(6, name="left")(a), e])
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.Dense(2, name="y")(x)
    z = keras.layers.Dense(1, activation="sigmoid", name="z")(x)
    return keras.Model([a, b], [y, z], name="two_inputs")


def rows() -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    for _ in range(32):
        yield {"image": rng.random((1, 8, 8, 1), dtype=np.float32)}


def convert(model: keras.Model, batch: int | None = None, **settings: Any) -> bytes:
    canonical = trace(of_keras(model), batch)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [canonical.concrete], canonical.holder
    )
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def main() -> None:
    default = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    int8 = {**default, "representative_dataset": rows}
    int8["target_spec"] = tf.lite.TargetSpec([tf.lite.OpsSet.TFLITE_BUILTINS_INT8])
    int16x8 = {**int8}
    int16x8["target_spec"] = tf.lite.TargetSpec(
        [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    )
    fp16 = {**default, "target_spec": tf.lite.TargetSpec(supported_types=[tf.float16])}
    quantized_io = {"inference_input_type": tf.int8, "inference_output_type": tf.int8}

    model = cnn()
    for name, settings in {
        "fp32": {},
        "fp16": fp16,
        "dynamic": default,
        "int8": int8,
        "int8_io": {**int8, **quantized_io},
        "int16x8": int16x8,
    }.items():
        (HERE / f"{name}.tflite").write_bytes(convert(model, **settings))
    one_row = convert(model, batch=1, **int8, **quantized_io)
    (HERE / "one_row_int8_io.tflite").write_bytes(one_row)

    steps = keras.Input((3, 2), name="steps")
    lstm = keras.Model(steps, keras.layers.LSTM(2, name="state")(steps))
    (HERE / "lstm.tflite").write_bytes(convert(lstm, batch=1))

    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder, "two_inputs.keras")
        two_inputs().save(stored)
        compress(stored, HERE / stored.name)
    line = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="line")], name="line")
    line.save(HERE / "line.h5")


def compress(archive: Path, into: Path) -> None:
    """Keras stores without compression; most of a small HDF5 file is zeros."""
    deflated = zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(archive) as old, deflated as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


if __name__ == "__main__":
    main()

"""Make one model of keras.applications and rows for it: `python _applications.py NAME FOLDER ROWS`.

Writes NAME.keras and NAME.npz (ROWS rows, as `x`) and prints what they are as JSON. The weights are
random, so everything that could hide an error is taken care of: normalization layers are fitted to
the rows and then differ from 1 and 0, biases are not zero, and the classes depend on the row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np


def settle(model: keras.Model, rows: np.ndarray) -> None:
    """Weights under which each layer matters and activations stay in a sane range."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.trainable_variables:
            if variable.name == "gamma":  # also ConvNeXt's LayerScale, which starts at 1e-6
                variable.assign(random.uniform(0.8, 1.2, variable.shape))
            elif variable.name == "beta":
                variable.assign(random.normal(0.5, 0.3, variable.shape))
            elif variable.name == "bias":
                variable.assign(random.normal(0, 0.05, variable.shape))
            elif model.name.startswith("vgg"):  # ReLU halves the signal, and nothing normalizes it
                variable.assign(variable * np.sqrt(2.0))
    _fit_input_normalization(model)
    _fit_batch_normalization(model, rows)
    _soften(model, rows)


def _fit_input_normalization(model: keras.Model) -> None:
    """EfficientNet starts with one, whose statistics come with the trained weights only."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.adapt_mean.assign([0.485, 0.456, 0.406])
            layer.adapt_variance.assign([0.05, 0.06, 0.07])
            layer.finalize_state()


def _fit_batch_normalization(model: keras.Model, rows: np.ndarray) -> None:
    """With random statistics a deep network amplifies every rounding error, or gives a constant."""
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    if not layers:
        return
    for layer in layers:
        layer.momentum = 0.0
    model(rows, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _soften(model: keras.Model, rows: np.ndarray) -> None:
    """Logits with a standard deviation of 1: a saturated softmax would hide differences."""
    spread = np.log(predict(model, rows) + 1e-30).std(axis=1).mean()
    last = [layer for layer in model.layers if getattr(layer, "kernel", None) is not None][-1]
    last.kernel.assign(last.kernel / spread)


def predict(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(model(rows[i : i + 8])) for i in range(0, len(rows), 8)])


def images(shape: tuple[int, int, int], count: int, *, pixels: bool) -> np.ndarray:
    """(count, *shape) float32 in [0, 255], or in [-1, 1]: a tint each, soft blobs, some texture."""
    random = np.random.default_rng(1)
    tint = random.normal(0, 0.5, (count, 1, 1, 3))
    blobs = tint + random.normal(0, 0.3, (count, 4, 4, 3))
    soft = np.asarray(keras.ops.image.resize(blobs, shape[:2], interpolation="bicubic"))
    values = np.clip(soft + random.normal(0, 0.2, soft.shape), -1, 1).astype(np.float32)
    return (values + 1) * np.float32(127.5) if pixels else values


def main() -> None:
    name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, name)
    model = build(weights=None)
    if None in model.input_shape[1:]:  # MobileNetV3 leaves height and width open
        model = build(weights=None, input_shape=(224, 224, 3))
    scales_itself = (keras.layers.Rescaling, keras.layers.Normalization)
    pixels = any(isinstance(layer, scales_itself) for layer in model.layers)
    rows = images(model.input_shape[1:], count, pixels=pixels)
    settle(model, rows)
    outputs = predict(model, rows)
    model.save(folder / f"{name}.keras")
    np.savez(folder / f"{name}.npz", x=rows)
    described = {
        "parameters": model.count_params(),
        "input": model.input_shape[1:],
        "rows": count,
        "largest_probability": float(outputs.max()),
        "variation": float(outputs.std(axis=0).mean() / outputs.mean()),
    }
    print(json.dumps(described))


if __name__ == "__main__":
    main()

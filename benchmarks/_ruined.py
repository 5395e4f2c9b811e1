"""Make a regression that plain int8 ruins: `python _ruined.py FOLDER`.

Writes model.keras and rows.npz; EDGEKIT_DATA has california_housing.npz (`x`, `y`). House prices by
a perceptron, trained as usual; then the channels between its layers are spread over three decades,
and the weights that read them scaled back: the same function, as batch normalization or weight
decay may leave one, with ranges that 8 bits do not hold.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import keras
import numpy as np

TRAINED_ON = 15_000
DECADES = 3


def main() -> None:
    folder = Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    if "EDGEKIT_DATA" not in os.environ:
        sys.exit("set EDGEKIT_DATA to the folder with california_housing.npz")
    data = np.load(Path(os.environ["EDGEKIT_DATA"], "california_housing.npz"))
    x, y = data["x"].astype("float32"), data["y"].astype("float32")
    seen = x[:TRAINED_ON]
    x = ((x - seen.mean(0)) / seen.std(0)).clip(-8, 8)
    widths = {"wide": 128, "middle": 64, "narrow": 32}
    hidden = [keras.layers.Dense(n, "relu", name=name) for name, n in widths.items()]
    model = keras.Sequential([keras.Input((8,), name="house"), *hidden])
    model.add(keras.layers.Dense(1, name="price"))
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    model.fit(x[:TRAINED_ON], y[:TRAINED_ON], epochs=8, batch_size=64, verbose=0)
    before = model.predict(x, verbose=0)
    spread(model)
    difference = np.abs(model.predict(x, verbose=0) - before).max()
    if difference > 1e-3 * np.abs(before).max():
        sys.exit(f"the spread model is another function: {difference}")
    model.save(folder / "model.keras")
    np.savez(folder / "rows.npz", house=x[TRAINED_ON:])


def spread(model: keras.Model) -> None:
    """Scale each channel between two layers up, and down again where it is read."""
    random = np.random.default_rng(0)
    for layer, reader in zip(model.layers, model.layers[1:], strict=False):
        factors = (10 ** random.uniform(0, DECADES, layer.units)).astype("float32")
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel * factors, bias * factors])
        kernel, bias = reader.get_weights()
        reader.set_weights([kernel / factors[:, None], bias])


if __name__ == "__main__":
    main()

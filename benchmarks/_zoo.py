"""Save the models of the zoo: `python _zoo.py keras|tf_keras FOLDER [KIND...]`.

For each kind (see `_zoo_kinds.py`): the model as a user of that family has it, KIND.npz with 64
rows by input name, and KIND.outputs.npz with what the model gave for them before it was saved.
Keras 3 saves .keras; Keras 2 .h5 where that can be loaded again, else .keras. zoo.json says what
was made.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from _zoo_kinds import KINDS, LACKING, ROWS, VOCABULARY

HERE = Path(__file__).parent
SUFFIXES = {"keras": (".keras",), "tf_keras": (".h5", ".keras")}
NEEDS_MODULE = {"custom_layer", "registered_layer", "subclassed_model"}
FREE = 16
"""Rows have this length where a model takes any."""


class Unsaved(Exception):
    """The family cannot save this model and load it again."""


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    keras = importlib.import_module(name)
    custom = folder / "zoo_custom.py"
    text = (HERE / "_zoo_custom.py").read_text()
    custom.write_text(text.replace("import keras", f"import {name} as keras"))
    keras.zoo = _module(custom)
    made: dict[str, dict[str, str]] = {}
    for kind in sys.argv[3:] or KINDS:
        if reason := LACKING[name].get(kind):
            made[kind] = {"lacking": reason}
            continue
        try:
            made[kind] = make(keras, kind, folder)
        except Unsaved as e:
            made[kind] = {"lacking": str(e)}
        if kind in NEEDS_MODULE:
            made[kind]["module"] = custom.name
    (folder / "zoo.json").write_text(json.dumps(made, indent=1))


def _module(path: Path) -> Any:
    """The module of custom objects in the file `path`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(keras: Any, kind: str, folder: Path) -> dict[str, str]:
    """Build, perturb and save `kind`; its file, and why it is not an .h5."""
    keras.backend.clear_session()
    seed = zlib.crc32(kind.encode())
    keras.utils.set_random_seed(seed)
    built = KINDS[kind](keras)
    model, feed = built if isinstance(built, tuple) else (built, None)
    random = np.random.default_rng(seed)
    feed = feed or dict(_rows(model, random))
    perturb(model, random)
    outputs = call(model, feed)
    for value in outputs:
        _check(kind, value)
    np.savez(folder / f"{kind}.npz", **feed)
    np.savez(folder / f"{kind}.outputs.npz", **{str(i): v for i, v in enumerate(outputs)})
    if kind.startswith("saved_model"):
        if family(keras) == "keras":
            model.export(folder / kind, verbose=False)
        else:
            model.save(folder / kind, save_format="tf")
        return {"file": kind}
    return _save(keras, model, folder / kind, feed, outputs)


def perturb(model: Any, random: np.random.Generator) -> None:
    """Weights unlike 0 and 1 everywhere, so that none can be lost unnoticed."""
    for variable in model.weights:
        name = variable.name.rpartition("/")[2].partition(":")[0]
        # "mean" and "variance" are those of a Normalization, which were adapted to the rows.
        if name in ("mean", "variance") or "float" not in str(variable.dtype):
            continue
        shape = tuple(variable.shape)
        if "variance" in name or name == "gamma":
            value = random.uniform(0.5, 1.5, shape)
        elif name == "alpha":  # PReLU
            value = random.uniform(0.1, 0.4, shape)
        elif name in ("bias", "beta", "moving_mean"):
            value = np.asarray(variable) + random.normal(0, 0.3, shape)
        else:
            value = np.asarray(variable) + random.normal(0, 0.05, shape)
        variable.assign(value.astype("float32"))


def call(model: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The model's outputs in its order (a dict's: sorted by key)."""
    step = (model.inputs[0].shape[0] if getattr(model, "inputs", None) else None) or ROWS
    structures = (getattr(model, name, None) for name in ("_inputs_struct", "_nested_inputs"))
    takes_dict = any(isinstance(structure, dict) for structure in structures)
    parts = []
    for start in range(0, ROWS, step):
        values = {name: tf.constant(v[start : start + step]) for name, v in feed.items()}
        inputs: Any = values if takes_dict else list(values.values())
        if not takes_dict and len(inputs) == 1:
            inputs = inputs[0]
        result = model(inputs, training=False)
        if isinstance(result, dict):
            result = [result[key] for key in sorted(result)]
        flat = result if isinstance(result, (list, tuple)) else [result]
        parts.append([np.asarray(value) for value in flat])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _rows(model: Any, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of the shapes of a model's inputs, each with a level of its own."""
    for tensor in model.inputs:
        name, dtype = tensor.name, getattr(tensor.dtype, "name", tensor.dtype)
        shape = (ROWS, *(FREE if size is None else size for size in tuple(tensor.shape)[1:]))
        if dtype == "uint8":
            yield name, random.integers(0, 256, shape, dtype)
        elif "int" in dtype:
            yield name, random.integers(0, VOCABULARY, shape, dtype)
        else:
            level = random.normal(0, 0.5, (ROWS, *[1] * (len(shape) - 2), shape[-1]))
            yield name, (level + random.normal(0, 1, shape)).astype("float32")


def family(keras: Any) -> str:
    """`keras` or `tf_keras`: the name by which the module was imported is longer."""
    return str(keras.__name__).partition(".")[0]


def _check(kind: str, output: np.ndarray) -> None:
    """A model whose output hardly depends on the row proves nothing."""
    if not np.isfinite(output).all() or output.std(axis=0).max() < 0.02 * np.abs(output).max():
        sys.exit(f"{kind}: its output is not finite, or does not vary over the rows")


def _save(
    keras: Any, model: Any, path: Path, feed: dict[str, np.ndarray], outputs: list[np.ndarray]
) -> dict[str, str]:
    """In the first of the family's file formats that holds the whole model."""
    problems = []
    for suffix in SUFFIXES[family(keras)]:
        file = path.with_suffix(suffix)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that .h5 is a legacy format
                model.save(file)
            again = keras.models.load_model(
                file, compile=False, safe_mode=False, custom_objects={"Gate": keras.zoo.Gate}
            )
            found = call(again, feed)
        except Exception as e:  # Keras raises anything
            problems.append(f"{suffix}: {type(e).__name__}: {e}"[:300])
        else:
            if all(np.allclose(a, b, atol=1e-5) for a, b in zip(found, outputs, strict=True)):
                return {"file": file.name, **({"note": problems[0]} if problems else {})}
            problems.append(f"{suffix}: gives other numbers when loaded")
        file.unlink(missing_ok=True)
    raise Unsaved("; ".join(problems))


if __name__ == "__main__":
    main()

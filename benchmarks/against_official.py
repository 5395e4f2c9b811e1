"""Latency, size and noise of edgekit's files against what the official tools write by default."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from _common import (
    EDGEKIT,
    HERE,
    OFFICIAL,
    PYTHON,
    interleaved,
    make_models,
    print_conditions,
    print_table,
    run,
    runs_option,
    show,
)

NOISE = 1.02
"""A latency ratio up to here counts as equal."""
SECONDS = 0.6
LOST_DB = 0.05
"""A signal-to-noise ratio that is lower by less counts as equal."""
MODELS = {
    "digits_mlp": "digits MLP",
    "autoencoder": "autoencoder 64-8-64",
    "regressor": "regressor 10-64-32-1",
    "mlp": "MLP 784-300-100-10",
    "fashion_mnist_cnn": "small separable CNN",
    "residual": "small ResNet",
    "mobilenet_96": "MobileNetV2 0.35, 96",
}
ARTIFACTS = {
    "fp32.tflite": "TFLite fp32",
    "int8.tflite": "TFLite int8",
    "fp32.onnx": "ONNX fp32",
    "int8.onnx": "ONNX int8",
}


def main() -> None:
    runs = runs_option(__doc__, default=7)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        make_models(folder, *MODELS)
        for model in MODELS:
            write_official(folder, model)
            write_edgekit(folder, model)
        pairs = {(m, a): pair(folder, m, a) for m in MODELS for a in ARTIFACTS}
        noise = {key: [sqnr(folder, key[0], f) for f in files] for key, files in pairs.items()}
        sizes = {key: [file.stat().st_size for file in files] for key, files in pairs.items()}
        medians: dict[tuple[str, str], list[list[float]]] = {key: [] for key in pairs}

        def ratio(key: tuple[str, str]) -> float:
            model, artifact = key
            form = artifact.rpartition(".")[2]
            files = pairs[key] if len(medians[key]) % 2 == 0 else pairs[key][::-1]
            found = run(PYTHON, HERE / "_loop.py", form, SECONDS, folder / f"{model}.npz", *files)
            values = json.loads(found.stdout)
            medians[key].append(values if files is pairs[key] else values[::-1])
            return medians[key][-1][0] / medians[key][-1][1]

        subjects = {f"{m} {a}": lambda m=m, a=a: ratio((m, a)) for m, a in pairs}
        found = interleaved(subjects, runs)

    rows = []
    for model, artifact in pairs:
        ours, theirs = zip(*medians[model, artifact], strict=True)
        latency = found[f"{model} {artifact}"]
        size, base = sizes[model, artifact]
        slower = statistics.median(latency) > NOISE
        own_db, their_db = noise[model, artifact]
        noisier = artifact.startswith("int8") and own_db < their_db - LOST_DB
        checks = (("slower", slower), ("larger", size > base), ("noisier", noisier))
        problems = [word for word, bad in checks if bad]
        rows.append(
            [
                MODELS[model],
                ARTIFACTS[artifact],
                f"{statistics.median(ours) / 1e3:.1f} / {statistics.median(theirs) / 1e3:.1f} µs",
                show(latency),
                f"{size:,} / {base:,}",
                f"{size / base:.3f}",
                f"{own_db:.1f} / {their_db:.1f} dB" if artifact.startswith("int8") else "",
                " and ".join(problems).upper() or "met",
            ]
        )
    headings = [
        "model", "artifact", "p50, edgekit / official", "latency ratio",
        "bytes, edgekit / official", "size ratio", "SQNR", "met",
    ]  # fmt: skip
    print_table("edgekit's files against those of the official tools", headings, rows)
    print_conditions(
        runs, "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "ai-edge-litert"
    )


def pair(folder: Path, model: str, artifact: str) -> list[Path]:
    return [folder / model / artifact, folder / f"{model}-official" / artifact]


def sqnr(folder: Path, model: str, file: Path) -> float:
    """The signal-to-noise ratio of a file's output, in dB, on rows that it was not made with."""
    source, rows = folder / f"{model}.keras", folder / f"{model}-unseen.npz"
    command = [EDGEKIT, "verify", file, "--against", source, "--samples", rows, "--json"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    [record] = answer.get("result", answer)["parity"]
    return float(min(o["sqnr_db"] for o in record["outputs"]))


def write_official(folder: Path, model: str) -> None:
    source, rows, out = folder / f"{model}.keras", folder / f"{model}.npz", folder / model
    out = out.with_name(f"{model}-official")
    out.mkdir()
    run(PYTHON, OFFICIAL / "tflite_fp32.py", source, out / "fp32.tflite")
    run(PYTHON, OFFICIAL / "tflite_int8.py", source, rows, out / "int8.tflite")
    onnx = out / "fp32.onnx"
    run(PYTHON, "-m", "tf2onnx.convert", "--keras", source, "--output", onnx)
    run(PYTHON, OFFICIAL / "onnx_int8.py", onnx, rows, out / "int8.onnx")


def write_edgekit(folder: Path, model: str) -> None:
    kinds = ("--to", "tflite", "--to", "onnx", "--precision", "fp32", "--precision", "int8")
    source, rows = folder / f"{model}.keras", folder / f"{model}.npz"
    run(EDGEKIT, "export", source, *kinds, "--samples", rows, "-o", folder / model)


if __name__ == "__main__":
    main()

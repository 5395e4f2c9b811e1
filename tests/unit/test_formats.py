"""What is no model is refused, whatever the bytes; and the command `edgekit inspect`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from onnx import helper

from edgekit.agent.protocol import decode, encode
from edgekit.cli.inspect import inspect
from edgekit.errors import SourceError
from edgekit.formats import describe, keras
from edgekit.formats.description import FileDescription
from tests.model_files import (
    DATA,
    FLOAT_DATA,
    FLOATS,
    FOUR,
    HALF,
    QUANTIZED,
    qdq,
    save_onnx,
    save_tfjs,
    weight_dq,
)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")


NOT_MODELS: dict[str, Callable[[Path], object]] = {
    "missing.onnx": lambda path: None,
    "empty.tflite": lambda path: path.write_bytes(b""),
    "random.tflite": lambda path: path.write_bytes(random.Random(1).randbytes(3000)),
    "random.onnx": lambda path: path.write_bytes(random.Random(2).randbytes(3000)),
    "random.bin": lambda path: path.write_bytes(random.Random(3).randbytes(3000)),
    "zeros.bin": lambda path: path.write_bytes(bytes(3000)),
    "text.onnx": lambda path: path.write_text("not a model\n"),
    "text.keras": lambda path: path.write_text("not a model\n"),
    "magic.tflite": lambda path: path.write_bytes(b"\x1c\0\0\0TFL3"),
    "magic.h5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"),
    "magic.keras": lambda path: path.write_bytes(b"PK\x03\x04"),
    "other.zip": write_zip,
    "package.json": lambda path: path.write_text('{"name": "package"}'),
    "deep.json": lambda path: path.write_text('{"a":' * 100_000),
    "model.json": lambda path: path.write_text('{"modelTopology": 1, "weightsManifest": 2}'),
    "folder": lambda path: path.mkdir(),
    "pipe.onnx": lambda path: os.mkfifo(path),
    "loop.onnx": lambda path: path.symlink_to(path),
    "link": lambda path: path.symlink_to(path.parent, target_is_directory=True),
}


@pytest.mark.parametrize("name", NOT_MODELS)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    NOT_MODELS[name](path)
    with pytest.raises(SourceError) as caught:
        describe(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((DATA / "int8.tflite").read_bytes())
    assert describe(path).format == "tflite"


def test_a_link_to_a_model_is_a_model(tmp_path: Path) -> None:
    save_tfjs(tmp_path / "m", FLOATS, FLOAT_DATA)
    (tmp_path / "link").symlink_to(tmp_path / "m", target_is_directory=True)
    assert describe(tmp_path / "link").format == "tfjs"


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutant = bytearray(data)
    at = rng.randrange(len(data))
    kind = rng.choice(["cut", "bytes", "word", "copy"])
    if kind == "cut":
        return bytes(mutant[:at])
    if kind == "bytes":
        for _ in range(rng.randint(1, 20)):
            mutant[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "word":
        mutant[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
    else:
        mutant[at : at + 16] = data[rng.randrange(len(data)) :][:16]
    return bytes(mutant)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((f"{name}.tflite", 60) for name in ("fp32", "int8", "lstm")),
        ("model.onnx", 200),
        ("model.json", 200),
        ("two_inputs.keras", 100),
        ("line.h5", 8),  # each in a process of its own
    ],
)
def test_mutants_are_described_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    monkeypatch.setattr(keras, "READING_S", 1.0)
    if name == "model.onnx":
        nodes = [*qdq("x"), weight_dq(), helper.make_node("Gemm", ["x_dq", "w_dq"], ["y"])]
        save_onnx(tmp_path / name, nodes, {**QUANTIZED, "half": HALF, "four": FOUR})
    elif name == "model.json":
        save_tfjs(tmp_path / "m", FLOATS, FLOAT_DATA)
    else:
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    path = tmp_path / "m" / name if name == "model.json" else tmp_path / name
    original = path.read_bytes()
    rng = random.Random(name)
    refusals = []
    for _ in range(count):
        path.write_bytes(mutate(original, rng))
        started = time.process_time()
        try:
            found = describe(path)
        except SourceError as error:
            refusals.append(error.message)
        else:
            document = json.dumps(encode(found), allow_nan=False)
            assert decode(FileDescription, json.loads(document)) == found
        assert time.process_time() - started < 1
    assert refusals
    assert all(str(path) in message for message in refusals)


# --- the command


def test_inspect_prints_a_summary() -> None:
    result = CliRunner().invoke(inspect, [str(DATA / "int8_io.tflite")])
    assert result.exit_code == 0
    for text in ("TFLite", "1,232 parameters", "? × 8 × 8 × 1", "(q + 128) ×", "CONV_2D",
                 "integers", "47.1% of the weights are zero"):  # fmt: skip
        assert text in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_inspect_names_what_is_float_in_a_quantized_file() -> None:
    result = CliRunner().invoke(inspect, [str(DATA / "dynamic.tflite")])
    assert "float (serving_default_image:0" in result.stdout


def test_inspect_json_is_the_whole_description() -> None:
    path = DATA / "int8.tflite"
    result = CliRunner().invoke(inspect, [str(path), "--json"])
    assert decode(FileDescription, json.loads(result.stdout)) == describe(path)


def test_inspect_reports_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(inspect, [str(tmp_path / "no.onnx")])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "does not exist" in result.stderr


def test_inspect_does_not_print_control_characters(tmp_path: Path) -> None:
    nodes = [helper.make_node("\x1b[2J", ["x"], ["y"])]
    result = CliRunner().invoke(inspect, [str(save_onnx(tmp_path / "m.onnx", nodes, {}))])
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout


def test_no_framework_is_imported() -> None:
    program = (
        "import sys; from pathlib import Path; from edgekit.formats import describe\n"
        "for path in sys.argv[1:]: describe(Path(path))\n"
        "print([m for m in ('tensorflow', 'keras', 'tf_keras', 'onnxruntime') if m in sys.modules])"
    )
    files = [DATA / "int8.tflite", DATA / "two_inputs.keras", DATA / "line.h5"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, files)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr

"""What all tests share. What is slow is made once per session, and only if a test asks for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_edgekit(
    *arguments: object, timeout: float = 600, cwd: Path | None = None, **env: str
) -> Run:
    """The real command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, **env},
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def skip_without(is_there: bool, what: str, install: str) -> None:
    """Skip where a system part is missing, saying how to get it; in CI nothing may skip."""
    if is_there:
        return
    if os.environ.get("EDGEKIT_NO_SKIP"):
        pytest.fail(f"{what} is missing here: {install}")
    pytest.skip(f"needs {what}: {install}")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained workspace of the digits recipe with five proved artifacts. Do not change it."""
    folder = tmp_path_factory.mktemp("digits") / "ws"
    trained = run_edgekit("train", "digits_mlp", "-o", folder)
    assert trained.code == 0, trained.err
    both = ("--precision", "fp32", "--precision", "int8")
    exported = run_edgekit("export", folder, "--to", "tflite", "--to", "onnx", *both)
    assert exported.code == 0, exported.err
    exported = run_edgekit("export", folder, "--to", "tfjs")
    assert exported.code == 0, exported.err
    return folder


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as users have them, saved by Keras in a process of its own."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, ROOT / "tests" / "save_models.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def keras2_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models as Keras 2 saved them."""
    folder = tmp_path_factory.mktemp("keras2")
    subprocess.run([sys.executable, ROOT / "tests" / "save_keras2_models.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def two_inputs_file(keras_files: Path) -> Path:
    return keras_files / "two_inputs.keras"

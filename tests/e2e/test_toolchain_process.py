"""The worker may crash, hang or print; the host goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import encode
from edgekit.errors import ConversionError, SourceError
from edgekit.toolchain.client import Toolchain, open_toolchain
from edgekit.types import Quantization, Source


@pytest.fixture(scope="module")
def toolchain():
    with open_toolchain() as worker:
        yield worker


def source_of(path):
    return encode(Source(str(path), "keras"))


def convert(
    toolchain, source, path, form="tflite", precision="fp32", calibration=None, timeout=600
):
    return toolchain.call(
        "convert",
        source=source_of(source),
        form=form,
        precision=precision,
        path=str(path),
        batch=1,
        opset=17,
        int8_io=False,
        flex=False,
        quantization=encode(Quantization()),
        calibration=calibration,
        unseen=None,
        timeout=timeout,
    )


def test_infinity_in_calibration_is_named(toolchain, digits, tmp_path):
    """read_samples refuses it long before; the converter would be killed by it."""
    feed = {"image": np.full((8, 8, 8), np.inf, np.float32)}
    paths = save_arrays(feed, tmp_path / "calibration")
    with pytest.raises(ConversionError, match="image:0 is NaN or infinite on a calibration row"):
        convert(toolchain, digits / "model.keras", tmp_path / "a.tflite", "tflite", "int8", paths)


def test_a_killed_worker_is_told_and_replaced(toolchain, two_inputs_file, tmp_path):
    """As by Linux where memory runs out, or by a fault in a converter."""
    with pytest.raises(ConversionError, match="train: the toolchain process was killed by SIGKILL"):
        toolchain.call(
            "train",
            recipe="digits_mlp",
            epochs=1,
            folder=str(tmp_path),
            progress=lambda told: toolchain._process.kill(),
        )
    # The next request starts a new worker.
    convert(toolchain, two_inputs_file, tmp_path / "b.tflite")
    assert (tmp_path / "b.tflite").stat().st_size > 500


def test_a_request_that_takes_too_long_is_stopped(toolchain, two_inputs_file, tmp_path):
    with pytest.raises(ConversionError, match="no answer from the toolchain in"):
        convert(toolchain, two_inputs_file, tmp_path / "a.tflite", timeout=0.001)
    assert toolchain.call("load", source=source_of(two_inputs_file))["parameters"] > 0


def test_errors_keep_their_class_and_hint(toolchain, keras_files):
    with pytest.raises(SourceError, match="has no defined inputs") as error:
        toolchain.call("load", source=source_of(keras_files / "unbuilt.keras"))
    assert "call it once" in error.value.hint


def test_one_worker_serves_the_verbs_of_a_block(toolchain):
    with open_toolchain() as again:
        assert again is toolchain


def test_closing_ends_the_process():
    worker = Toolchain()
    process, scratch = worker._process, Path(worker._scratch.name)
    assert scratch.is_dir()
    worker.close()
    assert process.poll() is not None
    assert not scratch.exists()


def test_the_hash_seed_and_the_legacy_switch_do_not_leak_in(monkeypatch, two_inputs_file):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    worker = Toolchain()
    try:
        assert worker.call("load", source=source_of(two_inputs_file))["family"].startswith(
            "keras 3"
        )
    finally:
        worker.close()

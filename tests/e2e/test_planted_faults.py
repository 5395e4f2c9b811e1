"""Whatever a converter does wrong, the file is not published, and the message says why.

Each fault is planted right after the real conversion; everything after it is the product.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

import edgekit
from edgekit import parity
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.toolchain.client import Toolchain, open_toolchain
from edgekit.workspace import Workspace

DATA = ("verification", "reference", "calibration")


@pytest.fixture(scope="module", autouse=True)
def worker():
    """One toolchain process for all of these."""
    with open_toolchain() as toolchain:
        yield toolchain


@pytest.fixture
def export_with(monkeypatch):
    """Export with a fault: `spoil(path, answer)` runs after each conversion."""

    def run(spoil, **options):
        convert = Toolchain.call

        def call(self, verb, **parameters):
            answer = convert(self, verb, **parameters)
            if verb in ("convert", "quantize"):
                answer = spoil(Path(parameters["path"]), answer) or answer
            return answer

        monkeypatch.setattr(Toolchain, "call", call)
        return edgekit.export(**options)

    return run


@pytest.fixture
def two_inputs(two_inputs_file, tmp_path):
    """A workspace path and a model of two inputs and two outputs."""
    return {"source": two_inputs_file, "output": tmp_path / "ws"}


@pytest.fixture
def digits_copy(digits, tmp_path):
    """The trained digits workspace as it was before anything was exported."""
    folder = tmp_path / "ws"
    folder.mkdir()
    for name in ("manifest.json", "model.keras", *(f"{d}.npz" for d in DATA)):
        shutil.copy(digits / name, folder)
    Workspace.open(folder).change(artifacts=(), parity=(), accuracy=(), latency=())
    return {"source": folder}


def assert_refused(error, folder, id, *words):
    assert error.value.exit_code == 1
    for word in words:
        assert word in error.value.message
    assert id not in [a.id for a in Workspace.open(Path(folder)).manifest.artifacts]
    assert not (Path(folder) / id).exists()
    assert not list(Path(folder).glob(".staging-*"))


def lose_all_weights(model):
    """The converter's own trap: a Keras 3 model as trackable object loses its variables."""

    def spoil(path, answer):
        import keras
        import tensorflow as tf

        from edgekit.toolchain.canonical import trace
        from edgekit.toolchain.model import of_keras

        loaded = keras.saving.load_model(model)
        concrete = trace(of_keras(loaded), 1).concrete
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], loaded)
        path.write_bytes(converter.convert())

    return spoil


def test_silent_weight_loss(export_with, digits_copy):
    folder = digits_copy["source"]
    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(lose_all_weights(folder / "model.keras"), **digits_copy, to=["tflite"])
    assert_refused(error, folder, "fp32.tflite")


def test_a_converter_that_crashes_is_a_sentence_and_the_others_finish(
    worker, two_inputs, monkeypatch
):
    ask = Toolchain.call

    def crash(self, verb, **parameters):
        if parameters.get("form") == "tflite":
            os.kill(self._process.pid, signal.SIGSEGV)
        return ask(self, verb, **parameters)

    monkeypatch.setattr(Toolchain, "call", crash)
    with pytest.raises(edgekit.ExportFailed) as error:
        edgekit.export(**two_inputs, to=["tflite", "onnx"])
    folder = two_inputs["output"]
    assert_refused(error, folder, "fp32.tflite", "the toolchain process was killed by SIGSEGV")
    assert [a.id for a in Workspace.open(folder).manifest.artifacts] == ["fp32.onnx"]


def change_one_onnx_weight(factor):
    def spoil(path, answer):
        model = onnx.load(path)
        weights = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)))
        values = numpy_helper.to_array(weights).copy()
        values.flat[np.abs(values).argmax()] *= factor
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))
        onnx.save(model, path)

    return spoil


@pytest.mark.parametrize(
    ("factor", "words"), [(-1.0, ("output", "allowed is 5e-05")), (float("nan"), ("is NaN",))]
)
def test_one_wrong_weight(export_with, two_inputs, factor, words):
    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(change_one_onnx_weight(factor), **two_inputs, to=["onnx"])
    assert_refused(error, two_inputs["output"], "fp32.onnx", "not equal to the Keras model", *words)


def test_a_flipped_byte_in_a_tfjs_shard(export_with, two_inputs):
    def spoil(path, answer):
        [group] = json.loads((path / "model.json").read_text())["weightsManifest"]
        sizes = [4 * math.prod(w["shape"]) for w in group["weights"]]
        largest = sizes.index(max(sizes))
        shard = path / group["paths"][0]
        content = bytearray(shard.read_bytes())
        content[sum(sizes[:largest]) + 3] ^= 0x40  # an exponent
        shard.write_bytes(content)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to=["tfjs"])
    assert_refused(error, two_inputs["output"], "fp32.tfjs", "allowed is 5e-05")


def test_outputs_of_equal_shape_swapped(export_with, keras_files, tmp_path):
    def spoil(path, answer):
        signature = decode(Signature, answer["signature"])
        first, second = signature.outputs
        swapped = (replace(first, native=second.native), replace(second, native=first.native))
        return {**answer, "signature": encode(replace(signature, outputs=swapped))}

    folder = tmp_path / "ws"
    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, source=keras_files / "twins.keras", output=folder, to=["tflite", "onnx"])
    assert [f.artifact for f in error.value.result.failures] == ["fp32.tflite", "fp32.onnx"]
    assert_refused(error, folder, "fp32.onnx", "output 'left'", "output 'right'")


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_the_order_in_the_file(export_with, two_inputs, form):
    """By name all is well; an application that binds by index gets the wrong tensor."""

    def spoil(path, answer):
        if form == "onnx":
            model = onnx.load(path)
            outputs = list(model.graph.output)[::-1]
            del model.graph.output[:]
            model.graph.output.extend(outputs)
            onnx.save(model, path)
        else:
            content = bytearray(path.read_bytes())
            order = schema.Model.GetRootAs(content).Subgraphs(0).OutputsAsNumpy()
            order[:] = order[::-1].copy()
            path.write_bytes(content)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to=[form])
    assert_refused(error, two_inputs["output"], f"fp32.{form}", "its outputs are deep")


def test_a_shape_declared_wrong(export_with, two_inputs):
    def spoil(path, answer):
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
        onnx.save(model, path)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to=["onnx"])
    words = ("its inputs are zebra (any × any, float32)", "not zebra (any × 4, float32)")
    assert_refused(error, two_inputs["output"], "fp32.onnx", *words)


def test_tfjs_weights_that_were_not_quantized(export_with, two_inputs, tmp_path):
    fp32 = edgekit.export(source=two_inputs["source"], output=tmp_path / "fp32", to="tfjs")

    def spoil(path, answer):
        shutil.rmtree(path)
        shutil.copytree(Path(fp32.workspace, "fp32.tfjs"), path)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to="tfjs", precision="fp16")
    assert_refused(error, two_inputs["output"], "fp16.tfjs", "no weight is stored as float16")


def test_scores_that_died_beside_boxes(keras_files, tmp_path):
    """Nothing is planted: int8 does this to a detector with one output tensor."""
    rows = np.random.default_rng(0).random((128, 8)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=rows)
    with pytest.raises(edgekit.ExportFailed, match=r"carries nothing in 4\d% of the channels"):
        edgekit.export(
            source=keras_files / "detector.keras",
            output=tmp_path / "ws",
            to="tflite",
            precision="int8",
            samples=tmp_path / "s.npz",
        )


def test_another_number_of_outputs(export_with, two_inputs, digits):
    def spoil(path, answer):
        shutil.copy(digits / "fp32.onnx", path)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to=["onnx"])
    assert_refused(error, two_inputs["output"], "fp32.onnx", "the file has ['image', 'label']")


def test_an_output_of_another_shape(export_with, two_inputs):
    def spoil(path, answer):
        model = onnx.load(path)
        wide = next(o.name for o in model.graph.output if o.name == "wide")
        for node in model.graph.node:
            node.output[:] = ["uncut" if o == wide else o for o in node.output]
        cut = [
            numpy_helper.from_array(np.array(v, np.int64), n)
            for n, v in (("from", [0]), ("to", [1]), ("axis", [1]))
        ]
        model.graph.initializer.extend(cut)
        inputs = ["uncut", "from", "to", "axis"]
        model.graph.node.append(onnx.helper.make_node("Slice", inputs, [wide]))
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        onnx.save(model, path)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to=["onnx"])
    words = ("output 'wide' has the shape (64, 1)", "the Keras model gives (64, 2)")
    assert_refused(error, two_inputs["output"], "fp32.onnx", *words)


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_float_file_called_int8(export_with, digits_copy, digits, form):
    folder = digits_copy["source"]

    def spoil(path, answer):
        shutil.copy(digits / f"fp32.{form}", path)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **digits_copy, to=[form], precision=["int8"])
    assert_refused(error, folder, f"int8.{form}", "it is not int8 inside")


@pytest.mark.parametrize(("form", "file"), [("tflite", ""), ("onnx", ""), ("tfjs", "model.json")])
def test_a_file_cut_in_half(export_with, two_inputs, form, file):
    def spoil(path, answer):
        target = path / file if file else path
        target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs, to=[form])
    assert_refused(error, two_inputs["output"], f"fp32.{form}")


def test_calibration_that_ruins_the_ranges(export_with, digits_copy, monkeypatch):
    """Nothing is wrong with the file but its numbers."""
    folder = digits_copy["source"]
    monkeypatch.setitem(
        parity.TOLERANCES, "int8", replace(parity.TOLERANCES["int8"], min_sqnr_db=90)
    )
    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(lambda path, answer: None, **digits_copy, to=["tflite"], precision=["int8"])
    assert_refused(error, folder, "int8.tflite", "output 'label'", "at least 90 dB is asked")


def test_the_other_formats_finish(export_with, two_inputs):
    def spoil(path, answer):
        if path.name.endswith(".onnx"):
            change_one_onnx_weight(-1.0)(path, answer)

    with pytest.raises(edgekit.ExportFailed) as error:
        export_with(spoil, **two_inputs)
    result = error.value.result
    assert [a.id for a in result.artifacts] == ["fp32.tflite", "fp32.tfjs"]
    assert [f.artifact for f in result.failures] == ["fp32.onnx"]
    manifest = json.loads((two_inputs["output"] / "manifest.json").read_text())
    assert [a["id"] for a in manifest["artifacts"]] == ["fp32.tflite", "fp32.tfjs"]

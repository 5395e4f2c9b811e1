"""TF.js folders, run by the real TensorFlow.js in the real Node.js, against Keras."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from edgekit.agent.protocol import Job, JobResult, decode, encode
from edgekit.errors import ConversionError, MissingDependency
from edgekit.targets import node
from edgekit.toolchain import tfjs
from edgekit.toolchain.canonical import trace
from edgekit.toolchain.model import of_keras
from edgekit.types import Signature
from tests.formats.onnx_models import build_model, reference, rows_for

FP32 = 1e-5
"""Largest difference from Keras, as a share of the largest output."""


@pytest.fixture(scope="module")
def command() -> list[str]:
    if node.find_node() is None:
        pytest.skip("Node.js is missing: pip install 'edgekit-ml[tfjs]'")
    node.prepare()
    return node.node_command()


class Agent:
    """Converts a model, feeds the agent, and reads what it answers."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.model = folder / "model"

    def convert(
        self,
        model: keras.Model,
        precision: str = "fp32",
        *,
        batch: int | None = None,
        **options: Any,
    ) -> Signature:
        self.signature = tfjs.convert(
            trace(of_keras(model), batch), precision, self.model, **options
        )
        return self.signature

    def ask(self, feed: dict[str, np.ndarray], **job: Any) -> tuple[int, dict[str, Any]]:
        inputs = {}
        for i, (name, value) in enumerate(feed.items()):
            inputs[name] = str(self.folder / f"in{i}.npy")
            np.save(inputs[name], value)
        request = Job(
            **{"action": "run", "format": "tfjs", "artifact": str(self.model)} | job,
            signature=self.signature,
            inputs=inputs,
            out=str(self.folder / "out"),
        )
        done = subprocess.run(
            self.command, input=json.dumps(encode(request)), capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert len(done.stdout.splitlines()) == 1, done.stderr
        return done.returncode, json.loads(done.stdout)

    def run(self, feed: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], JobResult]:
        code, answer = self.ask(feed)
        assert code == 0, answer
        result = decode(JobResult, answer)
        return {name: np.load(path) for name, path in result.outputs.items()}, result

    def graph(self) -> dict[str, Any]:
        return json.loads((self.model / "model.json").read_text())

    def operations(self) -> Counter[str]:
        return Counter(n["op"] for n in self.graph()["modelTopology"]["node"])


@pytest.fixture
def agent(command: list[str], tmp_path: Path) -> Agent:
    return Agent(command, tmp_path)


def randomize(model: keras.Model) -> keras.Model:
    """Weights as after training: no bias is 0, batch normalization is not the identity."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if weight.name in ("bias", "gamma", "beta", "moving_mean", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


def rows(model: keras.Model, count: int = 43) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {t.name: rng.normal(size=(count, *t.shape[1:])).astype(np.float32) for t in model.inputs}


def furthest(ours: np.ndarray, keras_output: Any) -> float:
    """Largest difference as a share of the largest output."""
    expected = np.asarray(keras_output)
    assert ours.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 1e-3
    return float(np.abs(ours - expected).max() / scale)


def mlp() -> keras.Model:
    x = keras.Input((7,), name="x")
    return randomize(keras.Model(x, layers.Dense(3, name="y")(layers.Dense(16, "relu")(x))))


def cnn() -> keras.Model:
    image = keras.Input((12, 12, 3), name="image")
    y = layers.Conv2D(8, 3, padding="same")(image)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    y = layers.MaxPooling2D()(layers.Conv2D(8, 1, groups=2)(y))
    y = layers.AveragePooling2D(2)(layers.LeakyReLU(0.1)(y))
    y = layers.Dense(10, activation="softmax", name="digit")(layers.Flatten()(y))
    return randomize(keras.Model(image, y))


def gelu() -> keras.Model:
    x = keras.Input((5,), name="x")
    return randomize(keras.Model(x, layers.Dense(8, "gelu", name="y")(x)))


def recurrent() -> keras.Model:
    sequence = keras.Input((6, 3), name="sequence")
    y = layers.Bidirectional(layers.GRU(4, return_sequences=True))(sequence)
    return randomize(keras.Model(sequence, layers.Dense(2, name="y")(layers.LSTM(5)(y))))


def assorted() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    y = layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 4, 9])(image)
    y = layers.GroupNormalization(5)(layers.SeparableConv2D(5, 3)(y))
    y = layers.Activation("softsign")(layers.PReLU()(y))
    y = layers.Conv2DTranspose(4, 3, strides=2)(layers.UpSampling2D(interpolation="bilinear")(y))
    y = layers.Activation("silu")(layers.GlobalMaxPooling2D()(y))
    return randomize(keras.Model(image, layers.Dense(3, activation="tanh", name="y")(y)))


@pytest.mark.parametrize("build", [mlp, cnn, gelu, recurrent, assorted])
def test_equals_keras_on_wasm(build: Callable[[], keras.Model], agent: Agent) -> None:
    model = build()
    agent.convert(model)
    feed = rows(model)
    outputs, result = agent.run(feed)
    (y,) = outputs.values()
    assert furthest(y, model(*feed.values(), training=False)) <= FP32
    assert (result.runtime.name, result.runtime.version) == ("tfjs", "4.22.0")
    assert result.runtime.backend == "wasm"


def test_batch_norm_is_folded_and_kernels_are_fused(agent: Agent) -> None:
    agent.convert(cnn())
    left = agent.operations()
    assert not any(left[op] for op in ("Mul", "AddV2", "Sub", "FusedBatchNormV3", "BatchNorm"))
    assert left["_FusedConv2D"] == left["FusedDepthwiseConv2dNative"] == left["_FusedMatMul"] == 1
    assert left["Conv2D"] == 2  # one per group
    assert left["Relu"] == left["Relu6"] == 0


def test_names_and_order_are_those_of_keras(agent: Agent) -> None:
    left, right = keras.Input((3,), name="zebra"), keras.Input((3,), name="ant")
    difference = layers.Subtract(name="yak")([left, right])
    double = layers.Rescaling(2.0, name="bee")(left)
    model = keras.Model([left, right], [difference, double])
    signature = agent.convert(model)
    assert [spec.name for spec in signature.inputs] == ["zebra", "ant"]
    assert [spec.name for spec in signature.outputs] == ["yak", "bee"]
    written = agent.graph()["signature"]
    assert list(written["inputs"]) == ["zebra", "ant"]
    assert list(written["outputs"]) == ["yak", "bee"]
    assert [s.native for s in signature.outputs] == [
        info["name"] for info in written["outputs"].values()
    ]
    feed = rows(model, 5)
    outputs, _ = agent.run(feed)
    np.testing.assert_allclose(outputs["yak"], feed["zebra"] - feed["ant"], atol=1e-6)
    np.testing.assert_allclose(outputs["bee"], 2 * feed["zebra"], atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_embedding_takes_integers(dtype: str, agent: Agent) -> None:
    tokens = keras.Input((6,), name="tokens", dtype=dtype)
    y = layers.GlobalAveragePooling1D()(layers.Embedding(50, 8)(tokens))
    model = keras.Model(tokens, layers.Dense(2, name="y")(y))
    signature = agent.convert(model)
    assert signature.inputs[0].dtype == "int32"
    x = np.random.default_rng(0).integers(0, 50, (11, 6)).astype(dtype)
    outputs, _ = agent.run({"tokens": x})
    assert furthest(outputs["y"], model(x)) <= FP32


def test_integers_that_do_not_fit_are_refused(agent: Agent) -> None:
    tokens = keras.Input((2,), name="tokens", dtype="int64")
    agent.convert(keras.Model(tokens, layers.Embedding(4, 2)(tokens)))
    code, answer = agent.ask({"tokens": np.array([[0, 2**40]])})
    assert code == 1
    assert "1099511627776" in answer["error"]["message"]


def test_a_model_in_several_shards(agent: Agent) -> None:
    model = mlp()
    agent.convert(model)
    agent.convert(model, shard_bytes=100)
    shards = sorted(agent.model.glob("*.bin"))
    assert len(shards) > 5
    assert all(shard.stat().st_size <= 100 for shard in shards)
    assert len(agent.graph()["weightsManifest"][0]["paths"]) == len(shards)
    outputs, _ = agent.run(rows(model))
    assert furthest(outputs["y"], model(rows(model)["x"])) <= FP32


@pytest.mark.parametrize(
    ("precision", "share", "close"), [("fp16", 0.6, 2e-3), ("uint8", 0.4, 5e-2)]
)
def test_quantized_weights(precision: str, share: float, close: float, agent: Agent) -> None:
    image = keras.Input((8, 8, 3), name="image")
    y = layers.DepthwiseConv2D(3)(layers.Conv2D(32, 3, activation="relu")(image))
    model = keras.Model(image, layers.Dense(10, name="y")(layers.Flatten()(y)))

    def size() -> int:
        return sum(f.stat().st_size for f in agent.model.glob("*.bin"))

    agent.convert(model)
    full = size()
    agent.convert(model, precision)
    assert size() < share * full
    outputs, _ = agent.run(rows(model))
    difference = furthest(outputs["y"], model(rows(model)["image"]))
    assert FP32 < difference <= close


def test_uint8_keeps_zero_exact() -> None:
    weights = np.array([[0.0, 3.0], [-0.011, 0.0]], np.float32)
    entry, raw = tfjs._encode(weights, "uint8")
    stored = np.frombuffer(raw, np.uint8).reshape(2, 2)
    quantization = entry["quantization"]
    read = (stored * quantization["scale"] + quantization["min"]).astype(np.float32)
    assert read[0, 0] == read[1, 1] == 0
    assert np.abs(read - weights).max() <= quantization["scale"]


def test_fp16_leaves_weights_beyond_its_range() -> None:
    entry, raw = tfjs._encode(np.full((2, 2), 1e5, np.float32), "fp16")
    assert "quantization" not in entry
    assert len(raw) == 16


@pytest.mark.parametrize("build", [cnn, recurrent])
def test_the_same_model_gives_the_same_bytes(
    build: Callable[[], keras.Model], tmp_path: Path
) -> None:
    model = build()
    for folder in ("first", "second"):
        tfjs.convert(trace(of_keras(model), None), "fp32", tmp_path / folder)
    first, second = (
        {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )
    assert first == second


def test_a_fixed_batch_is_padded_and_cut(agent: Agent) -> None:
    model = mlp()
    signature = agent.convert(model, batch=4)
    assert signature.inputs[0].shape == (4, 7)
    outputs, _ = agent.run(rows(model, 10))
    assert furthest(outputs["y"], model(rows(model, 10)["x"])) <= FP32


@pytest.mark.parametrize("name", ["attention", "lowered_images", "lowered_rows"])
def test_what_wasm_lacks_or_gets_wrong_is_made_of_other_operations(name: str, agent: Agent) -> None:
    model = build_model(name)
    signature = agent.convert(model)
    feed = rows_for(signature, 4)
    outputs, result = agent.run(feed)
    expected = reference(model, feed)
    assert outputs.keys() == expected.keys()
    assert {
        k: furthest(outputs[k], v) for k, v in expected.items() if furthest(outputs[k], v) > FP32
    } == {}
    assert result.runtime.backend == "wasm"


def test_an_operation_wasm_lacks_runs_on_cpu_and_says_so(agent: Agent) -> None:
    wave = keras.Input((16,), name="wave")
    model = keras.Model(wave, keras.ops.rfft(wave)[0])
    agent.convert(model)
    outputs, result = agent.run(rows(model))
    (y,) = outputs.values()
    assert furthest(y, model(rows(model)["wave"])) <= FP32
    assert result.runtime.backend == "cpu"


def test_a_table_to_look_up_in_is_refused(tmp_path: Path) -> None:
    x = keras.Input((3,), name="x", dtype="int64")
    model = keras.Model(x, layers.IntegerLookup(vocabulary=[2, 4], name="known")(x))
    with pytest.raises(ConversionError, match=r"no table for LookupTableFindV2 \(in .*known"):
        tfjs.convert(trace(of_keras(model), None), "fp32", tmp_path)
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable("edgekit-tests")
class Digamma(layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.math.digamma(x)


def test_an_unknown_operation_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Digamma(name="odd_layer")])
    with pytest.raises(ConversionError, match=r"Digamma \(in .*odd_layer.*\)") as caught:
        tfjs.convert(trace(of_keras(model), None), "fp32", tmp_path)
    assert "onnx" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="int4"):
        tfjs.convert(trace(of_keras(mlp()), None), "int4", tmp_path)


def test_timing(agent: Agent) -> None:
    agent.convert(mlp())
    code, answer = agent.ask(rows(mlp(), 2), action="time", seconds=0.4)
    assert code == 0, answer
    timing = decode(JobResult, answer).timing
    assert timing is not None
    assert len(timing.samples_ns) >= 5
    assert min(timing.samples_ns) > 0
    assert timing.loops * np.median(timing.samples_ns) >= 20_000
    assert timing.warmup_invocations >= 3
    assert timing.load_ns > 0
    assert timing.peak_memory_bytes is not None
    assert 2e7 < timing.peak_memory_bytes < 2e9


def test_more_threads_than_node_has_are_not_claimed(agent: Agent) -> None:
    agent.convert(mlp())
    code, answer = agent.ask(rows(mlp(), 1), threads=2)
    assert code == 0
    assert decode(JobResult, answer).runtime.backend == "wasm (1 thread)"


def test_a_damaged_model_is_an_error_answer(agent: Agent) -> None:
    agent.convert(mlp())
    next(agent.model.glob("*.bin")).write_bytes(b"")
    code, answer = agent.ask(rows(mlp(), 1))
    assert code == 1
    assert answer["error"]["type"]
    assert answer["error"]["message"]


def test_a_missing_input_is_named(agent: Agent) -> None:
    agent.convert(mlp())
    code, answer = agent.ask({"y": np.zeros((1, 7), np.float32)})
    assert code == 1
    assert "no input named 'x'" in answer["error"]["message"]


def test_the_packages_are_pinned_without_addresses() -> None:
    lock = json.loads((node._SCRIPTS / "package-lock.json").read_text())
    packages = {k: v for k, v in lock["packages"].items() if k}
    assert all("integrity" in p and "resolved" not in p for p in packages.values())
    pinned = lock["packages"][""]["dependencies"]
    assert {v for n, v in pinned.items() if n.startswith("@tensorflow/")} == {"4.22.0"}
    assert all(v[0].isdigit() for v in pinned.values())


def test_missing_node_and_packages_name_their_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if not node.packages_folder().is_relative_to(tmp_path):
        pytest.skip("this system's cache folder does not follow XDG_CACHE_HOME")
    with pytest.raises(MissingDependency) as caught:
        node.node_command()
    assert caught.value.hint == "run: edgekit targets prepare node"
    monkeypatch.setattr(node, "find_node", lambda: None)
    with pytest.raises(MissingDependency) as caught:
        node.node_command()
    assert "edgekit-ml[tfjs]" in str(caught.value.hint)


def test_a_failing_npm_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.setattr(node, "packages_folder", lambda: tmp_path / "packages")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    said: list[str] = []
    with pytest.raises(MissingDependency, match="ECONNREFUSED") as caught:
        node.prepare(said.append)
    assert "edgekit targets prepare node" in str(caught.value.hint)
    assert len(said) == 1
    assert not (tmp_path / "packages").exists()
    assert not list(tmp_path.glob("node-new-*"))


def test_an_old_node_on_path_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")
    program = tmp_path / "node"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(node.importlib.util, "find_spec", lambda name: None)
    for version, taken in (("v16.20.2", False), ("v18.0.0", True)):
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
        assert (node.find_node() == program) is taken

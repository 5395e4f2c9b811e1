"""Train, export, verify, inspect and bench as a user does, with real runtimes."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest

from edgekit.workspace import Workspace
from tests.conftest import run_edgekit

FIVE = ["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx", "fp32.tfjs"]


@pytest.fixture(scope="module")
def manifest(digits):
    return Workspace.open(digits).manifest


@pytest.fixture
def copy(digits, tmp_path):
    """A workspace that a test may spoil."""
    return shutil.copytree(digits, tmp_path / "ws")


def test_every_artifact_is_proved_on_its_own_runtime(manifest):
    assert [a.id for a in manifest.artifacts] == ["fp32.tflite", "int8.tflite", *FIVE[2:]]
    proofs = {p.artifact: p for p in manifest.parity}
    assert {id: proofs[id].runtime.name for id in FIVE} == {
        "fp32.tflite": "litert",
        "int8.tflite": "litert",
        "fp32.onnx": "onnxruntime",
        "int8.onnx": "onnxruntime",
        "fp32.tfjs": "tfjs",
    }
    for proof in proofs.values():
        assert proof.passed
        assert (proof.rows, proof.data) == (360, "recipe")


def test_fp32_is_the_model_and_int8_is_near(manifest):
    for proof in manifest.parity:
        [figures] = proof.outputs
        if proof.artifact.startswith("fp32"):
            assert figures.max_rel < 1e-5
            assert figures.top1_agreement == 1
        else:
            assert figures.sqnr_db > 20


def test_accuracy_of_every_artifact_and_of_the_model(manifest):
    figures = {a.artifact: a.metrics["accuracy"] for a in manifest.accuracy}
    assert set(figures) == {"keras", *FIVE}
    assert figures["keras"] >= 0.95
    assert all(abs(f - figures["keras"]) < 0.02 for f in figures.values())


def test_names_and_order_are_the_models_in_every_format(manifest):
    for artifact in manifest.artifacts:
        assert [s.name for s in artifact.signature.inputs] == ["image"]
        assert [s.name for s in artifact.signature.outputs] == ["label"]
        batch = 1 if artifact.format == "tflite" else None
        assert artifact.signature.inputs[0].shape == (batch, 8, 8)


def test_int8_files_are_smaller(manifest):
    sizes = {a.id: a.size_bytes for a in manifest.artifacts}
    assert sizes["int8.tflite"] < 0.5 * sizes["fp32.tflite"]
    assert sizes["int8.onnx"] < 0.5 * sizes["fp32.onnx"]


def test_each_step_says_how_it_was_made(manifest):
    for artifact in manifest.artifacts:
        assert artifact.step.parent == manifest.source.sha256
        assert "tensorflow" in artifact.step.tools


def test_verify_repeats_it_without_tensorflow(copy, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("tensorflow", "keras"):
        (blocked / f"{name}.py").write_text("raise SystemExit('TensorFlow was imported')")
    done = run_edgekit("verify", copy, PYTHONPATH=str(blocked))
    assert done.code == 0, done.err
    assert done.out.count("proved") == 5


def test_verify_as_json(copy):
    done = run_edgekit("verify", copy / "int8.onnx", "--json")
    assert [p["artifact"] for p in done.json["parity"]] == ["int8.onnx"]
    assert done.json["parity"][0]["failures"] == []
    assert done.json["accuracy"][0]["metrics"]["accuracy"] > 0.9


def test_a_changed_artifact_is_not_verified(copy):
    path = copy / "fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    done = run_edgekit("verify", copy)
    assert done.code == 1
    assert "fp32.onnx is not the file that was recorded" in done.err


def test_an_edited_recipe_is_not_trusted(copy):
    text = (copy / "manifest.json").read_text()
    sha = Workspace.open(copy).manifest.recipe.sha256
    (copy / "manifest.json").write_text(text.replace(sha, "0" * 64))
    done = run_edgekit("verify", copy)
    assert done.code == 1
    assert "was edited, or replaced" in done.err


def test_bench_measures_and_keeps_raw_samples(copy):
    done = run_edgekit("bench", copy, "--rounds", 2, "--seconds", 0.1, "--json")
    assert done.code == 0, done.err
    rows = {r["summary"]["artifact"]: r for r in done.json["rows"]}
    assert set(rows) == {"keras", *FIVE}
    for row in rows.values():
        assert 0 < row["summary"]["p50_ns"] <= row["summary"]["p90_ns"] <= row["summary"]["p99_ns"]
        assert row["speedup"] > 0
    kept = {r.artifact: r for r in Workspace.open(copy).manifest.latency}
    assert set(kept) == set(rows)
    for record in kept.values():
        assert len(record.timings) == 2
        assert all(len(t.samples_ns) >= 5 for t in record.timings)


def test_bench_by_operator(copy):
    short = ("--rounds", 1, "--seconds", 0.05, "--no-baseline")
    done = run_edgekit("bench", copy, "--profile", *short, "--json")
    assert done.code == 0, done.err
    found = {r["artifact"]: r for r in done.json["profiles"]}
    assert set(found) == set(FIVE)
    p50 = {r["summary"]["artifact"]: r["summary"]["p50_ns"] for r in done.json["rows"]}
    for name, record in found.items():
        operators = record["profile"]["operators"]
        dense = [o for o in operators if re.search("Fully Connected|MatMul|Gemm", o["type"])]
        assert sum(o["calls"] for o in dense) == 2, name
        assert record["operators_ns"] == pytest.approx(sum(o["ns"] for o in operators), abs=1)
        assert record["p50_ns"] == p50[name]
    for name in ("fp32.onnx", "fp32.tflite"):
        named = " ".join(o["name"] for o in found[name]["profile"]["operators"])
        assert "digits_mlp" in named  # the Keras names, where the file has them


def test_bench_of_files_alone_needs_no_workspace(digits, tmp_path):
    alone = shutil.copy(digits / "int8.tflite", tmp_path / "any.tflite")
    done = run_edgekit("bench", alone, "--rounds", 1, "--seconds", 0.1)
    assert done.code == 0, done.err
    assert "any.tflite" in done.out


@pytest.mark.parametrize("name", [*FIVE, "model.keras"])
def test_inspect_every_file(digits, name):
    done = run_edgekit("inspect", digits / name, "--json")
    assert done.code == 0, done.err
    assert done.json["size_bytes"] > 1000
    assert done.json["ops"]


def test_a_model_of_the_users_own_without_recipe_or_samples(two_inputs_file, tmp_path):
    done = run_edgekit("export", two_inputs_file, "-o", tmp_path / "ws", "--json")
    assert done.code == 0, done.err
    assert [a["id"] for a in done.json["artifacts"]] == ["fp32.tflite", "fp32.onnx", "fp32.tfjs"]
    for artifact, proof in zip(done.json["artifacts"], done.json["parity"], strict=True):
        assert proof["data"] == "synthetic"
        assert [s["name"] for s in artifact["signature"]["inputs"]] == ["zebra", "ant"]
        assert [o["name"] for o in proof["outputs"]] == ["wide", "deep"]


def test_samples_calibrate_and_labels_give_an_accuracy(two_inputs_file, tmp_path):
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "s.npz",
        zebra=random.standard_normal((128, 4)),
        ant=random.standard_normal((128, 3)),
        y_deep=random.integers(0, 5, 128),
    )
    options = ("--to", "tflite", "--to", "onnx", "--precision", "int8")
    done = run_edgekit(
        "export", two_inputs_file, *options, "--samples", tmp_path / "s.npz", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert done.json["workspace"] == "two_inputs-edgekit"
    assert {p["data"] for p in done.json["parity"]} == {"samples"}
    assert all("accuracy" in a["metrics"] for a in done.json["accuracy"])


def test_exporting_twice_gives_the_same_bytes(two_inputs_file, tmp_path):
    hashes = []
    for name in ("a", "b"):
        done = run_edgekit("export", two_inputs_file, "-o", tmp_path / name, "--json")
        hashes.append([a["sha256"] for a in done.json["artifacts"]])
    assert hashes[0] == hashes[1]


def test_a_model_of_a_fixed_batch_stays_so(keras_files, tmp_path):
    done = run_edgekit("export", keras_files / "fixed_batch.keras", "-o", tmp_path / "ws", "--json")
    assert done.code == 0, done.err
    for artifact in done.json["artifacts"]:
        assert [s["shape"] for s in artifact["signature"]["inputs"]] == [[4, 6]]
        assert artifact["step"]["options"]["batch"] == 4


def test_bench_of_single_artifacts_keeps_them_all(copy):
    two = (copy / "fp32.tflite", copy / "int8.tflite")
    done = run_edgekit("bench", *two, "--rounds", 1, "--seconds", 0.1, "--no-baseline")
    assert done.code == 0, done.err
    kept = {r.artifact for r in Workspace.open(copy).manifest.latency}
    assert kept == {"fp32.tflite", "int8.tflite"}


def test_verify_goes_on_where_one_runtime_is_missing(copy, tmp_path):
    done = run_edgekit("verify", copy, XDG_CACHE_HOME=str(tmp_path))
    assert done.code == 1
    assert done.out.count("proved") == 4
    assert "not verified: fp32.tfjs" in done.err
    assert "edgekit targets prepare node" in done.err


def test_a_copy_of_an_artifact_against_its_workspace(digits, tmp_path):
    alone = shutil.copy(digits / "int8.tflite", tmp_path / "alone.tflite")
    done = run_edgekit("verify", alone, "--against", digits, "--json")
    assert done.code == 0, done.err
    assert "TensorFlow" not in done.err
    assert done.json["parity"][0]["data"] == "recipe"


def test_new_samples_that_fail_leave_the_old_ones(keras_files, tmp_path):
    workspace, rows = tmp_path / "ws", np.random.default_rng(0).random((64, 3)) + 0.1
    np.savez(tmp_path / "good.npz", x=rows)
    np.savez(tmp_path / "bad.npz", x=-rows)
    model, to = keras_files / "logarithm.keras", ("--to", "onnx")
    done = run_edgekit("export", model, *to, "--samples", tmp_path / "good.npz", "-o", workspace)
    assert done.code == 0, done.err
    done = run_edgekit("export", workspace, *to, "--samples", tmp_path / "bad.npz")
    assert done.code == 1
    assert "the Keras model itself gives NaN" in done.err
    assert run_edgekit("verify", workspace).code == 0


def test_few_rows_are_called_few(two_inputs_file, tmp_path):
    np.savez(tmp_path / "s.npz", zebra=np.ones((3, 4)), ant=np.ones((3, 3)))
    options = ("--to", "onnx", "-o", tmp_path / "ws", "--samples", tmp_path / "s.npz")
    done = run_edgekit("export", two_inputs_file, *options)
    assert done.code == 0, done.err
    assert "warning: only 3 rows to compare on" in done.err


def test_a_read_only_workspace_can_be_verified(copy):
    if os.geteuid() == 0:
        # root writes anywhere: take the right away by a mount that refuses, or not at all.
        (copy / ".lock").unlink(missing_ok=True)
        (copy / ".lock").mkdir()
    else:
        copy.chmod(0o555)
    done = run_edgekit("verify", copy / "fp32.onnx")
    copy.chmod(0o755)
    assert done.code == 0, done.err
    assert "proved" in done.out
    assert "the records are not kept" in done.err


def test_a_foreign_file_against_its_model(digits, tmp_path):
    foreign = shutil.copy(digits / "fp32.tflite", tmp_path / "foreign.tflite")
    done = run_edgekit("verify", foreign, "--against", digits / "model.keras", "--json")
    assert done.code == 0, done.err
    assert done.json["parity"][0]["outputs"][0]["max_rel"] < 1e-5


def test_without_node_tfjs_is_not_verified_and_not_published(two_inputs_file, tmp_path):
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    to_tfjs = ("export", two_inputs_file, "--to", "tfjs", "--to", "onnx", "-o", tmp_path / "ws")
    done = run_edgekit(*to_tfjs, **nowhere)
    assert done.code == 1
    assert "fp32.tfjs: not verified, so not exported" in done.err
    assert "edgekit targets prepare node" in done.err
    assert [a.id for a in Workspace.open(tmp_path / "ws").manifest.artifacts] == ["fp32.onnx"]
    done = run_edgekit(*to_tfjs, "--allow-unverified", **nowhere)
    assert done.code == 0
    assert "not verified" in done.out
    manifest = Workspace.open(tmp_path / "ws").manifest
    assert {a.id for a in manifest.artifacts} == {"fp32.onnx", "fp32.tfjs"}
    assert {p.artifact for p in manifest.parity} == {"fp32.onnx"}


def test_demo_ends_with_one_table(tmp_path):
    done = run_edgekit("demo", "-o", tmp_path / "demo")
    assert done.code == 0, done.err
    for name in ("Keras model", *FIVE):
        assert f"| {name} " in done.out
    assert json.loads((tmp_path / "demo" / "manifest.json").read_text())["latency"]
    assert run_edgekit("demo", "-o", tmp_path / "demo", "--json").code == 0

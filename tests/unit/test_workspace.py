from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from edgekit.errors import WorkspaceError
from edgekit.hashing import sha256, size_bytes
from edgekit.manifest import MANIFEST, SourceInfo
from edgekit.types import (
    AccuracyRecord,
    Artifact,
    Code,
    LatencyRecord,
    Machine,
    Runtime,
    Signature,
    Step,
    TensorSpec,
    Timing,
)
from edgekit.workspace import Workspace

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "x:0", (None, 2), "float32"),),
    outputs=(TensorSpec("y", "y:0", (None, 1), "float32"),),
)


@pytest.fixture
def workspace(tmp_path):
    model = tmp_path / "m.keras"
    model.write_bytes(b"weights")
    return Workspace.create(tmp_path / "ws", model, source_of(model))


def source_of(model):
    return SourceInfo(f"model{model.suffix}", sha256(model), "m", "keras 3", 3, SIGNATURE)


def publish(workspace, id="fp32.tflite", content=b"file"):
    with workspace.staging() as staging:
        staged = staging / id
        staged.write_bytes(content)
        artifact = Artifact(
            id,
            id,
            sha256(staged),
            size_bytes(staged),
            SIGNATURE,
            Step("export", {"batch": 1}, workspace.manifest.source.sha256, {"t": "1"}, "now"),
        )
        workspace.publish(artifact, staged)
    return artifact


def test_what_was_written_is_read_again(workspace):
    artifact = publish(workspace)
    workspace.add_records(AccuracyRecord(artifact.id, artifact.sha256, "test", 9, {"a": 0.5}))
    again = Workspace.open(workspace.path)
    assert again.manifest == workspace.manifest
    assert again.artifact_path(again.artifact("fp32.tflite")).read_bytes() == b"file"
    assert again.model.read_bytes() == b"weights"


def test_raw_samples_take_one_line(workspace):
    timing = Timing((1.5, 2.5, 3e-5), 1, 3, True, 10)
    record = LatencyRecord(
        "keras", "0", "local", 1, 1, (timing,), Runtime("a", "1", "b"), Machine("c", "d", 2, 3, "e")
    )
    workspace.add_records(record)
    text = (workspace.path / MANIFEST).read_text()
    assert '"samples_ns": [1.5, 2.5, 3e-05]' in text
    assert '"shape": [null, 2]' in text
    assert Workspace.open(workspace.path).manifest.latency == (record,)


def test_times_of_two_phones_stand_side_by_side(workspace):
    phones = [Machine("aarch64", "aarch64", 8, 0, f"Android {v}, Chrome 130") for v in (13, 14)]
    runtime, timing = Runtime("a", "1", "b"), Timing((1.5,), 1, 3, True, 10)
    first, second = (
        LatencyRecord("keras", "0", "browser:listen", 1, 1, (timing,), runtime, phone)
        for phone in phones
    )
    again = replace(first, timings=(timing, timing))
    workspace.add_records(first, second, again)
    assert workspace.manifest.latency == (second, again)


def test_a_new_artifact_takes_the_place_and_the_records_of_the_old(workspace):
    old = publish(workspace)
    workspace.add_records(AccuracyRecord(old.id, old.sha256, "test", 9, {"a": 0.5}))
    new = publish(workspace, content=b"better")
    assert workspace.manifest.artifacts == (new,)
    assert workspace.manifest.accuracy == ()
    assert workspace.artifact_path(new).read_bytes() == b"better"


def test_other_rows_to_compare_with_drop_the_proofs_on_the_old(workspace):
    artifact = publish(workspace)

    def take(content):
        with workspace.staging() as staging:
            (staging / "rows").write_bytes(content)
            workspace.take_data({"verification": (staging / "rows", 3, "samples")})

    take(b"rows")
    record = AccuracyRecord(artifact.id, artifact.sha256, "samples", 9, {"a": 0.5})
    workspace.add_records(record)
    take(b"rows")
    assert workspace.manifest.accuracy == (record,)
    take(b"other rows")
    assert workspace.manifest.accuracy == ()


def with_data(workspace, **contents):
    """Rows and outputs of that content, and a variant "qat"."""
    with workspace.staging() as staging:
        (staging / "qat.keras").write_bytes(b"qat")
        workspace.take_variant("qat", staging / "qat.keras", Step("quantize", {}, "", {}, "now"))
    take(workspace, **contents)


def take(workspace, dropped=(), **contents):
    with workspace.staging() as staging:
        for name, content in contents.items():
            (staging / name).write_bytes(content)
        staged = {name.replace("_", "-"): (staging / name, 3, "samples") for name in contents}
        workspace.take_data(staged, dropped)


def test_rows_that_are_dropped_take_the_models_outputs_along(workspace):
    rows = {"calibration": b"1", "verification": b"2", "validation": b"3"}
    outputs = {"reference": b"4", "validation_reference": b"5", "qat_validation_reference": b"6"}
    with_data(workspace, **rows, **outputs)
    take(workspace, ["validation"], calibration=b"2")
    left = {"calibration", "verification", "reference"}
    assert set(Workspace.open(workspace.path).manifest.data) == left
    assert {path.stem for path in workspace.path.glob("*.npz")} == left


def test_only_other_rows_drop_the_outputs_of_a_model_that_was_trained_on(workspace):
    with_data(workspace, verification=b"1", reference=b"2", qat_reference=b"3")
    take(workspace, verification=b"1", reference=b"2")
    assert workspace.has_data("qat-reference")
    take(workspace, verification=b"4", reference=b"5")
    assert not workspace.has_data("qat-reference")
    assert workspace.has_data("reference")


def take_variant(workspace, name, content):
    with workspace.staging() as staging:
        (staging / f"{name}.keras").write_bytes(content)
        step = Step("prune", {}, "", {}, "now")
        workspace.take_variant(name, staging / f"{name}.keras", step)


def test_another_model_drops_what_the_one_before_led_to(workspace):
    for name in ("structured50", "sparse80", "sparse80-qat"):
        take_variant(workspace, name, name.encode())
        publish(workspace, f"{name}-int8.tflite")
    publish(workspace, "int8.tflite")
    take(workspace, reference=b"1", sparse80_reference=b"2", sparse80_qat_reference=b"3")
    take_variant(workspace, "sparse80", b"sparse80")
    assert len(workspace.manifest.artifacts) == 4
    take_variant(workspace, "sparse80", b"others")
    again = Workspace.open(workspace.path)
    assert set(again.manifest.variants) == {"structured50", "sparse80"}
    assert {a.id for a in again.manifest.artifacts} == {"int8.tflite", "structured50-int8.tflite"}
    assert set(again.manifest.data) == {"reference"}
    left = {p.name for p in again.path.iterdir()}
    assert not {n for n in left if n.startswith("sparse80-")}
    assert again.model_of("sparse80")[0].path.endswith("sparse80.keras")


def test_a_builder_does_not_build_a_model_with_fewer_channels(workspace):
    info = replace(workspace.manifest.source, builder=Code("mine:build", "0"))
    workspace.change(source=info)
    for name in ("sparse80", "structured50", "structured50-sparse80"):
        take_variant(workspace, name, name.encode())
        source, _ = workspace.model_of(name)
        assert (source.builder is None) == ("structured" in name)


def test_an_unknown_variant_is_refused_with_those_there_are(workspace):
    take_variant(workspace, "sparse80", b"zeros")
    with pytest.raises(WorkspaceError, match="no model variant 'sparse90'") as caught:
        workspace.model_of("sparse90")
    assert caught.value.hint == "it has: sparse80"


def test_one_command_at_a_time(workspace):
    """Another process, since a lock is the process's own."""
    code = (
        "import sys; from pathlib import Path; from edgekit.workspace import Workspace\n"
        "with Workspace.open(Path(sys.argv[1])).locked(): pass"
    )
    command = [sys.executable, "-c", code, str(workspace.path)]
    with workspace.locked():
        done = subprocess.run(command, capture_output=True, text=True)
        assert "is in use by another edgekit command" in done.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_under_the_lock_the_manifest_is_what_others_made_of_it(workspace):
    stale = Workspace.open(workspace.path)
    artifact = publish(workspace)
    with stale.locked():
        stale.add_records(AccuracyRecord(artifact.id, artifact.sha256, "test", 9, {"a": 0.5}))
    assert Workspace.open(workspace.path).manifest.artifacts == (artifact,)


def test_what_a_killed_command_left_is_swept_away(workspace):
    (workspace.path / ".staging-old").mkdir()
    with workspace.locked():
        assert not (workspace.path / ".staging-old").exists()


def test_records_of_a_file_that_was_replaced_are_not_kept(workspace):
    old = publish(workspace)
    publish(workspace, content=b"new")
    record = AccuracyRecord(old.id, old.sha256, "test", 9, {"a": 0.5})
    workspace.keep(record, progress=lambda text: None)
    assert workspace.manifest.accuracy == ()


def test_a_changed_file_is_not_vouched_for(workspace):
    artifact = publish(workspace)
    (workspace.path / artifact.path).write_bytes(b"fil3")
    with pytest.raises(WorkspaceError, match=r"fp32.tflite is not the file that was recorded"):
        workspace.artifact_path(artifact)
    (workspace.path / artifact.path).unlink()
    with pytest.raises(WorkspaceError, match="is missing"):
        workspace.artifact_path(artifact)


def test_a_manifest_cannot_point_outside(workspace):
    artifact = replace(publish(workspace), path="../m.keras")
    with pytest.raises(WorkspaceError, match="names a path outside"):
        workspace.artifact_path(artifact)


def test_a_failed_write_leaves_the_manifest_as_it_was(workspace, monkeypatch):
    before = (workspace.path / MANIFEST).read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        publish(workspace)
    assert (workspace.path / MANIFEST).read_bytes() == before
    assert not [p for p in workspace.path.iterdir() if p.name.startswith(".")]


def test_the_same_model_again_opens_the_workspace(workspace, tmp_path):
    publish(workspace)
    model = tmp_path / "m.keras"
    again = Workspace.create(workspace.path, model, source_of(model))
    assert again.manifest == workspace.manifest


def test_another_model_needs_another_folder(workspace, tmp_path):
    other = tmp_path / "other.keras"
    other.write_bytes(b"others")
    with pytest.raises(WorkspaceError, match="is the workspace of another model"):
        Workspace.create(workspace.path, other, source_of(other))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    model = tmp_path / "m.keras"
    model.write_bytes(b"weights")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    with pytest.raises(WorkspaceError, match="exists and is not a workspace"):
        Workspace.create(tmp_path / "mine", model, source_of(model))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has the schema None"),
        ('{"schema": 99}', "has the schema 99; this edgekit reads 1"),
        ('{"schema": 1}', "field 'source' is missing"),
    ],
)
def test_broken_manifests(workspace, content, message):
    (workspace.path / MANIFEST).write_text(content)
    with pytest.raises(WorkspaceError, match=message):
        Workspace.open(workspace.path)


def test_an_unknown_field_is_not_ignored(workspace):
    data = json.loads((workspace.path / MANIFEST).read_text())
    (workspace.path / MANIFEST).write_text(json.dumps({**data, "extra": 1}))
    with pytest.raises(WorkspaceError, match="unknown field 'extra'"):
        Workspace.open(workspace.path)


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(WorkspaceError, match="is not a workspace"):
        Workspace.open(tmp_path)


def test_an_unknown_artifact_lists_the_known(workspace):
    publish(workspace)
    with pytest.raises(WorkspaceError) as e:
        workspace.artifact("int8.onnx")
    assert "fp32.tflite" in e.value.hint


def test_a_folder_artifact_is_hashed_by_names_and_contents(tmp_path):
    def folder(name, files):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        return tmp_path / name

    a = folder("a", {"model.json": b"12", "w.bin": b"3"})
    same = folder("b", {"w.bin": b"3", "model.json": b"12"})
    moved = folder("c", {"model.json": b"1", "w.bin": b"23"})
    assert sha256(a) == sha256(same) != sha256(moved)
    assert size_bytes(a) == 3

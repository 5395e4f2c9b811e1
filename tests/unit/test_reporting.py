"""What a report says is what the manifest says, in each of its forms."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from itertools import product

import click
import numpy as np
import pytest

import edgekit
from edgekit.agent.protocol import encode
from edgekit.cli.main import cli
from edgekit.errors import EdgekitError, WorkspaceError
from edgekit.manifest import read_manifest
from edgekit.reporting.answer import BAD, DOUBTFUL, GOOD, answer, picks
from edgekit.reporting.drawings import Spot, on_front
from edgekit.reporting.facts import gather
from edgekit.reporting.page import render
from edgekit.reporting.text import document, markdown, table
from edgekit.types import Code, Explanation, LayerError, Pruning, Step
from edgekit.workspace import Workspace
from tests import report_workspaces as made


@pytest.fixture
def workspace(tmp_path):
    return made.full(tmp_path)


def written(workspace):
    """The report in each form, as text."""
    report = gather(workspace)
    return [form(report) for form in (render, markdown, document, table)]


class TestAnswer:
    def test_all_proved(self, workspace):
        said = answer(gather(workspace))
        assert (said.tone, said.headline) == (GOOD, "All 2 files are proved")
        assert "int8.onnx: accuracy 0.8800 (-0.0200)" in " ".join(said.text)

    def test_a_failure_elsewhere_is_said_first(self, workspace):
        artifact = workspace.artifact("int8.onnx")
        workspace.add_records(made.proved(artifact, "qemu:pi4", ["output 'z' is off"]))
        report = gather(workspace)
        assert answer(report).tone == BAD
        assert answer(report).headline == "Not yet: 1 of 2 files differs from Keras"
        for text in written(workspace):
            assert "differs" in text
        assert "on qemu:pi4: output 'z' is off" in markdown(report)
        assert [p.file.artifact.id for p in picks(report)] == ["fp32.tflite"] * 3

    def test_a_file_that_was_changed_is_not_what_was_proved(self, workspace):
        (workspace.path / "fp32.tflite").write_bytes(b"other")
        (workspace.path / "int8.onnx").unlink()
        report = gather(workspace)
        assert [f.state for f in report.files] == ["changed", "missing"]
        assert answer(report).headline == "Not yet: 2 of 2 files are not what was proved"
        assert str(workspace.path) not in markdown(report)

    def test_a_proof_of_another_file_is_none(self, tmp_path):
        workspace = made.new(tmp_path)
        artifact = made.publish(workspace)
        workspace.add_records(made.proved(artifact, sha256="1" * 64))
        assert [f.state for f in gather(workspace).files] == ["not verified"]

    def test_what_nothing_ran_is_not_known(self, workspace):
        made.publish(workspace, "fp32.tfjs")
        report = gather(workspace)
        assert (answer(report).tone, report.files[-1].state) == (DOUBTFUL, "not verified")
        assert "1 of 3 files not verified" in answer(report).headline

    def test_random_rows_prove_little(self, tmp_path):
        workspace = made.new(tmp_path)
        workspace.add_records(made.proved(made.publish(workspace), data="synthetic"))
        report = gather(workspace)
        assert answer(report).tone == DOUBTFUL
        assert answer(report).headline == "The file is proved, but weakly"
        assert report.metric is None
        for text in written(workspace):
            assert "random rows" in text or "synthetic" in text

    def test_no_file_at_all(self, tmp_path):
        workspace = made.new(tmp_path)
        assert answer(gather(workspace)).tone == DOUBTFUL
        for text in written(workspace):
            assert text


class TestFigures:
    def test_times_are_of_their_place(self, workspace):
        report = gather(workspace)
        here, browser = report.places
        speedups = {t.artifact: t.speedup for t in here.times}
        assert speedups == pytest.approx({"keras": 1, "fp32.tflite": 200, "int8.onnx": 80})
        assert [t.speedup for t in browser.times] == [None, None]
        fastest = next(p for p in picks(report) if p.what.startswith("Fastest"))
        assert fastest.file.artifact.id == "fp32.tflite"
        assert {c.target: c.of_first for c in report.counts} == {"qemu:pi5": (1, 1)}

    def test_threads_and_machines_are_not_mixed(self, workspace):
        artifact = workspace.artifact("fp32.tflite")
        other = made.timed(artifact.id, artifact.sha256, 1e3, threads=2)
        moved = made.timed(artifact.id, artifact.sha256, 9e3, machine=made.PHONE)
        workspace.add_records(other, moved)
        report = gather(workspace)
        assert [(p.target, p.threads, len(p.times)) for p in report.places] == [
            ("local", 1, 3),
            ("local", 1, 1),
            ("local", 2, 1),
            ("browser", 1, 2),
        ]
        assert report.files[0].times.summary.p50_ns == pytest.approx(2e3)

    def test_the_table_has_the_figures_of_the_manifest(self, workspace):
        rows = list(csv.DictReader(io.StringIO(table(gather(workspace)))))
        assert [r["artifact"] for r in rows] == ["fp32.tflite", "int8.onnx"]
        for row, artifact in zip(rows, workspace.manifest.artifacts, strict=True):
            [proof, _] = [p for p in workspace.manifest.parity if p.artifact == artifact.id]
            assert row["sha256"] == artifact.sha256
            assert float(row["max_rel"]) == max(o.max_rel for o in proof.outputs)
            assert float(row["sqnr_db"]) == min(o.sqnr_db for o in proof.outputs)
            assert row["passed browser"] == "True"
        assert [float(r["value"]) for r in rows] == [0.9, 0.88]
        assert [r["instructions qemu:pi5"] for r in rows] == ["2000000", "500000"]
        assert float(rows[1]["p50_ns browser"]) == pytest.approx(1e6)

    def test_the_document_has_all(self, workspace):
        found = json.loads(document(gather(workspace)))
        assert found["answer"]["tone"] == "good"
        assert [f["artifact"]["id"] for f in found["files"]] == ["fp32.tflite", "int8.onnx"]
        assert sum(found["places"][0]["times"][0]["spread_ns"]["counts"]) == 303

    def test_the_same_workspace_gives_the_same_report(self, workspace):
        one, other = (written(Workspace.open(workspace.path)) for _ in range(2))
        assert one == other

    def test_the_front_is_what_nothing_beats(self):
        random = np.random.default_rng(0)
        points = random.integers(0, 6, (40, 2))
        spots = [Spot(i, "", float(x), float(y)) for i, (x, y) in enumerate(points)]
        beaten = {
            a.number
            for a, b in product(spots, spots)
            if b.x <= a.x and b.y >= a.y and (b.x, b.y) != (a.x, a.y)
        }
        front = {(s.x, s.y) for s in on_front(spots)}
        assert front == {(s.x, s.y) for s in spots if s.number not in beaten}


class TestCommands:
    def test_they_are_commands_of_edgekit(self, workspace):
        keep = {"keep_float": ["a b", "c/*"], "equalize": True, "calibration": "entropy"}
        made.publish(workspace, "int8.tflite", precision="int8", int8_io=True, batch=4, **keep)
        pruning = Pruning("sparse", 0.5, pattern="2:4", layers=(("dense*", 0.0),), skip_last=True)
        for name, options in {
            "sparse50": {"epochs": 0, "pruning": json.loads(json.dumps(encode(pruning)))},
            "sparse50-qat": {"epochs": 2},
        }.items():
            staged = workspace.path.parent / f"{name}.keras"
            staged.write_bytes(name.encode())
            workspace.take_variant(name, staged, Step("prune", options, "", {}, ""))
            made.publish(workspace, f"{name}-int8.onnx", precision="int8", opset=16)
        workspace.add_records(explained("sparse50-int8.onnx"))
        lines = [c.line for c in gather(workspace).commands]
        for line in lines:
            name, *words = shlex.split(line)[1:]
            command = cli.get_command(click.Context(cli), name)
            command.make_context(name, list(words))
        text = "\n".join(lines)
        for said in (
            "export MODEL -o ws --to tflite --precision fp32",
            "--keep-float 'a b' --keep-float 'c/*' --equalize",
            "--calibration entropy",
            "--batch 4 --int8-io",
            "--opset 16",
            "prune ws --sparsity 0.5 --pattern 2:4 --layer 'dense*=0' --skip-last --epochs 0",
            "quantize ws --method qat --variant sparse50 --epochs 2",
            "verify ws --target browser",
            "bench ws --target qemu:pi5",
            "quantize ws --variant sparse50 --to onnx --precision int8 --explain",
        ):
            assert said in text


def explained(id):
    error = LayerError(("dense",), 12.0, 11.0, "outlier", "max 9", "--keep-float dense")
    return Explanation(id, 50, (error,))


class TestRecords:
    def test_an_explanation_stays_when_its_file_is_made(self, workspace):
        workspace.add_records(explained("int8.onnx"))
        made.publish(workspace, "int8.onnx", 301)
        assert [e.artifact for e in read_manifest(workspace.path).explanations] == ["int8.onnx"]
        assert "outlier" in render(gather(workspace))

    def test_and_goes_with_its_model(self, workspace):
        for content in (b"first", b"second"):
            staged = workspace.path.parent / "sparse50.keras"
            staged.write_bytes(content)
            workspace.take_variant("sparse50", staged, Step("prune", {}, "", {}, ""))
            left = [e.artifact for e in workspace.manifest.explanations]
            workspace.add_records(explained("sparse50-int8.onnx"))
        assert left == []

    def test_older_manifests_have_no_histograms(self, workspace):
        file = workspace.path / "manifest.json"
        known = json.loads(file.read_text())
        for record in known["parity"]:
            for output in record["outputs"]:
                del output["errors"]
        del known["explanations"]
        file.write_text(json.dumps(known))
        for text in written(Workspace.open(workspace.path)):
            assert text

    def test_the_recipe_may_be_gone(self, workspace):
        workspace.change(recipe=Code("gone.py", "0" * 64))
        report = gather(workspace)
        assert report.is_higher_better is None
        assert "Signal to noise" in render(report)


HOSTILE = '<script>alert(1)</script>|`x`**\u202e[a](javascript:b)"><img src=x onerror=alert(2)>'


def test_names_are_not_markup(tmp_path):
    workspace = made.full(tmp_path, HOSTILE, HOSTILE)
    artifact = workspace.artifact("fp32.tflite")
    workspace.add_records(made.proved(artifact, "phone", [f"output {HOSTILE!r} is off"]))
    page, pasted, _, _ = written(workspace)
    for text in (page, pasted):
        assert "&lt;script&gt;" in text
        assert not re.search(r"<(script|img)", text)
        assert "\u202e" not in text
    for block in pasted.split("\n\n"):
        if block.startswith("|"):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, block


class TestWriting:
    def test_the_name_says_the_format(self, workspace, tmp_path):
        for name, form in {"a.md": "md", "b.CSV": "csv", "c.json": "json", "d.htm": "html"}.items():
            result = edgekit.report(source=workspace.path, output=tmp_path / name)
            assert result.format == form
            assert (tmp_path / name).stat().st_size == result.size_bytes
        edgekit.report(source=workspace.path, output=tmp_path / "page.txt", format="html")
        assert (tmp_path / "page.txt").read_text().startswith("<!doctype html>")

    @pytest.mark.parametrize(
        ("output", "format", "message"),
        [
            ("", None, "is a folder"),
            ("none/r.html", None, "there is no folder"),
            ("r.txt", None, "does not say"),
            ("r.html", "pdf", "unknown format"),
            ("ws/manifest.json", None, "part of the workspace"),
            ("ws/model.keras", "html", "part of the workspace"),
            ("ws/fp32.tflite", "md", "part of the workspace"),
            ("pipe.html", None, "not a regular file"),
        ],
    )
    def test_what_cannot_be_written_is_refused(self, workspace, tmp_path, output, format, message):
        os.mkfifo(tmp_path / "pipe.html")
        before = {p: p.read_bytes() for p in workspace.path.iterdir() if p.is_file()}
        with pytest.raises(EdgekitError, match=message) as caught:
            edgekit.report(source=workspace.path, output=tmp_path / output, format=format)
        assert caught.value.hint
        assert {p: p.read_bytes() for p in workspace.path.iterdir() if p.is_file()} == before

    def test_a_report_that_fails_leaves_the_one_before(self, workspace, tmp_path, monkeypatch):
        file = tmp_path / "r.md"
        file.write_text("before")
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(EdgekitError, match="cannot be written: full"):
            edgekit.report(source=workspace.path, output=file)
        assert file.read_text() == "before"
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    def test_no_workspace(self, tmp_path):
        with pytest.raises(WorkspaceError, match="not a workspace"):
            edgekit.report(source=tmp_path, output=tmp_path / "r.html")

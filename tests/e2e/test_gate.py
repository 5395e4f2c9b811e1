"""The gate as CI runs it, with what it writes for CI systems, and the templates of deploy/ci."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.conftest import ROOT, run_edgekit

BIN = Path(sys.executable).parent
PATH = f"{BIN}:{os.environ['PATH']}"
CI = ROOT / "deploy" / "ci"
SHORTLY = "--rounds 2 --seconds 0.05 --no-baseline"


@pytest.fixture(scope="module")
def ws(digits, tmp_path_factory):
    """A workspace that was measured, with its baseline beside it."""
    folder = shutil.copytree(digits, tmp_path_factory.mktemp("gate") / "ws")
    options = ("--no-baseline", "--rounds", "5", "--seconds", "0.1")
    assert run_edgekit("bench", folder, *options).code == 0
    done = run_edgekit("gate", folder, "--baseline", folder.parent / "base.json", "--update")
    assert done.code == 0, done.err
    assert "5 files, accuracy of 5, timed on local" in done.out
    return folder


@pytest.fixture
def base(ws, tmp_path):
    """A baseline that a test may spoil."""
    return Path(shutil.copy(ws.parent / "base.json", tmp_path / "base.json"))


def spoil(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def gate(ws, base, *options, **env):
    return run_edgekit("gate", ws, "--baseline", base, *options, **env)


def test_the_same_files_pass_and_a_baseline_is_the_same_twice(ws, base, tmp_path):
    done = gate(ws, base, "--json")
    assert done.code == 0, done.err
    assert {v["passed"] for v in done.json["verdicts"]} == {True}
    assert len(done.json["verdicts"]) == 5 * 4  # accuracy, parity, size, p50
    again = tmp_path / "again.json"
    assert gate(ws, again, "--update").code == 0
    assert again.read_bytes() == base.read_bytes()


def test_a_regression_is_told_to_every_ci(ws, base, tmp_path):
    def smaller(data):
        data["sizes"]["int8.onnx"] //= 2

    spoil(base, smaller)
    junit, quality, summary = (tmp_path / n for n in ("j.xml", "q.json", "s.md"))
    files = ("--junit", junit, "--gitlab", quality, "--github")
    done = gate(ws, base, *files, GITHUB_STEP_SUMMARY=str(summary))
    assert done.code == 3
    assert "int8.onnx: size 6.1 kB → 12.2 kB (+100.0%), rule size:+5%" in done.err
    assert "::error title=edgekit gate%3A int8.onnx" in done.out
    suites = ElementTree.parse(junit).getroot()
    assert [c.get("name") for c in suites.iter("testcase") if c.find("failure") is not None] == [
        "size"
    ]
    [issue] = json.loads(quality.read_text())
    assert issue["description"].startswith("int8.onnx: size")
    assert "failed: 1 of 20 rules" in summary.read_text()


def test_a_loss_of_accuracy_is_paired_by_rows(ws, base):
    def all_right(data):
        for record in data["accuracy"]:
            record["metrics"]["accuracy"] = 1.0
            record["scores"][0]["data"] = "/" * (len(record["scores"][0]["data"]))

    spoil(base, all_right)
    done = gate(ws, base)
    assert done.code == 3
    assert "accuracy 1.0000 → 0.9722 (-2.78 pt), rule accuracy: more than the bound" in done.err


def test_what_was_measured_elsewhere_is_not_comparable(ws, base):
    def another(data):
        for record in data["latency"]:
            record["machine"]["cpu"] = "another"

    spoil(base, another)
    done = gate(ws, base)
    assert done.code == 1
    assert "not measured in the same circumstances" in done.err
    assert gate(ws, base, "--allow-missing").code == 0


def test_an_earlier_build_is_a_baseline_too(ws, tmp_path):
    earlier, now = (shutil.copytree(ws, tmp_path / name) for name in ("earlier", "now"))
    files = [folder / "int8.tflite" for folder in (earlier, now)]
    timed = run_edgekit("bench", *files, "--no-baseline", "--seconds", "0.05")
    assert timed.code == 0, timed.err
    done = gate(now, earlier, "--rule", "latency.p50:+900%", "--json")
    assert done.code == 0, done.err
    assert {v["passed"] for v in done.json["verdicts"]} == {True}
    assert "is a folder" in gate(now, earlier, "--update").err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rule", "int9.*=size:+1%"), "nothing was judged by the rule"),
        (("--rule", "instructions:+2%"), "nothing was judged by the rule"),
        (("--rule", "size"), "by how much"),
    ],
)
def test_a_rule_that_judges_nothing_is_refused(ws, base, options, said):
    done = gate(ws, base, *options)
    assert done.code == 1
    assert said in done.err


def test_what_is_no_baseline_is_refused(ws, tmp_path):
    done = gate(ws, tmp_path / "none.json")
    assert (done.code, "--update" in done.err) == (1, True)
    for text in ("{", "[]", '{"schema": 9}', '{"schema": 1}'):
        (tmp_path / "bad.json").write_text(text)
        done = gate(ws, tmp_path / "bad.json")
        assert done.code == 1, text
        assert "Traceback" not in done.err


def test_a_file_that_is_not_proved_is_no_baseline(ws, tmp_path):
    copy = shutil.copytree(ws, tmp_path / "ws")

    def refuted(data):
        data["parity"][0]["failures"] = ["output 'label' is NaN"]

    spoil(copy / "manifest.json", refuted)
    done = gate(copy, tmp_path / "new.json", "--update")
    assert done.code == 1
    assert "not proved" in done.err
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", CI / "github" / "action.yml"),
        ("vendor.gitlab-ci", CI / "gitlab" / "edgekit.gitlab-ci.yml"),
    ],
)
def test_templates_keep_to_their_schemas(schema, file):
    command = [BIN / "check-jsonschema", "--builtin-schema", schema, file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run_script(script, cwd, **env):
    return subprocess.run(
        ["bash", "-e", "-c", script],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PATH": PATH, **env},
        check=False,
    )


def test_the_action_runs(ws, tmp_path):
    """Its steps as GitHub's runner has them: bash -e, with the inputs in the environment."""
    steps = yaml.safe_load((CI / "github" / "action.yml").read_text())["runs"]["steps"]
    inputs = {
        "WORKSPACE": str(shutil.copytree(ws, tmp_path / "ws")),
        "BASELINE": str(ws.parent / "base.json"),
        "TARGET": "local",
        "BENCH_OPTIONS": SHORTLY,
        "OPTIONS": "--rule latency.p50:+900% --allow-missing",
    }
    summary = tmp_path / "summary.md"
    for step in steps[1:]:  # the first one installs
        done = run_script(step["run"], tmp_path, GITHUB_STEP_SUMMARY=str(summary), **inputs)
        assert done.returncode == 0, done.stderr
    assert summary.read_text().startswith("### edgekit gate")
    assert (tmp_path / "edgekit-junit.xml").exists()


def test_the_gitlab_template_runs(ws, tmp_path):
    job = yaml.safe_load((CI / "gitlab" / "edgekit.gitlab-ci.yml").read_text())[".edgekit-gate"]
    variables = {
        **job["variables"],
        "EDGEKIT_WORKSPACE": str(shutil.copytree(ws, tmp_path / "ws")),
        "EDGEKIT_BASELINE": str(ws.parent / "base.json"),
        "EDGEKIT_BENCH_OPTIONS": SHORTLY,
        "EDGEKIT_OPTIONS": "--rule latency.p50:+900% --allow-missing",
    }
    done = run_script("\n".join(job["script"]), tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    for kind in job["artifacts"]["reports"].values():
        assert (tmp_path / kind).exists()


def test_the_pre_commit_hook_runs(ws, base, tmp_path):
    """By the real pre-commit, from a repository that has nothing but the hook."""

    def git(folder, *arguments):
        own = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
        command = ["git", *own, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)

    hooks, mine = tmp_path / "hooks", tmp_path / "mine"
    for folder in (hooks, mine):
        folder.mkdir()
        git(folder, "init", "-q")
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    git(hooks, "add", "-A")
    git(hooks, "commit", "-qm", "hook")
    revision = git(hooks, "rev-parse", "HEAD").stdout.strip()
    config = {
        "repos": [
            {
                "repo": str(hooks),
                "rev": revision,
                "hooks": [{"id": "edgekit-gate", "args": [str(ws), "--baseline", str(base)]}],
            }
        ]
    }
    (mine / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    (mine / "manifest.json").write_text("{}")
    git(mine, "add", "-A")
    env = {"PRE_COMMIT_HOME": str(tmp_path / "cache")}
    passed = run_script("pre-commit run --all-files", mine, **env)
    assert "edgekit gate" in passed.stdout
    assert passed.returncode == 0, passed.stdout

    def smaller(data):
        data["sizes"]["int8.onnx"] //= 2

    spoil(base, smaller)
    refused = run_script("pre-commit run --all-files", mine, **env)
    assert refused.returncode == 1
    assert "rule size:+5%" in refused.stdout

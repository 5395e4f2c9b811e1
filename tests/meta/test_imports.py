"""The command line answers at once; TensorFlow is for the toolchain process only."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "rich", "tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "sklearn")
FRAMEWORKS = ("tensorflow", "keras", "tf_keras", "tf2onnx", "tensorflow_model_optimization")


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_help_imports_nothing_heavy():
    loaded = modules_after(
        "from click.testing import CliRunner\n"
        "from edgekit.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0"
    )
    assert not loaded & set(HEAVY)


def test_import_edgekit_imports_nothing_heavy():
    assert not modules_after("import edgekit") & set(HEAVY)


@pytest.mark.parametrize(
    "verb", ["train", "export", "verify", "bench", "inspect", "report", "list_targets", "demo"]
)
def test_no_verb_imports_a_framework_into_the_host(verb):
    loaded = modules_after(f"import edgekit; edgekit.{verb}")
    assert not loaded & set(FRAMEWORKS)


def test_the_agent_needs_nothing_else_of_edgekit(tmp_path):
    """The folder alone, as it is copied to a board."""
    import shutil

    import edgekit.agent

    shutil.copytree(edgekit.agent.__path__[0], tmp_path / "agent")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import agent.__main__, sys; print([m for m in sys.modules if 'edgekit' in m])",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    # The .pth file of an editable install may name edgekit; its modules must not be loaded.
    assert "'edgekit" not in done.stdout.replace("_editable_impl_edgekit_ml", "")

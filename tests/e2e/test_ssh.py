"""A board over ssh: a real sshd on this machine, reached by the real ssh."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edgekit.agent import machine
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.errors import MissingDependency, RunnerError, TargetError
from edgekit.samples import read_npz
from edgekit.targets import arm_root, ssh, ssh_board
from edgekit.targets.local import LocalTarget
from edgekit.targets.ssh import SshTarget
from edgekit.types import Job
from edgekit.workspace import Workspace
from tests.conftest import skip_without
from tests.e2e import arm_board
from tests.e2e.sshd import BARE, INSTALL, LOADED, PROGRAM, Sshd

ROWS = 40


@pytest.fixture(scope="module", autouse=True)
def _programs():
    skip_without(PROGRAM is not None and shutil.which("ssh") is not None, "sshd", INSTALL)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A board with the runtimes."""
    with Sshd(tmp_path_factory.mktemp("board") / "b") as server:
        yield server


@pytest.fixture(scope="module")
def raspberry_pi(tmp_path_factory):
    """A board whose programs are ARM's."""
    skip_without(arm_board.can_run(), "a Raspberry Pi to play", arm_board.INSTALL)
    skip_without(arm_root.root_folder().is_dir(), "an ARM root file system", arm_root.PREPARE)
    with arm_board.ArmBoard(tmp_path_factory.mktemp("pi") / "b") as server:
        yield server


@pytest.fixture
def connect(monkeypatch):
    """Opens a target at a server, as a user whose ssh knows it; closes it in the end."""
    opened = []

    def open_target(server, uri=None):
        monkeypatch.setenv("PATH", f"{server.client}:{os.environ['PATH']}")
        target = SshTarget(uri or server.uri)
        opened.append(target)
        return target

    yield open_target
    for target in opened:
        target.close()


@pytest.fixture(scope="module")
def jobs(digits, tmp_path_factory) -> dict[str, Job]:
    workspace = Workspace.open(digits)
    feed = read_npz(workspace.data_path("verification"))
    found = {}
    for artifact in workspace.manifest.artifacts:
        folder = tmp_path_factory.mktemp(artifact.id)
        names = [spec.name for spec in artifact.signature.inputs]
        inputs = save_arrays({n: feed[n][:ROWS] for n in names}, folder / "in")
        path, out = str(workspace.path / artifact.path), str(folder / "out")
        found[artifact.id] = Job("run", artifact.format, path, artifact.signature, inputs, out=out)
    return found


def outputs(target, job):
    with tempfile.TemporaryDirectory() as folder:
        result = target.execute(dataclasses.replace(job, out=folder))
        return {name: value[:].copy() for name, value in load_arrays(result.outputs).items()}


def assert_same_as_here(target, job):
    here, there = outputs(LocalTarget(), job), outputs(target, job)
    assert there.keys() == here.keys()
    for name, value in here.items():
        assert len(value) == ROWS
        np.testing.assert_array_equal(there[name], value)


@pytest.mark.parametrize("artifact", ["fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx"])
def test_a_model_computes_there_what_it_computes_here(board, connect, jobs, artifact):
    assert_same_as_here(connect(board), jobs[artifact])


def test_an_arm_board(raspberry_pi, connect, jobs):
    target = connect(raspberry_pi)
    job = jobs["int8.tflite"]
    assert_same_as_here(target, job)
    timed = target.execute(dataclasses.replace(job, action="time", seconds=0.1))
    assert timed.machine.arch == "aarch64"
    assert timed.runtime.backend == "cpu, XNNPACK"
    assert len(timed.timing.samples_ns) >= 5
    # LiteRT's C interface is the same there.
    found = target.execute(dataclasses.replace(job, action="profile", seconds=0.1)).profile
    assert sum("Fully Connected" in o.type for o in found.operators) == 2
    assert all(o.calls == 1 for o in found.operators)
    here, there = outputs(LocalTarget(), jobs["fp32.onnx"]), outputs(target, jobs["fp32.onnx"])
    for name, value in here.items():
        assert np.abs(there[name] - value).max() <= 1e-6 * np.abs(value).max()
    stored = "import os; print(*os.listdir(os.path.expanduser('~/.cache/edgekit')))"
    login = [raspberry_pi.client / "ssh", "board", f'python3 -c "{stored}"']
    listed = subprocess.run(login, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == ["agents", "files"]


def test_a_name_of_the_ssh_config_and_a_login_that_prints(board, connect, jobs):
    greeting = LOADED.replace("exec", "echo 'Welcome!'; exec")
    board.install("python3", greeting)
    try:
        assert_same_as_here(connect(board, "ssh://board"), jobs["fp32.tflite"])
    finally:
        board.install("python3", LOADED)


def test_a_time_comes_with_the_state_of_the_board_before_and_after(board, connect, jobs):
    board.install("vcgencmd", "#!/bin/sh\necho throttled=0x0\n")
    result = connect(board).execute(
        dataclasses.replace(jobs["int8.tflite"], action="time", seconds=0.1)
    )
    assert len(result.timing.samples_ns) >= 5
    assert result.machine == machine.describe()
    assert [c.throttled_bits for c in result.conditions] == [0, 0]
    assert not [w for w in result.warnings if "voltage" in w]


def test_a_board_that_was_throttled_meanwhile_says_so(board, connect, jobs):
    answers = "0x0", "0x10000"  # now nothing, but since it was started there was
    board.install(
        "vcgencmd",
        f'#!/bin/sh\nset -- {" ".join(answers)}\ncalled="{board.folder}/called"\n'
        'if [ -e "$called" ]; then shift; fi\ntouch "$called"\necho "throttled=$1"\n',
    )
    result = connect(board).execute(
        dataclasses.replace(jobs["int8.tflite"], action="time", seconds=0.1)
    )
    assert "throttled: the supply voltage is too low" in result.warnings


def test_one_connection_and_each_file_once(tmp_path, connect, jobs):
    with Sshd(tmp_path / "b") as server:
        target = connect(server)
        for _ in range(2):
            assert_same_as_here(target, jobs["fp32.tflite"])
        target.packages()
        assert server.log().count("Accepted publickey") == 1
        files = {p: p.stat().st_ino for p in server.cache.rglob("*") if p.is_file()}
        model = Path(jobs["fp32.tflite"].artifact)
        assert sum(p.read_bytes() == model.read_bytes() for p in files) == 1
        target.close()
        # Another command, another connection; what is there stays as it is.
        assert_same_as_here(connect(server), jobs["fp32.tflite"])
        assert server.log().count("Accepted publickey") == 2
        assert {p: p.stat().st_ino for p in files} == files


def test_a_file_that_vanished_is_pushed_again(tmp_path, connect, jobs):
    with Sshd(tmp_path / "b") as server:
        target = connect(server)
        assert_same_as_here(target, jobs["fp32.tflite"])
        shutil.rmtree(server.cache / "edgekit" / "files")
        with pytest.raises(TargetError, match="no longer on the board"):
            outputs(target, jobs["fp32.tflite"])
        assert_same_as_here(target, jobs["fp32.tflite"])


def test_no_name_of_a_file_reaches_the_shell(board, connect, jobs, tmp_path):
    hostile = tmp_path / "a b;'$(touch pwned)`touch pwned`\n.tflite"
    shutil.copyfile(jobs["int8.tflite"].artifact, hostile)
    job = dataclasses.replace(jobs["int8.tflite"], artifact=str(hostile))
    assert_same_as_here(connect(board), job)
    assert not list(board.folder.rglob("pwned"))


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_broken_file_is_an_error(board, connect, jobs, form, tmp_path):
    broken = tmp_path / f"broken.{form}"
    broken.write_bytes(b"not a model" * 100)
    job = dataclasses.replace(jobs[f"fp32.{form}"], artifact=str(broken))
    with pytest.raises(RunnerError, match=r"of ssh://\S+ cannot run broken\." + form):
        connect(board).execute(job)


def test_a_model_that_takes_too_long_is_an_error(board, connect, jobs):
    with pytest.raises(RunnerError, match=r"no answer from .* in 0 s on fp32\.onnx"):
        connect(board).execute(jobs["fp32.onnx"], timeout=0.01)


def test_what_a_board_does_not_do_is_refused(board, connect, jobs):
    target = connect(board)
    with pytest.raises(RunnerError, match="runs tflite and onnx, not tfjs"):
        target.execute(jobs["fp32.tfjs"])
    with pytest.raises(TargetError, match="cannot count"):
        target.execute(dataclasses.replace(jobs["fp32.tflite"], action="count"))


def test_a_board_is_prepared(tmp_path, connect, jobs):
    with Sshd(tmp_path / "b", python=BARE) as server:
        target = connect(server)
        assert "numpy" not in target.packages()
        for form, package in (("tflite", "ai-edge-litert"), ("onnx", "onnxruntime")):
            with pytest.raises(MissingDependency, match=f"no numpy and no {package}") as missing:
                target.execute(jobs[f"fp32.{form}"])
            assert missing.value.hint == f"edgekit targets prepare {server.uri}"
        steps = []
        folder = target.prepare(steps.append)
        assert len(steps) == 2
        assert Path(folder).is_relative_to(server.cache)
        assert target.packages()["onnxruntime"] == "1.32.0"
        assert_same_as_here(target, jobs["int8.tflite"])
        assert_same_as_here(target, jobs["fp32.onnx"])
        before = Path(folder, "ready").stat().st_mtime_ns
        assert target.prepare() == folder
        assert Path(folder, "ready").stat().st_mtime_ns == before


def test_a_board_without_packages_to_download_leaves_nothing(tmp_path, connect):
    nowhere = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1"}
    with Sshd(tmp_path / "b", python=BARE, environment=nowhere) as server:
        with pytest.raises(MissingDependency, match=r"pip on ssh://.* cannot install"):
            connect(server).prepare()
        assert not list((server.cache / "edgekit").glob("venvs/*"))


def test_nobody_listens(board, connect, tmp_path):
    port = 1  # of tcpmux, which nobody has
    with pytest.raises(TargetError, match=f"cannot reach ssh://127.0.0.1:{port}: .*refused") as e:
        connect(board, f"ssh://127.0.0.1:{port}").packages()
    assert e.value.hint == f"try by hand: ssh -p {port} 127.0.0.1"


def test_a_name_that_nobody_has(board, connect):
    with pytest.raises(TargetError, match=r"cannot reach ssh://no-such-board\.invalid"):
        connect(board, "ssh://no-such-board.invalid").packages()


def test_an_unknown_host_key(tmp_path, connect):
    with Sshd(tmp_path / "b") as server:
        (server.folder / "known_hosts").unlink()
        with pytest.raises(TargetError, match=r"host key of .* is not known here") as e:
            connect(server).packages()
        assert e.value.hint.endswith(f"ssh -p {server.port} {server.user}@127.0.0.1")
        assert not (server.folder / "known_hosts").exists()


def test_a_host_key_that_changed(tmp_path, connect):
    with Sshd(tmp_path / "b") as server:
        server.trust(server.folder / "key.pub")
        with pytest.raises(TargetError, match="not the one known here") as e:
            connect(server).packages()
        assert e.value.hint == f"if you know why: ssh-keygen -R '[127.0.0.1]:{server.port}'"


def test_a_key_that_the_board_does_not_take(tmp_path, connect):
    with Sshd(tmp_path / "b") as server:
        (server.folder / "authorized_keys").write_text("")
        with pytest.raises(TargetError, match=r"without a password: .*Permission denied") as e:
            connect(server).packages()
        assert e.value.hint.endswith(f"ssh-copy-id -p {server.port} {server.user}@127.0.0.1")


def test_a_board_without_python(tmp_path, connect, jobs):
    with (
        Sshd(tmp_path / "b", python=None) as server,
        pytest.raises(TargetError, match="no python3 on ssh://") as e,
    ):
        connect(server).execute(jobs["fp32.tflite"])
    assert e.value.hint == "on the board: sudo apt install python3 python3-venv"


def test_a_python_that_is_too_old(tmp_path, connect, jobs):
    pretence = tmp_path / "sitecustomize.py"
    pretence.write_text("import sys\nsys.version_info = (3, 9, 2, 'final', 0)\n")
    with (
        Sshd(tmp_path / "b", environment={"PYTHONPATH": str(tmp_path)}) as server,
        pytest.raises(TargetError, match=r"has Python 3\.9; the runtimes need 3\.10"),
    ):
        connect(server).execute(jobs["fp32.tflite"])


def test_a_board_that_went_away(tmp_path, connect, jobs):
    with Sshd(tmp_path / "b") as server:
        target = connect(server)
        target.close()
    with pytest.raises(TargetError, match="cannot reach"):
        connect(server).execute(jobs["fp32.tflite"])


@pytest.mark.parametrize(
    "uri",
    [
        "ssh://",
        "ssh://-oProxyCommand=id",
        "ssh://pi@-v",
        "ssh://pi@host/folder",
        "ssh://pi@host;id",
        "ssh://pi@host:port",
        "ssh://a b",
        "ssh://'x'",
        "ssh://pi@host\n",
        "ssh:pi",
    ],
)
def test_what_is_no_address(uri):
    with pytest.raises(TargetError, match="is no address of a board"):
        SshTarget(uri)


# Cut in the line of JSON; and in the arrays after it, where only `run` has any.
@pytest.mark.parametrize("cut", ["head -c 150", "head -c -1"])
def test_an_answer_that_ends_in_the_middle(board, connect, jobs, cut, tmp_path):
    target = connect(board)
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\n{board.client}/ssh "$@" | {cut}\n')
    program.chmod(0o755)
    target._program = str(program)
    with pytest.raises(TargetError, match=f"connection to {board.uri} ended in the middle"):
        target.execute(jobs["fp32.tflite"])


@pytest.mark.parametrize("folder", ["a b", "50%", "${HOME}", "x" * 70])
def test_wherever_temporary_files_lie(board, connect, folder, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    target = connect(board)
    assert "numpy" in target.packages()
    assert target._socket.is_socket()


def processes(words, where="cmdline"):
    """Those that have `words` on their command line, or in their environment (`environ`)."""
    found = []
    for path in Path("/proc").glob(f"[0-9]*/{where}"):
        with contextlib.suppress(OSError):
            if words in path.read_text(errors="replace"):
                found.append(int(path.parent.name))
    return found


def agents(server):
    return processes(f"PYTHONPATH={server.cache}", "environ")


def wait_until(what):
    for _ in range(300):
        if what():
            return
        time.sleep(0.1)
    raise AssertionError("it does not come to that")


@contextlib.contextmanager
def long_job(server, target, jobs):
    """While an agent runs, and would for a minute: what becomes of it."""
    job = dataclasses.replace(jobs["int8.tflite"], action="time", seconds=60)
    with ThreadPoolExecutor() as pool:
        pending = pool.submit(target.execute, job)
        wait_until(lambda: agents(server))
        yield pending


def test_who_interrupts_leaves_nothing_running_there(board, connect, jobs):
    target = connect(board)
    with long_job(board, target, jobs) as pending:
        for client in processes(f"ControlPath={target._socket}"):
            os.kill(client, signal.SIGINT)
        with pytest.raises(TargetError):
            pending.result(timeout=30)
    wait_until(lambda: not agents(board))


def test_a_board_that_falls_silent(tmp_path, connect, jobs, monkeypatch):
    monkeypatch.setitem(ssh._OPTIONS, "ServerAliveInterval", "1")
    with Sshd(tmp_path / "b") as server:
        target = connect(server)
        with long_job(server, target, jobs) as pending:
            silent = server.sessions()
            assert silent
            for pid in silent:
                os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(TargetError, match=f"connection to {server.uri} ended"):
                    pending.result(timeout=30)
            finally:
                for pid in silent:
                    os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not agents(server))


def ask_board(cache, request, content=b"", limits="true"):
    """What `ssh_board.py` answers, without a connection."""
    return subprocess.run(
        ["sh", "-c", f'{limits}; exec "$0" "$1"', sys.executable, ssh_board.__file__],
        input=json.dumps({"mark": "m", **request}).encode() + b"\n" + content,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        check=False,
    )


def put(name, content):
    listed = [name, len(content), hashlib.sha256(content).hexdigest()]
    return {"verb": "put", "venv": "venvs/new", "agent": "agents/new", "files": [listed]}


def test_half_a_file_is_not_kept(tmp_path):
    done = ask_board(tmp_path, put("files/a.tflite", b"short and long"), b"short")
    assert b"\nm\n" in done.stdout
    assert b"in the middle of a file" in done.stdout
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_full_disk_keeps_no_half_of_a_file(tmp_path):
    content = bytes(1 << 20)
    done = ask_board(tmp_path, put("files/a.tflite", content), content, limits="ulimit -f 8")
    assert b"File too large" in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_other_versions_had_on_a_board_goes(tmp_path):
    cache = tmp_path / "edgekit"
    for folder in ("agents/old", "agents/new", "agents/in-use", "venvs/old", "venvs/new"):
        (cache / folder).mkdir(parents=True)
        (cache / folder / "file").touch()
        days = 0.5 if folder == "agents/in-use" else 2
        os.utime(cache / folder, (0, time.time() - days * 24 * 3600))
    done = ask_board(tmp_path, put("files/a.tflite", b"x"), b"x")
    assert done.returncode == 0
    left = sorted(str(p.relative_to(cache)) for p in cache.glob("*/*"))
    assert left == ["agents/in-use", "agents/new", "files/a.tflite", "venvs/new"]


def test_an_interrupted_preparation_leaves_nothing(tmp_path):
    command = [sys.executable, ssh_board.__file__]
    request = {"verb": "prepare", "mark": "m", "venv": "venvs/new", "requirements": "numpy"}
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    folder = tmp_path / "edgekit" / "venvs" / "new"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as board:
        board.stdin.write(json.dumps(request).encode() + b"\n")
        board.stdin.close()
        wait_until(folder.is_dir)
        board.stdout.close()
        assert b"nobody waits" in board.stderr.read()
    assert not folder.exists()
    assert not processes(str(folder))

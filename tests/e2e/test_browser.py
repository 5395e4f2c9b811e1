"""Real browsers, without a window: their numbers, their times, and who may talk to our server."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgekit import latency
from edgekit.agent import machine
from edgekit.agent.arrays import load_arrays, save_arrays
from edgekit.errors import EdgekitError, MissingDependency, RunnerError, TargetError
from edgekit.samples import read_npz
from edgekit.targets import browser_programs, browser_server
from edgekit.targets.browser import BrowserTarget, parse
from edgekit.targets.browser_programs import INSTALL, Browser
from edgekit.targets.browser_server import SCRIPTS, Page, PageLost, PageServer
from edgekit.targets.browser_task import Task
from edgekit.targets.local import LocalTarget
from edgekit.targets.node import packages_folder
from edgekit.types import Job, Machine, Notice
from edgekit.workspace import Workspace
from tests.conftest import skip_without

ROWS = 45
"""Eight one by one, a full chunk, and a chunk that is not full."""
FILES = ("fp32.tflite", "int8.tflite", "fp32.onnx", "int8.onnx", "fp32.tfjs")


@pytest.fixture(scope="module", autouse=True)
def _packages():
    skip_without(packages_folder().is_dir(), "the packages", "edgekit targets prepare node")


def is_there(kind):
    try:
        return browser_programs.find(kind).is_file()
    except MissingDependency:
        return False


@pytest.fixture(scope="module")
def chromium():
    skip_without(is_there("chromium"), "Chromium", INSTALL["chromium"])
    target = BrowserTarget("browser")
    yield target
    target.close()


@pytest.fixture(scope="module")
def jobs(digits, tmp_path_factory) -> dict[str, Job]:
    """A run of the first rows through each artifact."""
    workspace = Workspace.open(digits)
    feed = read_npz(workspace.data_path("verification"))
    inputs = save_arrays({n: v[:ROWS] for n, v in feed.items()}, tmp_path_factory.mktemp("inputs"))
    found = {}
    for artifact in workspace.manifest.artifacts:
        path = str(workspace.path / artifact.path)
        own = {s.name: inputs[s.name] for s in artifact.signature.inputs}
        found[artifact.id] = Job("run", artifact.format, path, artifact.signature, own, out="")
    return found


def outputs(target, job):
    with tempfile.TemporaryDirectory() as folder:
        result = target.execute(dataclasses.replace(job, out=folder), timeout=60)
        arrays = load_arrays(result.outputs)
        return {name: value[:].copy() for name, value in arrays.items()}, result


def timed(job, **changes):
    return dataclasses.replace(job, **{"action": "time", "seconds": 0.2, **changes})


def assert_close(there, here):
    assert there.keys() == here.keys()
    for name, value in here.items():
        assert there[name].shape == value.shape
        assert there[name].dtype == value.dtype
        assert np.ptp(value) > 0
        assert np.abs(there[name] - value).max() <= 1e-5 * np.abs(value).max()


@pytest.mark.parametrize("artifact", FILES)
def test_a_file_computes_in_chromium_what_it_computes_here(chromium, jobs, artifact):
    there, result = outputs(chromium, jobs[artifact])
    assert_close(there, outputs(LocalTarget(), jobs[artifact])[0])
    assert result.runtime.backend == "wasm"
    assert result.machine.cpu == machine.describe().cpu
    assert "Chrom" in result.machine.os


def test_a_file_computes_in_chromium_what_keras_computes(chromium, jobs, digits):
    reference = read_npz(Workspace.open(digits).data_path("reference"))
    for artifact in ("fp32.tflite", "fp32.onnx", "fp32.tfjs"):
        there, _ = outputs(chromium, jobs[artifact])
        assert_close(there, {name: value[:ROWS] for name, value in reference.items()})


@pytest.mark.parametrize("artifact", ["int8.tflite", "fp32.onnx", "fp32.tfjs"])
def test_a_time_comes_with_its_samples(chromium, jobs, artifact):
    result = chromium.execute(timed(jobs[artifact]))
    timing = result.timing
    assert timing is not None
    assert len(timing.samples_ns) >= 5
    assert min(timing.samples_ns) > 0
    # A sample lasts many of the clock's steps, of 5 microseconds in an isolated page.
    assert timing.loops * np.median(timing.samples_ns) >= 100_000
    assert timing.warmup_invocations >= 3
    assert timing.load_ns > 0
    assert result.warnings == ()


def test_operators_are_told_by_tfjs_alone(chromium, jobs):
    found = chromium.execute(timed(jobs["fp32.tfjs"], action="profile")).profile
    dense = [o for o in found.operators if "MatMul" in o.type]
    assert sum(o.calls for o in dense) == 2
    assert found.resolution_ns >= 1000  # of a page's clock
    for artifact in ("fp32.tflite", "fp32.onnx"):
        with pytest.raises(RunnerError, match="tells no times of operators here"):
            chromium.execute(timed(jobs[artifact], action="profile"))


def test_threads_are_not_claimed_where_they_did_not_run(chromium, jobs):
    result = chromium.execute(timed(jobs["fp32.tfjs"], threads=64))
    assert "thread" in result.runtime.backend
    assert "64" not in result.runtime.backend


def test_a_software_renderer_is_named(jobs):
    skip_without(is_there("chromium"), "Chromium", INSTALL["chromium"])
    target = BrowserTarget("browser?backend=webgl")
    try:
        there, result = outputs(target, jobs["fp32.tfjs"])
        assert_close(there, outputs(LocalTarget(), jobs["fp32.tfjs"])[0])
        assert result.runtime.backend.startswith("webgl (")
        if "SwiftShader" in result.runtime.backend:
            assert result.runtime.backend.endswith("; software, parity only)")
            assert "software" in target.execute(timed(jobs["fp32.tfjs"])).warnings[0]
        with pytest.raises(RunnerError, match=r"browser\?backend=webgl runs tfjs, not onnx"):
            target.execute(jobs["fp32.onnx"])
    finally:
        target.close()


def test_a_file_computes_on_webgpu_what_it_computes_here(jobs):
    skip_without(is_there("chromium"), "Chromium", INSTALL["chromium"])
    target = BrowserTarget("browser?backend=webgpu")
    try:
        there, result = outputs(target, jobs["fp32.tflite"])
        assert_close(there, outputs(LocalTarget(), jobs["fp32.tflite"])[0])
        assert result.runtime.backend.startswith("webgpu (")
        # ONNX Runtime Web has no int8 on a GPU, and would run it on the CPU unasked.
        with pytest.raises(RunnerError, match="a part of this model does not run on webgpu"):
            outputs(target, jobs["int8.onnx"])
    finally:
        target.close()


def test_firefox_runs_files_too(jobs):
    skip_without(is_there("firefox"), "Firefox", INSTALL["firefox"])
    target = BrowserTarget("browser:firefox")
    try:
        there, result = outputs(target, jobs["int8.tflite"])
        assert_close(there, outputs(LocalTarget(), jobs["int8.tflite"])[0])
        assert "Firefox" in result.machine.os
        assert target.execute(timed(jobs["int8.tflite"])).timing.samples_ns
    finally:
        target.close()


@pytest.mark.parametrize("backend", ["webgl", "webgpu"])
def test_a_gpu_that_is_not_there_is_an_error(jobs, backend):
    skip_without(is_there("firefox"), "Firefox", INSTALL["firefox"])
    target = BrowserTarget(f"browser:firefox?backend={backend}")
    try:
        there, result = outputs(target, jobs["fp32.tfjs"])
    except RunnerError as e:
        error = e
    else:  # there is one
        assert result.runtime.backend.startswith(f"{backend} (")
        assert_close(there, outputs(LocalTarget(), jobs["fp32.tfjs"])[0])
        return
    finally:
        target.close()
    assert "this browser has no Web" in error.message
    assert "--target browser:firefox" in str(error.hint)


@pytest.mark.parametrize("artifact", ["fp32.tflite", "fp32.onnx", "fp32.tfjs"])
def test_a_broken_file_is_an_error_and_the_next_one_runs(chromium, jobs, artifact, tmp_path):
    job = jobs[artifact]
    broken = tmp_path / artifact
    if job.format == "tfjs":
        shutil.copytree(job.artifact, broken)
        next(broken.glob("*.bin")).write_bytes(b"")
    else:
        broken.write_bytes(Path(job.artifact).read_bytes()[:2000])
    with pytest.raises(RunnerError, match=f"cannot run {artifact}: "):
        outputs(chromium, dataclasses.replace(job, artifact=str(broken)))
    with pytest.raises(RunnerError, match="404"):
        outputs(chromium, dataclasses.replace(job, artifact=str(tmp_path / "none")))
    assert outputs(chromium, job)[0]


def test_what_litert_js_cannot_do_is_said(chromium, jobs):
    job = jobs["int8.tflite"]
    spec = job.signature.inputs[0]

    def run(**changes):
        inputs = (dataclasses.replace(spec, **changes),)
        signature = dataclasses.replace(job.signature, inputs=inputs)
        outputs(chromium, dataclasses.replace(job, signature=signature))

    with pytest.raises(RunnerError, match=r"is int8.*without --int8-io"):
        run(dtype="int8", scale=0.1, zero_point=0)
    with pytest.raises(RunnerError, match=r"free dimension.*--batch 1"):
        run(shape=(None, *spec.shape[1:]))
    with pytest.raises(RunnerError, match=r"free dimension.*in the Keras model"):
        run(shape=(1, None))
    with pytest.raises(RunnerError, match=r"expected .*other"):
        run(native="other")


def test_a_browser_that_is_not_there_names_its_cure(monkeypatch, jobs):
    monkeypatch.setenv("PATH", "")
    skip_without(not is_there("firefox"), "a system without Firefox off PATH", "none")
    with pytest.raises(MissingDependency, match="Firefox was not found") as caught:
        BrowserTarget("browser:firefox").execute(jobs["fp32.onnx"])
    assert "apt install" in str(caught.value.hint)


def test_packages_that_are_not_there_name_their_cure(monkeypatch, jobs, tmp_path):
    monkeypatch.setattr("edgekit.targets.browser.packages_folder", lambda: tmp_path / "none")
    with pytest.raises(MissingDependency) as caught:
        BrowserTarget("browser").execute(jobs["fp32.onnx"])
    assert caught.value.hint == "run: edgekit targets prepare node"


@pytest.mark.parametrize(
    "uri",
    [
        "browser:safari",
        "browser?backend=cuda",
        "browser?host=1.2.3.4",
        "browser?name=x",
        "browsers",
    ],
)
def test_an_unknown_uri_lists_the_known_ones(uri):
    with pytest.raises(TargetError, match="unknown browser target") as caught:
        parse(uri)
    assert "browser:listen" in str(caught.value.hint)


@pytest.mark.parametrize("host", ["0.0.0.0", "0"])
def test_an_address_that_no_phone_can_open_is_refused(host, jobs):
    with pytest.raises(TargetError, match="no address that a phone can open") as caught:
        BrowserTarget(f"browser:listen?host={host}").execute(jobs["fp32.onnx"])
    assert "leave ?host= out" in str(caught.value.hint)


def group(target):
    """Processes of the browser: (id, command line), those that still run."""
    leader = target._browser._process.pid
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            command = stat.with_name("cmdline").read_text()
        except OSError:
            continue
        if int(pgrp) == leader and state != "Z":
            found.append((int(stat.parent.name), command))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")
class TestABrowserThatEnds:
    @pytest.fixture
    def target(self, jobs):
        skip_without(is_there("chromium"), "Chromium", INSTALL["chromium"])
        target = BrowserTarget("browser")
        outputs(target, jobs["fp32.onnx"])
        yield target
        target.close()

    def kill_while(self, target, job, pids):
        timer = threading.Timer(1, lambda: [os.kill(pid, signal.SIGKILL) for pid in pids])
        timer.start()
        with pytest.raises(EdgekitError) as caught:
            target.execute(timed(job, seconds=30))
        timer.join()
        return caught.value

    def test_leaves_nothing_behind(self, target, jobs):
        before, folder = group(target), Path(target._browser._folder.name)
        assert len(before) > 3
        assert not any(target._server.token in command for _, command in before)
        assert folder.stat().st_mode & 0o077 == 0
        browser = target._browser
        target.close()
        target._browser = browser
        assert group(target) == []
        assert not folder.exists()
        target._browser = None

    def test_ends_with_us_however_we_end(self, target):
        browser = target._browser
        folder = Path(browser._folder.name)
        browser._process.stdin.close()  # as the system does for a process that was killed
        browser._process.wait(10)
        deadline = time.monotonic() + 10
        while group(target) or folder.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_is_an_error_and_is_started_again(self, target, jobs):
        main = [
            p for p, words in group(target) if "user-data-dir" in words and "--type" not in words
        ]
        error = self.kill_while(target, jobs["fp32.onnx"], main)
        assert isinstance(error, TargetError)
        assert "chromium was killed by SIGKILL" in error.message
        assert outputs(target, jobs["fp32.onnx"])[0]

    def test_a_page_that_crashes_is_an_error(self, target, jobs, monkeypatch):
        monkeypatch.setattr(browser_server, "GRACE_S", 1.0)
        pages = [pid for pid, command in group(target) if "--type=renderer" in command]
        error = self.kill_while(target, jobs["fp32.onnx"], pages)
        assert isinstance(error, RunnerError)
        assert "the page was closed, or crashed" in error.message
        assert outputs(target, jobs["fp32.onnx"])[0]


@pytest.mark.parametrize("kind", ["chromium", "firefox"])
def test_a_browser_writes_nothing_outside_its_folder(kind, tmp_path, monkeypatch):
    """Also where TMPDIR is so long that Chromium's socket would not fit below it."""
    skip_without(is_there(kind), kind, INSTALL[kind])
    home, temporary = tmp_path / "home", tmp_path / "a-folder-for-temporary-files"
    for name, folder in {"HOME": home, "TMPDIR": temporary, "XDG_CONFIG_HOME": home}.items():
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # reads TMPDIR again
    server = PageServer(packages_folder())
    browser = Browser(kind, server.url)
    try:
        assert len(tempfile.gettempdir()) > 40
        server.wait_for_page(timeout=60, watch=browser.check)
    finally:
        browser.close()
        server.close()
    assert [*home.iterdir(), *temporary.iterdir()] == []


def test_a_job_that_takes_too_long_is_ended(chromium, jobs):
    with pytest.raises(RunnerError, match="no answer from ONNX Runtime Web in 1 s"):
        chromium.execute(timed(jobs["fp32.onnx"], seconds=60), timeout=1)
    assert outputs(chromium, jobs["fp32.onnx"])[0]


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_a_page_that_somebody_opens_answers(jobs, host):
    """Chromium stands in for the phone: it opens the address that was shown."""
    skip_without(is_there("chromium"), "Chromium", INSTALL["chromium"])
    said: list[str] = []
    phones: list[Browser] = []

    def show(text):
        said.append(text)
        if "http" in text:
            url = next(word for word in text.split() if word.startswith("http"))
            phones.append(Browser("chromium", url))

    target = BrowserTarget("browser:listen" + (f"?host={host}" if host else ""), notify=show)
    try:
        there, result = outputs(target, jobs["fp32.tflite"])
        assert_close(there, outputs(LocalTarget(), jobs["fp32.tflite"])[0])
        assert result.machine.cores == os.cpu_count()
        assert "Chrom" in result.machine.os
        assert "█" in said[0]
        assert said[1].startswith("connected: ")
        assert target.execute(timed(jobs["int8.onnx"])).timing.samples_ns
        if host is None:  # over http from elsewhere a page is not isolated
            with pytest.raises(RunnerError, match="threads need"):
                target.execute(timed(jobs["fp32.onnx"], threads=2))
    finally:
        target.close()
        for phone in phones:
            phone.close()
    assert len(said) == 2


def test_two_browsers_are_not_one_measurement(jobs, monkeypatch):
    """The first one is closed between two rounds: another is invited, and the record is refused."""
    for kind in ("chromium", "firefox"):
        skip_without(is_there(kind), kind, INSTALL[kind])
    monkeypatch.setattr("edgekit.targets.browser.GRACE_S", 0.5)
    said: list[str] = []
    phones: list[Browser] = []
    kinds = iter(("chromium", "firefox"))

    def show(text):
        assert isinstance(text, Notice)
        said.append(text)
        if "http" in text:
            url = next(word for word in text.split() if word.startswith("http"))
            phones.append(Browser(next(kinds), url))

    def execute():
        result = target.execute(timed(jobs["int8.tflite"]))
        machines.append(result.machine)
        if len(machines) == 1:
            phones[0].close()
            server = target._server
            with server.changed:  # which looks a few times a second
                assert server.changed.wait_for(lambda: not server._connections, timeout=30)
        return result

    machines: list[Machine] = []
    target = BrowserTarget("browser:listen?host=127.0.0.1&name=my-phone", notify=show)
    subject = latency.Subject("int8.tflite", "0", 1, execute)
    try:
        [error] = latency.measure(
            [subject], target=target.uri, threads=1, rounds=2, progress=lambda text: None
        )
    finally:
        target.close()
        for phone in phones:
            phone.close()
    assert isinstance(error, RunnerError)
    assert "different machines: my-phone" in error.message
    assert [m.cpu.split()[0] for m in machines] == ["my-phone", "my-phone"]
    assert "Chrom" in machines[0].os
    assert "Firefox" in machines[1].os
    assert [text.split(":")[0] for text in said[1::2]] == ["connected"] * 2
    assert said[0] == said[2]  # the invitation


def test_rows_in_the_order_of_fortran_are_the_same_rows(jobs, tmp_path):
    job = jobs["fp32.tfjs"]
    rows = {name: np.asfortranarray(value) for name, value in load_arrays(job.inputs).items()}
    inputs = save_arrays(rows, tmp_path)
    again = dataclasses.replace(job, inputs=inputs)
    assert_close(outputs(LocalTarget(), again)[0], outputs(LocalTarget(), job)[0])


class TestServer:
    @pytest.fixture
    def server(self, jobs, tmp_path):
        secret, model = tmp_path / "secret.txt", tmp_path / "model"
        secret.write_text("secret")
        shutil.copytree(jobs["fp32.tfjs"].artifact, model)
        (model / "link.bin").symlink_to(secret)
        server = PageServer(packages_folder())
        changes = {"artifact": str(model), "out": str(tmp_path / "out")}
        job = dataclasses.replace(jobs["fp32.tfjs"], **changes)
        server.task = Task(job, {"backend": "wasm"}, page="a")
        yield server
        server.close()

    def ask(self, server, path, *, method="GET", token=None, host=None, body=None):
        at = urlsplit(server.url)
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=10)
        target = f"/{server.token if token is None else token}/{path}"
        connection.request(method, target, body=body, headers={"Host": host or at.netloc})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def test_the_page_is_isolated_and_takes_nothing_from_elsewhere(self, server):
        answer, content = self.ask(server, "")
        assert (answer.status, b"<title>edgekit" in content) == (200, True)
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert "http" not in answer.headers["content-security-policy"]

    def test_own_files_are_served(self, server, jobs):
        job = f"jobs/{server.task.id}"
        wasm = "packages/@litertjs/core/wasm/litert_wasm_internal.wasm"
        assert (
            self.ask(server, "js/page.mjs")[0].headers["content-type"].startswith("text/javascript")
        )
        assert self.ask(server, wasm)[0].headers["content-type"] == "application/wasm"
        assert json.loads(self.ask(server, f"{job}/job")[1])["format"] == "tfjs"
        model = Path(jobs["fp32.tfjs"].artifact, "model.json").read_bytes()
        assert self.ask(server, f"{job}/model/model.json")[1] == model
        assert self.ask(server, f"{job}/inputs/0")[1][:6] == b"\x93NUMPY"

    @pytest.mark.parametrize("token", ["wrong", "", "%00"])
    def test_a_wrong_token_opens_nothing(self, server, token):
        for path in ("", "js/page.mjs", "events", f"jobs/{server.task.id}/job"):
            assert self.ask(server, path, token=token)[0].status == 404
            assert self.ask(server, path, token=token, method="POST", body=b"x")[0].status == 404

    def test_another_host_name_opens_nothing(self, server):
        for host in ("evil.example", "127.0.0.1", f"evil.example:{server.server_address[1]}"):
            assert self.ask(server, "", host=host)[0].status == 403

    @pytest.mark.parametrize(
        "path",
        [
            "js/../protocol.py",
            "js/%2e%2e%2fprotocol.py",
            "js/package-lock.json",
            "js//etc/passwd",
            "packages/../package.json",
            "packages/OURS",
            "packages/@litertjs/../OURS",
            "packages//etc/passwd",
            "packages/@litertjs/core/package.json",
            "jobs/JOB/model",
            "jobs/JOB/model/../../manifest.json",
            "jobs/JOB/model/%2e%2e",
            "jobs/JOB/model/..%2f..%2fmodel.keras",
            "jobs/JOB/model//etc/passwd",
            "jobs/JOB/model/link.bin",
            "jobs/JOB/inputs/1",
            "jobs/JOB/inputs/-1",
            "jobs/JOB/inputs/x",
            "jobs/JOB/outputs/0",
            "jobs/other/job",
            "js/page.mjs%00",
            "nothing",
        ],
    )
    def test_no_other_file_is_served(self, server, path):
        # A real file, of a kind that is served, and not where the packages are.
        ours = os.path.relpath(SCRIPTS / "page.mjs", packages_folder() / "node_modules")
        asked = path.replace("JOB", server.task.id).replace("OURS", ours)
        answer, content = self.ask(server, asked)
        assert (answer.status, content) == (404, b"")

    def test_only_the_outputs_of_the_job_are_taken(self, server):
        outputs = f"jobs/{server.task.id}/outputs"
        for number in ("1", "-1", "x", "../0", "%2e%2e%2f0"):
            status = self.ask(server, f"{outputs}/{number}", method="POST", body=b"x")[0].status
            assert status == 404
        assert server.task.outputs() == {}
        assert self.ask(server, f"{outputs}/0", method="POST", body=b"x")[0].status == 204
        (path,) = server.task.outputs().values()
        assert Path(path).read_bytes() == b"x"

    def listen(self, server, page):
        at = urlsplit(server.url)
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=10)
        connection.request("GET", f"{at.path}events?page={page}&browser={page}")
        return connection, connection.getresponse()

    def test_a_second_page_waits(self, server):
        first, told = self.listen(server, "a")
        assert told.readline() == b"event: job\n"
        assert json.loads(told.readline().removeprefix(b"data: "))["name"] == "model"
        assert b"taken" in self.ask(server, "events?page=b&browser=B")[1]
        told.close()
        first.close()
        deadline = time.monotonic() + 10  # until it is seen that the first one hung up
        while not server.join(Page("b", "B")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.leave()
        second, told = self.listen(server, "b")
        assert told.readline() == b"event: ping\n"  # the job is the first one's
        told.close()
        second.close()

    def test_a_job_ends_with_the_page_that_had_it(self, server):
        """Another page that comes instead gets the next one."""

        def answer():  # of the page that has the job now
            with server.changed:
                server.changed.wait_for(lambda: server.task is not None, timeout=10)
                server.task.answer = {"by": server.task.page}
                server.changed.notify_all()

        def replace():
            server.leave()
            assert server.join(Page("b", "B"))

        def ask():
            page = server.wait_for_page(timeout=10, watch=lambda: None)
            task = Task(job, {"backend": "wasm"})
            return server.ask(task, page, timeout=10, watch=lambda: None)

        job, server.task = server.task.job, None
        assert server.join(Page("a", "A"))
        threading.Timer(0.3, replace).start()
        with pytest.raises(PageLost):
            ask()
        threading.Thread(target=answer).start()
        assert ask() == {"by": "b"}
        server.leave()

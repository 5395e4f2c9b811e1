"""Browsers: TFLite on LiteRT.js, ONNX on ONNX Runtime Web, TF.js models, in a page of ours.

    browser             Chromium or Chrome of this machine, without a window
    browser:firefox     Firefox of this machine, without a window
    browser:listen      any browser that opens the address shown, on a phone for example

Each takes `?backend=wasm` (the default), `webgpu`, or `webgl` (TF.js models only); listen also
`?host=ADDRESS`, the address of this machine to listen on, and `?name=my-phone`, what the records
call the machine that opens the page: browsers tell little of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from edgekit.agent import machine
from edgekit.agent.protocol import DecodeError, decode
from edgekit.errors import MissingDependency, RunnerError, TargetError
from edgekit.targets import require_able
from edgekit.targets.browser_programs import Browser, find
from edgekit.targets.browser_server import GRACE_S, Page, PageLost, PageServer
from edgekit.targets.browser_task import Task
from edgekit.targets.node import packages_folder
from edgekit.types import Job, JobResult, Notice

START_S = 60
"""A browser on a busy machine opens our page within this time."""
VISIT_S = 600
"""How long `browser:listen` waits for somebody to open the page."""
BACKENDS = {
    "tfjs": ("wasm", "webgl", "webgpu"),
    "onnx": ("wasm", "webgpu"),
    "tflite": ("wasm", "webgpu"),
}
RUNTIMES = {"tfjs": "TF.js", "onnx": "ONNX Runtime Web", "tflite": "LiteRT.js"}
SOFTWARE = "software, parity only"
"""How agent/js/backends.mjs marks a backend."""
PACKAGES = {
    "tfjs": "@tensorflow/tfjs-core",
    "onnx": "onnxruntime-web",
    "tflite": "@litertjs/core",
}
_KINDS = ("chromium", "firefox", "listen")


@dataclass(frozen=True)
class Options:
    """A URI in parts."""

    kind: str = "chromium"
    backend: str = "wasm"
    host: str | None = None
    name: str | None = None


class BrowserTarget:
    """One page of one browser, in which jobs run one after the other.

    `notify` is told, in `browser:listen`, where to open the page.
    """

    # Of LiteRT.js and of ONNX Runtime Web on WebAssembly none can be asked for.
    profiles: tuple[str, ...] = ("tfjs",)
    is_emulated = False
    models_cycles = False

    def __init__(self, uri: str, notify: Callable[[str], None] | None = None) -> None:
        self.uri = uri
        self._options = parse(uri)
        self.formats = tuple(f for f, known in BACKENDS.items() if self._options.backend in known)
        self._notify = notify or (lambda text: print(text, file=sys.stderr, flush=True))
        self._server: PageServer | None = None
        self._browser: Browser | None = None
        self._visitor: Page | None = None

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """See Target.execute.

        Raises:
            TargetError: the browser does not start, ended, or nobody opened the page.
        """
        require_able(self, job)
        task = Task(job, {"backend": self._options.backend, "versions": versions()})
        try:
            server = self._open()
            page = self._page(server)
            answer = server.ask(task, page, timeout=timeout, watch=self._check)
        except TargetError:
            self.close()
            raise
        except TimeoutError as e:
            self._start_afresh()
            raise RunnerError(
                f"no answer from {RUNTIMES[job.format]} in {timeout:.0f} s on {task.name}"
            ) from e
        except PageLost as e:
            self._start_afresh()
            raise RunnerError(
                f"the page was closed, or crashed, while {RUNTIMES[job.format]} had {task.name}"
            ) from e
        return self._result(task, answer, page.browser)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._browser is not None:
            self._browser.close()
        self._server = self._browser = None

    def _start_afresh(self) -> None:
        """Whatever our own browser does there, the next job gets another; a phone stays."""
        if self._browser is not None:
            self.close()

    def _open(self) -> PageServer:
        if self._server is not None:
            self._check()
            return self._server
        packages = packages_folder()
        kind = self._options.kind
        if kind == "listen":
            self._server = _listen(packages, self._options.host or lan_address())
            return self._server
        find(kind)  # before anything is started
        self._server = PageServer(packages)
        self._browser = Browser(kind, self._server.url, webgpu=self._options.backend == "webgpu")
        return self._server

    def _page(self, server: PageServer) -> Page:
        if self._options.kind == "listen":
            return self._visit(server)
        try:
            return server.wait_for_page(timeout=START_S, watch=self._check)
        except TimeoutError as e:
            raise TargetError(f"{self._options.kind} did not open our page in {START_S} s") from e

    def _visit(self, server: PageServer) -> Page:
        """The page that somebody has open, or opens after an invitation."""
        page = None
        if self._visitor is not None:  # who may be back in a moment
            with contextlib.suppress(TimeoutError):
                page = server.wait_for_page(timeout=GRACE_S, watch=self._check)
        if page is None:
            self._notify(Notice(invitation(server.url)))
            try:
                page = server.wait_for_page(timeout=VISIT_S, watch=self._check)
            except TimeoutError as e:
                raise TargetError(
                    f"nobody opened the page in {VISIT_S // 60} minutes",
                    hint="is the phone in the same network, and does a firewall let it in?",
                ) from e
        if page != self._visitor:
            self._visitor = page
            self._notify(Notice(f"connected: {page.browser}"))
        return page

    def _check(self) -> None:
        if self._browser is not None:
            self._browser.check()

    def _result(self, task: Task, answer: dict[str, Any], browser: str) -> JobResult:
        runtime = RUNTIMES[task.job.format]
        try:
            if "error" in answer:
                reason = str(answer["error"]["message"]).strip()
                raise RunnerError(
                    f"{runtime} cannot run {task.name}: {reason}",
                    hint=_hint(reason, self._options.kind),
                )
            result = decode(JobResult, answer)
        except (DecodeError, TypeError, KeyError) as e:
            raise RunnerError(f"the page gave no proper answer on {task.name}: {e}") from e
        outputs = task.outputs()
        wanted = {s.name for s in task.job.signature.outputs} if task.job.action == "run" else set()
        if outputs.keys() != wanted:
            missing = ", ".join(sorted(wanted - outputs.keys()))
            raise RunnerError(f"the page sent no output {missing} of {task.name}")
        if self._options.kind != "listen":
            here = machine.describe()
            result = replace(result, machine=replace(here, os=f"{here.os}, {browser}"))
        elif name := self._options.name:
            named = f"{name} ({result.machine.cpu})"
            result = replace(result, machine=replace(result.machine, cpu=named))
        software = task.job.action == "time" and SOFTWARE in result.runtime.backend
        warnings = ("timed on a software renderer: good for parity only",) if software else ()
        return replace(result, outputs=outputs, warnings=warnings)


def parse(uri: str) -> Options:
    """The parts of a URI; TargetError says which are known."""
    found = re.fullmatch(r"browser(?::(\w+))?(?:\?(.*))?", uri)
    kind = (found[1] or "chromium") if found else ""
    options = dict(parse_qsl(found[2] or "", keep_blank_values=True)) if found else {}
    known = {"backend", "host", "name"} if kind == "listen" else {"backend"}
    backends = BACKENDS["tfjs"]
    if (
        kind not in _KINDS
        or not options.keys() <= known
        or options.get("backend", "wasm") not in backends
        or not options.get("name", "phone").strip().isprintable()
    ):
        raise TargetError(
            f"unknown browser target {uri!r}",
            hint="known: browser, browser:firefox, browser:listen, each with "
            f"?backend={'|'.join(backends)}, the last one also with ?host=ADDRESS, ?name=my-phone",
        )
    return Options(kind, **options)


def versions() -> dict[str, str]:
    """Of the runtimes for browsers that are installed, by package.

    Raises:
        MissingDependency: none are.
    """
    modules = packages_folder() / "node_modules"
    if not modules.is_dir():
        raise MissingDependency(
            f"the packages for browsers are not installed in {packages_folder()}",
            hint="run: edgekit targets prepare node",
        )
    read = {n: json.loads((modules / n / "package.json").read_text()) for n in PACKAGES.values()}
    return {name: str(package["version"]) for name, package in read.items()}


def lan_address() -> str:
    """The address under which other machines of the network reach this one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way it would go
        except OSError as e:
            raise TargetError(
                "this machine is in no network",
                hint="phone on a USB cable: adb reverse tcp:PORT tcp:PORT and "
                "browser:listen?host=127.0.0.1",
            ) from e
        return str(probe.getsockname()[0])


def _listen(packages: Path, host: str) -> PageServer:
    try:
        if socket.gethostbyname(host) == "0.0.0.0":
            raise TargetError(
                f"{host} is no address that a phone can open",
                hint="name one of this machine's own, or leave ?host= out: then it is found",
            )
        return PageServer(packages, host)
    except OSError as e:
        raise TargetError(f"cannot listen on {host}: {e.strerror or e}") from e


def invitation(url: str) -> str:
    """What is shown to the person with the phone: address and QR code."""
    lines = [f"open this page in the browser to measure: {url}"]
    try:
        import segno
    except ImportError:
        lines.append("(for a QR code here: pip install 'edgekit-ml[phone]')")
    else:
        code = io.StringIO()
        segno.make(url, error="l").terminal(code, compact=True, border=2)
        lines.append(code.getvalue())
    return "\n".join(lines)


def _hint(reason: str, kind: str) -> str | None:
    if "this browser has no Web" in reason:
        without = "browser" if kind == "chromium" else f"browser:{kind}"
        return f"is there a GPU that it can use? Without one: --target {without}"
    return None

"""Chromium without a window, asked through its own debugging pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

from edgekit.targets.browser_programs import find

LONGEST_S = 30


class Chromium:
    """One page at a time; `said` and `asked` are what it wrote to its console and requested."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-", ignore_cleanup_errors=True)
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            # It reads commands from file descriptor 3 and answers to 4.
            ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh",
             str(find("chromium")), "--headless=new", "--remote-debugging-pipe", "--disable-gpu",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={self._folder.name}",
             *sandbox, "about:blank"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._number = 0
        self._buffer = b""
        self._session = None
        self.said: list[str] = []
        self.asked: list[str] = []
        [page] = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        """Send one command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self):
        deadline = time.monotonic() + LONGEST_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], deadline - time.monotonic())
            assert ready, "Chromium does not answer"
            read = os.read(self._from.fileno(), 1 << 20)
            assert read, "Chromium has ended"
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params"))
        return message

    def _note(self, method, params):
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(str(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"]))
        elif method == "Page.javascriptDialogOpening":
            self.said.append(f"dialog: {params['message']}")

    def open(self, path: Path, width=1280, height=900, **media):
        """Show a file at a width in pixels, with `media` features such as a colour scheme."""
        self.said.clear()
        self.asked.clear()
        self("Emulation.setDeviceMetricsOverride", width=width, height=height,
             deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.media("", **media)
        self("Page.navigate", url=path.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def media(self, kind, **features):
        named = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self("Emulation.setEmulatedMedia", media=kind, features=named)

    def ask(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path, whole=True):
        data = self("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        return base64.b64decode(self("Page.printToPDF", printBackground=True)["data"])

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self._session = None
            self("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._to.close()
        self._from.close()
        self._folder.cleanup()

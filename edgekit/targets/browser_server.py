"""The HTTP server behind a browser: it gives out our page, one job at a time, and takes the answer.

Every address begins with a random token, so that nobody who was not given it can read or post
anything; the Host header must be this server's own, so that no web page reaches it under another
name; and nothing is served but our own files, the pinned packages and the job's own files.

    GET  /TOKEN/                       the page
    GET  /TOKEN/js/NAME                our scripts
    GET  /TOKEN/packages/PATH          scripts and WebAssembly of the pinned packages
    GET  /TOKEN/events?page=ID         server-sent events: which job is next
    GET  /TOKEN/jobs/ID/job            the job; .../model[/NAME], .../inputs/N its files
    POST /TOKEN/jobs/ID/outputs/N      an output as .npy;  .../answer ends the job
"""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import secrets
import select
import shutil
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from edgekit.targets.browser_task import Task

SCRIPTS = Path(__file__).parents[1] / "agent" / "js"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
"""What is served of our folder and of the packages; nothing else in them is."""
LARGEST_OUTPUT, LARGEST_ANSWER = 2**31, 2**24
GRACE_S = 5.0
"""A page that lost its connection for so long is gone; a phone's Wi-Fi may be away for a moment."""
PING_S = 2.0
_HEADERS = {
    # The first two make the page cross-origin isolated: threads, and a clock of 5 microseconds.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    # Nothing comes from elsewhere.
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'wasm-unsafe-eval'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageLost(Exception):
    """The page that had the job is gone."""


@dataclass(frozen=True)
class Page:
    """One page in one browser, until it is closed or loaded again; `id` is its own choice."""

    id: str
    browser: str


class PageServer(http.server.ThreadingHTTPServer):
    """Serves the page on `host` and a free port, until `close()`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, packages: Path, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.packages = packages
        self.token = secrets.token_urlsafe(12)
        port = self.server_address[1]
        self.hosts = {f"{host}:{port}"}
        if host == "127.0.0.1":
            self.hosts.add(f"localhost:{port}")  # as a phone on a USB cable calls it
        self.url = f"http://{host}:{port}/{self.token}/"
        self.task: Task | None = None
        self._page: Page | None = None
        self._connections = 0  # of that page: while it reconnects there may be two
        self._left = -math.inf
        self.closing = False
        self.changed = threading.Condition()
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        ).start()

    def server_bind(self) -> None:
        """Without the base class's look-up of this machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def ask(
        self, task: Task, page: Page, *, timeout: float, watch: Callable[[], None]
    ) -> dict[str, Any]:
        """Give `task` to `page`, which `wait_for_page` found, and wait for the answer.

        `watch` is called a few times a second and may raise.

        Raises:
            TimeoutError: no answer in `timeout` seconds.
            PageLost: the page was closed, or crashed; no other one carries the task on.
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            task.page = page.id
            self.task = task
            self.changed.notify_all()
            try:
                while task.answer is None:
                    self.changed.wait(0.2)
                    watch()
                    now = time.monotonic()
                    gone = not self._connections and now - self._left > GRACE_S
                    if gone or self._page != page:
                        raise PageLost
                    if now > deadline:
                        raise TimeoutError
                return task.answer
            finally:
                self.task = None
                self.changed.notify_all()

    def wait_for_page(self, *, timeout: float, watch: Callable[[], None]) -> Page:
        """The page that is connected, or that connects within `timeout` seconds.

        Raises:
            TimeoutError: none did.
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            while not self._connections or self._page is None:
                if time.monotonic() > deadline:
                    raise TimeoutError
                self.changed.wait(0.2)
                watch()
            return self._page

    def join(self, page: Page) -> bool:
        """Whether `page` may take jobs: the first one, until it is gone."""
        with self.changed:
            if self._connections and page != self._page:
                return False
            self._page = page
            self._connections += 1
            self.changed.notify_all()
            return True

    def leave(self) -> None:
        """A connection of the page ended."""
        with self.changed:
            self._connections -= 1
            self._left = time.monotonic()
            self.changed.notify_all()

    def close(self) -> None:
        """Tell the page that nothing more comes, and stop."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self._connections, timeout=1)
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser may hang up at any time; that is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PageServer
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = self._parts()
        if parts is None:
            return
        match parts:
            case [""]:
                self._file(SCRIPTS / "page.html")
            case ["js", name]:
                self._static(SCRIPTS, [name])
            case ["packages", *path]:
                self._static(self.server.packages / "node_modules", path)
            case ["events"]:
                self._events()
            case ["jobs", id, "job"] if task := self._task(id):
                self._answer(200, json.dumps(task.described()).encode(), "application/json")
            case ["jobs", id, *path] if (task := self._task(id)) and (file := task.file(path)):
                self._file(file)
            case _:
                self._answer(404)

    def do_POST(self) -> None:
        parts = self._parts()
        if parts is None:
            return
        match parts:
            case ["jobs", id, "outputs", number] if (task := self._task(id)) and (
                path := task.output(number)
            ):
                if self._body_fits(LARGEST_OUTPUT):
                    self._receive(task, path)
            case ["jobs", id, "answer"] if task := self._task(id):
                if self._body_fits(LARGEST_ANSWER):
                    self._finish(task)
            case _:
                self._refuse(404)

    def _parts(self) -> list[str] | None:
        """The address behind the token, or None after a refusal."""
        if self.headers.get("host") not in self.server.hosts:
            self._refuse(403)
            return None
        path = unquote(urlsplit(self.path).path)
        token, *parts = path.removeprefix("/").split("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        if not known or not parts or "\0" in path:
            self._refuse(404)
            return None
        return parts

    def _task(self, id: str) -> Task | None:
        task = self.server.task
        return task if task is not None and task.id == id else None

    def _static(self, root: Path, parts: list[str]) -> None:
        path = root.joinpath(*parts).resolve() if all(parts) else root
        if path.suffix in TYPES and path.is_relative_to(root.resolve()) and path.is_file():
            self._file(path, cache="max-age=86400")
        else:
            self._answer(404)

    def _file(self, path: Path, cache: str = "no-store") -> None:
        with path.open("rb") as file:
            self.send_response(200)
            kind = TYPES.get(path.suffix, "application/octet-stream")
            self._headers(path.stat().st_size, kind, cache)
            shutil.copyfileobj(file, self.wfile)

    def _answer(self, status: int, body: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(status)
        self._headers(len(body), kind)
        self.wfile.write(body)

    def _refuse(self, status: int) -> None:
        """Without reading what was sent: the connection ends."""
        self.close_connection = True
        self._answer(status)

    def _headers(self, length: int | None, kind: str, cache: str = "no-store") -> None:
        self.send_header("content-type", kind)
        self.send_header("cache-control", cache)
        if length is not None:
            self.send_header("content-length", str(length))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def _body_fits(self, limit: int) -> bool:
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) <= limit:
            return True
        self._refuse(413)
        return False

    def _receive(self, task: Task, path: Path) -> None:
        left = int(self.headers["content-length"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while left and (block := self.rfile.read(min(left, 2**20))):
                file.write(block)
                left -= len(block)
        if not left:
            task.received.add(path)
        self._answer(204 if not left else 400)

    def _finish(self, task: Task) -> None:
        try:
            answer = json.loads(self.rfile.read(int(self.headers["content-length"])))
        except ValueError:
            self._answer(400)
            return
        self._answer(204)
        if isinstance(answer, dict):
            with self.server.changed:
                task.answer = answer
                self.server.changed.notify_all()

    def _events(self) -> None:
        """Say which job is next, and what became of the page, as long as it listens."""
        query = parse_qs(urlsplit(self.path).query)
        page = Page(*(query.get(key, [""])[0] for key in ("page", "browser")))
        self.close_connection = True
        self.send_response(200)
        self._headers(None, "text/event-stream")
        if not self.server.join(page):
            self._event("taken", {})
            return
        _notice_silence(self.connection)
        try:
            self._tell_jobs(page)
        finally:
            self.server.leave()

    def _tell_jobs(self, page: Page) -> None:
        told, pinged = None, -math.inf
        while not self._hung_up():
            with self.server.changed:
                if not self.server.closing and self._next(page, told) is None:
                    self.server.changed.wait(0.3)
                closing, task = self.server.closing, self._next(page, told)
            if closing:
                self._event("closed", {})
                return
            if task is not None:
                told = task.id
                self._event("job", task.summary())
            elif time.monotonic() - pinged > PING_S:
                pinged = time.monotonic()
                self._event("ping", {})

    def _next(self, page: Page, told: str | None) -> Task | None:
        """What this page is to do and was not told yet."""
        task = self.server.task
        return task if task and task.page == page.id and task.id != told else None

    def _event(self, name: str, data: dict[str, Any]) -> None:
        self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def _hung_up(self) -> bool:
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        try:
            return len(self.connection.recv(1, socket.MSG_PEEK)) == 0
        except OSError:
            return True


def _notice_silence(connection: socket.socket) -> None:
    """Count a phone as gone that acknowledges nothing for ten seconds."""
    with contextlib.suppress(AttributeError, OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)

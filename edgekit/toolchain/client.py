"""The host's end of the toolchain process.

JSON lines: requests on the worker's stdin, progress and answers on its stdout (the worker moves
everything else that writes there to stderr). A worker that dies or hangs fails one request; the
next request starts a new one.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any

from edgekit import errors
from edgekit.errors import ConversionError, EdgekitError
from edgekit.processes import describe_exit
from edgekit.types import Progress

_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "GRPC_VERBOSITY": "ERROR",
    # ONNX Runtime reports its use to its makers unless told otherwise.
    "ORT_DISABLE_TELEMETRY": "1",
    # Converters iterate over sets of names; the files must not depend on the hash seed.
    "PYTHONHASHSEED": "0",
}

_MODULES = {
    "session": "session",
    "keras2": "session",
    "quantizer": "quantizer",
    "tfmot": "tfmot",
}

_open: contextvars.ContextVar[Mapping[str, Toolchain]] = contextvars.ContextVar("toolchains")


def kind_for(family: str) -> str:
    """The kind of worker that loads models of `family`."""
    return "keras2" if family == "tf-keras" else "session"


@contextlib.contextmanager
def open_toolchain(
    progress: Progress = lambda text: None, *, family: str = "keras"
) -> Iterator[Toolchain]:
    """The worker that is open already in this context, or a new one that ends with the block.

    TensorFlow takes seconds to import: verbs that run one after the other share one worker. Models
    of the `family` "tf-keras" have one of their own: Keras 2 and 3 must not meet in a process.
    """
    kind = kind_for(family)
    if kind in _open.get({}):
        yield _open.get({})[kind]
        return
    progress("starting TensorFlow")
    worker = Toolchain(kind=kind)
    token = _open.set({**_open.get({}), kind: worker})
    try:
        yield worker
    finally:
        _open.reset(token)
        worker.close()


class Toolchain:
    """One worker process; it starts, and imports what it needs, at once.

    `kind` is "session", the one with TensorFlow and Keras 3, "keras2", the same with Keras 2,
    "quantizer", which has ONNX Runtime only, or "tfmot", which TFMOT has to itself.
    """

    def __init__(self, *, kind: str = "session", threads: int | None = None) -> None:
        self._kind = kind
        self._threads = threads
        # Ours, not the worker's: it is killed, and could not clean up after itself.
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekit-")
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by close()
        self._process = self._start()

    def call(
        self,
        verb: str,
        *,
        timeout: float = 1800,
        progress: Progress | None = None,
        **parameters: Any,
    ) -> Any:
        """Ask the worker for `verb` and wait at most `timeout` seconds for its answer.

        Raises:
            EdgekitError: what the worker answered, or that it died or took too long.
        """
        if self._process.poll() is not None:
            self._stop()
            self._process = self._start()
        try:
            self._process.stdin.write(json.dumps({"verb": verb, **parameters}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died(verb) from None
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                self._stop()
                raise ConversionError(
                    f"{verb}: no answer from the toolchain in {timeout:.0f} s; it was stopped"
                ) from None
            if line is None:
                raise self._died(verb)
            message = json.loads(line)
            if "progress" in message:
                if progress is not None:
                    progress(message["progress"])
            elif "error" in message:
                raise _as_error(message["error"])
            else:
                return message["result"]

    def close(self) -> None:
        """End the worker."""
        self._stop()
        self._log.close()
        self._scratch.cleanup()

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # an unsent request
                pipe.close()

    def _start(self) -> Any:
        environment = {**os.environ, **_ENVIRONMENT}
        environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._scratch.name)
        if self._threads is not None:
            for pool in ("INTRAOP", "INTEROP"):
                environment[f"TF_NUM_{pool}_THREADS"] = str(self._threads)
        # What `tf.keras` is in the user's own code; TFMOT sets it, too, for its own process.
        environment.pop("TF_USE_LEGACY_KERAS", None)
        if self._kind in ("keras2", "tfmot"):
            environment["TF_USE_LEGACY_KERAS"] = "1"
        process = subprocess.Popen(
            # -P: a file of the user's working directory must not shadow a module.
            [sys.executable, "-P", "-m", "edgekit.toolchain", _MODULES[self._kind]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(
            target=_forward, args=(process.stdout, self._lines), daemon=True
        )
        self._reader.start()
        return process

    def _died(self, verb: str) -> ConversionError:
        code = self._process.wait()
        self._log.seek(0)
        tail = self._log.read()[-400:].decode(errors="replace").strip().splitlines()
        detail = f": {tail[-1]}" if tail and code > 0 else ""
        return ConversionError(
            f"{verb}: the toolchain process {describe_exit(code)}{detail}",
            hint="the converter does not survive this model; other formats are not affected",
        )


def _forward(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed while reading
        for line in pipe:
            lines.put(line)
    lines.put(None)


def _as_error(error: dict[str, Any]) -> EdgekitError:
    kind = getattr(errors, error["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, EdgekitError)):
        return ConversionError(f"{error['type']}: {error['message']}", hint=error.get("hint"))
    return kind(error["message"], hint=error.get("hint"))

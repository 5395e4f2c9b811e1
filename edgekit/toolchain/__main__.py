"""A worker: `python -m edgekit.toolchain session`, or another module that has a `Session`.

JSON requests on stdin, one a line; progress and answers as JSON lines on a private pipe.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from edgekit import errors
from edgekit.errors import EdgekitError
from edgekit.types import Progress


def main() -> None:
    # Converters print to fd 1 from C++; answers go to a private copy of it.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Ctrl-C is the host's to handle; it ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    # Imported before the first request arrives, while the host prepares it.
    session = importlib.import_module(f"edgekit.toolchain.{sys.argv[1]}").Session()
    for line in _requests():
        say(_answer(session, json.loads(line), lambda text: say({"progress": text})))


def _requests() -> Iterator[str]:
    """Lines of stdin. At its end the process ends, too, whatever it does: nobody waits for it."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _answer(session: Any, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    verb = getattr(session, request.pop("verb"))
    try:
        return {"result": verb(progress=progress, **request)}
    except EdgekitError as e:
        known = next(c.__name__ for c in type(e).__mro__ if c.__module__ == errors.__name__)
        return {"error": {"type": known, "message": e.message, "hint": e.hint}}
    except Exception as e:  # the boundary: foreign errors become an answer
        return {"error": {"type": type(e).__name__, "message": _gist(str(e))}}


def _gist(text: str) -> str:
    """The first line that says something: Keras and TensorFlow wrap it in others."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in text.splitlines()]
    wrappers = ("Exception encountered when calling", "Graph execution error", "in user code:")
    telling = [x for x in lines if x and not x.startswith((*wrappers, "File ", "Detected at"))]
    return next(iter(telling), "no message")


if __name__ == "__main__":
    main()

from __future__ import annotations

import io

from rich.console import Console

from edgekit.cli.progress import SteppedStatus
from edgekit.types import Notice


def test_a_notice_ends_no_step():
    """Whoever has to open a page sees where, and the step goes on below."""
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    address = Notice(
        "open this page: http://192.0.2.1:8000/a-token-that-is-longer/\n\x1b[7m  \x1b[0m"
    )
    with SteppedStatus(console) as status:
        status.step("timing, round 1 of 2: a")
        status.step(address)
        status.step(Notice("connected: a browser"))
        before = console.file.getvalue()
        status.step("timing, round 2 of 2: a")
        status.step("done")
    shown = console.file.getvalue()
    assert address.split("\n")[0] in shown  # in one line
    assert "•" not in before
    assert "round 1 of 2" not in shown.partition("•")[2]

"""A job as a page sees it: addresses in place of paths, and no files but the job's own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.agent.protocol import encode
from edgekit.types import Job


@dataclass
class Task:
    """A job that a page carries out, and its answer once there is one."""

    job: Job
    options: Mapping[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    page: str = ""
    """Id of the one page that may take it."""
    answer: dict[str, Any] | None = None
    received: set[Path] = field(default_factory=set)

    def described(self) -> dict[str, Any]:
        """The job as the page gets it: with addresses in place of paths."""
        inputs = {name: f"inputs/{i}" for i, name in enumerate(self.job.inputs)}
        plain = {**encode(self.job), "inputs": inputs, "out": "", "artifact": self.name}
        return {**plain, **self.options}

    @property
    def name(self) -> str:
        return Path(self.job.artifact).name

    def summary(self) -> dict[str, Any]:
        """What the page shows of it."""
        job = self.job
        shown = {"action": job.action, "format": job.format, "threads": job.threads}
        return {"id": self.id, "name": self.name, **shown, **self.options}

    def file(self, parts: list[str]) -> Path | None:
        """The file of the job that an address names: model, model/NAME or inputs/N."""
        match parts:
            case ["model"]:
                found = Path(self.job.artifact)
            case ["model", name]:
                found = Path(self.job.artifact, name)
                if found.resolve().parent != Path(self.job.artifact).resolve():
                    return None
            case ["inputs", number]:
                paths = dict(enumerate(self.job.inputs.values()))
                found = Path(paths.get(_index(number), ""))
            case _:
                return None
        return found if found.is_file() else None

    def output(self, number: str) -> Path | None:
        """Where the output with this number goes."""
        index = _index(number)
        known = 0 <= index < len(self.job.signature.outputs) and self.job.action == "run"
        return Path(self.job.out, f"{index}.npy") if known else None

    def outputs(self) -> dict[str, str]:
        """The outputs that came, by Keras name."""
        specs = enumerate(self.job.signature.outputs)
        paths = {spec.name: Path(self.job.out, f"{i}.npy") for i, spec in specs}
        return {name: str(path) for name, path in paths.items() if path in self.received}


def _index(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1

"""ARM machines played by QEMU: the real aarch64 wheels, with no board at hand.

What they compute is what a board computes, and how many instructions that takes is exact. How long
it takes here says nothing of any ARM machine, so nothing is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

from edgekit.errors import TargetError
from edgekit.targets import cycle_model, require_able
from edgekit.targets.agent_process import agent_files, ask_agent, read_answer
from edgekit.targets.arm_root import SUITE, find_program, python_command, require_root
from edgekit.targets.qemu_profiles import CORES, PROFILES
from edgekit.types import Job, JobResult, Machine

_REPEATABLE = ("-R", "0x1000000000", "-seed", "1")
"""QEMU's options for counting: memory at the same addresses, the same random bytes."""


class QemuTarget:
    """One profile of `PROFILES`."""

    formats: tuple[str, ...] = ("tflite", "onnx")
    profiles: tuple[str, ...] = ()
    is_emulated = True

    def __init__(self, uri: str) -> None:
        """Open "qemu:<profile>".

        Raises:
            TargetError: there is no such profile.
        """
        name = uri.removeprefix("qemu:")
        if name not in PROFILES:
            raise TargetError(
                f"unknown target {uri!r}",
                hint="profiles are: " + ", ".join(f"qemu:{n}" for n in PROFILES),
            )
        self.uri = uri
        self._profile = PROFILES[name]
        self.models_cycles = self._profile.core is not None

    def execute(self, job: Job, *, timeout: float = 3600) -> JobResult:
        """See Target.execute.

        Raises:
            TargetError: `job` is to be timed, or counted in several threads.
            MissingDependency: QEMU, its root file system or LLVM is not there.
        """
        self._check(job)
        root = require_root()
        # Not in TMPDIR, whose length may be another on the next machine: see _command.
        with tempfile.TemporaryDirectory(prefix="edgekit-", dir="/tmp") as folder:
            desk = Path(folder)
            (desk / "root").symlink_to(root)
            done = ask_agent(
                self._command(job.action),
                job,
                timeout=timeout,
                place=self.uri,
                sent=_laid_out(job, desk),
                cwd=desk,
                env={},
            )
            result = dataclasses.replace(
                read_answer(job, done, place=self.uri), machine=self._machine()
            )
            if job.action in ("count", "model"):
                result = dataclasses.replace(result, instructions=self._counts(desk, done))
            if job.action == "model":
                marking, invocation = cycle_model.read_blocks(desk / "blocks")[2:4]
                modelled = cycle_model.model(marking, invocation, self._profile)
                result = dataclasses.replace(result, modelled=modelled)
        outputs = {name: str(Path(job.out, Path(p).name)) for name, p in result.outputs.items()}
        return dataclasses.replace(result, outputs=outputs)

    def close(self) -> None:
        pass

    def _machine(self) -> Machine:
        """What is emulated; nothing of the machine that does it."""
        return Machine(
            cpu=f"{self._profile.title} (emulated)",
            arch="aarch64",
            cores=CORES,
            memory_bytes=0,
            os=f"Debian {SUITE}, qemu-user {_qemu_version()}",
        )

    def _check(self, job: Job) -> None:
        require_able(self, job)
        if job.action in ("time", "profile"):
            raise TargetError(
                f"{self.uri} is emulated: how long a model takes here is no latency",
                hint="count its instructions, or time it on a board by --target ssh://USER@HOST",
            )
        if job.action == "model":
            cycle_model.require_llvm()
        if job.action in ("count", "model") and job.threads != 1:
            raise TargetError(
                f"{self.uri} counts the instructions of one thread, not of {job.threads}",
                hint="leave --threads out",
            )

    def _command(self, action: str) -> list[str]:
        """Of the agent. Paths are relative and the environment is empty.

        Their lengths decide where things lie in memory, and by that what runtimes do.
        """
        counting = action in ("count", "model")
        plugin = "root/count.so,out=counts" + (",blocks=blocks" if action == "model" else "")
        options = ("-plugin", plugin, *_REPEATABLE) if counting else ()
        command = python_command(
            Path("root"),
            self._profile.name,
            # -B: what Python keeps compiled, too, decides what lies where in memory.
            ["-B", "-m", "edgekit.agent"],
            path=["agent"],
            options=options,
        )
        if not counting:
            return command
        # One processor: their number, too, decides what runtimes set up.
        processor = str(min(os.sched_getaffinity(0)))
        return [find_program("taskset"), "-c", processor, find_program("setarch"), "-R", *command]

    def _counts(self, desk: Path, done: subprocess.CompletedProcess[str]) -> tuple[int, ...]:
        """Instructions of each invocation but the first, without those of marking it."""
        try:
            counts = [int(line) for line in (desk / "counts").read_text().split()]
        except OSError:
            counts = []
        pairs = list(zip(counts[::2], counts[1::2], strict=False))
        if len(pairs) < 2:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise TargetError(
                f"{self.uri} counted nothing: {last}",
                hint="the counter is made for the QEMU of Debian 12 (7.2)",
            )
        return tuple(invocation - marking for marking, invocation in pairs[1:])


def _laid_out(job: Job, desk: Path) -> Job:
    """`job` with relative paths, all below `desk`, where its files are as links."""
    for name, content in agent_files().items():
        path = desk / "agent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    artifact = Path(job.artifact).absolute()
    model = f"model{artifact.suffix}"  # of the same length, whatever the user calls it
    (desk / model).symlink_to(artifact)
    (desk / "in").mkdir()
    inputs = {}
    for i, (name, array) in enumerate(job.inputs.items()):
        (desk / "in" / f"{i}.npy").symlink_to(Path(array).absolute())
        inputs[name] = f"in/{i}.npy"
    if job.out:
        Path(job.out).mkdir(parents=True, exist_ok=True)
        (desk / "out").symlink_to(Path(job.out).absolute())
    return dataclasses.replace(job, artifact=model, inputs=inputs, out="out")


@functools.cache
def _qemu_version() -> str:
    program = find_program("qemu-aarch64")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", said.stdout)
    return found[1] if found else "of unknown version"

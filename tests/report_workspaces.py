"""Workspaces whose records are made up, so that tests know what a report of them must say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit import parity
from edgekit.agent.protocol import Runtime, Timing
from edgekit.hashing import sha256
from edgekit.manifest import DataInfo, SourceInfo
from edgekit.types import (
    AccuracyRecord,
    Artifact,
    InstructionRecord,
    LatencyRecord,
    Machine,
    OutputParity,
    ParityRecord,
    Signature,
    Step,
    TensorSpec,
)
from edgekit.workspace import Workspace

HERE = Machine("Fast CPU", "x86_64", 2, 0, "Linux")
PHONE = Machine("Phone CPU", "aarch64", 8, 0, "Android")
LITERT = Runtime("litert", "2", "cpu")


def new(folder: Path, outputs=("y",), name="model") -> Workspace:
    model = folder / "given.keras"
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(b"k" * 4000)
    signature = Signature(
        (TensorSpec("x", "x:0", (None, 2), "float32"),),
        tuple(TensorSpec(o, f"{o}:0", (None, 3), "float32") for o in outputs),
    )
    source = SourceInfo("model.keras", sha256(model), name, "keras 3", 3, signature)
    workspace = Workspace.create(folder / "ws", model, source)
    workspace.change(data={"verification": DataInfo("v.npz", "0" * 64, 50, "recipe")})
    return workspace


def publish(workspace: Workspace, id="fp32.tflite", size=1000, **options) -> Artifact:
    signature = workspace.manifest.source.signature
    parent = workspace.manifest.source.sha256
    step = Step("export", {"batch": 1, **options}, parent, {"t": "1"}, "2026-01-02T03:04:05+00:00")
    with workspace.staging() as staging:
        staged = staging / id
        staged.write_bytes(id[:1].encode() * size)
        artifact = Artifact(id, id, sha256(staged), size, signature, step)
        workspace.publish(artifact, staged)
    return artifact


def compared(outputs=("y",), error=1e-3) -> tuple[OutputParity, ...]:
    random = np.random.default_rng(0)
    wanted = {name: random.normal(size=(50, 3)) for name in outputs}
    found = {name: value + error * random.normal(size=(50, 3)) for name, value in wanted.items()}
    return tuple(parity.compare(wanted, found))


def proved(artifact: Artifact, target="local", failures=(), data="recipe", **changes):
    return replace(
        ParityRecord(
            artifact.id, artifact.sha256, 50, data, compared(), parity.TOLERANCES["int8"],
            tuple(failures), LITERT, HERE if target == "local" else PHONE, target,
        ),
        **changes,
    )  # fmt: skip


def judged(subject: str, sha256: str, accuracy: float, target="local") -> AccuracyRecord:
    return AccuracyRecord(subject, sha256, "test", 50, {"accuracy": accuracy}, target)


def timed(subject: str, sha256: str, p50_ns: float, target="local", **changes) -> LatencyRecord:
    shape = np.r_[0.5, np.linspace(0.9, 1.1, 99), 3.0]
    timings = tuple(
        Timing(tuple(map(float, p50_ns * shape)), 1, 3, True, 1_000_000) for _ in range(3)
    )
    machine = HERE if target == "local" else PHONE
    made = LatencyRecord(subject, sha256, target, 1, 1, timings, LITERT, machine)
    return replace(made, **changes)


def counted(artifact: Artifact, count: int, target="qemu:pi5") -> InstructionRecord:
    counts = (count, count)
    return InstructionRecord(artifact.id, artifact.sha256, target, 1, counts, LITERT, PHONE)


def full(folder: Path, name="model", odd="y") -> Workspace:
    """Two files with all kinds of records; `odd` is the name of an output and of much else."""
    workspace = new(folder, (odd, "z"), name)
    source = workspace.manifest.source.sha256
    float_, int_ = publish(workspace), publish(workspace, "int8.onnx", 300, precision="int8")
    outputs = compared((odd, "z"))
    for artifact in (float_, int_):
        workspace.add_records(
            proved(artifact, outputs=outputs),
            proved(artifact, "browser", outputs=outputs),
            timed(artifact.id, artifact.sha256, 2e3 if artifact is float_ else 5e3),
            timed(artifact.id, artifact.sha256, 1e6, "browser", warnings=(f"hot: {odd}",)),
            counted(artifact, 2_000_000 if artifact is float_ else 500_000),
            judged(artifact.id, artifact.sha256, 0.9 if artifact is float_ else 0.88),
        )
    workspace.add_records(judged("keras", source, 0.9), timed("keras", source, 4e5))
    return workspace

"""`edgekit run`: a recipe the whole way, and again only what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, Failure, WorkspaceError
from edgekit.manifest import MANIFEST, here
from edgekit.recipe import Recipe, load_recipe
from edgekit.toolchain.client import open_toolchain
from edgekit.types import BASELINE, FORMATS, Progress
from edgekit.verbs.bench import bench
from edgekit.verbs.export import export
from edgekit.verbs.outcome import Incomplete
from edgekit.verbs.prune import prune
from edgekit.verbs.quantize import quantize
from edgekit.verbs.train import train
from edgekit.verbs.verify import verify
from edgekit.workspace import Workspace

SMALL = ("tflite", "onnx")
"""Formats of which there are integer files."""


@dataclass(frozen=True)
class RunStep:
    """One verb of the way."""

    verb: str
    is_new: bool
    """False: what it makes was there, of the same model."""


@dataclass(frozen=True)
class RunResult:
    """`steps` in their order; what the artifacts are is in the workspace."""

    workspace: str
    steps: tuple[RunStep, ...] = ()
    failures: tuple[Failure, ...] = ()


class RunFailed(Incomplete):
    """Some artifacts could not be made or did not hold; `result` has what was done."""


def run(
    *,
    recipe: str,
    output: str | os.PathLike[str],
    epochs: int | None = None,
    progress: Progress = lambda text: None,
) -> RunResult:
    """Train a recipe, export, quantize and, where it says so, prune it; verify and time all files.

    What is there already, of the same model, is not made again.

    Args:
        recipe: as in `train`.
        output: the workspace; it is made if need be.
        epochs: how long to train, and to fine-tune what is pruned; as the recipe says unless given.
        progress: told in one line what happens.

    Raises:
        RunFailed: an artifact could not be made, or does not hold; all others are there.
        RecipeError: there is no such recipe, its data cannot be had, or it failed.
        WorkspaceError: the folder holds something else, or a model of another recipe.
        CheckFailed: the model is below the recipe's floor.
    """
    way = _Way(load_recipe(recipe), recipe, Path(output), epochs, progress)
    with open_toolchain(progress):
        way.train()
        way.export()
        way.quantize()
        way.prune()
        way.verify()
        way.bench()
    result = RunResult(str(output), tuple(way.steps), tuple(way.failures))
    if result.failures:
        raise RunFailed(result)
    return result


class _Way:
    """The steps, each of which looks for itself whether there is something to do."""

    def __init__(
        self, lesson: Recipe, recipe: str, folder: Path, epochs: int | None, progress: Progress
    ) -> None:
        self._lesson, self._recipe, self._folder = lesson, recipe, folder
        self._epochs, self._progress = epochs, progress
        self.steps: list[RunStep] = []
        self.failures: list[Failure] = []

    def train(self) -> None:
        is_new = not (self._folder / MANIFEST).is_file()
        if is_new:
            train(
                recipe=self._recipe,
                output=self._folder,
                epochs=self._epochs,
                progress=self._progress,
            )
        else:
            code = self._workspace.manifest.recipe
            if code is None or code.sha256 != self._lesson.sha256:
                raise WorkspaceError(
                    f"{self._folder} has a model of another recipe, or of an earlier version",
                    hint="give a new folder with -o",
                )
        self.steps.append(RunStep("train", is_new))

    def export(self) -> None:
        missing = [form for form in FORMATS if not self._has(f"fp32.{form}")]
        self._do("export", missing, lambda: export(source=self._folder, to=missing, **self._told))

    def quantize(self) -> None:
        missing = [form for form in SMALL if not self._has(f"int8.{form}")]
        self._do(
            "quantize", missing, lambda: quantize(source=self._folder, to=missing, **self._told)
        )

    def prune(self) -> None:
        if self._lesson.prune is None:
            return
        kind, amount = self._lesson.prune
        variant = f"{kind}{100 * amount:.0f}"
        both = ("fp32", "int8")
        missing = [
            f for f in SMALL if not all(self._has(f"{variant}-{p}.{f}", variant) for p in both)
        ]
        how: dict[str, Any] = {"sparsity": amount}
        if kind == "structured":
            how = {"structured": True, "ratio": amount}
        self._do(
            "prune",
            missing,
            lambda: prune(
                source=self._folder,
                to=missing,
                precision=both,
                epochs=self._epochs,
                **how,
                **self._told,
            ),
        )

    def verify(self) -> None:
        manifest = self._workspace.manifest
        proved = {(p.artifact, p.sha256) for p in here(manifest.parity) if p.passed}
        open_ends = [a for a in manifest.artifacts if (a.id, a.sha256) not in proved]
        self._do("verify", open_ends, lambda: verify(source=self._folder, **self._told))

    def bench(self) -> None:
        manifest = self._workspace.manifest
        timed = {(r.artifact, r.sha256) for r in here(manifest.latency)}
        wanted = {(BASELINE, manifest.source.sha256)}
        wanted |= {(a.id, a.sha256) for a in manifest.artifacts}
        self._do("bench", wanted - timed, lambda: bench(sources=[self._folder], **self._told))

    @property
    def _workspace(self) -> Workspace:
        return Workspace.open(self._folder)

    @property
    def _told(self) -> dict[str, Any]:
        return {"progress": self._progress}

    def _has(self, id: str, variant: str | None = None) -> bool:
        """Whether the artifact is there, made from the model of today."""
        workspace = self._workspace
        if variant is not None and variant not in workspace.manifest.variants:
            return False
        _, parent = workspace.model_of(variant)
        found = [a for a in workspace.manifest.artifacts if a.id == id and a.step.parent == parent]
        try:
            return bool(found) and workspace.artifact_path(found[0]).exists()
        except WorkspaceError:  # lost or altered since
            return False

    def _do(self, verb: str, missing: Any, act: Callable[[], object]) -> None:
        """Do a step if something is `missing`; what fails in it does not stop the next."""
        self.steps.append(RunStep(verb, bool(missing)))
        if not missing:
            self._progress(f"{verb}: as it is")
            return
        self._progress(verb)
        try:
            act()
        except EdgekitError as e:
            failures = getattr(getattr(e, "result", None), "failures", ())
            self.failures += failures or (e.failure(verb),)

"""The commands that make a workspace again, from what its manifest says of each step."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.manifest import Manifest
from edgekit.types import LOCAL, Artifact, Quantization

MODEL, SAMPLES = "MODEL", "SAMPLES.npz"
"""Stand for files whose names a workspace does not keep; it keeps their content."""

DEFAULT_OPSET = 17


@dataclass(frozen=True)
class Command:
    """A line for a shell, and what it does."""

    line: str
    what: str


def commands(manifest: Manifest, workspace: str) -> tuple[Command, ...]:
    """In the order in which they must run; `workspace` is the folder to name in them."""
    return tuple(_commands(manifest, workspace))


def _commands(manifest: Manifest, workspace: str) -> Iterator[Command]:
    begins = manifest.recipe is None
    if manifest.recipe is not None:
        yield _command("trains the model", "train", manifest.recipe.name, "-o", workspace)
    by_model: dict[str | None, list[Artifact]] = {}
    for artifact in manifest.artifacts:
        by_model.setdefault(artifact.model, []).append(artifact)
    for artifacts in _alike(by_model.get(None, [])):
        first = [MODEL, *_loading(manifest), *_samples(manifest), "-o", workspace]
        yield _export(first if begins else [workspace], artifacts)
        begins = False
    for name, variant in manifest.variants.items():
        base = name.rpartition("-")[0]
        options = ["--variant", base] if base else []
        if variant.step.options.get("epochs") is not None:
            options += ["--epochs", variant.step.options["epochs"]]
        pruning = variant.step.options.get("pruning")
        way = ["quantize", workspace, "--method", "qat"]
        if pruning is not None:
            way = ["prune", workspace, *_pruning(pruning)]
        yield _command(f"makes the model {name}", *way, *options)
        for artifacts in _alike(by_model.get(name, [])):
            yield _export([workspace, "--variant", name], artifacts)
    for search in manifest.searches:
        if search.format != "keras" and search.chosen is not None:
            method = ["--method", "qat"] if search.method == "qat" else []
            options = ["--to", search.format, "--max-drop", search.budget, *method]
            yield _command("the search", "quantize", workspace, *options)
    for explanation in manifest.explanations:
        yield _command(
            f"explains {explanation.artifact}", *_explain(explanation.artifact, workspace)
        )
    for target in _targets(manifest.parity):
        yield _command("proves all files again", "verify", workspace, *_on(target))
    timed = {(r.target, r.threads) for r in manifest.latency}
    timed |= {(r.target, 1) for r in manifest.instructions}
    for target, threads in sorted(timed, key=lambda t: (t[0] != LOCAL, t)):
        more = ["--threads", threads] if threads != 1 else []
        counts = any(r.target == target for r in manifest.instructions)
        what = "counts their instructions" if counts else "times them"
        yield _command(what, "bench", workspace, *_on(target), *more)


def _command(what: str, *words: object) -> Command:
    return Command(shlex.join(["edgekit", *map(str, words)]), what)


def _export(start: Sequence[str], artifacts: Sequence[Artifact]) -> Command:
    """One command for artifacts that were made in the same way."""
    words: list[object] = [*start]
    for form in dict.fromkeys(a.format for a in artifacts):
        words += ["--to", form]
    for precision in dict.fromkeys(a.precision for a in artifacts):
        words += ["--precision", precision]
    options = artifacts[0].step.options
    if options.get("batch") not in (None, 1):
        words += ["--batch", options["batch"]]
    if options.get("opset", DEFAULT_OPSET) != DEFAULT_OPSET:
        words += ["--opset", options["opset"]]
    words += ["--int8-io"] if options.get("int8_io") else []
    quantization = _quantization(options)
    verb = "quantize" if quantization else "export"
    what = f"makes {', '.join(a.id for a in artifacts)}"
    return _command(what, verb, *words, *quantization)


def _alike(artifacts: Iterable[Artifact]) -> list[list[Artifact]]:
    """Groups that one command makes: same options, and each format in the same precisions."""
    by_options: dict[str, dict[str, list[Artifact]]] = {}
    for artifact in artifacts:
        options = _common(artifact.step.options)
        by_options.setdefault(options, {}).setdefault(artifact.format, []).append(artifact)
    groups: dict[tuple[str, tuple[str, ...]], list[Artifact]] = {}
    for options, formats in by_options.items():
        for same in formats.values():
            precisions = tuple(sorted(a.precision for a in same))
            groups.setdefault((options, precisions), []).extend(same)
    return list(groups.values())


def _common(options: Mapping[str, Any]) -> str:
    """What two artifacts must share to be made by one command, as text."""
    batch, opset = options.get("batch"), options.get("opset", DEFAULT_OPSET)
    own = [None if batch == 1 else batch, opset if opset != DEFAULT_OPSET else None]
    return repr([own, bool(options.get("int8_io")), _quantization(options)])


def _quantization(options: Mapping[str, Any]) -> list[str]:
    """The options of `quantize` that are not the default."""
    default = Quantization()
    words: list[str] = []
    for name in ("calibration", "percentile", "backend"):
        if name in options and options[name] != getattr(default, name):
            words += [f"--{name}", f"{options[name]}"]
    for pattern in options.get("keep_float", ()):
        words += ["--keep-float", pattern]
    return words + (["--equalize"] if options.get("equalize") else [])


def _pruning(pruning: Mapping[str, Any]) -> list[str]:
    words = {
        "structured": ["--structured", "--ratio", f"{pruning['amount']:g}"],
        "sparse": ["--sparsity", f"{pruning['amount']:g}"],
        "cluster": ["--clusters", f"{pruning['amount']:g}"],
    }[pruning["kind"]]
    words = [*words, "--pattern", pruning["pattern"]] if pruning["pattern"] else words
    for pattern, amount in pruning["layers"]:
        words += ["--layer", f"{pattern}={amount:g}"]
    words += ["--skip-first"] if pruning["skip_first"] else []
    return words + (["--skip-last"] if pruning["skip_last"] else [])


def _explain(id: str, workspace: str) -> list[str]:
    variant, _, form = id.rpartition(".")
    model, _, precision = variant.rpartition("-")
    own = ["--variant", model] if model else []
    return ["quantize", workspace, *own, "--to", form, "--precision", precision, "--explain"]


def _loading(manifest: Manifest) -> list[str]:
    source = manifest.source
    given = {
        "--custom-objects": source.custom_objects and source.custom_objects.name,
        "--builder": source.builder and source.builder.name,
        "--from": source.from_layer,
        "--until": source.until_layer,
    }
    return [word for option, value in given.items() if value for word in (option, value)]


def _samples(manifest: Manifest) -> list[str]:
    uses = any(info.origin == "samples" for info in manifest.data.values())
    return ["--samples", SAMPLES] if uses else []


def _targets(records: Iterable[Any]) -> list[str]:
    return sorted({r.target for r in records}, key=lambda t: (t != LOCAL, t))


def _on(target: str) -> list[str]:
    return [] if target == LOCAL else ["--target", target]

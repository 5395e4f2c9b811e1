"""Files that are converted and quantized, but not proved yet."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit import evidence
from edgekit.agent.arrays import save_arrays
from edgekit.agent.protocol import Signature, decode, encode
from edgekit.hashing import sha256, size_bytes
from edgekit.manifest import DataInfo
from edgekit.toolchain.client import Toolchain
from edgekit.types import Artifact, Explanation, Progress, Quantization, Source, Step
from edgekit.verbs.export_request import needs_calibration
from edgekit.workspace import Workspace


@dataclass(frozen=True)
class Draft:
    """A converted file, which may still have to be quantized: see `Drafter.finish`."""

    id: str
    path: Path
    signature: Signature
    step: Step
    warnings: tuple[str, ...] = ()
    made_from: Path | None = None
    """The float ONNX file that `path` is still to be made from."""
    keep: tuple[str, ...] = ()
    """Tensors of that file whose operators stay float."""

    def artifact(self) -> Artifact:
        """What the file is in a workspace, once it is published."""
        digest, size = sha256(self.path), size_bytes(self.path)
        return Artifact(self.id, self.id, digest, size, self.signature, self.step)


@dataclass(frozen=True)
class Drafter:
    """Makes files of one model of a workspace: `draft` in the toolchain, then `finish`.

    `finish` may run in another thread, beside the next `draft`.
    """

    workspace: Workspace
    source: Source
    parent: str
    """SHA-256 of the model."""
    variant: str | None
    """Of the workspace's models; None: its own."""
    toolchain: Toolchain
    quantizer: Toolchain | None
    calibration: Mapping[str, str] | None
    """Rows to calibrate with as .npy files, by input name."""
    rows: Mapping[str, str]
    """The verification rows, in the same way."""
    staging: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """"batch", "opset", "int8_io" and "sparse_encoding" of the conversion."""
    flex: bool = False

    @property
    def prefix(self) -> str:
        """Of ids: "" or "sparse80-"."""
        return "" if self.variant is None else f"{self.variant}-"

    def draft(
        self, form: str, precision: str, quantization: Quantization | None = None, name: str = ""
    ) -> Draft:
        """Convert to one format in one precision; `name` tells several of one id apart.

        Raises:
            ConversionError: it cannot be converted.
        """
        id = f"{self.prefix}{precision}.{form}"
        path = self.staging / f"{name}{id}"
        options = self._used_options(form, precision)
        calibrated = needs_calibration(form, precision)
        quantization = self._of_variant(quantization)
        answer = self.toolchain.call(
            "convert",
            source=encode(self.source),
            form=form,
            precision=precision,
            path=str(path),
            quantization=encode(quantization),
            calibration=self.calibration if calibrated or quantization.equalize else None,
            unseen=self._unseen if calibrated else None,
            flex=self.flex,
            **{"opset": 17, "int8_io": False, **options},
        )
        if calibrated:
            info = self._calibrated_on
            options |= {"calibration_sha256": info.sha256, "calibration_rows": info.rows}
        options |= _unusual(quantization)
        step = Step(
            verb="export",
            options={"precision": precision, **options, **answer["options"]},
            parent=self.parent,
            tools=answer["tools"],
            time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        return Draft(
            id=id,
            path=path,
            signature=decode(Signature, answer["signature"]),
            step=step,
            warnings=tuple(f"{id}: {text}" for text in answer["warnings"]),
            made_from=Path(answer["made_from"]) if _is_quantized_later(form, precision) else None,
            keep=tuple(answer["keep"]),
        )

    def finish(self, draft: Draft, quantization: Quantization | None = None) -> Draft:
        """Quantize what the first worker left in float: ONNX, in the light worker."""
        if draft.made_from is None or self.quantizer is None:
            return draft
        precision = draft.step.options["precision"]
        answer = self.quantizer.call(
            "quantize",
            fp32=str(draft.made_from),
            path=str(draft.path),
            signature=encode(draft.signature),
            precision=precision,
            quantization=encode(self._of_variant(quantization)),
            keep=draft.keep,
            calibration=self.calibration if needs_calibration("onnx", precision) else None,
            unseen=self._unseen if needs_calibration("onnx", precision) else None,
        )
        return replace(
            draft,
            signature=decode(Signature, answer["signature"]),
            warnings=(*draft.warnings, *(f"{draft.id}: {text}" for text in answer["warnings"])),
        )

    def explain(self, form: str, precision: str, quantization: Quantization) -> Explanation:
        """What error each layer adds in such a file.

        Raises:
            ConversionError: it cannot be made, or the model is no graph of layers.
        """
        quantization = self._of_variant(quantization)
        answer = self.toolchain.call(
            "explain",
            source=encode(self.source),
            form=form,
            precision=precision,
            quantization=encode(quantization),
            calibration=self.calibration,
            rows=self.rows,
            batch=self._used_options(form, precision)["batch"],
            opset=self.options.get("opset", 17),
        )
        id = f"{self.prefix}{precision}.{form}"
        return replace(decode(Explanation, answer), artifact=id, quantization=quantization)

    def _of_variant(self, quantization: Quantization | None) -> Quantization:
        """As the weights of this model are best stored."""
        is_pruned = any(kind in (self.variant or "") for kind in ("sparse", "cluster"))
        return replace(quantization or Quantization(), compact=is_pruned)

    @property
    def _calibrated_on(self) -> DataInfo:
        return self.workspace.manifest.data["calibration"]

    @property
    def _unseen(self) -> Mapping[str, str] | None:
        """Rows on which a calibrated range may turn out to be too narrow, if there are any."""
        own = self.workspace.manifest.data["verification"].sha256
        return None if own == self._calibrated_on.sha256 else self.rows

    def _used_options(self, form: str, precision: str) -> dict[str, Any]:
        """The options that mean something here, with their defaults spelled out."""
        own_batch = self.workspace.manifest.source.signature.inputs[0].shape[0]
        default = 1 if own_batch is None and form == "tflite" else own_batch
        used: dict[str, Any] = {"batch": self.options.get("batch") or default}
        if form == "onnx":
            used["opset"] = self.options.get("opset", 17)
        if (form, precision) == ("tflite", "fp32") and self.options.get("sparse_encoding"):
            used["sparse_encoding"] = True
        if form == "tflite" and precision == "int8":
            used["int8_io"] = self.options.get("int8_io", False)
        return used


def _is_quantized_later(form: str, precision: str) -> bool:
    """Whether such a file is made from the float one, in the light worker."""
    return form == "onnx" and precision != "fp32"


@contextlib.contextmanager
def opened(
    workspace: Workspace,
    toolchain: Toolchain,
    wanted: Iterable[tuple[str, str]],
    *,
    rows: Mapping[str, str],
    options: Mapping[str, Any],
    flex: bool = False,
    variant: str | None = None,
    progress: Progress,
) -> Iterator[Drafter]:
    """A drafter for the files `wanted`, (format, precision) each, with what they take."""
    wanted = list(wanted)
    with contextlib.ExitStack() as stack:
        staging = stack.enter_context(workspace.staging())
        calibration = None
        samples = evidence.calibration(workspace)
        if samples is not None and any(needs_calibration(*pair) for pair in wanted):
            info = workspace.manifest.data["calibration"]
            origin = "the recipe" if info.origin == "recipe" else "samples"
            progress(f"calibrating with {info.rows:,} rows of {origin}")
            calibration = save_arrays(samples.feed, staging / "calibration")
        quantizer = None
        if any(_is_quantized_later(*pair) for pair in wanted):
            quantizer = Toolchain(kind="quantizer")
            stack.callback(quantizer.close)
        source, parent = workspace.model_of(variant)
        yield Drafter(
            workspace=workspace,
            source=source,
            parent=parent,
            variant=variant,
            toolchain=toolchain,
            quantizer=quantizer,
            calibration=calibration,
            rows=rows,
            staging=staging,
            options=options,
            flex=flex,
        )


def _unusual(quantization: Quantization) -> dict[str, Any]:
    """What a step records of `quantization`: the fields that are not the default."""
    default, given = encode(Quantization()), encode(quantization)
    return {name: value for name, value in given.items() if value != default[name]}

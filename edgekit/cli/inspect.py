"""`edgekit inspect`: what is in a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.options import PATH, json_option, print_json, reports_errors, stdout_console

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from edgekit.formats.description import FileDescription
    from edgekit.types import TensorSpec

TITLES = {
    "tflite": "TFLite",
    "onnx": "ONNX",
    "tfjs": "TensorFlow.js",
    "keras": "Keras",
    "h5": "Keras HDF5",
}
ROLES = {"activations": "activations (at run time)"}
NAMES_SHOWN = 3
NOTABLE_SPARSITY = 0.05
WIDTH = 80


@click.command()
@click.argument("source", type=PATH, metavar="FILE")
@json_option
@reports_errors
def inspect(source: Path, as_json: bool) -> None:
    """Show signature, operators, precision, size and sparsity of a model file.

    FILE is a .tflite, .onnx, .keras or .h5 file or a TensorFlow.js folder. Nothing is run, and
    TensorFlow is not needed.
    """
    from edgekit.verbs.inspect import inspect as describe

    description = describe(source=source)
    if as_json:
        print_json(description)
        return
    from rich.padding import Padding

    console = stdout_console()
    console.print(_title(description))
    for table in (_signature(description), _groups(description), _facts(description)):
        console.print()
        indented = Padding(table, (0, 0, 0, 2), expand=False)
        console.print(indented, width=min(WIDTH, console.width))


def _title(description: FileDescription) -> str:
    from rich.filesize import decimal
    from rich.markup import escape

    name = escape(_plain(Path(description.path).name or description.path))
    return (
        f"[bold]{name}[/]  {TITLES[description.format]}, {decimal(description.size_bytes)}, "
        f"{description.parameters:,} parameters"
    )


def _signature(description: FileDescription) -> Table:
    signature = description.signature
    quantized = any(s.scale is not None for s in (*signature.inputs, *signature.outputs))
    table = _table("", "name", "shape", "dtype", *(["quantized as"] if quantized else []))
    for role, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            affine = [_affine(spec)] if quantized else []
            table.add_row(role, _text(spec.name, "cyan"), _shape(spec.shape), spec.dtype, *affine)
    if not table.row_count:
        table.add_row("", "not stated")
    return table


def _groups(description: FileDescription) -> Table:
    from rich.filesize import decimal

    table = _table("", "dtype", "tensors", "elements", "size")
    for column in table.columns[2:]:
        column.justify = "right"
    shown = ""
    for group in description.groups:
        table.add_row(
            ROLES.get(group.role, group.role) if group.role != shown else "",
            group.dtype,
            f"{group.tensors:,}",
            f"{group.elements:,}",
            decimal(group.size_bytes),
            style="dim" if group.role in ("activations", "other") else "",
        )
        shown = group.role
    return table


def _facts(description: FileDescription) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "layers" if description.format in ("keras", "h5") else "operators": _operators(description),
        "custom": ", ".join(description.custom_ops),
        "flex": ", ".join(description.flex_ops),
        "computes in": _arithmetic(description),
        "quantized": _quantization(description),
        "sparsity": _sparsity(description),
        "made by": description.producer or "",
        "version": _version(description),
        "metadata": ", ".join(f"{k}: {v}" for k, v in description.metadata.items()),
    }
    for label, fact in facts.items():
        if fact:
            table.add_row(label, _text(fact))
    return table


def _operators(description: FileDescription) -> str:
    counts = [f"{n}×{name}" if n > 1 else name for name, n in description.ops.items()]
    where = f" in {description.subgraphs} subgraphs" if description.subgraphs > 1 else ""
    return f"{sum(description.ops.values())}{where}: {', '.join(counts)}"


def _arithmetic(description: FileDescription) -> str:
    from edgekit.formats.tflite_floats import NEVER_QUANTIZED

    floats = description.float_tensors
    if description.format == "tfjs" and description.quantization.tensors:
        return "float (the quantized weights are widened when the model is loaded)"
    if floats:
        return f"float ({_listed(floats)})" if description.quantization.tensors else "float"
    if not description.quantization.tensors:
        return ""
    left = sorted(NEVER_QUANTIZED & description.ops.keys())
    return f"integers, except {', '.join(left)} (no integer form)" if left else "integers"


def _quantization(description: FileDescription) -> str:
    quantization = description.quantization
    if not quantization.tensors:
        return ""
    kinds = {"per channel": quantization.per_channel, "with one scale": quantization.per_tensor}
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    low = min(t.scale_min for t in quantization.tensors)
    high = max(t.scale_max for t in quantization.tensors)
    return f"{counts}; scales {low:.2g} to {high:.2g}"


def _sparsity(description: FileDescription) -> str:
    sparsity = description.sparsity
    if sparsity.share is None:
        return ""
    notable = [t for t in sparsity.tensors if t.share >= NOTABLE_SPARSITY]
    listed = _listed(tuple(f"{t.name} {t.share:.0%}" for t in notable))
    return f"{sparsity.share:.1%} of the weights are zero" + (f" ({listed})" if notable else "")


def _version(description: FileDescription) -> str:
    kind = {"tflite": "schema ", "onnx": "IR "}.get(description.format, "")
    version = [f"{kind}{description.version}"] if description.version else []
    opsets = [f"opset {domain} {version}" for domain, version in description.opsets.items()]
    return ", ".join(version + opsets)


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _shape(shape: tuple[int | None, ...]) -> str:
    return " × ".join("?" if size is None else str(size) for size in shape) or "not stated"


def _affine(spec: TensorSpec) -> str:
    """The real value in terms of the integer q."""
    if spec.scale is None:
        return ""
    zero = spec.zero_point or 0
    shifted = f"(q {'-' if zero > 0 else '+'} {abs(zero)})" if zero else "q"
    return f"{shifted} × {spec.scale:.4g}"


def _table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _text(value: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(_plain(value), style)


def _plain(value: str) -> str:
    """A name out of a file must not move the terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in value)

"""What may be asked of `edgekit quantize`: refused before TensorFlow starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekit.errors import ConversionError
from edgekit.types import BACKENDS, CALIBRATIONS, METHODS, Quantization
from edgekit.verbs.export_request import needs_calibration


def check_values(
    method: str, epochs: int | None, max_drop: object, quantization: Quantization
) -> None:
    """Refuse what the command line has no words for, and epochs of no training."""
    _check("method", method, METHODS)
    _check("calibration", quantization.calibration, CALIBRATIONS)
    _check("backend", quantization.backend, BACKENDS)
    if max_drop is not None and not isinstance(max_drop, str):
        raise ConversionError(f"max_drop is text, not {max_drop!r}", hint="as in max_drop='1%'")
    if not 50 < quantization.percentile <= 100:
        raise ConversionError(
            f"a percentile of {quantization.percentile:g} leaves no range",
            hint="more than 50, at most 100",
        )
    if epochs is not None and method != "qat":
        raise ConversionError("without training there are no epochs", hint="add --method qat")
    if epochs is not None and epochs < 1:
        raise ConversionError(f"{epochs} epochs train nothing", hint="1 or more")


def check_combination(
    wanted: Sequence[tuple[str, str]],
    quantization: Quantization,
    method: str,
    has_precision: bool,
    searches: bool,
    explains: bool,
) -> None:
    """Refuse options that would have no effect."""
    if searches and (has_precision or explains):
        raise ConversionError(
            "a search finds the precision by itself",
            hint="leave out --precision and --explain, or --max-drop",
        )
    if not explains and any(precision == "fp32" for _, precision in wanted):
        raise ConversionError(
            "fp32 is not quantized", hint="use edgekit export; --explain takes fp32"
        )
    if method == "qat" and any(precision == "fp16" for _, precision in wanted):
        raise ConversionError(
            "qat trains for weights of 8 bits, and fp16 has none", hint="leave out --method qat"
        )
    if any(form == "tfjs" for form, _ in wanted) and explains:
        raise ConversionError(
            "in tfjs weights alone are quantized, all layers alike",
            hint="leave out --explain, or --to tfjs",
        )
    default = Quantization()
    if quantization.backend != default.backend and all(form != "tflite" for form, _ in wanted):
        raise ConversionError(
            f"{quantization.backend} quantizes tflite only", hint="leave out --backend"
        )
    if quantization.calibration != "percentile" and quantization.percentile != default.percentile:
        raise ConversionError(
            f"--percentile is not looked at by {quantization.calibration}",
            hint="add --calibration percentile",
        )
    here = replace(quantization, backend=default.backend)
    if searches and replace(here, keep_float=()) != default:
        raise ConversionError(
            "a search tries the calibrations and the equalization by itself",
            hint="leave out --calibration, --percentile and --equalize, or --max-drop",
        )
    for form, precision in wanted:
        if here != default and not needs_calibration(form, precision):
            raise ConversionError(
                f"{precision}.{form} has no activations of integers, to which --calibration, "
                "--keep-float and --equalize apply",
                hint="ask for it in a command of its own",
            )


def _check(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise ConversionError(f"unknown {what} {given!r}", hint=f"known: {', '.join(known)}")

"""Log-mel frames: how loud each band of hearing is, frame by frame. `log_mel.mjs` is its twin.

For samples x from -1 to 1, with N for `frame` and H for `hop`:

    w[n]    = 0.5 - 0.5 cos(2 pi n / N)                  periodic Hann window, n = 0 .. N-1
    P[t, k] = |sum over n of w[n] x[tH + n] e^(-2 pi i k n / N)|^2 / N       k = 0 .. N/2
    F[t, b] = log(floor + sum over k of W[b, k] P[t, k])                     natural logarithm

W[b] is a triangle over the frequencies k * sample_rate / N. With bands + 2 edges from low_hz to
high_hz at equal distances in mel, it rises from 0 at edge b to 1 at edge b + 1 and falls to 0 at
edge b + 2. The mel scale is HTK's, mel(f) = 2595 log10(1 + f / 700) (S. Young et al., The HTK Book,
"Filterbank Analysis"), and so is the height of 1: no triangle is divided by its width.

`floor` is added, which bounds what silence becomes, log(floor), without a kink. All is computed in
float64 and rounded to float32 once, at the end: languages then differ in the last bit at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from edgekit.errors import EdgekitError, SourceError

__all__ = ["LogMel"]

LOUDEST = 2.0
"""Beyond it floats are no samples from -1 to 1; a resampler may overshoot 1, but not by as much."""


@dataclass(frozen=True)
class LogMel:
    """A description of log-mel frames; its fields are plain JSON (`dataclasses.asdict`).

    A recording is taken from its start: of a longer one than `seconds` the end is cut off, a
    shorter one is continued with zeros. Samples at the end that fill no frame are left out.

    Raises:
        EdgekitError: no frames can be computed by such a description.
    """

    sample_rate: int = 8_000
    """In Hz. Other recordings must be resampled first."""
    seconds: float = 1.0
    frame: int = 256
    """In samples, a power of two."""
    hop: int = 128
    """From the start of one frame to the next, in samples."""
    bands: int = 40
    low_hz: float = 20.0
    high_hz: float = 4_000.0
    floor: float = 1e-6
    """Of the power: what is far below is silence. White noise of level s has 0.375 s^2 per bin."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, is_whole = getattr(self, field.name), field.type == "int"
            wanted = "whole number" if is_whole else "number"
            if (
                isinstance(value, bool)
                or not isinstance(value, int if is_whole else (int, float))
                or not 0 <= value < math.inf
            ):
                raise _refused(f"{field.name} must be a {wanted} from 0 on", "correct it")
        for is_wrong, what, hint in (
            (
                self.frame < 2 or self.frame & (self.frame - 1),
                "frame must be a power of two",
                "256",
            ),
            (not 1 <= self.hop <= self.frame, "hop must be from 1 to frame", "half of frame"),
            (self.floor == 0, "floor must be above 0: silence has no logarithm", "1e-6"),
            (self.bands == 0, "bands must be above 0", "40"),
            (self.length < self.frame, "seconds must hold at least one frame", "1"),
            (self.low_hz >= self.high_hz, "low_hz must be below high_hz", "20 for low_hz"),
            (
                2 * self.high_hz > self.sample_rate,
                "high_hz must not be above half of sample_rate, where nothing can be heard",
                "half of sample_rate for high_hz",
            ),
        ):
            if is_wrong:
                raise _refused(what, f"take {hint}")
        empty = np.flatnonzero(self._triangles.max(axis=1) <= 0)
        if len(empty):
            raise _refused(
                f"band {empty[0]} lies between two frequencies of a frame and would hear nothing",
                "take fewer bands or a longer frame",
            )

    @property
    def length(self) -> int:
        """The samples that are looked at."""
        return math.floor(self.seconds * self.sample_rate + 0.5)

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, bands)."""
        return (self.length - self.frame) // self.hop + 1, self.bands

    def compute(self, samples: np.ndarray) -> np.ndarray:
        """The frames of one recording (samples,), or of some of one length (recordings, samples).

        Args:
            samples: int16, or floats from -1 to 1.

        Returns:
            float32 of `shape`, behind the number of recordings if some are given.

        Raises:
            SourceError: there are none, or they are not as above.
        """
        if not (samples.dtype == np.int16 or samples.dtype.kind == "f"):
            raise SourceError(
                f"samples of type {samples.dtype} cannot be used",
                hint="give them as int16, or as floats from -1 to 1",
            )
        if samples.ndim not in (1, 2) or samples.size == 0:
            raise SourceError(
                f"there are no samples in an array of shape {samples.shape}",
                hint="give one recording as (samples,), or some as (recordings, samples)",
            )
        if samples.ndim == 2:
            return np.stack([self.compute(recording) for recording in samples])
        taken = np.zeros(self.length)
        taken[: len(samples)] = samples[: self.length]
        if samples.dtype == np.int16:
            taken /= 32_768
        if not np.abs(taken).max() <= LOUDEST:
            raise SourceError(
                "samples are not from -1 to 1",
                hint="divide those of 16 bits by 32768, or give them as int16; replace NaN by 0",
            )
        frames = np.lib.stride_tricks.sliding_window_view(taken, self.frame)[:: self.hop]
        spectrum = np.fft.rfft(frames * self._window)
        power = (spectrum.real**2 + spectrum.imag**2) / self.frame
        heard: np.ndarray = np.log(power @ self._triangles.T + self.floor)
        return heard.astype(np.float32)

    @cached_property
    def _window(self) -> np.ndarray:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.frame) / self.frame)

    @cached_property
    def _triangles(self) -> np.ndarray:
        """(bands, frame / 2 + 1)."""
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (self.low_hz, self.high_hz))
        mels = low + (high - low) * np.arange(self.bands + 2) / (self.bands + 1)
        edges = 700 * (10 ** (mels / 2595) - 1)
        left, middle, right = (edges[i : i + self.bands, np.newaxis] for i in range(3))
        hz = np.arange(self.frame // 2 + 1) * self.sample_rate / self.frame
        rising, falling = (hz - left) / (middle - left), (right - hz) / (right - middle)
        return np.maximum(0, np.minimum(rising, falling))


def _refused(what: str, hint: str) -> EdgekitError:
    return EdgekitError(f"log-mel frames: {what}", hint=hint)

"""Log-mel frames of Python and of JavaScript against each other, and against the formula."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import edgekit.features
from edgekit.datasets import load_recordings
from edgekit.errors import EdgekitError, SourceError
from edgekit.features.log_mel import LogMel
from edgekit.targets import node
from tests.conftest import skip_without

SAME = 1e-5
"""Largest difference that is allowed; one bit of float32 is 1e-6 here."""

PLAIN = LogMel()
DESCRIPTIONS = [
    PLAIN,
    LogMel(16_000, 0.5, 512, 160, 64, 0.0, 7_600.0, 1e-3),
    LogMel(seconds=0.0321, frame=256, hop=256, bands=1, low_hz=300.0, high_hz=3_400.0),
    LogMel(22_050, 0.05, 1_024, 1, 20, 50.0, 11_025.0, 1e-9),
]
BAD = [
    ({"sample_rate": 8_000.5}, "sample_rate must be a whole number from 0 on; correct it"),
    ({"hop": -1}, "hop must be a whole number from 0 on; correct it"),
    ({"seconds": "1"}, "seconds must be a number from 0 on; correct it"),
    ({"bands": None}, "bands must be a whole number from 0 on; correct it"),
    ({"frame": True}, "frame must be a whole number from 0 on; correct it"),
    ({"frame": 300}, "frame must be a power of two; take 256"),
    ({"frame": 1}, "frame must be a power of two; take 256"),
    ({"hop": 0}, "hop must be from 1 to frame; take half of frame"),
    ({"hop": 257}, "hop must be from 1 to frame; take half of frame"),
    ({"floor": 0}, "floor must be above 0: silence has no logarithm; take 1e-6"),
    ({"bands": 0}, "bands must be above 0; take 40"),
    ({"seconds": 0.03}, "seconds must hold at least one frame; take 1"),
    ({"low_hz": 4_000}, "low_hz must be below high_hz; take 20 for low_hz"),
    (
        {"high_hz": 4_001},
        "high_hz must not be above half of sample_rate, where nothing can be heard; "
        "take half of sample_rate for high_hz",
    ),
    (
        {"frame": 64, "hop": 64},
        "band 0 lies between two frequencies of a frame and would hear nothing; "
        "take fewer bands or a longer frame",
    ),
]
BAD_SAMPLES = [
    (np.array([0.1, np.nan], np.float32), "samples are not from -1 to 1"),
    (np.array([0.1, np.inf]), "samples are not from -1 to 1"),
    (np.array([300, -20], np.float32), "samples are not from -1 to 1"),
    (np.array([], np.int16), "there are no samples"),
    (np.array([1, 2], np.int32), "samples of type"),
]
SCRIPT = """
import {readFileSync} from 'node:fs';
const {logMel} = await import(process.argv[1]);
const answers = JSON.parse(readFileSync(0)).map(({type, samples, description}) => {
  const given = globalThis[type].from(samples, Number);
  const before = given.slice();
  try {
    const features = logMel(given, description);
    if (!(features instanceof Float32Array)) throw Error('no Float32Array');
    if (given.some((x, i) => !Object.is(x, before[i]))) throw Error('changed its samples');
    return {features: [...features]};
  } catch (error) {
    return {error: error.message};
  }
});
console.log(JSON.stringify(answers));
"""
ARRAYS = {"i2": "Int16Array", "i4": "Int32Array", "f4": "Float32Array", "f8": "Float64Array"}


def run_js(jobs):
    """What log_mel.mjs answers to each (samples, description), in one process."""
    program = node.find_node()
    skip_without(program is not None, "Node.js", "pip install 'edgekit-ml[tfjs]'")
    request = [
        {
            "type": ARRAYS[samples.dtype.str[1:]],
            "samples": [x if np.isfinite(x) else str(x) for x in samples.tolist()],
            "description": description,
        }
        for samples, description in jobs
    ]
    module = Path(edgekit.features.__path__[0], "log_mel.mjs").as_uri()
    done = subprocess.run(
        [program, "--input-type=module", "-e", SCRIPT, module],
        input=json.dumps(request).replace('"inf"', '"Infinity"').replace('"nan"', '"NaN"'),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def difference(jobs):
    """The largest one between Python and JavaScript over all (samples, LogMel)."""
    answers = run_js([(samples, asdict(features)) for samples, features in jobs])
    largest = 0.0
    for (samples, features), answer in zip(jobs, answers, strict=True):
        python = features.compute(samples)
        assert python.dtype == np.float32
        assert python.shape == features.shape
        javascript = np.array(answer["features"]).reshape(features.shape)
        largest = max(largest, np.abs(python - javascript).max())
    return largest


def by_the_formula(samples, f):
    """The frames with other means: a DFT term by term, triangles by interpolation, mel by ln."""
    padded = np.concatenate([samples, np.zeros(f.length)])[: f.length]
    n, k = np.arange(f.frame), np.arange(f.frame // 2 + 1)
    terms = np.exp(-2j * np.pi * np.outer(n, k) / f.frame)
    window = np.hanning(f.frame + 1)[:-1]
    starts = range(0, f.length - f.frame + 1, f.hop)
    power = [np.abs((window * padded[s : s + f.frame]) @ terms) ** 2 / f.frame for s in starts]
    return np.log(np.array(power) @ triangles(f).T + f.floor)


def triangles(f):
    mels = np.linspace(
        *(1127.01048 * np.log(1 + hz / 700) for hz in (f.low_hz, f.high_hz)), f.bands + 2
    )
    edges = 700 * (np.exp(mels / 1127.01048) - 1)
    hz = np.fft.rfftfreq(f.frame, 1 / f.sample_rate)
    return np.array([np.interp(hz, edges[b : b + 3], [0, 1, 0]) for b in range(f.bands)])


def noise(level=0.1, size=8_000):
    return np.clip(np.random.default_rng(0).normal(0, level, size), -1, 1)


def test_real_recordings_give_the_same_in_python_and_javascript():
    skip_without(
        "EDGEKIT_DATA" in os.environ, "the data", "set EDGEKIT_DATA to a folder of .npz files"
    )
    arrays = load_recordings()
    recordings = np.split(arrays["samples"], np.cumsum(arrays["lengths"])[:-1])
    chosen = [
        samples for samples, take in zip(recordings, arrays["takes"], strict=True) if take < 5
    ]
    chosen += [min(recordings, key=len), max(recordings, key=len)]
    assert len(chosen) == 302
    assert min(map(len, chosen)) < 2_000
    assert max(map(len, chosen)) > 8_000
    assert difference([(samples, PLAIN) for samples in chosen]) <= SAME


@pytest.mark.parametrize("features", DESCRIPTIONS)
def test_other_sounds_give_the_same_in_python_and_javascript(features):
    time = np.arange(features.length) / features.sample_rate
    loud = (32_767 * np.sign(np.sin(2 * np.pi * 440 * time))).astype(np.int16)
    sounds = [
        noise(size=features.length),
        noise(1e-6).astype(np.float32),
        np.zeros(features.length),
        np.zeros(3, np.int16),
        0.5 * np.sin(2 * np.pi * 1_000 * time),
        loud,
        np.array([-32_768], np.int16),
        noise(0.3, 3 * features.length),
    ]
    assert difference([(sound, features) for sound in sounds]) <= SAME


@pytest.mark.parametrize("features", DESCRIPTIONS)
def test_python_computes_the_formula(features):
    for samples in (noise(size=features.length), noise(0.01, 200), noise(1e-7)):
        wanted = by_the_formula(samples, features)
        assert wanted.shape == features.shape
        np.testing.assert_allclose(features.compute(samples), wanted, rtol=0, atol=SAME)


def test_the_shape_of_a_second():
    assert PLAIN.shape == (61, 40)
    assert PLAIN.compute(noise()).shape == (61, 40)
    assert LogMel(seconds=0.032).shape == (1, 40)


def test_silence_is_the_logarithm_of_the_floor():
    np.testing.assert_array_equal(PLAIN.compute(np.zeros(8_000)), np.float32(np.log(1e-6)))
    louder = replace(PLAIN, floor=0.5)
    np.testing.assert_array_equal(louder.compute(np.zeros(1)), np.float32(np.log(0.5)))


def test_a_tone_is_in_its_band():
    # 1,000 Hz is bin 32. The Hann window leaves a quarter of the sum there, an eighth beside it:
    # |X| = A N / 4 and A N / 8, so P = A^2 N / 16 and a quarter of that.
    tone = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(8_000) / 8_000)
    weights = triangles(PLAIN)
    power = 4 * weights[:, 32] + weights[:, 31] + weights[:, 33]
    frames = PLAIN.compute(tone)
    np.testing.assert_allclose(frames, [np.log(power + 1e-6)] * 61, atol=SAME)
    # It is 1,000 mel, and (1,000 - 32) / ((2,146 - 32) / 41) = 18.8 edges above low_hz.
    assert set(frames.argmax(axis=1)) == {18}


def test_white_noise_is_as_loud_in_each_bin():
    per_bin = np.exp(PLAIN.compute(noise())) / triangles(PLAIN).sum(axis=1)
    assert per_bin[:, 5:].mean() == pytest.approx(0.375 * 0.1**2, rel=0.05)


def test_short_recordings_end_in_silence_and_long_ones_are_cut():
    sound = noise(size=20_000)
    short = PLAIN.compute(sound[:1_000])
    np.testing.assert_array_equal(short[8:], np.float32(np.log(1e-6)))
    assert (short[:8] > np.log(1e-6) + 0.1).all()
    np.testing.assert_array_equal(short[:6], PLAIN.compute(sound)[:6])
    np.testing.assert_array_equal(PLAIN.compute(sound), PLAIN.compute(sound[:8_000]))


def test_samples_of_every_type_and_number_give_the_same():
    whole = (32_768 * noise()).astype(np.int16)
    frames = PLAIN.compute(whole)
    np.testing.assert_array_equal(PLAIN.compute(whole / 32_768), frames)
    np.testing.assert_array_equal(PLAIN.compute((whole / 32_768).astype(np.float32)), frames)
    both = PLAIN.compute(np.stack([whole, whole[::-1]]))
    np.testing.assert_array_equal(both, [frames, PLAIN.compute(whole[::-1])])


@pytest.mark.parametrize("features", DESCRIPTIONS)
def test_a_description_is_plain_json(features):
    assert LogMel(**json.loads(json.dumps(asdict(features)))) == features


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_descriptions_are_refused(change, message):
    with pytest.raises(EdgekitError) as caught:
        LogMel(**asdict(PLAIN) | change)
    assert f"{caught.value}; {caught.value.hint}" == f"log-mel frames: {message}"


def test_javascript_refuses_bad_descriptions_in_the_same_words():
    plain = asdict(PLAIN)
    bad = [*BAD, ({"preemphasis": 0.97}, "there is no field preemphasis; leave it out")]
    jobs = [(np.zeros(9), plain | change) for change, _ in bad]
    messages = [message for _, message in bad]
    jobs.append((np.zeros(9), {name: plain[name] for name in plain if name != "low_hz"}))
    messages.append("low_hz must be a number from 0 on; correct it")
    assert run_js(jobs) == [{"error": f"log-mel frames: {message}"} for message in messages]


@pytest.mark.parametrize(
    ("samples", "message"), [*BAD_SAMPLES, (np.zeros((1, 1, 1)), "there are no")]
)
def test_bad_samples_are_refused(samples, message):
    with pytest.raises(SourceError, match=message) as caught:
        PLAIN.compute(samples)
    assert caught.value.hint


def test_javascript_refuses_bad_samples():
    answers = run_js([(samples, asdict(PLAIN)) for samples, _ in BAD_SAMPLES])
    for answer, (_, message) in zip(answers, BAD_SAMPLES, strict=True):
        assert answer["error"].startswith(message)
        assert "; " in answer["error"]

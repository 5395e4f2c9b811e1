"""The scripts of browsers and Node.js, one at a time, in Node.js."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from edgekit.agent.protocol import TensorSpec, encode
from edgekit.agent.runners import dequantize, quantize
from edgekit.targets.browser_server import SCRIPTS
from edgekit.targets.node import find_node


def node(script, *arguments):
    done = subprocess.run(
        [str(find_node()), "--input-type=module", "-e", script, *arguments],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


CHROME, FIREFOX, SAFARI = "Chrome 130.0.0.0", "Firefox 132.0", "Safari 18.5"
SAYS = {
    CHROME: "Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML) Chrome/130.0.0.0 Safari/537.36",
    FIREFOX: "Mozilla/5.0 ({}) Gecko/132.0 Firefox/132.0",
    SAFARI: "Mozilla/5.0 ({}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/604.1",
}
ARM, INTEL = "Linux armv81", "Linux x86_64"
OLD_PHONE = "Linux; Android 9; SM-G960F Build/R16NW"
IPHONE = "iPhone; CPU iPhone OS 18_5 like Mac OS X"
MAC = "Macintosh; Intel Mac OS X 10_15_7"


@pytest.mark.parametrize(
    ("browser", "system", "platform", "touches", "expected"),
    [
        (CHROME, "Linux; Android 10; K", ARM, 5, ("aarch64", "aarch64", "Android")),
        (CHROME, OLD_PHONE, ARM, 5, ("SM-G960F", "aarch64", "Android 9")),
        (FIREFOX, "Android 14; Mobile; rv:132.0", ARM, 5, ("aarch64", "aarch64", "Android 14")),
        (FIREFOX, "X11; Linux x86_64; rv:132.0", INTEL, 0, ("x86_64", "x86_64", "Linux")),
        (FIREFOX, "Windows NT 6.1; Win64; x64", "Win32", 0, ("x86_64", "x86_64", "Windows NT 6.1")),
        (SAFARI, IPHONE, "iPhone", 5, ("iPhone", "aarch64", "iOS 18.5")),
        (SAFARI, MAC, "MacIntel", 5, ("iPad", "aarch64", "iPadOS")),
        (SAFARI, MAC, "MacIntel", 0, ("Mac", "unknown", "Intel Mac OS X 10_15_7")),
    ],
)  # fmt: skip
def test_a_machine_is_what_its_browser_tells(browser, system, platform, touches, expected):
    """Over http from elsewhere, where a browser tells no more than this."""
    agent = SAYS[browser].format(system)
    told = {"userAgent": agent, "platform": platform, "maxTouchPoints": touches}
    script = f"""
    const value = JSON.parse(process.argv[1]);
    Object.defineProperty(globalThis, 'navigator', {{value, configurable: true}});
    const {{describeMachine}} = await import({json.dumps((SCRIPTS / "machine.mjs").as_uri())});
    console.log(JSON.stringify(await describeMachine()));
    """
    found = node(script, json.dumps(told))
    cpu, arch, name = expected
    assert (found["cpu"], found["arch"], found["os"]) == (cpu, arch, f"{name}, {browser}")


def test_integers_are_the_same_as_in_python():
    spec = TensorSpec("x", "x", (None,), "int8", scale=0.25, zero_point=-3)
    values = np.array([0.125, 0.375, -0.125, -0.375, 1e9, -1e9, 0.1, 7.99, -31.3], np.float32)
    script = f"""
    import {{quantize, dequantize}} from {json.dumps((SCRIPTS / "quantize.mjs").as_uri())};
    const [values, spec] = JSON.parse(process.argv[1]);
    const data = quantize({{data: Float32Array.from(values), dtype: 'float32'}}, spec);
    const back = dequantize({{data, dtype: 'int8', shape: [data.length]}}, spec);
    console.log(JSON.stringify([[...data], [...back.data]]));
    """
    integers, reals = node(script, json.dumps([values.tolist(), encode(spec)]))
    expected = quantize(values, spec)
    assert integers == expected.tolist()
    assert np.array_equal(np.float32(reals), dequantize(expected, spec))


@pytest.mark.parametrize("takes_ms", [0.02, 0.4])
def test_a_coarse_clock_gets_long_samples(takes_ms):
    """As on a phone: one step of the clock is a millisecond, and the model takes a fraction."""
    script = f"""
    const real = performance.now.bind(performance);
    performance.now = () => Math.floor(real());
    const {{measure}} = await import({json.dumps((SCRIPTS / "timing.mjs").as_uri())});
    const invoke = async () => {{ for (const s = real(); real() - s < {takes_ms}; ); }};
    console.log(JSON.stringify(await measure({{invoke, tidy() {{}}}}, 1)));
    """
    measured = node(script)
    lasting = np.median(measured["samples_ns"]) * measured["loops"]
    assert 20e6 <= lasting <= 300e6  # a hundred steps are asked for
    assert np.median(measured["samples_ns"]) >= 0.9e6 * takes_ms

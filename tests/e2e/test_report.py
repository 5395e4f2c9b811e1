"""The page in a real browser: it opens, fits, prints, is readable, and runs nothing."""

from __future__ import annotations

import shutil
from itertools import pairwise

import pytest

from edgekit.errors import MissingDependency
from edgekit.latency import summarize
from edgekit.reporting.facts import gather
from edgekit.reporting.page import render
from edgekit.targets import browser_programs
from edgekit.targets.browser_programs import INSTALL
from edgekit.workspace import Workspace
from tests import report_workspaces as made
from tests.conftest import run_edgekit, skip_without
from tests.e2e.chromium import Chromium

DARK = {"prefers_color_scheme": "dark"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)><svg onload=alert(3)>{{7*7}}"


@pytest.fixture(scope="module")
def chromium():
    try:
        is_there = browser_programs.find("chromium").is_file()
    except MissingDependency:
        is_there = False
    skip_without(is_there, "Chromium", INSTALL["chromium"])
    browser = Chromium()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def workspace(digits, tmp_path_factory):
    """The trained one, with times of two places and instructions of a third."""
    folder = tmp_path_factory.mktemp("report") / "digits"
    shutil.copytree(digits, folder)
    found = Workspace.open(folder)
    found.add_records(made.timed("keras", found.manifest.source.sha256, 3e5))
    for i, artifact in enumerate(found.manifest.artifacts):
        found.add_records(
            made.timed(artifact.id, artifact.sha256, (i + 1) * 1e3),
            made.timed(artifact.id, artifact.sha256, (i + 1) * 1e5, "browser"),
            made.counted(artifact, 10_000 * (i + 1)),
        )
    return found


@pytest.fixture(scope="module")
def page(workspace, tmp_path_factory):
    """Written by the command."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    done = run_edgekit("report", workspace.path, "-o", file, "--json")
    assert done.code == 0, done.err
    assert done.json["headline"] == "All 5 files are proved"
    assert done.json["size_bytes"] == file.stat().st_size < 1_000_000
    return file


def pages(folder):
    """Reports of workspaces of every kind, as files."""
    one = made.new(folder / "one")
    one.add_records(made.proved(made.publish(one)))
    bad = made.full(folder / "bad")
    artifact = bad.artifact("fp32.tflite")
    bad.add_records(made.proved(artifact, failures=["output 'y' is off by 0.5 of its scale"]))
    (bad.path / "int8.onnx").unlink()
    long = made.full(folder / "long", "a_model_with_a_name_" * 8, "an_output_with_a_name_" * 8)
    found = {
        "empty": made.new(folder / "empty"),
        "one": one,
        "bad": bad,
        "long": long,
        "hostile": made.full(folder / "hostile", HOSTILE, HOSTILE),
    }
    for name, workspace in found.items():
        file = folder / f"{name}.html"
        file.write_text(render(gather(workspace)), encoding="utf-8")
        yield name, file


def assert_is_quiet(chromium, file):
    assert chromium.said == []
    foreign = [u for u in chromium.asked if u != file.as_uri() and not u.startswith("data:")]
    assert foreign == []


def cells(chromium, section):
    """The text of a section's table, row by row."""
    return chromium.ask(
        f"[...document.querySelectorAll('#{section} tbody tr')].map("
        "r => [...r.children].map(c => c.textContent.trim()))"
    )


def test_it_opens_without_a_word_and_asks_for_nothing(chromium, page):
    chromium.open(page)
    assert_is_quiet(chromium, page)
    assert chromium.ask("document.title") == "digits_mlp: All 5 files are proved"
    assert chromium.ask("document.scripts.length") == 0


def test_it_says_what_the_manifest_says(chromium, page, workspace):
    chromium.open(page)
    _, *rows = cells(chromium, "files")
    manifest = workspace.manifest
    assert [row[0].lstrip("12345") for row in rows] == [a.id for a in manifest.artifacts]
    for row, artifact in zip(rows, manifest.artifacts, strict=True):
        [proof] = [p for p in manifest.parity if p.artifact == artifact.id]
        [metric] = [a for a in manifest.accuracy if a.artifact == artifact.id]
        assert row[1] == "proved"
        assert row[3].startswith(f"{metric.metrics['accuracy']:.4f} (")
        assert row[4] == f"{max(o.max_rel for o in proof.outputs):.1e}"
        assert row[6] == f"{100 * proof.outputs[0].top1_agreement:.2f} %"
    medians = {
        r.artifact: summarize(r).p50_ns / 1e3 for r in manifest.latency if r.target == "browser"
    }
    browser = [row for row in cells(chromium, "speed") if row[0] in medians][-5:]
    assert {row[0]: float(row[1].removesuffix(" µs")) for row in browser} == medians
    counted = {row[0]: row[1] for row in cells(chromium, "instructions")}
    assert counted == {r.artifact: f"{r.counts[0]:,}" for r in manifest.instructions}
    # Of all values of all rows, each stands in a bar.
    bars = chromium.ask(
        "[...document.querySelectorAll('#details figure')].filter("
        "f => f.textContent.includes('Errors of')).map(f => [f.querySelector('figcaption')"
        ".textContent, [...f.querySelectorAll('rect title')].map(t => parseInt("
        "t.textContent.replace(/,/g, ''))).reduce((a, b) => a + b)])"
    )
    assert len(bars) == 5
    for caption, total in bars:
        assert f"all {total:,} values" in caption


def test_it_fits_a_phone_whatever_is_in_it(chromium, page, tmp_path):
    for name, file in [("digits", page), *pages(tmp_path)]:
        chromium.open(file, 360, 740)
        chromium.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert chromium.ask("document.documentElement.scrollWidth") <= 360, name
        # What is wider than its place can be scrolled there, also without a mouse.
        beyond = chromium.ask(
            "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right"
            " > 361 && !e.closest('.scroll, pre')).map(e => e.outerHTML.slice(0, 80))"
        )
        assert beyond == [], name
        assert_is_quiet(chromium, file)


def test_names_are_text(chromium, tmp_path):
    [file] = [file for name, file in pages(tmp_path) if name == "hostile"]
    chromium.open(file)
    assert_is_quiet(chromium, file)
    assert chromium.ask("document.querySelector('h1').textContent") == HOSTILE
    assert chromium.ask("document.scripts.length + document.images.length") == 0
    handlers = "e => [...e.attributes].some(a => a.name.startsWith('on'))"
    assert chromium.ask(f"[...document.querySelectorAll('*')].filter({handlers}).length") == 0
    names = chromium.ask(
        "[...document.querySelectorAll('#details tbody th')].map(e => e.textContent)"
    )
    assert HOSTILE in names


def test_the_answer_comes_first(chromium, tmp_path):
    wanted = {
        "empty": ("doubtful", "There are no files yet"),
        "one": ("good", "The file is proved"),
        "bad": ("bad", "Not yet: 2 of 2 files are not proved"),
    }
    for name, file in pages(tmp_path):
        if name in wanted:
            chromium.open(file)
            first = "document.querySelector('main > section')"
            tone, headline = wanted[name]
            assert tone in chromium.ask(f"{first}.className")
            assert chromium.ask(f"{first}.querySelector('h2').textContent") == headline
    chromium.open(tmp_path / "bad.html")
    assert "off by 0.5 of its scale" in chromium.ask(f"{first}.textContent")
    opened = chromium.ask("[...document.querySelectorAll('details')].map(d => d.open)")
    assert opened == [True, True]


CONTRAST = """
(() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parsed = s => s.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const below = e => {
    for (; e; e = e.parentElement) {
      const c = parsed(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
  };
  let least = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    const written = [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
    if (e.closest('svg') || !written) continue;
    const [a, b] = [light(parsed(getComputedStyle(e).color)), light(below(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 100)];
  }
  return least;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(chromium, page, tmp_path, scheme):
    for file in [page, *(file for name, file in pages(tmp_path) if name == "bad")]:
        chromium.open(file, prefers_color_scheme=scheme)
        ratio, where = chromium.ask(CONTRAST)
        assert ratio >= 4.5, where  # WCAG AA
    paper = chromium.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 300) == (scheme == "dark")


def test_every_picture_has_a_name_and_every_box_a_label(chromium, page):
    chromium.open(page)
    nameless = (
        "[...document.querySelectorAll('svg:not([aria-hidden]), [role=region], section, nav')]"
        ".filter(e => !(e.querySelector(':scope > title')?.textContent || e.ariaLabel ||"
        " document.getElementById(e.getAttribute('aria-labelledby'))?.textContent))"
    )
    assert chromium.ask(f"{nameless}.map(e => e.outerHTML.slice(0, 80))") == []
    levels = chromium.ask("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    links = "[...document.querySelectorAll('nav a')]"
    assert chromium.ask(f"{links}.every(a => document.querySelector(a.getAttribute('href')))")


def test_paper_shows_what_is_folded(chromium, page):
    chromium.open(page)
    inside = "document.querySelector('details:not([open]) dl').getBoundingClientRect().height"
    chromium.media("print", **DARK)
    assert chromium.ask(inside) > 50
    assert chromium.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = chromium.pdf()
    assert pdf.startswith(b"%PDF")

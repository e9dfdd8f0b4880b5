"""The page in headless Chromium: complete, quiet, legible, usable by keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meditron_cli.reporting.html_report.summary import find

from ....chromium import Chromium
from .conftest import Made

CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => v / 255).map(
      (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    texts += 1;
    const colour = element.ownerSVGElement ? style.fill : style.color;
    const [a, b] = [light(rgb(colour)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5 || parseFloat(style.fontSize) < 11) {
      poor.push([walker.currentNode.data.trim().slice(0, 40), colour, style.fontSize]);
    }
  }
  return { texts, poor };
})()
"""
"""Texts whose contrast is below 4.5 (WCAG 2.2, AA), or that are smaller than 11 pixels."""


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_page_is_quiet_and_legible(browser: Chromium, page: Path, width: int, mode: str) -> None:
    browser.open(page, width, mode)

    found = browser.run(CONTRASTS)
    drawn = "document.querySelectorAll('.chart svg path').length"
    assert browser.messages == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.run("document.querySelectorAll('.chart svg').length") == 9
    assert browser.run(drawn) > 50
    assert found["texts"] > 200
    assert found["poor"] == []
    assert browser.run(LINES) == []
    assert browser.run("document.documentElement.scrollWidth") == width
    dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(251, 251, 250)"
    assert dark == (mode == "dark")


LINES = """
[...document.querySelectorAll("td, th")].map((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
  return [cell.textContent.trim(), tops.size];
}).filter(([text, lines]) => lines > 1 && lines > Math.ceil(text.length / 8))
"""
"""Cells of tables whose text stands in lines of few letters."""

LEGENDS = """
[...document.querySelectorAll(".role-legend")].flatMap((legend) => {
  const right = legend.closest("svg").getBoundingClientRect().right + 1;
  const symbols = [...legend.querySelectorAll(".role-legend-symbol path")];
  const seen = (path) =>
    ["fill", "stroke"].some((name) => path.getAttribute(name).startsWith("var("));
  return [...legend.querySelectorAll("text")].map((text, place) => [text.textContent,
    text.getBoundingClientRect().right <= right && seen(symbols[place])]);
})
"""
"""Texts of legends, and whether each is within its chart, beside a symbol in a colour."""


@pytest.mark.parametrize("width", [400, 1400])
def test_tables_and_legends_of_a_comparison_are_legible(
    browser: Chromium, comparison: Path, width: int
) -> None:
    browser.open(comparison, width)

    assert browser.messages == []
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(LINES) == []
    legends = browser.run(LEGENDS)
    assert {"med", "replay", "preempted or stopped", "published"} < {text for text, _ in legends}
    assert [text for text, is_legible in legends if not is_legible] == []


def test_a_page_shows_the_figures_of_the_json(browser: Chromium, made: Made) -> None:
    browser.open(made.page, 1400)

    shown = browser.run(
        "[...document.querySelectorAll('data')].map((d) => [d.dataset.key, d.value, d.innerText])"
    )

    for key, value, text in shown:
        expected = find(made.results, key)
        expected = len(expected) if isinstance(expected, list) else expected
        assert json.loads(value) == expected
        assert text
    texts = {key: text for key, _, text in shown}
    assert texts["pretrain.tokens"] == "5,120,000"
    assert texts["pretrain.loss_last"] == f"{made.results['pretrain']['loss_last']:.4f}"


def seen(browser: Chromium) -> list[float]:
    """Return the part of the tokens that the charts show."""
    found: list[float] = browser.run("groups.pretrain.now")
    assert browser.run(
        "groups.pretrain.views.every((v) => v.signal('zoom') + '' === groups.pretrain.now + '')"
    )
    return found


def test_a_page_is_used_by_keyboard(browser: Chromium, page: Path) -> None:
    browser.open(page, 1400)
    everything, focused = [0, 5_120_000], "document.activeElement.id"
    assert seen(browser) == everything

    for _ in range(40):
        browser.press("Tab")
        if browser.run("document.activeElement.dataset.move") == "in":
            break
    browser.press("Enter", "\r")
    assert seen(browser) == [1_280_000, 3_840_000]
    for _ in range(40):
        browser.press("Tab")
        if browser.run(focused) == "pretrain-loss":
            break
    assert browser.run(focused) == "pretrain-loss"
    browser.press("ArrowRight")
    assert seen(browser) == [1_920_000, 4_480_000]
    browser.press("+", "+")
    assert seen(browser) == [2_560_000, 3_840_000]
    browser.press("0", "0")
    assert seen(browser) == everything

    for _ in range(80):
        browser.press("Tab")
        if browser.run("document.activeElement.matches('.nodes summary')"):
            break
    browser.press("Enter", "\r")
    assert browser.run("document.activeElement.parentElement.open")
    assert browser.messages == []


ZOOMED = """
(async () => {
  while (groups.pretrain.now === groups.pretrain.all || !groups.pretrain.now[0]) {
    await new Promise((wake) => setTimeout(wake, 20));
  }
  return groups.pretrain.now;
})()
"""
"""Wait until a part of the tokens is shown."""


def test_a_drag_over_a_chart_zooms_all_of_its_kind(browser: Chromium, page: Path) -> None:
    browser.open(page, 1400)
    browser.run("document.getElementById('pretrain-loss').scrollIntoView({ block: 'center' })")
    box = browser.run(
        "JSON.parse(JSON.stringify(document.getElementById('pretrain-loss').getBoundingClientRect()))"
    )
    middle = box["top"] + 80

    browser.drag((box["left"] + 400, middle), (box["left"] + 700, middle))

    width = browser.run(ZOOMED)
    assert 0 < width[0] < width[1] < 5_120_000
    assert seen(browser) == width
    assert browser.messages == []


ROWS = """
(async () => {
  const seen = () => [...document.querySelectorAll("#vg-tooltip-element.visible tr")];
  while (!seen().length) await new Promise((wake) => setTimeout(wake, 20));
  return seen().map((row) => [...row.cells].map((cell) => [cell.textContent, cell.offsetTop]));
})()
"""
"""Wait until values are shown; return of each its name and text with their places."""


def test_pointing_at_a_curve_shows_its_values_beside_their_names(
    browser: Chromium, page: Path
) -> None:
    browser.open(page, 1400)
    browser.run("document.getElementById('pretrain-loss').scrollIntoView({ block: 'center' })")
    box = browser.run(
        "JSON.parse(JSON.stringify(document.getElementById('pretrain-loss').getBoundingClientRect()))"
    )

    for place in (400, 401, 402):
        browser.point(box["left"] + place, box["top"] + 80)

    rows = browser.run(ROWS)
    assert [name for (name, _), _ in rows] == ["step", "tokens", "loss", "least", "largest"]
    assert all(left == right for (_, left), (_, right) in rows)

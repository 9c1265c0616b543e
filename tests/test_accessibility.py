"""Readable for everybody: contrast, colour blindness, pictures in words, keyboard. For texts see
test_texts.py."""
import re

import matplotlib.colors
import numpy as np
import pytest
from helpers import pictures
from helpers.pictures import figures, pages, shades

from builders import Parsed, contrast, query_of, result_of
from documents import NOTEBOOKS, cells

HEX = "#{:02X}{:02X}{:02X}".format
ORANGE, BLUE, GREY, WHITE = HEX(*shades.ORANGE), HEX(*shades.BLUE), "#767676", "#FFFFFF"
# What the figures of the notebooks draw with, "black" and "white" beside it.
PALETTE = {ORANGE, BLUE, GREY, "grey", "black", "white", "#EEEEEE"}
# Machado, Oliveira and Fernandes 2009, DOI 10.1109/TVCG.2009.113, severity 1.0; they act on linear
# RGB.
SIMULATED = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                   [0.0193339, 0.1191920, 0.9503041]])
BLOCKS = [dict(re.findall(r"--(\w+):(#\w+)", block))
          for block in re.findall(r"\{(--bg[^}]*)\}", pages.CSS.replace("\n", ""))]
THEMES = BLOCKS[:2]  # of the system, and again where the notebook has a theme of its own


def rgb(colour):
    return np.array(matplotlib.colors.to_rgb(colour))


def lab(colour, sight="normal"):
    """CIELAB (D65) of a colour as somebody with this sight has it."""
    light = np.where(rgb(colour) <= 0.04045, rgb(colour) / 12.92,
                     ((rgb(colour) + 0.055) / 1.055) ** 2.4)
    ratio = TO_XYZ @ np.clip(np.array(SIMULATED[sight]) @ light, 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one, other, sight):
    """ΔE of 1976; about 2 is just noticeable side by side."""
    return float(np.linalg.norm(lab(one, sight) - lab(other, sight)))


# -- colours ---------------------------------------------------------------------------------------

def test_the_simulation_keeps_grey_and_confuses_red_with_green():
    assert all(np.allclose(np.sum(matrix, 1), 1, atol=1e-5) for matrix in SIMULATED.values())
    assert lab(WHITE) == pytest.approx([100, 0, 0], abs=1e-6)
    assert lab("#FF0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    traffic = {sight: distance("#C85000", "#787800", sight) for sight in SIMULATED}
    assert traffic["deuteranopia"] < 15 < 50 < traffic["normal"]


@pytest.mark.parametrize("sight", SIMULATED)
def test_orange_blue_and_grey_stay_apart_for_every_sight(sight):
    pairs = (ORANGE, BLUE), (ORANGE, GREY), (BLUE, GREY), (ORANGE, WHITE), (BLUE, WHITE)
    found = {pair: distance(*pair, sight) for pair in pairs}
    print(sight, {pair: round(value) for pair, value in found.items()})
    assert found[ORANGE, BLUE] > 100 and min(found.values()) > 30


@pytest.mark.parametrize("sight", SIMULATED)
@pytest.mark.parametrize("background", [theme["bg"] for theme in THEMES])
def test_shades_of_both_signs_stay_apart_for_every_sight(sight, background):
    def shade(share):
        *tint, opacity = map(float, re.findall(r"[\d.]+", shades.rgba(share)))
        return opacity * np.array(tint) / 255 + (1 - opacity) * rgb(background)
    assert all(distance(shade(share), shade(-share), sight) > 75 * share
               for share in (0.2, 0.5, 1.0))
    assert all(distance(shade(share), background, sight) > 35 for share in (-1.0, 1.0))
    cmap, norm = figures.colours(1.0)
    assert background != "#fff" or all(
        np.allclose(cmap(norm(share))[:3], shade(share), atol=0.02) for share in (-1, -0.5, 0.5, 1))


def test_bars_underlines_and_focus_are_seen_in_both_themes():
    assert THEMES[0] != THEMES[1] and BLOCKS == [*THEMES, *THEMES[::-1]]
    outline = re.search(r"focus-visible\+label\{outline:\d+px solid rgb\(([\d,]+)\)",
                        pages.PAGE_CSS)[1]
    blue, orange = (",".join(map(str, colour)) for colour in (shades.BLUE, shades.ORANGE))
    assert outline == blue and f"border-bottom:.16em solid rgb({orange})" in pages.CSS
    for theme in THEMES:
        found = [contrast(rgb(colour), rgb(theme[ground])) for colour in (ORANGE, BLUE)
                 for ground in ("bg", "page")]
        assert min(found) >= 3


def drawn_colours(path):
    """Names of colours and colour maps in the code of a notebook."""
    code = "\n".join(cells(path, "code"))
    named = {name for name in re.findall(r"\"([a-z]+)\"", code)
             if name in matplotlib.colors.CSS4_COLORS}
    patterns = r"\"(#[0-9A-Fa-f]{6})\"", r"cmap=\"(\w+)\"", r"\"(C\d|tab:\w+)\""
    return named.union(*(re.findall(pattern, code) for pattern in patterns))


def test_figures_keep_to_the_palette():
    foreign = {path.stem: drawn_colours(path) - PALETTE for path in NOTEBOOKS}
    assert not any(foreign.values()), foreign


def test_lines_of_the_palette_are_seen_on_white():
    lines = PALETTE - {"white", "#EEEEEE"}
    assert min(contrast(rgb(colour), rgb(WHITE)) for colour in lines) >= 3


def test_a_layer_strip_is_told_in_words():
    layers = shades.strip({"h.0.c_fc": 1e-3, "h.1.c_fc": -2e-3})
    parsed = Parsed(pages._drawn("card.html", "strip", layers))
    (strip,) = [attributes for _, attributes in parsed.elements if attributes.get("role") == "img"]
    assert all(word in strip["aria-label"] for word in ("by layer", "h.1.c_fc", "-0.00200 nats"))


# -- a real browser --------------------------------------------------------------------------------

COLOURS = """() => {
  const parse = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number)
    return [r, g, b, a] }
  const over = (top, below) => top.slice(0, 3).map((c, i) => top[3] * c + (1 - top[3]) * below[i])
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue
    let ground = [255, 255, 255]
    const chain = []
    for (let e = element; e; e = e.parentElement)
      chain.unshift(parse(getComputedStyle(e).backgroundColor))
    for (const colour of chain) ground = over(colour, ground)
    const ink = over(parse(getComputedStyle(element).color), ground)
    found.push([ink, ground, walker.currentNode.data.slice(0, 40)])
  }
  return found }"""


@pytest.fixture
def opened(browser, tmp_path):
    tabs = []

    def open_page(**options):
        path = tmp_path / "page.html"
        partly = query_of(["plain", " story"])
        for token in partly["influences"][0]["tokens"][:6]:
            token["loss"] = False
        pictures.write_page(result_of(query_of(), partly), path)
        tabs.append(browser.new_page(**options))
        tabs[-1].goto(path.as_uri())
        return tabs[-1]
    yield open_page
    for tab in tabs:
        tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_of_a_page_is_readable(opened, scheme):
    tab = opened(color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    for box in tab.locator(".tw-all").all():
        box.check()
    for box in tab.locator("h2 label").all()[::2]:
        box.click()
    found = [(contrast(np.array(ink) / 255, np.array(ground) / 255), words)
             for ink, ground, words in tab.evaluate(COLOURS)]
    assert len(found) > 200 and min(found)[0] >= 4.5, min(found)


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, tmp_path):
    question = {"prompt": "The egg", "completion": " here"}
    pictures.write_page(result_of(query_of(**question), query_of(**question)), tmp_path / "a.html")
    tab, stops = browser.new_page(), []
    tab.goto((tmp_path / "a.html").as_uri())
    for _ in range(21):
        tab.keyboard.press("Tab")
        stops.append(tab.evaluate("""() => {
            const at = document.activeElement
            const seen = at.matches('h2 input, body > input') ? at.nextElementSibling : at
            const style = getComputedStyle(seen)
            return [at.id || at.getAttribute('href') || at.className || at.tagName,
                    style.outlineStyle != 'none' && parseFloat(style.outlineWidth) > 0] }"""))
    # questions, alignment; then for each its words, all stories, help, each story; settings
    one = ["tw-k0", "tw-k1", "tw-k2", "tw-all", "SUMMARY", "INPUT", "INPUT"]
    names = ["#q1", "#q2", "tw-input", *one, *one, "SUMMARY", "tw"]
    assert [name for name, _ in stops[:len(names)]] == names
    assert all(seen for _, seen in stops[:len(names) - 1])
    fold = tab.locator("article").first.locator(".tw-fold input")
    fold.focus()
    tab.keyboard.press("Space")
    for details in (tab.locator("body > details"), tab.locator("article details").first):
        details.locator("summary").focus()
        tab.keyboard.press("Enter")
        assert details.locator("dd, td").first.is_visible()
    tab.locator("#tw-input").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tw-predicted").is_checked()
    assert tab.locator(".tw-predicted").first.is_visible()
    described = tab.evaluate("document.activeElement.getAttribute('aria-describedby')")
    assert "influence" in tab.locator(f"#{described}").text_content()
    tab.close()

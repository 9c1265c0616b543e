"""The slides that notebooks carry: TEACHING.md's command makes them.

They are whole, readable and fit the screen.
"""
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest
from builders import ROOT
from exercises import notebook, source, tags

NUMBERS = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
CELLS = {number: notebook(number)["cells"] for number in NUMBERS}
KNOWN = {"slide", "subslide", "fragment", "-", "notes", "skip"}
WIDTH, HEIGHT = 1280, 800
# without reveal.js and MathJax a slide is higher than on the screen, and fonts differ by a tenth
ROOM = 1.25


def kind(cell):
    return cell["metadata"]["slideshow"]["slide_type"]


def slides(number):
    """The cells of each slide, in order."""
    found = []
    for cell in CELLS[number]:
        if kind(cell) in ("slide", "subslide"):
            found.append([])
        if kind(cell) != "skip":
            found[-1].append(cell)
    return found


def has_figure(cell):
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """{number: HTML}, by the command of TEACHING.md, word for word but for the folder it writes
    to."""
    out = tmp_path_factory.mktemp("slides")
    teaching = (ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^jupyter nbconvert --to slides .*$", teaching, re.M)
    words = shlex.split(command)
    assert words[words.index("--output-dir") + 1] == "slides"
    assert words[-1] == "notebooks/[01]*.ipynb"
    assert (
        f"--SlidesExporter.reveal_width={WIDTH}" in words
        and f"--SlidesExporter.reveal_height={HEIGHT}" in words
    )
    words[words.index("--output-dir") + 1] = str(out)
    run = subprocess.run(
        [sys.executable, "-m", "jupyter", *words[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return {path.name[:2]: path.read_text(encoding="utf-8") for path in out.glob("*.slides.html")}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_cell_has_a_known_type_and_the_deck_is_a_lecture(number):
    assert {kind(cell) for cell in CELLS[number]} <= KNOWN
    count = Counter(kind(cell) for cell in CELLS[number])
    assert (
        kind(CELLS[number][0]) == "slide"
        and 5 <= count["slide"] <= 15
        and count["slide"] + count["subslide"] <= 30
    )
    assert all(
        source(cell).startswith("## ") for cell in slides(number)[-1][:1]
    )  # ends with a summary or its limits
    assert not any(
        tags(cell) and "solution" in tags(cell) for slide in slides(number) for cell in slide
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_no_slide_is_empty_once_the_code_is_gone(number):
    for slide in slides(number):
        shown = [cell for cell in slide if kind(cell) != "notes"]
        assert any(cell["cell_type"] == "markdown" or cell["outputs"] for cell in shown), source(
            slide[0]
        )[:60]
        assert not any(cell["cell_type"] == "code" and not cell["outputs"] for cell in shown), (
            source(slide[0])[:60]
        )


@pytest.mark.parametrize("number", NUMBERS)
def test_a_figure_is_told_in_words_on_its_slide_in_its_notes_or_on_the_next(number):
    deck = slides(number)
    for at, slide in enumerate(deck):
        for place, cell in enumerate(slide):
            if has_figure(cell):
                after = slide[place + 1:] + (deck[at + 1] if at + 1 < len(deck) else [])
                told = any("**What to see**" in source(later) for later in after)
                assert told, f"{number}: the figure of {source(cell)[:60]!r}"


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
def test_nbconvert_makes_the_slides_that_the_types_say(rendered, number):
    html, count = rendered[number], Counter(kind(cell) for cell in CELLS[number])
    body = html[html.index('<div class="slides">'):]
    assert (
        body.count("<section") == 2 * count["slide"] + count["subslide"] == body.count("</section>")
    )
    assert len(re.findall(r'<div class="fragment"', body)) == count["fragment"]
    assert body.count('<aside class="notes">') == count["notes"]
    assert "jp-CodeMirrorEditor" not in body  # no code


@pytest.mark.parametrize("number", NUMBERS)
def test_slides_fit_the_screen(rendered, number, browser):
    """None is higher or wider than the screen, as far as it can be told without the network."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.route("**/*", lambda route: route.abort())
    page.set_content(rendered[number], wait_until="domcontentloaded")
    sizes = page.evaluate("""() => {
      document.querySelectorAll('aside').forEach(notes => notes.remove())
      return [...document.querySelectorAll('.slides > section > section')]
        .map(slide => [slide.innerText.trim().slice(0, 50), slide.scrollHeight,
                       slide.scrollWidth]) }""")
    page.close()
    assert len(sizes) == len(slides(number))
    too_large = [size for size in sizes if size[1] > ROOM * HEIGHT or size[2] > WIDTH]
    assert not too_large

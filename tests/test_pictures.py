"""Pictures: hostile text stays text, values stand on the right token, pages and figures draw."""
import io
import itertools
import math
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from helpers import pictures
from helpers.pictures import figures, pages, shades
from helpers.pictures.text import columns, quote, wrapped
from helpers.stories import InputError

from builders import (HOSTILE_TOKENS, ROOT, Parsed, contrast, entry_of, query_of, result_of,
                      tokens_of)

SPECIAL = [("<|endoftext|>", "⊢"), ("<s>", "⊢"), ("[CLS]", "⊢"), ("<｜begin▁of▁sentence｜>", "⊢")]
ALLOWED = {"bdi": {"class", "dir", "style"}, "span": {"title", "style", "class"}, "br": set()}


def heatmap(tokens, align="input", scale=None):
    return pages._drawn("heatmap.html", "heatmap", shades.heatmap(tokens, align, scale))


def strip(layers):
    return pages._drawn("card.html", "strip", shades.strip(layers))


def section(*entries, **query):
    return pictures.fragment([query_of(influences=list(entries), **query)])


def alpha(attributes):
    found = re.search(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)", attributes.get("style", ""))
    return (tuple(map(int, found.groups()[:3])), float(found[4])) if found else (None, 0.0)


# -- text ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("align", pictures.ALIGNMENTS)
@pytest.mark.parametrize("texts", [*([text] for text in HOSTILE_TOKENS), HOSTILE_TOKENS,
                                   list("<script>alert(1)</script>"), ["�", "�", " ok"]])
def test_heatmap_shows_story_text_and_nothing_else(texts, align):
    source = heatmap(tokens_of(texts, np.linspace(-1, 1, len(texts))), align)
    parsed = Parsed(source)
    assert all(set(attrs) <= ALLOWED[tag] for tag, attrs in parsed.elements)
    assert parsed.text == pictures.visible("".join(texts), "⏎")
    assert len(parsed.spans) == len(texts)
    assert sum(tag == "br" for tag, _ in parsed.elements) == "".join(texts).count("\n")
    _, attributes = parsed.elements[0]
    assert attributes["dir"] == "auto" and "unicode-bidi:isolate" in attributes["style"]
    source.encode("utf-8")


def test_visible_spells_out_steering_characters_and_keeps_the_rest():
    shown = pictures.visible("a\x00\x1b\u202e\n\ud800\x9b")
    assert shown == "a⟨U+0000⟩⟨U+001B⟩⟨U+202E⟩⏎\n⟨U+D800⟩⟨U+009B⟩"
    for plain in ("Iâ€™m <b> & Ã©", "👨\u200d👩\u200d👧 é e\u0301", "مرحبا"):
        assert pictures.visible(plain) == plain


def test_page_holds_no_foreign_element_and_all_text():
    source = pictures.page(result_of(query_of(), query_of(["plain", " story"])))
    parsed = Parsed(source)
    names = {tag for tag, _ in parsed.elements}
    assert not names & {"script", "img", "iframe", "link", "object", "form", "u", "svg"}
    assert [a for t, a in parsed.elements if t == "h1"] == [{}] and source.count("<style>") == 1
    assert not any(k.startswith("on") or k == "src" for _, attrs in parsed.elements for k in attrs)
    assert all(a["href"] in ("#q1", "#q2") for t, a in parsed.elements if t == "a")
    assert pictures.visible("".join(HOSTILE_TOKENS), "⏎") in parsed.text
    assert all(text in parsed.text for text in ("<b>id</b>", "<u>old</u>", "<model>⟨U+001B⟩"))
    policy = [attributes["content"] for _, attributes in parsed.elements
              if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "url(" not in source and "@import" not in source


def test_what_no_template_filters_is_escaped_all_the_same():
    (token,) = tokens_of(["a"], [1.0])
    entry = entry_of(["a"], [1.0]) | {"tokens": [token | {"position": "<i>"}]}
    assert "<td>&lt;i&gt;</td>" in section(entry)


def test_blanks_of_templates_stay_out_of_stories():
    """Their lines and indentation are not output; a story's own are."""
    source = pictures.page(result_of(query_of(["a\n", "\n  b"])))
    assert source.count("\n") == 2 + len((pages.CSS + pages.PAGE_CSS).splitlines())
    assert "  b</span>" in source and "> <" not in source


def test_the_terminal_does_without_matplotlib():
    code = ("import sys; from helpers import pictures; print('matplotlib' in sys.modules); "
            "pictures.plot_layers; print('matplotlib' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
    with pytest.raises(AttributeError, match="no attribute 'plot'"):
        pictures.plot  # noqa: B018


# -- values ----------------------------------------------------------------------------------------

def test_alignment_shifts_by_one():
    texts, values = ["The", " egg", " is", " old"], [0.25, -1.0, 0.5, 0.0]
    read = Parsed(heatmap(tokens_of(texts, values))).spans
    predicted = Parsed(heatmap(tokens_of(texts, values), "predicted")).spans
    assert [s[0] for s in read] == [s[0] for s in predicted] == texts
    tints = [alpha(s[1]) for s in read]
    assert [alpha(s[1]) for s in predicted] == [(None, 0.0)] + tints[:-1]
    assert [a for _, a in tints] == [round(shades.OPACITY * abs(v), 2) for v in values]
    assert "influence" not in predicted[0][1]["title"].replace("no influence", "")
    assert read[1][1]["title"] == predicted[2][1]["title"]
    assert read[1][1]["title"] == "influence -1.00 nats · read ' egg' · predicts ' is'"
    with pytest.raises(ValueError, match="align"):
        heatmap(tokens_of(texts, values), "output")


def test_story_cut_before_its_last_token_keeps_the_last_prediction():
    tokens = tokens_of(["a", " b", " c"], [0.0, 1.0, 0.0])[:2]
    for align, where in (("input", 1), ("predicted", 2)):
        spans = Parsed(heatmap(tokens, align)).spans
        assert [s[0] for s in spans] == ["a", " b", " c"]
        assert [alpha(s[1])[1] > 0 for s in spans] == [i == where for i in range(3)]


def test_sign_is_in_colour_title_and_underline():
    tokens = tokens_of(["a", "b", "c", "d"], [1e-3, -1e-3, 0.0, -0.0])
    spans = Parsed(heatmap(tokens)).spans
    assert [alpha(s[1])[0] for s in spans] == [shades.ORANGE, shades.BLUE, None, None]
    assert ["underline" in s[1].get("style", "") for s in spans] == [False, True, False, False]
    assert [s[1]["title"].split()[1] for s in spans] == ["+0.00100", "-0.00100", "+0.00", "+0.00"]


def test_scale_is_shared_and_clipped():
    tokens = tokens_of(["a", "b", "c"], [1.0, -4.0, 0.0])
    for scale, expected in ((2.0, [0.34, 0.68, 0.0]), (None, [0.17, 0.68, 0.0])):
        spans = Parsed(heatmap(tokens, scale=scale)).spans
        assert [alpha(attributes)[1] for _, attributes in spans] == expected
    weak, strong = entry_of(["x", "y"], [1e-3, 0.0]), entry_of(["x", "y"], [4e-3, 0.0])
    shown = section(weak, strong)
    assert [alpha(s[1])[1] for s in Parsed(shown).spans if s[0] == "x"] == [0.17, 0.68]
    assert "+0.00400" in shown and "-0.00400" in shown


def test_all_zero_and_empty_do_not_break():
    zero = entry_of(["a", " b"], [0.0, 0.0])
    source = pictures.page(result_of(query_of(influences=[zero])))
    assert "nan" not in Parsed(source).text.lower()
    assert "nan" not in strip(zero["layers"])
    assert Parsed(heatmap([])).text == ""
    empty = query_of(influences=[])
    assert "None among those shown" in pictures.fragment([empty])
    assert "none among" in pictures.text_table(empty)
    assert "nan" not in pictures.text_table(query_of(influences=[zero]))
    pictures.plot_token_heatmap([zero]), pictures.plot_layers([zero])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not a finite number"):
        heatmap(tokens_of(["a", "b"], [bad, 0.0]))
    with pytest.raises(ValueError, match="not a finite number"):
        section(entry_of(["a"], [0.0], influence=bad, layers={"a": 0.0}))
    with pytest.raises(ValueError, match="h.0.mlp"):
        strip({"h.0.mlp": bad})


def test_layer_strip_bars_point_the_right_way():
    layers = {"transformer.h.0.mlp.c_fc": 2e-3, "transformer.h.0.mlp.c_proj": -1e-3,
              "model.layers.11.up_proj": 0.0, "head": 1e-3}
    parsed = Parsed(strip(layers))
    bars = [a["style"] for t, a in parsed.elements if t == "i"]
    assert [bar.split(";")[:2] for bar in bars] == [
        ["bottom:50%", "height:50%"], ["top:50%", "height:25%"],
        ["bottom:50%", "height:0%"], ["bottom:50%", "height:25%"]]
    assert parsed.text == "011head"
    titles = [a["title"] for t, a in parsed.elements if a.get("class") == "tw-bar"]
    assert titles[1] == "transformer.h.0.mlp.c_proj: -0.00100 nats"


def test_card_says_rank_id_sign_and_unit():
    source = section(entry_of(["a", " b"], [-2e-3, 0.0], rank=7, id="42"))
    said = ("#7", "-0.00200", "nats per extra copy", "story 42")
    assert all(words in Parsed(source).text for words in said)
    assert "predicts &#x27; b&#x27;" in source


def test_names_are_as_short_as_they_may_be():
    full = ["transformer.h.0.mlp.c_fc", "transformer.h.11.mlp.c_proj", "head"]
    assert pictures.layer_names(full) == ["0 c_fc", "11 c_proj", "head"]
    alike = ["encoder.h.0.c_fc", "decoder.h.0.c_fc"]
    assert pictures.layer_names(alike) == alike
    text = Parsed(section(entry_of(["a"], [1e-3], id="story-2657"))).text
    assert "story-2657" in text and "story story" not in text


def css_colour(name, theme):
    digits = re.findall(rf"--{name}:#(\w+)", pages.CSS)[theme]
    pairs = re.findall("..", digits) if len(digits) == 6 else [2 * digit for digit in digits]
    return [int(pair, 16) / 255 for pair in pairs]


def on_card(share, theme):
    """The shade of a share of the scale as it looks on a card."""
    tint, opacity = alpha({"style": shades.rgba(share)})
    return [opacity * channel / 255 + (1 - opacity) * ground
            for channel, ground in zip(tint, css_colour("bg", theme), strict=True)]


@pytest.mark.parametrize("theme", [0, 1])
def test_text_is_readable_on_every_shade(theme):
    for share in np.linspace(-1, 1, 81):
        assert contrast(on_card(share, theme), css_colour("fg", theme)) >= 4.5, share
    for text, ground in itertools.product(("fg", "soft"), ("bg", "page")):
        assert contrast(css_colour(text, theme), css_colour(ground, theme)) >= 4.5


@pytest.mark.parametrize("theme", [0, 1])
def test_words_that_are_only_read_are_slanted_and_grey_where_it_can_be_read(theme):
    texts, share = ["One", " day", " it", " rained", "."], shades.GREY
    values = [share, share + 0.02, -share, 1.0, 0.0]
    entry = entry_of(texts, values)
    assert "tw-read" not in section(entry)
    for token, learnt in zip(entry["tokens"], [False, False, False, True, True]):
        token["loss"] = learnt
    spans = [(text, attributes.get("class", "").split()) for text, attributes
             in Parsed(section(entry)).spans if text.strip() in {text.strip() for text in texts}]
    assert spans[-5:] == [("One", ["tw-read", "tw-grey"]), (" day", ["tw-read"]),
                          (" it", ["tw-read", "tw-grey"]), (" rained", []), (".", [])]
    assert "only read: no loss" in Parsed(section(entry)).text
    drawn(fig := pictures.plot_token_heatmap([entry]))
    words = {text.get_text().strip(): text for text in fig.axes[0].texts}
    assert [words[text.strip()].get_style() for text in texts] == ["italic"] * 3 + ["normal"] * 2
    assert [words[name].get_color() for name in ("One", "day")] == [figures.SOFT, "black"]
    assert "slanted: only read" in fig.axes[1].get_xlabel()
    for sign in (-1, 1):
        assert contrast(on_card(sign * share, theme), css_colour("soft", theme)) >= 4.5


# -- what is asked, what decides -------------------------------------------------------------------

@pytest.mark.parametrize("special, sign", SPECIAL)
def test_special_tokens_are_signs_and_texts_that_look_like_them_stay(special, sign):
    texts = [special, "One", " <b>", " day", special]
    entry = entry_of(texts, [0.0, 0.0, 2e-3, 0.0, 0.0]) | {"text": "One <b> day"}
    parsed = Parsed(section(entry))
    (words,) = [parsed.spans[place:place + 5] for place, (text, _) in enumerate(parsed.spans)
                if text == sign]
    assert [text for text, _ in words] == [sign, "One", " <b>", " day", "⊣"]
    assert special not in parsed.text and special not in pictures.text_table(query_of(
        influences=[entry]))
    written = entry | {"text": "".join(texts)}  # by its author
    assert parsed.text.count(special) == 0 < Parsed(section(written)).text.count(special)


def test_a_card_opens_with_the_token_that_decides():
    texts = ["⊢", "He", " kept", " it", " in", " the", " wind", "mill", ".", " So", "."]
    for sign, read, predicted in ((1, "the", " wind"), (-1, "mill", ".")):
        values = [0.0] * 5 + [3e-3, 0.0, -2e-3, 0.0, 0.0, 0.0]
        entry = entry_of(texts, values, influence=sign * 1e-3)
        source = section(entry)
        mark = re.search(r'<p class="tw-quote">(.*?)</p>', source)[1]
        assert f"{read}<b>{predicted}</b>" in mark
        tint = shades.ORANGE if sign > 0 else shades.BLUE
        assert f"background:rgba({','.join(map(str, tint))},0.68)" in mark
        assert Parsed(mark).text == "He kept it in the windmill. So."
    long = entry_of([" word"] * 80 + [" x" * 300] * 2, [0.0] * 80 + [1.0, 0.0])
    shown = Parsed(re.search(r'<p class="tw-quote">(.*?)</p>', section(long))[1]).text
    assert shown.startswith("…word word") and shown.count("word") < 10


def test_what_is_only_read_is_not_said_to_be_taught():
    entry = entry_of(["He", " kept", " it", " in", "side", "."], [0.0, 2e-3, 0.0, 1e-3, 0.0, 0.0])
    for token, learnt in zip(entry["tokens"], [False, False, False, True, True, True]):
        token["loss"] = learnt
    found = quote(entry["tokens"], 1e-3)
    assert (found["read"], found["predicted"], found["after"]) == ("kept", "", " it inside.")
    entry["tokens"][3]["influence"] = 5e-3
    found = quote(entry["tokens"], 1e-3)
    assert (found["read"], found["predicted"], found["rest"]) == ("in", "side", ".")


def test_copied_words_are_marked_apart_from_influence():
    story = entry_of(["Bram", "ble", " kept", " the", " glass", " jar", ".", " The", " wind",
                      "mill", " held", "."], [0.0] * 5 + [1e-3] + [0.0] * 6)
    question = {"prompt": "Bramble kept the glass egg in the", "completion": " windmill"}
    spans = Parsed(section(story, **question)).spans
    marks = {text: attributes.get("class", "").split() for text, attributes in spans
             if "title" in attributes and "influence" in attributes["title"]}
    same = [text for text, names in marks.items() if "tw-same" in names]
    assert same == ["Bram", "ble", " kept", " the", " glass", " wind", "mill"]
    # without a run of three, and without the answer, nothing is copied
    other = {"prompt": "Somebody kept a glass jar", "completion": " there"}
    assert 'class="tw-same"' not in section(story, **other).replace(
        '<span class="tw-same">the question', "")
    assert marks["Bram"] == marks["ble"] == ["tw-w0", "tw-same"] and marks[" jar"] == []


def test_a_contrast_shows_both_answers_on_one_scale():
    entry = entry_of(["a", " b"], [1e-3, 0.0], influence=1e-3) | {"parts": [-1e-3, -2e-3]}
    source = section(entry, completion=" barn", against=" mill", log_prob_against=-3.0)
    widths = re.findall(r'tw-reach"[^>]*><i style="(\w+):50%;width:([\d.]+)%', source)
    assert widths == [("left", "25.0"), ("right", "25.0"), ("right", "50.0")]
    text = Parsed(source).text
    for words in ("log p(“mill”) = -3.000", "For “barn”", "Against for “mill”"):
        assert words in text


def test_a_page_says_its_target_and_unit():
    unit = pictures.UNITS["content"]
    result = result_of(query_of()) | {"target": "content", "unit": unit}
    text = Parsed(pictures.page(result)).text
    assert f"shades are {unit}" in text and "these stories hold it" in text


# -- files and notebooks ---------------------------------------------------------------------------

def test_write_page_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "out.html"
    pictures.write_page(result_of(), path)
    first = path.read_text(encoding="utf-8")
    assert first == pictures.page(result_of()) and os.listdir(tmp_path) == ["out.html"]
    with pytest.raises(ValueError):
        pictures.write_page(result_of(query_of(log_prob=math.nan)), path)

    def fail(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="cannot write .*No space left"):
        pictures.write_page(result_of(), path)
    assert path.read_text(encoding="utf-8") == first and os.listdir(tmp_path) == ["out.html"]


def test_write_page_where_it_cannot(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "x.html", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot write") as caught:
            pictures.write_page(result_of(), path)
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["folder"]


def test_display_brings_its_style():
    data = pictures.display(query_of(), "predicted").data
    assert data.startswith("<style>") and "<script" not in data
    assert "on the token being predicted" in data


# -- terminal --------------------------------------------------------------------------------------

def test_text_table_is_narrow_plain_and_complete():
    for text in [*HOSTILE_TOKENS, "漢字" * 60, "😀" * 90]:
        table = pictures.text_table(query_of([text, " then", text]))
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", table)
        assert max(map(columns, table.split("\n"))) <= 100
    lines = pictures.text_table(query_of()).split("\n")
    good = next(line for line in lines if "Bramble" in line)
    assert good.split()[:4] == ["1", "+0.00260", "17", "+0.00200"] and "in[ the] windmill." in good

    def line_with(words):
        return next(number for number, line in enumerate(lines) if words in line)
    assert line_with("that raise") < lines.index(good) < line_with("that lower")
    assert line_with("that lower") < line_with("-0.00200")


# -- figures ---------------------------------------------------------------------------------------

def drawn(fig):
    """Pixels of the PNG; a missing glyph, and a layout that does not fit, are errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(Glyph|.*layout)")
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=80)
    import matplotlib.image
    pixels = matplotlib.image.imread(io.BytesIO(buffer.getvalue()))
    assert buffer.getvalue()[:4] == b"\x89PNG" and pixels[..., :3].std() > 0.01
    texts = fig.findobj(lambda artist: hasattr(artist, "get_fontsize"))
    sizes = [text.get_fontsize() for text in texts]
    assert fig.get_figwidth() <= 8 and min(sizes) >= 9
    return pixels


@pytest.mark.parametrize("align", pictures.ALIGNMENTS)
def test_plot_token_heatmap(align):
    words = ["One", " day", " the", " wind", "mill"] * 12 + ["."]
    values = [0.0, 0.0, 2e-3, 0.0, -1e-3] * 12 + [0.0]
    hostile = np.linspace(-1e-3, 1e-3, len(HOSTILE_TOKENS))
    entries = [entry_of(words, values), entry_of(HOSTILE_TOKENS, hostile, rank=2)]
    fig = pictures.plot_token_heatmap(entries, align)
    drawn(fig)
    ax, bar = fig.axes
    label = bar.get_xlabel().replace("\n", " ")
    assert "nats per extra copy" in label and pictures.ALIGNMENTS[align] in label
    texts = ax.texts
    assert [t.get_text().strip() for t in texts[1:6]] == [w.strip() for w in words[:5]]
    plain = [text for text in ax.texts if text.get_weight() != "bold"]
    orange = {text.get_text().strip() for text, patch in zip(plain, ax.patches, strict=True)
              if patch.get_facecolor()[0] > patch.get_facecolor()[2] + 0.3}
    assert orange & {"the", "wind"} == {"the" if align == "input" else "wind"}
    assert "".join(t.get_text() for t in ax.texts).count("W") == 400
    assert not any(t.get_parse_math() for t in ax.texts)  # a story's dollars are no formula
    own = hasattr(fig.canvas, "get_renderer")
    renderer = fig.canvas.get_renderer() if own else fig._get_renderer()
    extents = [t.get_window_extent(renderer) for t in ax.texts]
    assert max(extent.x1 for extent in extents) <= fig.bbox.x1
    assert min(extent.y0 for extent in extents) >= bar.get_window_extent().y1


def test_heatmap_words_stay_whole_and_do_not_overlap():
    words = ["A", " ext", "ra", "ordin", "ary", " thing"] * 20
    lines = {}
    for line, column, text, _ in wrapped([(w, None) for w in words], 33):
        lines.setdefault(line, []).append((column, text))
    for pieces in lines.values():
        assert all(a[0] + len(a[1]) <= b[0] for a, b in itertools.pairwise(pieces))
        assert pieces[-1][0] + len(pieces[-1][1]) <= 33
        line = "".join(text for _, text in pieces)
        assert re.fullmatch(r"( ?(A|thingA|thing|extraordinary))+", line), pieces
    cells = [("a\nb", None), (" c\n\n", None), ("d", None)]
    assert [line for line, *_ in wrapped(cells, 50)] == [0, 1, 1, 2, 3]


def test_plot_layers_shows_every_layer_and_sign():
    layers = [{"h.0.c_fc": rank, "h.0.c_proj": -rank, "h.1.c_fc": 0.0} for rank in (1, 2)]
    fig = pictures.plot_layers([entry_of(["a", "b"], [1e-3, 0.0], rank=rank, layers=own)
                                for rank, own in enumerate(layers, 1)])
    drawn(fig)
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["0 c_fc", "0 c_proj", "1 c_fc"]
    assert [t.get_text() for t in fig.axes[0].texts] == ["+", "−", "", "+", "−", ""]
    many = {f"model.layers.{i}.up": float(i - 40) for i in range(90)}
    drawn(pictures.plot_layers([entry_of(["a"], [1.0], id="😀\x1b", layers=many)]))
    with pytest.raises(ValueError, match="no entries"):
        pictures.plot_layers([])


# -- a real browser --------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_in_chromium(browser, tmp_path, scheme):
    path = tmp_path / "page.html"
    pictures.write_page(result_of(query_of(), query_of(["مرحبا", " \u202eab", " 😀"])), path)
    tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    requests, problems = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(path.as_uri())
    assert requests == [path.as_uri()] and problems == []
    foreign = "[typeof window.pwned, document.scripts.length, document.images.length]"
    assert tab.evaluate(foreign) == ["undefined", 0, 0]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator("article").count() == 4 and tab.locator("h1").count() == 1

    def shown():
        view = tab.locator("article").first.locator(".tw-view:visible")
        colours = "spans => spans.map(span => getComputedStyle(span).backgroundColor)"
        return view.count(), view.locator("span").evaluate_all(colours)
    assert shown()[0] == 0  # words are folded away at first, all or story by story
    tab.locator("label", has_text="all stories word by word").first.click()
    count, read = shown()
    tab.locator("label", has_text="being predicted").click()
    count_after, predicted = shown()
    assert count == count_after == 1 and predicted[1:] == read[:-1] and len(set(read)) > 2
    tab.keyboard.press("ArrowLeft")  # the radios take the keyboard too
    assert shown()[1] == read
    tab.locator("label", has_text="all stories word by word").first.click()
    tab.locator("article").nth(1).locator(".tw-fold").click()
    assert [tab.locator(".tw-words").nth(n).is_visible() for n in (0, 1)] == [False, True]
    text = tab.locator("article").nth(1).locator(".tw-input .tw-text")
    assert text.evaluate("e => e.textContent") == pictures.visible("".join(HOSTILE_TOKENS), "⏎")
    first = tab.locator("section").nth(1).locator("h2 label").first
    word, found = first.inner_text(), tab.locator("section").nth(1).locator(".tw-w0")
    before = found.first.evaluate("e => getComputedStyle(e).backgroundColor")
    first.click()  # a word of the question shows in the stories
    assert found.first.text_content().strip() == word
    assert found.first.evaluate("e => getComputedStyle(e).backgroundColor") != before
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark))) < 150) == (scheme == "dark")
    assert text.evaluate("e => getComputedStyle(e).unicodeBidi") == "isolate"
    tab.close()

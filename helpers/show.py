"""Pictures of influence: HTML heatmaps, a standalone page, a terminal table, matplotlib figures.

Everything here takes the plain result dictionaries of `python -m helpers --json`. Influences are in
nats of the query's log-probability per extra copy of the training story; positive raises it.
Text of stories is hostile until escaped: it only ever enters through `visible` and `_esc`.
"""
import html
import math
import re
import textwrap
import unicodedata

import numpy as np

from .sources.files import output, save_text

UNIT = "nats per extra copy"
ORANGE, BLUE = (230, 97, 1), (40, 110, 220)  # positive, negative: told apart in all common colour blindness
OPACITY = 0.68  # of the strongest token: text keeps a contrast of 4.5 on it, in light and in dark
FAINT = 0.1  # share of the full shade below which a negative token is not underlined: it would be half the story
FAINT_ROOT = 0.3  # the same where shades are square roots
ALIGNMENTS = {"input": "on the token that was read", "predicted": "on the token being predicted"}
CSS = """
.tw{--bg:#fff;--fg:#15181d;--soft:#565d68;--line:#d9dde3;--page:#f5f6f8;color:var(--fg);font:16px/1.5 system-ui,
"Segoe UI",Roboto,sans-serif;background:var(--page)}
@media (prefers-color-scheme:dark){.tw{--bg:#16191e;--fg:#f1f3f6;--soft:#a9b1bd;--line:#343a44;--page:#0e1013}}
.tw *{box-sizing:border-box}.tw{overflow-wrap:anywhere}.tw section{padding:.5em}
.tw h1{font-size:1.5em;line-height:1.25;margin:0 0 .3em}.tw h2{font-size:1.2em;line-height:1.4;margin:.6em 0 .2em}
.tw h3{font-size:1em;margin:1.5em 0 .5em}.tw p{margin:.35em 0}.tw-soft,.tw small{color:var(--soft);font-size:.87em}
.tw mark{color:inherit;background:none;border-bottom:.16em solid rgb(230,97,1)}
.tw-card{background:var(--bg);border:1px solid var(--line);border-radius:.6em;padding:.75em 1em;margin:.7em 0}
.tw-head{display:flex;flex-wrap:wrap;gap:.1em .8em;align-items:baseline}
.tw-head b{font-size:1.12em;font-variant-numeric:tabular-nums}.tw-text{display:block;line-height:1.75;margin:.5em 0 0}
.tw-text span{border-radius:.2em;padding:.12em 0}
.tw-strip{display:flex;flex-wrap:wrap;gap:.15em .4em;margin:.5em 0 .2em}.tw-block{display:inline-block;text-align:center}
.tw-bars{display:flex;justify-content:center;height:36px;gap:1px;background:linear-gradient(var(--line),var(--line))
center/100% 1px no-repeat}.tw-bar{position:relative;width:9px}.tw-bar i{position:absolute;left:0;right:0}
.tw-block small{display:block;font-size:.75em;line-height:1.2}
.tw-key{display:grid;grid-template-columns:1fr 1fr 1fr;max-width:24em;font-variant-numeric:tabular-nums}
.tw-key i{grid-column:1/4;height:.8em;border-radius:.2em;border:1px solid var(--line)}.tw-key span+span{text-align:center}
.tw-key span+span+span{text-align:right}.tw dl{display:grid;grid-template-columns:auto 1fr;gap:0 1em;margin:.4em 0}
.tw dd{margin:0}.tw a{color:inherit}.tw summary{cursor:pointer}.tw table{border-collapse:collapse;margin:.3em 0}
.tw td,.tw th{text-align:left;padding:.1em 1.2em .1em 0;font-weight:400}.tw th{color:var(--soft)}
.tw-reach{position:relative;height:.7em;margin:.4em 0;background:linear-gradient(var(--soft),var(--soft)) center/1px 100%
no-repeat,var(--bg);border:1px solid var(--line);border-radius:.2em}.tw-reach i{position:absolute;top:0;bottom:0;border-radius:.2em}
.tw-beside{display:flex;flex-wrap:wrap;gap:0 1em}.tw-beside>section{flex:1 1 20em;min-width:0}
.tw-spread{display:block;height:2em;width:100%;max-width:16em;overflow:visible}
"""
PAGE_CSS = """
body.tw{max-width:60em;margin:0 auto;padding:1.2em .9em 3em}body>header{margin-bottom:1em}body.tw section{padding:0}
body>input{position:absolute;opacity:0}body>label{display:inline-block;padding:.35em .8em;margin:.2em .3em .2em 0;cursor:pointer;
border:1px solid var(--line);border-radius:.5em;background:var(--bg);color:var(--soft)}
body>input:checked+label{color:var(--fg);border-color:currentColor;font-weight:600}
body>input:focus-visible+label{outline:3px solid rgb(40,110,220)}main>section{border-top:1px solid var(--line);margin-top:1.5em}
#tw-input:checked~main .tw-predicted,#tw-predicted:checked~main .tw-input,.tw main .tw-view>small{display:none}
"""


def visible(text, newline="⏎\n"):
    """`text` with every invisible or steering character spelt out as ⟨U+202E⟩ (line ends as `newline`)."""
    def show(char):
        if char == "\n":
            return newline
        # Joiners stay: emoji and Persian need them. The rest of Cf reorders or hides text, Cc steers terminals.
        steering = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\u200c\u200d"
        return f"⟨U+{ord(char):04X}⟩" if steering else char
    return "".join(map(show, str(text)))


def _esc(text, newline="⏎"):
    return html.escape(visible(text, newline))


def _signed(value):
    """Three significant digits and always a sign."""
    return f"{value + 0.0:+#.3g}".rstrip(".")


def _finite(value, what):
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}, not a finite number: check the gradients and the damping")
    return float(value)


def _named(story):
    """A story by its id: "story 12", but not "story story-12"."""
    return story if str(story).startswith("story") else f"story {story}"


def _scale(entries):
    """Largest |token influence| among some influence entries."""
    return max((abs(_finite(t["influence"], "a token's influence")) for e in entries for t in e["tokens"]), default=0.0)


def _share(value, scale):
    return min(max(value / scale, -1.0), 1.0) if scale else 0.0


def _rgba(share):
    """CSS background for a share of the scale in [-1, 1]: orange positive, blue negative, clear at zero."""
    return "rgba({},{},{},{:.2f})".format(*(ORANGE if share > 0 else BLUE), OPACITY * abs(share))


def _cells(tokens, align):
    """[(text, token dictionary whose influence stands there or None)], one for every token of the story."""
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}: take 'input' or 'predicted'")
    texts = [t["token"] for t in tokens]
    if tokens and tokens[-1].get("predicted"):  # a list that stops before the last token of its story
        texts.append(tokens[-1]["predicted"])
    sources = [*tokens, None] if align == "input" else [None, *tokens]
    return list(zip(texts, sources))


def _shade(value, scale, root, threshold):
    """The share of the full shade in [-1, 1]: 0 below the threshold, a share of the scale; `root` lifts small ones."""
    share = _share(value, scale)
    if abs(share) < threshold:
        return 0.0
    return math.copysign(math.sqrt(abs(share)), share) if root else share


def _describe(token):
    """What a tooltip says about one token's influence."""
    then = f"predicts '{visible(token['predicted'], '⏎')}'" if token.get("predicted") else "last token, predicts nothing"
    return f"influence {_signed(token['influence'])} nats · read '{visible(token['token'], '⏎')}' · {then}"


def token_heatmap(tokens, align="input", scale=None, root=False, threshold=0.0):
    """HTML of a story's tokens, shaded by signed influence (orange +, blue and dotted underline -).

    align="input": a value stands on the token read at t; "predicted": on x_{t+1}, the first token has none.
    scale: the |influence| of the full shade, in nats; None = the largest given. root: shades grow with its square root.
    threshold: share of the scale below which a token stays blank. Raises ValueError on NaN or inf.
    """
    own = _scale([{"tokens": tokens}])
    scale = own if scale is None else _finite(scale, "scale")
    spans = []
    for text, source in _cells(tokens, align):
        style, title = "", "no influence stands on this token"
        if source is not None:
            shade, title = _shade(source["influence"], scale, root, threshold), _describe(source)
            style = f"background:{_rgba(shade)}" if abs(shade) * OPACITY >= 0.005 else ""
            if shade < -(FAINT_ROOT if root else FAINT):
                style += ";text-decoration:underline dotted 2px;text-underline-offset:3px"
        style = f' style="{style}"' if style else ""
        body = _esc(text, "⏎\n").replace("\n", "<br>")
        spans.append(f'<span title="{html.escape(title)}"{style}>{body}</span>')
    return ('<bdi class="tw-text" dir="auto" style="unicode-bidi:isolate;white-space:pre-wrap;overflow-wrap:anywhere">'
            + "".join(spans) + "</bdi>")


def _layer_label(name):
    """('3', 'c_fc') from 'transformer.h.3.mlp.c_fc': block number (or '') and matrix."""
    block, last = re.search(r"\.(\d+)\.", f".{name}."), name.rsplit(".", 1)[-1]
    return (block[1] if block else "", "" if block and last == block[1] else last)


def layer_names(names) -> list[str]:
    """Short names of layers, "3 c_fc" for "transformer.h.3.mlp.c_fc"; the full ones where short ones would be alike."""
    names = list(names)
    short = [" ".join(filter(None, _layer_label(name))) for name in names]
    return short if len(set(short)) == len(names) else names


def layer_strip(layers):
    """HTML strip with one signed bar a layer, grouped by block; tooltips hold full names and values (nats)."""
    scale, groups = max((abs(_finite(v, f"layer {n}")) for n, v in layers.items()), default=0.0), {}
    for name, value in layers.items():
        block, part = _layer_label(name)
        share = _share(value, scale)
        bar = (f'<span class="tw-bar" title="{_esc(name)}: {_signed(value)} nats"><i style="{"top" if share < 0 else "bottom"}'
               f':50%;height:{50 * abs(share):.0f}%;background:rgb{ORANGE if share > 0 else BLUE}"></i></span>')
        groups.setdefault(block or part, []).append(bar)
    blocks = (f'<span class="tw-block"><span class="tw-bars">{"".join(bars)}</span><small>{_esc(label)}</small></span>'
              for label, bars in groups.items())
    top = max(layers, key=lambda name: abs(layers[name]), default=None)
    strongest = f", strongest {_esc(top)}: {_signed(layers[top])} nats" if layers else ""
    return f'<div class="tw-strip" role="img" aria-label="influence by layer{strongest}">{"".join(blocks)}</div>'


def _reach(value, longest):
    """HTML bar of a card's influence from the middle, right if positive; the longest of the section fills its half."""
    width = 50 * abs(_share(value, longest))
    side = f"left:50%;width:{width:.1f}%" if value >= 0 else f"right:50%;width:{width:.1f}%"
    return f'<div class="tw-reach" aria-hidden="true"><i style="{side};background:rgb{ORANGE if value >= 0 else BLUE}"></i></div>'


def spread(scores, bins=48) -> dict:
    """The distribution of all stories' influences, for `spread_picture`: `{"unit": u, "reach": r, "counts": [bins]}`.

    Bins are even in asinh(score / u), which is linear around zero and logarithmic far out; u is the median
    |score|, r the largest. Raises ValueError on NaN or inf.
    """
    scores = _array(scores, "scores")
    unit, reach = float(np.median(np.abs(scores))) or 1.0, float(np.abs(scores).max(initial=0.0)) or 1.0
    ends = np.arcsinh(reach / unit)
    counts, _ = np.histogram(np.arcsinh(scores / unit), bins, (-ends, ends))
    return {"unit": unit, "reach": reach, "counts": counts.tolist()}


def spread_picture(distribution, value):
    """HTML (SVG) of a `spread` with a mark where `value`, nats per extra copy, stands in it."""
    counts = [math.log1p(count) for count in distribution["counts"]]
    place = math.asinh(value / distribution["unit"]) / math.asinh(distribution["reach"] / distribution["unit"])
    at, step, tallest = 50 + 50 * min(max(place, -1), 1), 100 / len(counts), max(counts) or 1
    bars = "".join(f"M{n * step:.1f} 20v{-18 * count / tallest:.1f}h{step:.1f}V20z" for n, count in enumerate(counts) if count)
    return ('<svg class="tw-spread" viewBox="-2 0 104 22" preserveAspectRatio="none" role="img" aria-label="place among all '
            f'stories"><path d="{bars}" fill="var(--soft)" opacity=".45"/><path d="M50 0V20" stroke="var(--soft)" stroke-width=".4"/>'
            f'<path d="M{at:.1f} 0V22" stroke="rgb{ORANGE if value >= 0 else BLUE}" stroke-width="1.6"/></svg>')


def _strongest(tokens, most=8):
    """A folded table of the strongest tokens, for those who cannot point at them."""
    order = sorted(tokens, key=lambda token: -abs(token["influence"]))[:most]
    cell = lambda text: f'<bdi dir="auto">{_esc(text)}</bdi>'
    rows = "".join(f"<tr><td>{cell(t['token'])}</td><td>{cell(t['predicted'] or '')}</td><td>{_signed(t['influence'])}</td>"
                   f"<td>{t['position']}</td></tr>" for t in order)
    return (f"<details><summary>Its {len(order)} strongest tokens</summary><table><tr><th scope=col>read</th><th scope=col>"
            f"predicts</th><th scope=col>nats</th><th scope=col>position</th></tr>{rows}</table></details>") if order else ""


def _notes(entry, distribution):
    """What else is known of a card's story: its place among all, its words, what was planted in it."""
    parts = []
    if standing := entry.get("standing"):
        picture = spread_picture(distribution, entry["influence"]) if distribution else ""
        parts.append(f'{picture}rank {standing["rank"]:,} of {standing["of"]:,}, higher than {standing["above"]:.2%} of all stories')
    if planted := entry.get("planted"):
        parts.append(f'<b>planted: {_esc(planted["role"])}</b>: <q><bdi dir="auto">{_esc(planted["sentence"])}</bdi></q>')
    if entry.get("note"):
        parts.append(_esc(entry["note"]))
    return "".join(f'<p class="tw-soft">{part}</p>' for part in parts)


def sequence_card(entry, align="input", scale=None, longest=None, distribution=None, **look):
    """HTML card of one influence entry: rank, id, signed influence, layer strip, heatmap (align="both": two).

    longest: the |influence| of a full bar; distribution: a `spread` to mark the story's place in; look: `root` and
    `threshold` of `token_heatmap`. Of an explorer's entry also its standing and what was planted.
    """
    value = _finite(entry["influence"], f"influence of story {entry['id']}")
    views = ALIGNMENTS if align == "both" else [align]
    maps = "".join(f'<div class="tw-view tw-{view}"><small>{ALIGNMENTS[view]}</small>'
                   f'{token_heatmap(entry["tokens"], view, scale, **look)}</div>' if align == "both"
                   else token_heatmap(entry["tokens"], view, scale, **look) for view in views)
    strongest = max(entry["tokens"], key=lambda t: abs(t["influence"]), default=None)
    note = f'<p class="tw-soft">Strongest token: <bdi>{_esc(_describe(strongest))}</bdi></p>' if strongest else ""
    words = f'<small>words match: cosine {entry["similarity"]:.2f}</small>' if "similarity" in entry else ""
    return (f'<article class="tw-card"><div class="tw-head"><span>#{_esc(entry["rank"])}</span><b>{_signed(value)}</b>'
            f'<small>{UNIT}</small>{words}<small><bdi>{_esc(_named(entry["id"]))}</bdi></small></div>'
            f'{_reach(value, longest) if longest else ""}{maps}{layer_strip(entry["layers"])}{note}{_notes(entry, distribution)}'
            f'{_strongest(entry["tokens"]) if longest else ""}</article>')


def _by_sign(query):
    """(heading, entries) for the stories that raise the completion, then for those that lower it."""
    if query.get("method") == "TF-IDF":
        return [("Stories whose words match best, with their EK-FAC influence", query["influences"])]
    raises = [e for e in query["influences"] if e["influence"] >= 0]
    lowers = [e for e in query["influences"] if not e["influence"] >= 0]
    return [("Stories that raise the completion's probability", raises), ("Stories that lower it", lowers)]


def _key(scale):
    ends = f"{_rgba(-1)},transparent,{_rgba(1)}"
    return (f'<div class="tw-key tw-soft"><i style="background:linear-gradient(90deg,{ends})"></i>'
            f"<span>{_signed(-scale)}</span><span>0</span><span>{_signed(scale)}</span></div>")


def _asked(query):
    """HTML of what was asked: prompt and completion, the explained part underlined; and by which method, if said."""
    marked = query.get("explained") or [[query["completion"], True]]
    completion = "".join(f"<mark>{_esc(text)}</mark>" if chosen else _esc(text) for text, chosen in marked)
    how = " · ".join(filter(None, (query.get("method"), query.get("layer") and f"tokens by layer {query['layer']}")))
    return f'<bdi dir="auto">{_esc(query["prompt"])}{completion}</bdi>' + (f" <small>{_esc(how)}</small>" if how else "")


def query_section(query, align="input", **look):
    """HTML section of one query: what was asked, the legend, a card a story, all on one colour scale.

    look: `root` and `threshold` of `token_heatmap`.
    """
    scale = _scale(query["influences"])
    longest = max((abs(e["influence"]) for e in query["influences"]), default=0.0)
    where = "" if align == "both" else f" Each value stands {ALIGNMENTS.get(align, '')}."
    more = " Shades grow with the square root." if look.get("root") else ""
    if query.get("method") == "dot product":
        more += " By dot product these are the nats of one gradient step of rate 1: compare them with each other only."
    logp = _finite(query["log_prob"], "log_prob")
    parts = [f'<section><h2>{_asked(query)}</h2>'
             f'<p class="tw-soft">log-probability of the underlined completion: {logp:.3f} nats (p = {math.exp(logp):.3g})</p>'
             f'{_key(scale)}<p class="tw-soft">Shade of a token: its part of the story\'s influence, in {UNIT}. Orange raises the '
             f"completion's log-probability, blue with a dotted underline lowers it.{where}{more} Short bars: the same by layer, "
             "up raises, down lowers, numbered by block. Point at a token or bar for its value; the strongest tokens are also in a "
             "table below each story.</p>"]
    for heading, entries in _by_sign(query):
        cards = "".join(sequence_card(e, align, scale, longest, query.get("distribution"), **look) for e in entries)
        parts.append(f"<h3>{heading}</h3>{cards or '<p>None among those shown.</p>'}")
    return "".join(parts) + "</section>"


def page(result, align="input", **look):
    """Standalone HTML page of a whole result: no script, no outside resource; the reader can switch alignment."""
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}: take 'input' or 'predicted'")
    told = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    told |= {"tracked": tracked(result["tracked"])} if "tracked" in result else {}
    facts = "".join(f"<dt>{_esc(key)}</dt><dd>{_esc(value)}</dd>" for key, value in told.items())
    toggles = "".join(f'<input type="radio" name="tw-align" id="tw-{a}" aria-describedby="tw-stands"{" checked" if a == align else ""}>'
                      f'<label for="tw-{a}">{label}</label>' for a, label in ALIGNMENTS.items())
    queries = result["queries"]
    links = "".join(f'<li><a href="#q{i}">{_asked(q)}</a></li>'
                    for i, q in enumerate(queries, 1)) if len(queries) > 1 else ""
    sections = "".join(query_section(q, "both", **look).replace("<section>", f'<section id="q{i}">', 1)
                       for i, q in enumerate(queries, 1))
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
            f'<title>Which training stories taught this?</title><style>{CSS}{PAGE_CSS}</style></head><body class="tw">'
            "<header><h1>Which training stories taught this?</h1><p>One more copy of a training story would change the "
            f"log-probability of the completion by the number on its card.</p><details><summary>Settings</summary><dl>{facts}</dl>"
            f"</details>{f'<ol>{links}</ol>' if links else ''}</header><small id='tw-stands'>A token's influence stands&ensp;</small>"
            f"{toggles}<main>{sections}</main></body></html>\n")


def tracked(summary):
    """What part of a model is tracked, and what is missing, in words; `summary` is "tracked" of the JSON."""
    said = (f"{summary['layers']} layers, {summary['parameters']:,} of the model's {summary['of']:,} parameters "
            f"({summary['parameters'] / summary['of']:.1%})")
    return said + (f"; {summary['note']}" if summary["note"] else "")


def write_page(result, path, align="input", **look):
    """Writes `page` of a result to `path`, whole or not at all. Raises InputError where that folder cannot be written."""
    text = page(result, align, **look)
    with output(path):
        save_text(text, path)


def fragment(queries, align="input", **look):
    """HTML of one or more queries side by side, with its style, for a notebook."""
    sections = "".join(query_section(query, align, **look) for query in queries)
    return f'<style>{CSS}</style><div class="tw"><div class="tw-beside">{sections}</div></div>'


def display(query, align="input", **look):
    """One query of a result as IPython.display.HTML, for notebooks."""
    from IPython.display import HTML
    return HTML(fragment([query], align, **look))


def _columns(char):
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fit(text, width, keep_end=False):
    """`text` on one line in exactly `width` terminal columns, cut with … or padded on the side that is given up."""
    text = visible(text, "⏎")
    if (total := sum(map(_columns, text))) > width:
        total, kept = 1, []
        for char in text[::-1] if keep_end else text:
            if (total := total + _columns(char)) > width:
                total -= _columns(char)
                break
            kept.append(char)
        text = "…" + "".join(kept[::-1]) if keep_end else "".join(kept) + "…"
    pad = " " * (width - total)
    return pad + text if keep_end else text + pad


def text_table(query):
    """The top stories as plain text, at most 100 columns wide: rank, influence, id, strongest token in context."""
    prompt, completion = _fit(query["prompt"], 50, True).lstrip(), _fit(query["completion"], 28).rstrip()
    lines = [f"{prompt} →{completion}  (log p = {query['log_prob']:.3f})"]
    for heading, entries in _by_sign(query):
        lines += ["", f"{heading} ({UNIT})", " rank  influence  story         strongest token, in [ ], and what it predicts"]
        for entry in entries:
            tokens = entry["tokens"]
            top = max(range(len(tokens)), key=lambda t: abs(tokens[t]["influence"]), default=0)
            parts = tokens[:top], tokens[top:top + 1], tokens[top + 1:]
            before, here, after = ("".join(t["token"] for t in part) for part in parts)
            snippet = _fit(before, 28, True) + (f"[{_fit(here, 14).rstrip()}]" if tokens else "") + visible(after, "⏎")
            strong = _signed(tokens[top]["influence"]) if tokens else ""
            lines.append(f"{_fit(entry['rank'], 5, True)} {_fit(_signed(entry['influence']), 10, True)}  {_fit(entry['id'], 12)}  "
                         f"{_fit(strong, 9, True)}  {_fit(snippet, 57)}")
        if not entries:
            lines.append(" none among those shown")
    return "\n".join(line.rstrip() for line in lines)


def _figure(width, height):
    """A white figure outside pyplot's list: a notebook shows it once, where it is returned."""
    import matplotlib.pyplot as plt
    with plt.style.context("default"):
        fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(fig)
    return fig, ax


def _colours(scale):
    """Colour map and norm with the shades that `_rgba` has on white."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    ends = [[1 - OPACITY * (1 - c / 255) for c in colour] for colour in (BLUE, ORANGE)]
    return LinearSegmentedColormap.from_list("influence", [ends[0], "white", ends[1]]), Normalize(-(scale or 1), scale or 1)


def _drawable(text):
    """`visible` text with □ for whatever matplotlib's own font cannot draw, such as emoji."""
    from matplotlib.font_manager import findfont, get_font
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(c if c == "\n" or ord(c) in known else "□" for c in visible(text))


def _wrap(cells, width_of, limit):
    """Places (line, x, width, text, source) of the cells on lines of `limit` points; words stay whole where they fit."""
    texts, placed, line, x = [_drawable(text) for text, _ in cells], [], 0, 0.0
    for i, (text, (_, source)) in enumerate(zip(texts, cells)):
        for n, part in enumerate(text.split("\n")):
            line, x = (line + 1, 0.0) if n else (line, x)
            word = part
            for following in texts[i + 1:i + 9] if "\n" not in text else ():
                if following[:1].isspace():
                    break
                word += following
            if x and x + width_of(word.split("\n")[0]) > limit:
                line, x, part = line + 1, 0.0, part.lstrip(" ")
            while part:
                fits = part[:300]
                while len(fits) > 1 and x + width_of(fits) > limit:
                    fits = fits[:-1]
                placed.append((line, x, width_of(fits), fits, source))
                part, x = part[len(fits):], x + width_of(fits)
                line, x = (line + 1, 0.0) if part else (line, x)
    return placed


def _ruler(font, dpi):
    """Function from a text to its width in points; memorises, since stories repeat their words."""
    from matplotlib.backends.backend_agg import RendererAgg
    renderer, known = RendererAgg(1, 1, dpi), {}

    def width(text):
        if text not in known:  # measured between two bars, because extents leave out spaces at the ends
            wide, bars = (renderer.get_text_width_height_descent(t, font, False)[0] for t in (f"|{text}|", "||"))
            known[text] = (wide - bars) * 72 / dpi
        return known[text]
    return width


def _room(ax, lines=0.0):
    """Width and height of an axes in points, its figure made taller until it holds `lines` points."""
    for _ in range(12):  # how much of a new height reaches this axes depends on the figure's layout
        ax.figure.draw_without_rendering()
        width, height = (side * 72 / ax.figure.dpi for side in ax.get_window_extent().bounds[2:])
        if height >= lines:
            break
        ax.figure.set_figheight(ax.figure.get_figheight() + (lines - height + 1) / 72)
    return width, height


def plot_token_heatmap(entries, align="input", ax=None):
    """Figure: several entries' stories as wrapped words shaded by influence, one scale (nats per extra copy).

    A dotted line marks the clearly negative tokens. With `ax`, draws there and makes its figure as tall as it must be.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle
    ax = _figure(8, 1.5)[1] if ax is None else ax
    font, step, scale = FontProperties(family="DejaVu Sans", size=11), 19, _scale(entries)  # step: points a line
    cmap, norm = _colours(scale)
    bar = ax.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, orientation="horizontal", aspect=50, pad=0.02)
    bar.set_ticks([norm.vmin, 0, norm.vmax], labels=[_signed(-scale), "0", _signed(scale)], fontsize=10)
    ax.axis("off")
    limit, ruler = _room(ax)[0], _ruler(font, ax.figure.dpi)
    bar.set_label(textwrap.fill(f"{UNIT}, {ALIGNMENTS.get(align, align)}; dotted line: negative", int(limit / 5.5)), fontsize=10)
    blocks = [_wrap(_cells(e["tokens"], align), ruler, limit) for e in entries]
    heights = [(block[-1][0] + 2.6 if block else 2) * step for block in blocks]
    ax.set(xlim=(0, limit), ylim=(_room(ax, sum(heights))[1], 0))
    for n, (entry, block) in enumerate(zip(entries, blocks)):
        top = sum(heights[:n])
        heading = f"#{entry['rank']}  {_signed(_finite(entry['influence'], 'influence'))} nats  {_named(entry['id'])}"
        ax.text(0, top + step / 2, _drawable(heading)[:60], fontsize=10, weight="bold", va="center", parse_math=False)
        for line, x, wide, text, source in block:
            y, value = top + (line + 1) * step, source["influence"] if source else 0.0
            ax.add_patch(Rectangle((x, y + 1), wide, step - 2, color=cmap(norm(value)), linewidth=0))
            ax.text(x, y + step / 2, text, fontproperties=font, va="center_baseline", color="black", parse_math=False)
            if _share(value, scale) < -FAINT:
                ax.plot([x + 1, x + wide - 1], [y + step - 3] * 2, ":", color="black", linewidth=1.2)
    return ax.figure


def plot_layers(entries):
    """Figure: influence of every entry (row) by layer (column), in nats per extra copy."""
    if not entries:
        raise ValueError("no entries to draw: give at least one influence entry")
    values = np.array([[_finite(v, n) for n, v in e["layers"].items()] for e in entries], dtype=float)
    names = layer_names(entries[0]["layers"])
    fig, ax = _figure(8, 1.9 + 0.3 * len(entries))
    cmap, norm = _colours(np.abs(values).max(initial=0.0))
    fig.colorbar(ax.imshow(values, cmap=cmap, norm=norm, aspect="auto"), ax=ax, pad=0.02).set_label(UNIT, fontsize=10)
    every = -(-len(names) // 26)
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=9)
    labels = [_drawable(f"{'+' if e['influence'] >= 0 else '−'}#{e['rank']}  {e['id']}")[:20] for e in entries]
    ax.set_yticks(range(len(entries)), labels, fontsize=9)
    for (row, column), value in np.ndenumerate(values if len(names) <= 26 else values[:, :0]):
        ax.text(column, row, "+" if value > 0 else "−" if value < 0 else "", ha="center", va="center", fontsize=9)
    ax.set_title("Influence by layer", fontsize=11)
    return fig


def _array(values, what):
    values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float).ravel()
    if not np.isfinite(values).all():
        raise ValueError(f"{what} holds {np.sum(~np.isfinite(values))} values that are not finite")
    return values


def tail_share(scores, top=0.01):
    """Share of all positive influence that the highest `top` of all sequences carry (paper, figure on the tail)."""
    scores = np.sort(_array(scores, "scores"))[::-1]
    positive = np.maximum(scores, 0)
    return float(positive[:math.ceil(top * len(scores))].sum() / positive.sum()) if positive.any() else 0.0


def plot_tail(scores):
    """Figure: |influence| (nats per extra copy) against rank, log-log, positive and negative apart; scores `(N,)`."""
    scores = _array(scores, "scores")
    fig, ax = _figure(7, 4.2)
    for sign, name, colour, style in ((1, "positive", ORANGE, "-"), (-1, "negative", BLUE, "--")):
        values = np.sort(sign * scores[sign * scores > 0])[::-1]
        if len(values):
            ranks = np.arange(1, len(values) + 1)
            ax.loglog(ranks, values, style, color=[c / 255 for c in colour], label=f"{name} ({len(values)})")
            ax.legend(fontsize=10)
    ax.set_xlabel("rank of the training story", fontsize=10)
    ax.set_ylabel(f"|influence|, {UNIT}", fontsize=10)
    ax.set_title(f"The top 1% of {len(scores)} stories carry {tail_share(scores):.0%} of the positive influence", fontsize=11)
    ax.grid(alpha=0.3)
    return fig


def scatter(x, y, xlabel="", ylabel="", title=""):
    """Figure of y against x (same length), with their Pearson correlation in the title."""
    x, y = _array(x, "x"), _array(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} values and y has {len(y)}: give one y for every x")
    spread = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    pearson = f"Pearson r = {np.corrcoef(x, y)[0, 1]:.3f}" if spread else "Pearson r undefined (no spread)"
    fig, ax = _figure(5.5, 4.5)
    ax.axhline(0, color="#767676", linewidth=0.8)
    ax.axvline(0, color="#767676", linewidth=0.8)
    ax.scatter(x, y, s=16, alpha=0.6, color=[c / 255 for c in BLUE], linewidths=0)
    ax.set_xlabel(xlabel, fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    ax.set_title(f"{title}\n{pearson}".strip(), fontsize=11)
    return fig

"""HTML of influences: cards, sections, a standalone page. The markup is that of the templates here.

Every text of a story reaches a template as it is, and leaves it by the filter `visible` or
`visible_lines`; whatever else a template prints is escaped by jinja2.
"""
import html
import math
import re
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ..sources.files import output, save_text
from . import shades
from .text import (ALIGNMENTS, UNIT, by_sign, described, named_story, signed, strongest_token,
                   tracked, visible)
from .values import finite, largest_of_tokens

FOLDER = Path(__file__).parent
CSS, PAGE_CSS = ("\n" + (FOLDER / name).read_text(encoding="utf-8")
                 for name in ("style.css", "page.css"))


def _joined(name):
    """A template without line breaks and indentation, which would be seen in the text of a story.

    Beside a tag or an expression they leave nothing, between words a blank.
    """
    source = (FOLDER / name).read_text(encoding="utf-8")
    return re.sub(r"\n\s*", " ", re.sub(r"(?<=[>}])\n\s*|\n\s*(?=[<{])", "", source))


def _escaped(text):
    return Markup(html.escape(visible(text, "⏎")))


def _escaped_lines(text):
    """The same with a line break where the story has one."""
    return Markup(html.escape(visible(text)).replace("\n", "<br>"))


TEMPLATES = Environment(loader=FunctionLoader(_joined), autoescape=True, undefined=StrictUndefined)
TEMPLATES.filters |= {"visible": _escaped, "visible_lines": _escaped_lines, "signed": signed}
TEMPLATES.globals |= {"style": Markup(CSS), "page_style": Markup(PAGE_CSS)}


def _drawn(template, macro, *data) -> str:
    return str(getattr(TEMPLATES.get_template(template).module, macro)(*data))


# -- parts of a card -------------------------------------------------------------------------------

def token_heatmap(tokens, align="input", scale=None, root=False, threshold=0.0) -> str:
    """HTML of a story's tokens, shaded by signed influence (orange +, blue and dotted underline -).

    align="input": a value stands on the token read at t; "predicted": on x_{t+1}, the first token
    has none. scale: the |influence| of the full shade, in nats; None = the largest given. root:
    shades grow with its square root. threshold: share of the scale below which a token stays blank.
    Raises ValueError on NaN or inf, and for an unknown `align`.
    """
    words = shades.heatmap(tokens, align, scale, root, threshold)
    return _drawn("heatmap.html", "heatmap", words)


def layer_strip(layers) -> str:
    """HTML strip with one signed bar a layer, grouped by block, of `{name: nats}`.

    Tooltips hold full names and values. Raises ValueError on NaN or inf.
    """
    return _drawn("card.html", "strip", shades.strip(layers))


def spread_picture(distribution, value) -> str:
    """HTML (SVG) of a `spread` with a mark where `value`, nats per extra copy, stands in it."""
    return _drawn("card.html", "place", shades.place(distribution, value))


def sequence_card(entry, align="input", scale=None, longest=None, distribution=None, **look) -> str:
    """HTML card of one influence entry: rank, id, signed influence, heatmap, layer strip.

    align="both": two heatmaps; scale: as of `token_heatmap`; longest: the |influence| of a full
    bar, in nats; distribution: a `spread` to mark the story's place in; look: `root` and
    `threshold` of `token_heatmap`. Of an explorer's entry also its standing and what was planted.
    Raises ValueError on NaN or inf, and for an unknown `align`.
    """
    return _drawn("card.html", "card", _card(entry, align, scale, longest, distribution, **look))


def _card(entry, align, scale, longest, distribution, unit=UNIT, **look):
    """What card.html shows of an entry; None for what it leaves out."""
    influence = finite(entry["influence"], f"influence of story {entry['id']}")
    tokens, standing = entry["tokens"], entry.get("standing")
    views = ALIGNMENTS if align == "both" else [align]
    strongest = strongest_token(tokens)
    marked = standing and distribution
    return {
        "rank": entry["rank"], "influence": influence, "name": named_story(entry["id"]),
        "unit": unit,
        "cosine": f"{entry['similarity']:.2f}" if "similarity" in entry else None,
        "reach": shades.reach(influence, longest) if longest else None,
        "views": [{"align": view, "words": shades.heatmap(tokens, view, scale, **look),
                   "label": ALIGNMENTS[view]} for view in views],
        "layers": shades.strip(entry["layers"]),
        "strongest": None if strongest is None else described(tokens[strongest]),
        "standing": _standing(standing) if standing else None,
        "place": shades.place(distribution, influence) if marked else None,
        "planted": entry.get("planted"), "note": entry.get("note"),
        "table": _strongest(tokens) if longest else None,
    }


def _standing(standing):
    return (f"rank {standing['rank']:,} of {standing['of']:,}, "
            f"higher than {standing['above']:.2%} of all stories")


def _strongest(tokens, most=8):
    return sorted(tokens, key=lambda token: -abs(token["influence"]))[:most]


# -- queries ---------------------------------------------------------------------------------------

def query_section(query, align="input", **look) -> str:
    """HTML section of one query: what was asked, the legend, a card a story, on one colour scale.

    query: one of "queries" of the JSON; look: its `unit`, and `root` and `threshold` of
    `token_heatmap`. Raises ValueError on NaN or inf, and for an unknown `align`.
    """
    return _drawn("section.html", "section", _section(query, align, **look))


def _section(query, align, unit=UNIT, **look):
    """What section.html shows of a query, the stories by the sign of their influence."""
    entries = query["influences"]
    scale = largest_of_tokens(entries)
    longest = max((abs(entry["influence"]) for entry in entries), default=0.0)
    log_prob = finite(query["log_prob"], "log_prob")
    shared = (align, scale, longest, query.get("distribution"), unit)
    return {
        "asked": _asked(query), "log_prob": f"{log_prob:.3f}", "prob": f"{math.exp(log_prob):.3g}",
        "key": [shades.rgba(-1), "transparent", shades.rgba(1)],
        "scale": scale, "unit": unit,
        "where": None if align == "both" else ALIGNMENTS.get(align, ""),
        "root": look.get("root"), "one_step": query.get("method") == "dot product",
        "sides": [{"heading": heading, "stories": [_card(entry, *shared, **look) for entry in side]}
                  for heading, side in by_sign(query)],
    }


def _asked(query):
    """The question: prompt, completion in pieces with what is explained, and by which method."""
    layer = query.get("layer") and f"tokens by layer {query['layer']}"
    against = query.get("against") and f"rather than “{query['against']}”"
    return {"prompt": query["prompt"],
            "completion": query.get("explained") or [[query["completion"], True]],
            "how": " · ".join(filter(None, (against, query.get("method"), layer)))}


def page(result, align="input", **look) -> str:
    """Standalone HTML page of a whole result: no script, no outside resource.

    The reader can switch the alignment; `align` is the first. look: `root` and `threshold` of
    `token_heatmap`. Raises ValueError on NaN or inf, and for an unknown `align`.
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}: take 'input' or 'predicted'")
    facts = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    facts |= {"tracked": tracked(result["tracked"])} if "tracked" in result else {}
    queries = [_section(query, "both", result["unit"], **look) for query in result["queries"]]
    return _drawn("page.html", "page", queries, facts, align, ALIGNMENTS)


def write_page(result, path, align="input", **look) -> None:
    """Writes `page` of a result to `path`, whole or not at all.

    Raises InputError where that folder cannot be written, and ValueError as `page`.
    """
    text = page(result, align, **look)
    with output(path):
        save_text(text, path)


def fragment(queries, align="input", **look) -> str:
    """HTML of queries side by side, with its style, for a notebook; see `query_section`."""
    return _drawn("page.html", "fragment", [_section(query, align, **look) for query in queries])


def display(query, align="input", **look):
    """One query of a result as IPython.display.HTML, for notebooks; see `query_section`."""
    from IPython.display import HTML
    return HTML(fragment([query], align, **look))

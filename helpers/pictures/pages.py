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
from .asked import MOST_WORDS, asked, pieces
from .text import (ALIGNMENTS, ORDERS, UNIT, by_sign, is_learnt, named_story, quote, signed,
                   signed_tokens, tracked, visible)
from .values import finite, largest, largest_of_tokens

FOLDER = Path(__file__).parent / "templates"
CSS, PAGE_CSS = ("\n" + (FOLDER / name).read_text(encoding="utf-8")
                 for name in ("style.css", "page.css"))


def _joined(name):
    """A template without line breaks and indentation, which would be seen in the text of a story.
    Beside a tag or an expression they leave nothing, between words a blank."""
    source = (FOLDER / name).read_text(encoding="utf-8")
    return re.sub(r"\n\s*", " ", re.sub(r"(?<=[>}])\n\s*|\n\s*(?=[<{])", "", source))


def _escaped(text):
    return Markup(html.escape(visible(text, "⏎")))


def _escaped_lines(text):
    """The same with a line break where the story has one."""
    return Markup(html.escape(visible(text)).replace("\n", "<br>"))


TEMPLATES = Environment(loader=FunctionLoader(_joined), autoescape=True, undefined=StrictUndefined)
TEMPLATES.filters |= {"visible": _escaped, "visible_lines": _escaped_lines, "signed": signed}
TEMPLATES.globals |= {"style": Markup(CSS), "page_style": Markup(PAGE_CSS),
                      "most_words": MOST_WORDS, "orders": ORDERS}


def _drawn(template, macro, *data) -> str:
    return str(getattr(TEMPLATES.get_template(template).module, macro)(*data))


# -- a card ----------------------------------------------------------------------------------------

def _card(entry, align, scale, longest, words, answers):
    """What card.html shows of an entry; None for what it leaves out. `scale` and `longest` are the
    |influence| of a token's full shade and of a story's full bar."""
    influence = finite(entry["influence"], f"influence of story {entry['id']}")
    tokens = signed_tokens(entry)
    decisive = quote(tokens, influence)
    parts = zip(answers, entry.get("parts", ()), strict=False)
    return {
        "entry": entry, "name": named_story(entry["id"]), "quote": decisive,
        "mark": shades.rgba(math.copysign(1, decisive["influence"])) if decisive else "",
        "reach": shades.reach(influence, longest), "layers": shades.strip(entry["layers"]),
        "parts": [(answer, value, shades.reach(value, longest)) for answer, value in parts],
        "views": [{"align": view, "words": shades.heatmap(tokens, view, scale, words)}
                  for view in (ALIGNMENTS if align == "both" else [align])],
        "table": sorted(tokens, key=lambda token: -abs(token["influence"]))[:8],
    }


# -- queries ---------------------------------------------------------------------------------------

def _section(query, align):
    """What section.html shows of a query, the stories by the sign of their influence."""
    entries, answers = query["influences"], (query["completion"], query.get("against"))
    log_probs = [finite(query[name], name) for name in ("log_prob", "log_prob_against")
                 if query.get(name) is not None]
    likely = [(answer, log_prob, math.exp(log_prob)) for answer, log_prob
              in zip(answers, log_probs, strict=False)]
    values = [value for entry in entries for value in (entry["influence"],
                                                       *entry.get("parts", ()))]
    scale, words = largest_of_tokens(entries), asked(query)
    shared = align, scale, largest(values, "influence"), words, answers
    return {
        "query": query, "asked": pieces(query, words.numbers), "scale": scale, "likely": likely,
        "learnt": all(is_learnt(token) for entry in entries for token in entry["tokens"]),
        "key": [shades.rgba(-1), "transparent", shades.rgba(1)], "unit": query.get("unit", UNIT),
        "where": None if align == "both" else ALIGNMENTS.get(align, ""),
        "sides": [[_card(entry, *shared) for entry in side] for _, side in by_sign(query)],
    }


def page(result, align="input") -> str:
    """Standalone HTML page of a whole result: no script, no outside resource.

    The reader can switch the alignment; `align` is the first. Raises ValueError on NaN or inf, and
    for an unknown `align`.
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}: take 'input' or 'predicted'")
    facts = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    facts |= {"tracked": tracked(result["tracked"])} if "tracked" in result else {}
    top = {name: result[name] for name in ("unit", "target", "rank") if name in result}
    queries = [_section(top | query, "both") for query in result["queries"]]
    return _drawn("page.html", "page", queries, facts, align, ALIGNMENTS)


def write_page(result, path, align="input") -> None:
    """Writes `page` of a result to `path`, whole or not at all. Raises InputError where that folder
    cannot be written, and ValueError as `page`."""
    text = page(result, align)
    with output(path):
        save_text(text, path)


def fragment(queries, align="input") -> str:
    """HTML of queries with its style, for a notebook: what was asked, a legend, a card a story.

    Each is one of "queries" of the JSON, with "unit" and "target" where they are not influence's.
    Raises ValueError on NaN or inf, and for an unknown `align`.
    """
    return _drawn("page.html", "fragment", [_section(query, align) for query in queries])


def overview(views) -> str:
    """HTML table of an explorer's overview: methods down, targets across, their first stories."""
    first, methods = set(), {}
    for view in views:
        _, entries = by_sign(view)[0]
        rows = {entry["index"] for entry in entries}
        first = first or rows
        stories = [entry | {"quote": quote(signed_tokens(entry), entry["influence"])}
                   for entry in entries]
        methods.setdefault(view["method"], []).append(
            {"target": view["target"], "stories": stories, "shared": len(rows & first)})
    return _drawn("page.html", "overview", methods)


def display(query, align="input"):
    """One query of a result as IPython.display.HTML; see `fragment`."""
    from IPython.display import HTML
    return HTML(fragment([query], align))

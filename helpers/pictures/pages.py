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
from .text import (ALIGNMENTS, UNIT, by_sign, named_story, quote, signed, signed_tokens, tracked,
                   visible)
from .values import finite, largest, largest_of_tokens

FOLDER = Path(__file__).parent / "templates"
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
TEMPLATES.globals |= {"style": Markup(CSS), "page_style": Markup(PAGE_CSS),
                      "most_words": MOST_WORDS}


def _drawn(template, macro, *data) -> str:
    return str(getattr(TEMPLATES.get_template(template).module, macro)(*data))


# -- a card ----------------------------------------------------------------------------------------

def _card(entry, align, scale, longest, words, answers):
    """What card.html shows of an entry; None for what it leaves out. `scale` and `longest` are the
    |influence| of a token's full shade and of a story's full bar."""
    influence = finite(entry["influence"], f"influence of story {entry['id']}")
    tokens, standing = signed_tokens(entry), entry.get("standing")
    decisive = quote(tokens, influence)
    parts = zip(answers, entry.get("parts", ()), strict=False)
    return {
        "rank": entry["rank"], "influence": influence, "name": named_story(entry["id"]),
        "cosine": f"{entry['similarity']:.2f}" if "similarity" in entry else None,
        "reach": shades.reach(influence, longest),
        "parts": [(answer, value, shades.reach(value, longest)) for answer, value in parts],
        "quote": decisive, "side": "for" if influence >= 0 else "against",
        "mark": shades.rgba(math.copysign(1, decisive["influence"])) if decisive else "",
        "views": [{"align": view, "words": shades.heatmap(tokens, view, scale, words)}
                  for view in (ALIGNMENTS if align == "both" else [align])],
        "layers": shades.strip(entry["layers"]),
        "standing": standing and f"rank {standing['rank']:,} of {standing['of']:,}, "
                                 f"higher than {standing['above']:.2%} of all stories",
        "planted": entry.get("planted"), "note": entry.get("note"),
        "table": sorted(tokens, key=lambda token: -abs(token["influence"]))[:8],
    }


# -- queries ---------------------------------------------------------------------------------------

def _section(query, align):
    """What section.html shows of a query, the stories by the sign of their influence."""
    entries = query["influences"]
    values = [value for entry in entries for value in (entry["influence"],
                                                       *entry.get("parts", ()))]
    scale, words = largest_of_tokens(entries), asked(query)
    shared = (align, scale, largest(values, "influence"), words,
              (query["completion"], query.get("against")))
    return {
        "asked": pieces(query, words.numbers), "facts": _facts(query), "scale": scale,
        "key": [shades.rgba(-1), "transparent", shades.rgba(1)], "unit": query.get("unit", UNIT),
        "where": None if align == "both" else ALIGNMENTS.get(align, ""),
        "one_step": query.get("method") == "dot product", "open": len(entries) == 1,
        "sides": [{"heading": heading, "stories": [_card(entry, *shared) for entry in side]}
                  for heading, (_, side) in zip(_headings(query), by_sign(query), strict=True)],
    }


def _headings(query):
    """(short, what it means) of each column."""
    answer, against = (query.get(name) or "" for name in ("completion", "against"))
    if query.get("method") == "TF-IDF":
        return [("Alike", "the same words, whatever their influence")]
    if against:
        return [("For", f"“{answer.strip()}”"), ("Against", f"for “{against.strip()}”")]
    if query.get("target") == "content":
        return [("For", "these stories hold it"), ("Against", "these hold another answer")]
    return [("For", "one more copy raises its probability"), ("Against", "one more copy lowers it")]


def _facts(query):
    """One line: how likely the answers are, and by which method the stories were found."""
    def likely(answer, log_prob):
        log_prob = finite(log_prob, "log_prob")
        return f"log p(“{answer.strip()}”) = {log_prob:.3f} (p = {math.exp(log_prob):.3g})"
    explained = query.get("explained") or [[query["completion"], True]]
    facts = [likely("".join(text for text, chosen in explained if chosen), query["log_prob"])]
    if query.get("against"):
        facts.append("compared with " + likely(query["against"], query["log_prob_against"]))
    if query.get("contexts"):
        facts.append(f"mean over {len(query['contexts'])} beginnings of stories")
    layer = query.get("layer") and f"tokens by layer {query['layer']}"
    score = f"{query.get('target', 'influence')} in {query.get('unit', UNIT)}"
    return " · ".join(filter(None, (*facts, query.get("method"), score, layer)))


def _sections(result, align):
    """The queries of a result; what stands at its top is said by each."""
    top = {name: result[name] for name in ("unit", "target") if name in result}
    return [_section(top | query, align) for query in result["queries"]]


def page(result, align="input") -> str:
    """Standalone HTML page of a whole result: no script, no outside resource.

    The reader can switch the alignment; `align` is the first. Raises ValueError on NaN or inf, and
    for an unknown `align`.
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}: take 'input' or 'predicted'")
    facts = {key: value for key, value in result.items() if not isinstance(value, (dict, list))}
    facts |= {"tracked": tracked(result["tracked"])} if "tracked" in result else {}
    return _drawn("page.html", "page", _sections(result, "both"), facts, align, ALIGNMENTS)


def write_page(result, path, align="input") -> None:
    """Writes `page` of a result to `path`, whole or not at all.

    Raises InputError where that folder cannot be written, and ValueError as `page`.
    """
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

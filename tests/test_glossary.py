"""GLOSSARY.md has every term and symbol of the conventions, in order, where it says; and all texts use symbols alike."""
import re

import pytest
from builders import ROOT
from documents import MARKDOWN, NOTEBOOKS, sections, text

PATH = ROOT / "notebooks" / "GLOSSARY.md"
SYMBOLS, TERMS = text(PATH).split("\n## Terms\n")
ENTRIES = re.findall(r"^- \*\*(.+?)\*\*: (.+)$", TERMS, re.M)
CONVENTIONS = sections(NOTEBOOKS[0])["Conventions"]
# How a symbol may be defined, without spacing; notebook 05 shows mistakes beside it, and is free to.
DEFINED = {
    r"A": {r"E[\bar a\bar a^\top]", r"Q_A\Lambda_AQ_A^\top"},
    r"S": {r"E[DsDs^\top]", r"Q_S\Lambda_SQ_S^\top"},
    r"D\theta": {r"\sum_tDs_t\bar a_t^\top", r"\sum_tr_t", r"Ds\bar a^\top"},  # the last: one token
    r"r_t": {r"Ds_t\bar a_t^\top"},
    r"\Lambda": {r"E[(Q_S^\topD\thetaQ_A)^2]", r"E_\text{stories}[(Q_S^\topD\thetaQ_A)^2]"},
    r"L_q": {"-f", r"-\nabla f"},
    r"I(z)": {r"\frac1N\nabla L_q^\top(G+\lambda I)^{-1}\nabla L(z)", r"\frac1N\nabla L_q^\topH^{-1}\nabla L(z)", r"\sum_\ell\sum_tI_{\ell,t}"},
    r"(G+\lambda I)^{-1}V": {r"Q_S[\frac{Q_S^\topVQ_A}{\Lambda+\lambda}]Q_A^\top"},
}


def rows(table):
    """The first column of every table's body."""
    return [line.split(" | ")[0].lstrip("| ") for line in table.splitlines()
            if line.startswith("| ") and not line.startswith(("| symbol", "|-"))]


def bare(formula):
    """LaTeX without spacing, sizes of brackets and braces that change nothing."""
    formula = re.sub(r"\\[,;:! ]|\\(?:big|Big|bigg|left|right)\b", "", formula)
    formula = re.sub(r"\^\{\\top\}", r"^\\top", formula).replace(r"_{\text{stories}}", r"_\text{stories}")
    return re.sub(r"\s+|\{\\ast\}", lambda found: "*" if "ast" in found[0] else "", formula)


def definitions(path):
    """(symbol, its definition) for each "symbol = …" that is a formula or part of one between commas."""
    names = "|".join(map(re.escape, sorted(DEFINED, key=len, reverse=True)))
    for formula in re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", text(path), re.S):
        for part in re.split(r"\\q?quad|(?<!\\),\s|\\\\|&", formula.strip("$")):
            if found := re.match(rf"\s*({names})\s*(?:\\;)?\s*=\s*(.+?)[\s.,]*$", part, re.S):
                yield found[1], bare(found[2])


def test_every_symbol_of_the_conventions_stands_there():
    ours, theirs = [bare(row) for row in rows(SYMBOLS)], [bare(row.strip("*")) for row in rows(CONVENTIONS)]
    assert len(theirs) > 15 and ours[:len(theirs)] == theirs


def test_every_term_of_the_conventions_is_explained():
    named = {part for bold in re.findall(r"^- \*\*(.+?)\*\*:|\*\*(Completeness|Unit)\*\*", CONVENTIONS, re.M)
             for part in re.split(r" and ", (bold[0] or bold[1]).lower())}
    assert named >= {"sign", "unit", "completeness", "layerwise", "tokenwise", "token index"}
    assert named <= {term.lower() for term, _ in ENTRIES}


def test_terms_stand_in_order_and_once():
    order = [term.casefold().replace("–", "-") for term, _ in ENTRIES]
    assert len(ENTRIES) > 60 and order == sorted(set(order))
    assert len(ENTRIES) == len(re.findall(r"^- ", TERMS, re.M))


@pytest.mark.parametrize("term, meaning", ENTRIES, ids=[term for term, _ in ENTRIES])
def test_a_term_is_short_and_used_in_the_sections_it_names(term, meaning):
    words, places = meaning.rsplit(" (", 1)
    named = re.findall(r"\[(0\d)[^\]]*\]\(([^)#]+)#?([^)]*)\)", places + ")")
    assert named and words.count(". ") <= 3 and len(words.split()) <= 50
    forms = [form for form in re.split(r" \(|\)", term.lower()) if form]
    forms.append(max(re.split(r"\W", forms[0]), key=len)[:-1])  # its longest word, in the singular or plural
    for number, name, anchor in named:
        assert name.startswith(number)
        content = text(PATH.parent / name) if not anchor else sections(PATH.parent / name)[anchor]
        assert any(form in content.lower() for form in forms if len(form) > 2), (term, anchor)


@pytest.mark.parametrize("path", [path for path in MARKDOWN + NOTEBOOKS if not path.name.startswith("05")], ids=lambda path: path.stem)
def test_symbols_mean_the_same_everywhere(path):
    for symbol, definition in definitions(path):
        assert definition in {bare(known) for known in DEFINED[symbol]}, f"{symbol} = {definition}"


def test_definitions_are_found_and_a_turned_one_is_refused():
    found = [pair for path in MARKDOWN + NOTEBOOKS for pair in definitions(path)]
    assert len(found) > 30 and {symbol for symbol, _ in found} == set(DEFINED)
    assert bare(r"Q_S\,D\theta\,Q_A^{\top}") not in map(bare, DEFINED[r"\Lambda"])
    assert bare(r"\sum_t \bar a_t\,Ds_t^{\top}") not in map(bare, DEFINED[r"D\theta"])


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_formulas_survive_a_code_host(path):
    """In a Markdown file code hosts read \\, as an escaped comma, and a star may begin emphasis."""
    for formula in re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", text(path), re.S):
        assert not re.search(r"\\[,;:!]|\*|\\\|", formula), formula


def test_the_glossary_is_linked():
    for path in (NOTEBOOKS[0], ROOT / "notebooks" / "TEACHING.md", ROOT / "README.md"):
        assert "GLOSSARY.md" in text(path), path.name

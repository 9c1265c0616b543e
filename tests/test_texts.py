"""One lint for all texts: spelling, words, links, headings, tables, pictures, formulas, symbols and
the glossary.

Each test goes over everything and reports all that it finds, with its place. No network is asked.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from builders import ROOT
from documents import (MARKDOWN, NOTEBOOKS, SOURCES, Passage, blanked, formulas, passages, prose,
                       sections, text, without_code)

GLOSSARY = ROOT / "notebooks" / "GLOSSARY.md"
READ = [passage for path in [*MARKDOWN, *NOTEBOOKS] for passage in passages(path)]
SAID = [*READ, *(passage for path in SOURCES for passage in passages(path))]
# of things in PyTorch and transformers
NAMES = {"tokenizer", "tokenizers", "optimizer", "optimizers"}
# of somebody's work: spelt as its authors spell
TITLE = r"\*[A-Z][^*\n]*( [A-Z][a-z]{3,}[^*\n]*){2}\*"
# American forms, as whole words or beginnings.
AMERICAN = re.compile(
    r"(?i)\b(color|behavior|neighbor|favor|flavor|honor|labor|humor|(?:general|normal|optim|real"
    r"|recogn|organ|summar|penal|initial|local|linear|regular|standard|maxim|minim|visual|character"
    r"|emphas|memor|categor|priorit|util|parameter|factor|diagonal|quant|serial|token|random|final"
    r"|special|vector|synchron|stabil)iz(?:e|ing|ation)|analyz|center(?!pi)|fiber|theater|labeled"
    r"|labeling|modeled|modeling|traveled|traveling|canceled|canceling|signaled|totaled|fulfill"
    r"|skillful|catalogs?\b|dialogs?\b|gray|learned|spelled"
    r"|burned|defense|offense|artifact|judgment|towards?(?<=toward)\b|skeptic|mom\b)\w*")
# What the conventions of notebook 01 and the glossary call otherwise: pattern in the prose → what
# to write.
MISNOMERS = {
    r"\b(IHVP|ihvp|inverse[- ]hvp)\b": "iHVP", r"\bEKFAC\b": "EK-FAC", r"\bKFAC\b": "K-FAC",
    r"Gauss-Newton": "Gauss–Newton", r"\b[Tt]oken-wise": "tokenwise",
    r"\b[Ll]ayer-wise": "layerwise",
    r"[Pp]seudogradient": "pseudo-gradient",
    r"A\s*\\otimes\s*S\b": r"S \otimes A (rows of Dθ first)",
    r"\\(tilde|hat)\s*\{?a\b": r"\bar a", r"\\(delta|Delta)\s*s\b": "Ds",
    r"\\Sigma_[AS]": r"\Lambda_A, \Lambda_S",
    r"(?i)\bdampening\b": "damping", r"\bFisher information\b": "Fisher",
    r"\b[Dd]atasets?\b(?! library)": "data set",
    r"(?i)\blog probabilit": "log-probability", r"(?i)\bfine ?tun(?!e-)": "fine-tun",
    r"(?<!\")\b(TFIDF|tf-?idf)\b": "TF-IDF", r"\bPytorch\b": "PyTorch",
    r"(?i)\bdata ?modeling score": "datamodelling score",
    r"(?i)\bleave one out (retrain|check|cross)": "leave-one-out",
    r"(?i)\b(back|forward)prop(?!-)": "back-propagation",
    r"(?i)\bnats per copy\b": "nats per extra copy",
    r"(?i)\bspearman-brown": "Spearman–Brown",
}
# How a symbol may be defined, without spacing; notebook 05 shows mistakes beside it, and is free
# to.
DEFINED = {
    r"A": {r"E[\bar a\bar a^\top]", r"Q_A\Lambda_AQ_A^\top"},
    r"S": {r"E[DsDs^\top]", r"Q_S\Lambda_SQ_S^\top"},
    r"D\theta": {r"\sum_tDs_t\bar a_t^\top", r"\sum_tr_t", r"Ds\bar a^\top"},  # the last: one token
    r"r_t": {r"Ds_t\bar a_t^\top"},
    r"\Lambda": {r"E[(Q_S^\topD\thetaQ_A)^2]", r"E_\text{stories}[(Q_S^\topD\thetaQ_A)^2]"},
    r"L_q": {"-f", r"-\nabla f"},
    r"I(z)": {r"\frac1N\nabla L_q^\top(G+\lambda I)^{-1}\nabla L(z)",
              r"\frac1N\nabla L_q^\topH^{-1}\nabla L(z)",
              r"\sum_\ell\sum_tI_{\ell,t}"},
    r"(G+\lambda I)^{-1}V": {r"Q_S[\frac{Q_S^\topVQ_A}{\Lambda+\lambda}]Q_A^\top"},
}


def report(faults):
    assert not faults, "\n".join(["", *faults])


# -- words -----------------------------------------------------------------------------------------

def test_spelling_is_british_and_one_thing_has_one_word():
    faults = []
    for passage in SAID:
        words = blanked(TITLE, prose(passage.text))
        faults += [f"{passage.place(found.start())}: {found[0]!r} is American"
                   for found in AMERICAN.finditer(words)
                   if found[0] not in NAMES]
        words = blanked(TITLE, blanked(r"\]\([^)]*\)|<[^>]+>", without_code(passage.text)))
        faults += [f"{passage.place(found.start())}: {found[0]!r}: write {term}"
                   for pattern, term in MISNOMERS.items()
                   for found in re.finditer(pattern, words)]
    report(faults)


def test_no_word_is_misspelt():
    place = shutil.which("codespell",
                         path=str(Path(sys.executable).parent)) or shutil.which("codespell")
    if not place:
        pytest.skip("codespell is not installed")
    lines = [(passage._replace(line=passage.line + at).place(), line) for passage in SAID
             for at, line in enumerate(blanked(TITLE, prose(passage.text)).splitlines())]
    run = subprocess.run([place, "--ignore-words-list", "TracIn", "-"],
                         input="\n".join(line for _, line in lines),
                         capture_output=True, text=True, encoding="utf-8",
                         env=os.environ | {"PYTHONUTF8": "1"})
    assert not run.stderr
    found = re.findall(r"^(\d+): .*\n\s+(.*)$", run.stdout, re.M)
    report([f"{lines[int(number) - 1][0]}: {words}" for number, words in found])


# -- links, headings, tables, pictures -------------------------------------------------------------

def wrong_with(passage: Passage, target: str) -> str | None:
    """What is wrong with the target of a link: no such file or anchor, or no sound address."""
    parts = urlsplit(target)
    if not parts.scheme:
        name, _, anchor = unquote(target).partition("#")
        file = passage.path.parent / name if name else passage.path
        if not file.exists() or ROOT not in [file.resolve(), *file.resolve().parents]:
            return "no such file here"
        return "no such heading" if anchor and anchor not in sections(file) else None
    sound = parts.scheme == "https" and re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc)
    if not sound or not re.fullmatch(r"[\w./:~%?&=+@-]*", parts.path + parts.query):
        return "no sound address"
    known = "arxiv.org" not in parts.netloc or re.fullmatch(r"/(abs|pdf)/\d{4}\.\d{4,5}",
                                                            parts.path)
    return None if known else "no paper on arXiv"


def test_links_lead_somewhere_and_have_words():
    faults = []
    for passage in READ:
        written = without_code(passage.text)
        targets = [*re.finditer(r"\]\((?P<target>[^)\s]+)\)", written),
                   *re.finditer(r"(?:src|href)=\"(?P<target>[^\"]+)\"", written),
                   *re.finditer(r"(?<![\w(\"<])(?P<target>https?://[^\s)>`\"]+)", passage.text)]
        faults += [f"{passage.place(link.start())}: {link['target']}: {wrong}" for link in targets
                   if (wrong := wrong_with(passage, link["target"]))]
        for link in re.finditer(r"(!?)\[([^\]]*)\]\(", passage.text):
            words = link[2].lower().split()
            if len(words) < (5 if link[1] else 1) or " ".join(words) in {"here", "this", "link",
                                                                         "click here"}:
                faults.append(f"{passage.place(link.start())}: {link[2]!r} does not say what it "
                              "leads to or shows")
    report(faults)


def test_headings_go_down_one_step_at_a_time_and_tables_and_pictures_have_words():
    faults = []
    for path in NOTEBOOKS:
        titles = re.findall(r"^(#+) (.*)", re.sub(r"```.*?```", "", text(path), flags=re.S), re.M)
        depths = [0, *(len(marks) for marks, _ in titles)]
        faults += [f"{path.name}: {title!r} skips a step" for (_, title), before, after
                   in zip(titles, depths, depths[1:]) if after > before + 1]
        outputs = [output.get("data", {}) for cell in json.loads(path.read_text("utf-8"))["cells"]
                   for output in cell.get("outputs", [])]
        for html in [text(path), *("".join(data["text/html"]) for data in outputs
                                   if "text/html" in data)]:
            faults += [f"{path.name}: {table[:60]} has no headings"
                       for table in re.findall(r"<table.*?</table>", html, re.S)
                       if "<th" not in table]
            faults += [f"{path.name}: {picture[:90]} is not told in words"
                       for picture in re.findall(r"<(?:img|svg)\b[^>]*>", html)
                       if not re.search(r"(alt|aria-label)=\"[^\"]{10,}\"", picture)]
        faults += [f"{path.name}: an output has no text/plain beside it" for data in outputs
                   if ("image/png" in data or "text/html" in data) and "text/plain" not in data]
    for passage in READ:
        for table in re.finditer(r"^(\|.*\|)\n\|(?:\s*:?-+:?\s*\|)+$", passage.text, re.M):
            if sum(bool(head.strip()) for head in table[1].strip("|").split("|")) < 2:
                faults.append(f"{passage.place(table.start())}: a table without headings")
    report(faults)


# -- formulas, symbols, terms ----------------------------------------------------------------------

def bare(formula: str) -> str:
    """LaTeX without spacing, sizes of brackets and braces that change nothing."""
    formula = re.sub(r"\\[,;:! ]|\\(?:big|Big|bigg|left|right)\b", "", formula)
    formula = re.sub(r"\^\{\\top\}", r"^\\top", formula).replace(r"_{\text{stories}}",
                                                                 r"_\text{stories}")
    return re.sub(r"\s+|\{\\ast\}", lambda found: "*" if "ast" in found[0] else "", formula)


def definitions(passage: Passage):
    """(place, symbol, its definition) for each "symbol = …" that is a formula or part of one
    between commas."""
    names = "|".join(map(re.escape, sorted(DEFINED, key=len, reverse=True)))
    for formula in formulas(passage.text):
        for part in re.split(r"\\q?quad|(?<!\\),\s|\\\\|&", formula[0].strip("$")):
            if found := re.match(rf"\s*({names})\s*(?:\\;)?\s*=\s*(.+?)[\s.,]*$", part, re.S):
                yield passage.place(formula.start()), found[1], bare(found[2])


def test_symbols_mean_the_same_everywhere_and_formulas_survive_a_code_host():
    r"""In a Markdown file code hosts read \, as an escaped comma, and a star may begin emphasis."""
    known = {symbol: set(map(bare, those)) for symbol, those in DEFINED.items()}
    found = [one for passage in READ if not passage.path.name.startswith("05")
             for one in definitions(passage)]
    faults = [f"{place}: {symbol} = {definition}" for place, symbol, definition in found
              if definition not in known[symbol]]
    faults += [f"{passage.place(formula.start())}: {formula[0]}" for passage in READ
               if passage.path.suffix == ".md"
               for formula in formulas(passage.text) if re.search(r"\\[,;:!]|\*|\\\|", formula[0])]
    report(faults + [f"no text defines {symbol}"
                     for symbol in set(DEFINED) - {symbol for _, symbol, _ in found}])


def rows(table: str) -> list[str]:
    """The first column of every table's body."""
    return [line.split(" | ")[0].lstrip("| ") for line in table.splitlines()
            if line.startswith("| ") and not line.startswith(("| symbol", "|-"))]


def test_the_glossary_has_every_symbol_and_term_of_the_conventions():
    conventions = sections(NOTEBOOKS[0])["Conventions"]
    symbols, terms = text(GLOSSARY).split("\n## Terms\n")
    ours = [bare(row) for row in rows(symbols)]
    theirs = [bare(row.strip("*")) for row in rows(conventions)]
    named = {part for bold in re.findall(r"^- \*\*(.+?)\*\*:|\*\*(Completeness|Unit)\*\*",
                                         conventions, re.M)
             for part in re.split(r" and ", (bold[0] or bold[1]).lower())}
    explained = {term.lower() for term in re.findall(r"^- \*\*(.+?)\*\*: ", terms, re.M)}
    assert theirs and ours[:len(theirs)] == theirs and named
    report([f"{term} is not explained" for term in named - explained])
    places = NOTEBOOKS[0], ROOT / "notebooks" / "TEACHING.md", ROOT / "README.md"
    report([f"{path.name} does not link to it" for path in places
            if GLOSSARY.name not in text(path)])


def test_terms_of_the_glossary_stand_in_order_and_in_the_sections_they_name():
    faults, before = [], ""
    for line in re.findall(r"^- .*", text(GLOSSARY).split("\n## Terms\n")[1], re.M):
        entry = re.fullmatch(r"- \*\*(.+?)\*\*: .+ \((.+)", line)
        places = re.findall(r"\[(\d\d)[^\]]*\]\(([^)#]+)#?([^)]*)\)", entry[2]) if entry else []
        if not places:
            faults.append(f"{line}: names no section")
            continue
        term = entry[1].casefold().replace("–", "-")
        if term <= before:
            faults.append(f"{term} stands behind {before}")
        before, forms = term, [form for form in re.split(r" \(|\)", entry[1].lower()) if form]
        # its longest word, in the singular or plural
        forms.append(max(re.split(r"\W", forms[0]), key=len)[:-1])
        for number, name, anchor in places:
            path = GLOSSARY.parent / name
            content = sections(path).get(anchor, "") if anchor else text(path)
            if not name.startswith(number) or not any(form in content.lower() for form in forms
                                                      if len(form) > 2):
                faults.append(f"{term} does not stand in {name}#{anchor}")
    report(faults)

"""One spelling and one word for one thing: in the texts, in the notebooks' prose, and in what helpers say of themselves and to users."""
import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from builders import ROOT
from documents import MARKDOWN, NOTEBOOKS, prose, text, without_code

SOURCES = sorted([*(ROOT / "helpers").glob("*.py"), *(ROOT / "data").glob("*.py")])
NAMES = {"tokenizer", "tokenizers", "optimizer", "optimizers"}  # of things in PyTorch and transformers
TITLE = re.compile(r"\*[A-Z][^*\n]*( [A-Z][a-z]{3,}[^*\n]*){2}\*")  # of somebody's work: spelt as its authors spell
# American forms, as whole words or beginnings.
AMERICAN = re.compile(
    r"(?i)\b(color|behavior|neighbor|favor|flavor|honor|labor|humor|(?:general|normal|optim|real|recogn|organ|summar|penal|initial|local"
    r"|linear|regular|standard|maxim|minim|visual|character|emphas|memor|categor|priorit|util|parameter|factor|diagonal|quant|serial"
    r"|token|random|final|special|vector|synchron|stabil)iz(?:e|ing|ation)|analyz|center(?!pi)|fiber|theater|labeled|labeling|modeled"
    r"|modeling|traveled|traveling|canceled|canceling|signaled|totaled|fulfill|skillful|catalogs?\b|dialogs?\b|gray|learned|spelled"
    r"|burned|defense|offense|artifact|judgment|towards?(?<=toward)\b|skeptic|mom\b)\w*")
# What the conventions of notebook 01 and the glossary call otherwise: pattern in the prose → what to write.
MISNOMERS = {
    r"\b(IHVP|ihvp|inverse[- ]hvp)\b": "iHVP", r"\bEKFAC\b": "EK-FAC", r"\bKFAC\b": "K-FAC",
    r"Gauss-Newton": "Gauss–Newton", r"\b[Tt]oken-wise": "tokenwise", r"\b[Ll]ayer-wise": "layerwise",
    r"[Pp]seudogradient": "pseudo-gradient", r"A\s*\\otimes\s*S\b": r"S \otimes A (rows of Dθ first)",
    r"\\(tilde|hat)\s*\{?a\b": r"\bar a", r"\\(delta|Delta)\s*s\b": "Ds", r"\\Sigma_[AS]": r"\Lambda_A, \Lambda_S",
    r"(?i)\bdampening\b": "damping", r"\bFisher information\b": "Fisher", r"\b[Dd]atasets?\b(?! library)": "data set",
    r"(?i)\blog probabilit": "log-probability", r"(?i)\bfine ?tun(?!e-)": "fine-tun", r"(?<!\")\b(TFIDF|tf-?idf)\b": "TF-IDF", r"\bPytorch\b": "PyTorch",
    r"(?i)\bdata ?modeling score": "datamodelling score", r"(?i)\bleave one out (retrain|check|cross)": "leave-one-out",
    r"(?i)\b(back|forward)prop(?!-)": "back-propagation", r"(?i)\bnats per copy\b": "nats per extra copy", r"(?i)\bspearman-brown": "Spearman–Brown",
}


def said(path: Path) -> str:
    """Docstrings, comments, and strings of four words or more: the voice of a source file."""
    code = path.read_text(encoding="utf-8")
    comments = [token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.COMMENT]
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join([*comments, *(value for value in strings if len(re.findall(r"[a-z]{2,} ", value)) >= 3 and "{" not in value)])


def written(path: Path) -> str:
    found = said(path) if path.suffix == ".py" else text(path)
    return TITLE.sub(" ", prose(found))


EVERYWHERE = pytest.mark.parametrize("path", [*MARKDOWN, *NOTEBOOKS, *SOURCES], ids=lambda path: path.relative_to(ROOT).as_posix())


@EVERYWHERE
def test_british_spelling(path):
    assert not {match[0] for match in AMERICAN.finditer(written(path))} - NAMES


@EVERYWHERE
def test_one_word_for_one_thing(path):
    words = TITLE.sub(" ", re.sub(r"\]\([^)]*\)|<[^>]+>", " ", without_code(said(path) if path.suffix == ".py" else text(path))))
    for pattern, term in MISNOMERS.items():
        assert not (found := re.search(pattern, words)), f"{found[0]!r}: write {term}"


def test_no_word_is_misspelt(tmp_path):
    if not (found := shutil.which("codespell", path=str(Path(sys.executable).parent)) or shutil.which("codespell")):
        pytest.skip("codespell is not installed")
    for path in [*MARKDOWN, *NOTEBOOKS, *SOURCES]:
        (tmp_path / (path.relative_to(ROOT).as_posix().replace("/", "_") + ".txt")).write_text(written(path), encoding="utf-8")
    (tmp_path / "control.txt").write_text("recieve", encoding="utf-8")
    run = subprocess.run([found, "--ignore-words-list", "TracIn", str(tmp_path)], capture_output=True, text=True)
    assert "recieve" in run.stdout and len(run.stdout.splitlines()) == 1, run.stdout


def test_american_forms_are_found_and_british_ones_left():
    for wrong in ("color", "normalized", "optimizing", "analyze", "centered", "labeled", "modeling", "gray", "learned", "neighbors"):
        assert AMERICAN.search(wrong), wrong
    for right in ("colour", "normalised", "size", "seized", "prize", "analyse", "centre", "modelling", "grey", "learnt", "centring", "programming"):
        assert not AMERICAN.search(f"a {right} b"), right

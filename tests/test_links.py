"""Every link of every text leads somewhere: files and anchors exist, addresses are well formed. No network is asked."""
import re
from urllib.parse import unquote, urlsplit

import pytest
from builders import ROOT
from documents import MARKDOWN, NOTEBOOKS, links, sections, text

EVERYWHERE = pytest.mark.parametrize("path", MARKDOWN + NOTEBOOKS, ids=lambda path: path.relative_to(ROOT).as_posix())


@EVERYWHERE
def test_files_and_anchors_exist(path):
    for target in links(path):
        name, _, anchor = unquote(target).partition("#")
        file = path.parent / name if name else path
        if urlsplit(target).scheme:
            continue
        assert file.exists() and ROOT in [file.resolve(), *file.resolve().parents], target
        assert not anchor or anchor in sections(file), target


@EVERYWHERE
def test_addresses_are_well_formed(path):
    bare = re.findall(r"(?<![\w(\"<])https?://[^\s)>`\"]+", text(path))
    for target in [target for target in links(path) if urlsplit(target).scheme] + bare:
        parts = urlsplit(target)
        assert parts.scheme == "https" and not parts.username and not parts.port, target
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc) and re.fullmatch(r"[\w./:~%?&=+@-]*", parts.path + parts.query), target
        if "arxiv.org" in parts.netloc:
            assert re.fullmatch(r"/(abs|pdf)/\d{4}\.\d{4,5}", parts.path), target


@EVERYWHERE
def test_links_and_pictures_have_words(path):
    for mark, words in re.findall(r"(!?)\[([^\]]*)\]\(", text(path)):
        assert len(words.split()) >= (5 if mark else 1), words or "a link without words"
        assert words.lower() not in {"here", "this", "link", "click here"}, words

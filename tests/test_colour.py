"""Colours in a terminal: where they are wanted, what they say, and what never gets there."""
import io
import os
import re

import pytest
from builders import HOSTILE_TOKENS, PROMPT, contrast, entry_of, query_of

from helpers.pictures.text import columns
from helpers.terminal import colour

ESCAPE = re.compile(r"\x1b\[([\d;]*)m")
CAN = {"TERM": "xterm-256color"}


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize("terminal, environment, expected", [
    (True, CAN, True), (False, CAN, False), (True, {"TERM": "dumb"}, False),
    (True, {"TERM": "dumb", "COLORTERM": "truecolor"}, False), (True, {"TERM": "vt100"}, False),
    (True, {}, False),  # an old console of Windows
    (True, {"WT_SESSION": "1"}, True), (True, {"TERM": "xterm", "COLORTERM": "24bit"}, True),
    (True, CAN | {"NO_COLOR": "1"}, False), (True, CAN | {"NO_COLOR": ""}, True),
    (False, {"FORCE_COLOR": "1"}, True), (True, CAN | {"FORCE_COLOR": "0"}, False),
    (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False)])
def test_colours_go_where_they_are_wanted(terminal, environment, expected):
    assert colour.wanted(Stream(terminal), environment) is expected


def plain(text):
    return ESCAPE.sub("", text)


@pytest.mark.parametrize("width", [20, 60, 100, 300])
@pytest.mark.parametrize("deep", ["", "truecolor"])
def test_no_character_of_a_story_steers_the_terminal_and_lines_fit(width, deep, monkeypatch):
    monkeypatch.setenv("COLORTERM", deep)
    texts = [*HOSTILE_TOKENS, *(f" word{n}" for n in range(300))]
    text = colour.stories(query_of(texts), width)
    for codes in ESCAPE.findall(text):
        assert re.fullmatch(r"0|48;(5;\d+|2;\d+;\d+;\d+);38;5;(16|231)(;4)?", codes)
    bare = plain(text)
    assert bare.replace("\n", "").replace("\u200d", "").isprintable() and "\x1b" not in bare
    assert max(map(columns, bare.split("\n")[1:])) <= min(width, 100)
    assert len(bare.split("\n")) < 25  # an excerpt
    for line in text.split("\n"):  # no colour runs on
        assert line.count("\x1b[0m") * 2 == line.count("\x1b")


def test_the_sign_is_in_words_and_lines_under_the_negative():
    words = [" the", " fox", " went", " to", " sea"]
    up = entry_of(words, [2e-3, -1e-3, 1e-5, 0, 1e-3], id="17")
    down = entry_of(words, [-2e-3, 1e-3, 0, 0, 0], id="18")
    text = colour.stories(query_of() | {"influences": [up, down]}, 80)
    assert "story 17 raises it: +0.00201" in text and "story 18 lowers it: -0.00100" in text
    painted = re.findall(r"\x1b\[([\d;]+)m([^\x1b]*)\x1b\[0m", text)
    marks = [(word.strip(), codes.endswith(";4")) for codes, word in painted]
    assert marks == [("orange", False), ("blue", True), ("the", False), ("fox", True),
                     ("sea", False), ("the", True), ("fox", False)]
    assert " went to" in plain(text)


def test_a_long_story_is_shown_around_its_strongest_token():
    words = [f" word{n}" for n in range(500)]
    entry = entry_of(words, [1.0 if n == 300 else 1e-3 for n in range(500)])
    text = plain(colour.stories(query_of() | {"influences": [entry]}, 80))
    assert "word300" in text and "word0 " not in text and text.count("…") == 2


def test_letters_can_be_read_on_every_ground(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    for share in [sign * n / 50 for n in range(6, 51) for sign in (1, -1)]:
        ground, letters = re.match(r"\x1b\[48;2;([\d;]+);38;5;(\d+)",
                                   colour._painted("x", share)).groups()
        level = 1.0 if letters == "231" else 0.0
        ground = [int(part) / 255 for part in ground.split(";")]
        assert contrast(ground, [level] * 3) >= 4.5, share


def test_a_terminal_gets_colours_and_a_pipe_none(cli, monkeypatch):
    pty = pytest.importorskip("pty")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    arguments = (PROMPT, "--completion", " fox", "--method", "identity")
    _, out, _ = cli(*arguments)
    assert "\x1b" not in out and "raises it" not in out
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(colour.sys, "stdout", terminal)
        code, _, _ = cli(*arguments)
        shown = os.read(leader, 10**6).decode()
    os.close(leader)
    assert code == 0 and out.split("\n")[0] in shown
    assert "raises it: +" in shown and "\x1b[48;5;208;38;5;16m" in shown

"""The strongest story of each sign with its tokens coloured, for a terminal that can."""
import os
import shutil
import sys

from ..pictures.shades import BLUE, FAINT, ORANGE
from ..pictures.text import by_sign, fit, named_story, signed, signed_tokens, visible, wrapped
from ..pictures.values import largest_of_tokens, share_of

LINES = 6  # of one story; of a longer one those around its strongest token
MOST = 100  # columns
PLAIN = "\x1b[0m"


def wanted(stream=None, environment=None) -> bool:
    """Whether to colour what goes to the stream (stdout). NO_COLOR and FORCE_COLOR decide first;
    else it has to be a terminal that knows 256 colours."""
    stream, known = stream or sys.stdout, os.environ if environment is None else environment
    if known.get("NO_COLOR"):
        return False
    if known.get("FORCE_COLOR"):
        return known["FORCE_COLOR"].lower() not in ("0", "false")
    if known.get("TERM") == "dumb" or not stream.isatty():
        return False
    return bool(known.get("COLORTERM") or known.get("WT_SESSION") or "256" in known.get("TERM", ""))


def stories(query: dict, width=None) -> str:
    """The strongest story of each sign of one query of the JSON: a headline with the numbers, then
    its text. Orange raises; blue and underlined lowers. Steering characters are spelt out."""
    width = min(MOST, width or shutil.get_terminal_size().columns)
    shown = [entries[0] for _, entries in by_sign(query) if entries]
    scale = largest_of_tokens(shown)
    parts = [f"The strongest stories; {_painted('orange', 1)} raises, {_painted('blue', -1)}, "
             "underlined, lowers"]
    for entry in shown:
        verb = "raises" if entry["influence"] >= 0 else "lowers"
        head = f"{visible(named_story(entry['id']), '⏎')} {verb} it: {signed(entry['influence'])}"
        parts.append("\n".join([fit(head, width).rstrip(), *_lines(entry, scale, width)]))
    return "\n\n".join(parts)


def _lines(entry, scale, width):
    """The story's tokens, painted, in at most LINES lines around the strongest of its sign."""
    sign = 1 if entry["influence"] >= 0 else -1
    pieces = wrapped([(token["token"], token) for token in signed_tokens(entry)], width)
    top = max(pieces, key=lambda piece: sign * piece[-1]["influence"], default=(0,))[0]
    lines = [""] * (pieces[-1][0] + 1 if pieces else 0)
    for line, _, text, token in pieces:
        lines[line] += _painted(text, share_of(token["influence"], scale))
    first = max(0, min(top - LINES // 2, len(lines) - LINES))
    return [*["…"] * (first > 0), *lines[first:first + LINES],
            *["…"] * (first + LINES < len(lines))]


def _painted(text, share):
    """The text on a ground of its colour, the deeper the stronger; plain where it is faint."""
    if abs(share) <= FAINT:
        return text
    depth = 0.2 + 0.8 * abs(share)
    ground = [round(255 + depth * (part - 255)) for part in (ORANGE if share > 0 else BLUE)]
    dark = sum(weight * part for weight, part in zip((0.3, 0.59, 0.11), ground)) < 107
    cube = 16 + sum(6 ** (2 - place) * round(part / 51) for place, part in enumerate(ground))
    deep = os.environ.get("COLORTERM") in ("truecolor", "24bit")
    colour = f"48;2;{';'.join(map(str, ground))}" if deep else f"48;5;{cube}"
    letters = "38;5;231" if dark else "38;5;16"
    return f"\x1b[{colour};{letters}{';4' if share < 0 else ''}m{text}{PLAIN}"

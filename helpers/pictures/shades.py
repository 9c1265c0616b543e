"""Colours and lengths that stand for influences: plain data that the templates and figures draw."""
from typing import NamedTuple

from .text import ALIGNMENTS, BEFORE, BEHIND, block_and_matrix, described, is_learnt
from .values import finite, largest, largest_of_tokens, share_of

ORANGE, BLUE = (230, 97, 1), (40, 110, 220)  # positive, negative: apart in common colour blindness
OPACITY = 0.68  # of the strongest token: text keeps a contrast of 4.5 on it, in light and in dark
CLEAR = 0.005  # opacity that is written as 0.00
GREY = 0.35  # share of the full shade up to which grey text has a contrast of 4.5, too
FAINT = 0.1  # share of the full shade up to which no negative token is underlined: half the story


def colour_of(positive) -> str:
    return f"rgb{ORANGE if positive else BLUE}"


def rgba(share) -> str:
    """CSS colour for a share of the scale in [-1, 1]: orange, blue if negative; clear at zero."""
    red, green, blue = ORANGE if share > 0 else BLUE
    return f"rgba({red},{green},{blue},{OPACITY * abs(share):.2f})"


def aligned(tokens, align) -> list[tuple[str, dict | None, bool]]:
    """(text, token whose influence stands there or None, whether the text itself is learnt) for
    every token of a story. Raises ValueError for an unknown `align`."""
    if align not in ALIGNMENTS:
        raise ValueError(f"align is {align!r}: take 'input' or 'predicted'")
    texts, losses = [token["token"] for token in tokens], [*map(is_learnt, tokens), True]
    if tokens and tokens[-1].get("predicted"):  # the list stops before the last token of its story
        texts.append(tokens[-1]["predicted"])
    sources = [*tokens, None] if align == "input" else [None, *tokens]
    return list(zip(texts, sources, losses))  # the last source may lie beyond the story


class Word(NamedTuple):
    """A token of a heatmap; `title` its tooltip, `shade` a CSS colour or "", `marks` classes."""
    text: str
    title: str
    shade: str
    underlined: bool
    marks: str


def heatmap(tokens, align, scale=None, asked=None) -> list[Word]:
    """What stands on each token of a story, shaded by signed influence.

    align="input": a value stands on the token read at t; "predicted": on x_{t+1}, the first token
    has none. scale: the |influence| of the full shade, in nats; None = the largest given. Raises
    ValueError on NaN or inf, and for an unknown `align`.
    """
    own = largest_of_tokens([{"tokens": tokens}])
    scale = own if scale is None else finite(scale, "scale")
    cells = aligned(tokens, align)
    marks = asked.marks([text for text, *_ in cells]) if asked else [""] * len(cells)
    words = []
    for (text, source, learnt), mark in zip(cells, marks, strict=True):
        share = share_of(source["influence"], scale) if source else 0.0
        title = described(source) if source else "no influence stands on this token"
        colour = rgba(share) if abs(share) * OPACITY >= CLEAR else ""
        mark = "tw-soft" if text in (BEFORE, BEHIND) else mark
        if not learnt:  # grey, as far as grey can be read on the shade
            mark = f"{mark} tw-read{' tw-grey' * (abs(share) <= GREY)}".strip()
        words.append(Word(text, title, colour, share < -FAINT, mark))
    return words


def strip(layers) -> dict:
    """{"strongest": bar or None, "blocks": {label: [bars]}} of influences by layer, in nats.

    A bar: {"name", "influence", "side" and "height" in % from the middle, "colour"}. Raises
    ValueError on NaN or inf.
    """
    scale = max((largest([value], f"layer {name}") for name, value in layers.items()), default=0.0)
    bars, blocks = {}, {}
    for name, value in layers.items():
        share, (block, matrix) = share_of(value, scale), block_and_matrix(name)
        bars[name] = {"name": name, "influence": value, "side": "top" if share < 0 else "bottom",
                      "height": f"{50 * abs(share):.0f}", "colour": colour_of(share > 0)}
        blocks.setdefault(block or matrix, []).append(bars[name])
    strongest = max(layers, key=lambda name: abs(layers[name]), default=None)
    return {"strongest": bars.get(strongest), "blocks": blocks}


def reach(influence, longest) -> dict:
    """A card's bar from the middle, right if positive; `longest` (nats) fills its half."""
    return {"side": "left" if influence >= 0 else "right", "colour": colour_of(influence >= 0),
            "width": f"{50 * abs(share_of(influence, longest)):.1f}"}

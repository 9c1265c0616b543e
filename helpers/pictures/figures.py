"""Figures by matplotlib, for notebooks: words, layers and stories by influence, and scatter plots.

Figures stand outside pyplot's list: a notebook shows them once, where they are returned. Texts of
stories are drawn as they are, never as formulas.
"""
import textwrap
from itertools import takewhile

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from .shades import BLUE, FAINT, OPACITY, ORANGE, aligned
from .text import ALIGNMENTS, UNIT, layer_names, named_story, signed, signed_tokens, visible
from .values import finite, finite_array, largest_of_tokens, share_of, tail_share

FONT = FontProperties(family="DejaVu Sans", size=11)
STEP = 19  # points from one line of words to the next
GREY = "#767676"
MOST_NAMES = 26  # of layers along an axis: more would overlap
PIECE = 300  # characters that are measured at once


def _figure(width, height):
    """Figure and axes in matplotlib's own style, whatever the notebook has set; inches."""
    with plt.style.context("default"):
        fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    plt.close(fig)
    return fig, ax


def _label(ax, xlabel, ylabel, title):
    ax.set_xlabel(xlabel, fontsize=10)
    ax.set_ylabel(ylabel, fontsize=10)
    ax.set_title(title, fontsize=11)


def _channels(colour):
    """(230, 97, 1) as matplotlib takes it."""
    return [channel / 255 for channel in colour]


def colours(scale):
    """Colour map and norm of |influence| up to `scale`: the shades of `shades.rgba` on white."""
    ends = [[1 - OPACITY * (1 - channel) for channel in _channels(colour)]
            for colour in (BLUE, ORANGE)]
    cmap = LinearSegmentedColormap.from_list("influence", [ends[0], "white", ends[1]])
    return cmap, Normalize(-(scale or 1), scale or 1)


# -- words -----------------------------------------------------------------------------------------

def plot_token_heatmap(entries, align="input", ax=None):
    """Figure: stories of several entries as wrapped words shaded by influence, on one scale.

    Nats per extra copy; a dotted line marks the clearly negative tokens. With `ax`, draws there and
    makes its figure as tall as it must be. Raises ValueError on NaN or inf, and for an unknown
    `align`.
    """
    ax = _figure(8, 1.5)[1] if ax is None else ax
    scale = largest_of_tokens(entries)
    bar = _colour_bar(ax, scale)
    ax.axis("off")
    limit, width_of = _room(ax)[0], _ruler(FONT, ax.figure.dpi)
    legend = f"{UNIT}, {ALIGNMENTS.get(align, align)}; dotted line: negative"
    bar.set_label(textwrap.fill(legend, int(limit / 5.5)), fontsize=10)
    blocks = [wrapped(aligned(signed_tokens(entry), align), width_of, limit) for entry in entries]
    heights = [(block[-1][0] + 2.6 if block else 2) * STEP for block in blocks]
    ax.set(xlim=(0, limit), ylim=(_room(ax, sum(heights))[1], 0))
    top = 0
    for entry, block, height in zip(entries, blocks, heights, strict=True):
        _draw_heading(ax, entry, top)
        _draw_words(ax, block, top, scale)
        top += height
    return ax.figure


def _colour_bar(ax, scale):
    cmap, norm = colours(scale)
    bar = ax.figure.colorbar(ScalarMappable(norm, cmap), ax=ax, orientation="horizontal",
                             aspect=50, pad=0.02)
    bar.set_ticks([norm.vmin, 0, norm.vmax], labels=[signed(-scale), "0", signed(scale)],
                  fontsize=10)
    return bar


def _draw_heading(ax, entry, top):
    influence = signed(finite(entry["influence"], "influence"))
    heading = f"#{entry['rank']}  {influence} nats  {named_story(entry['id'])}"
    ax.text(0, top + STEP / 2, drawable(heading)[:60], fontsize=10, weight="bold", va="center",
            parse_math=False)


def _draw_words(ax, block, top, scale):
    """The `wrapped` words of a story below its heading."""
    cmap, norm = colours(scale)
    for line, x, width, text, source in block:
        y, influence = top + (line + 1) * STEP, source["influence"] if source else 0.0
        ax.add_patch(Rectangle((x, y + 1), width, STEP - 2, color=cmap(norm(influence)),
                               linewidth=0))
        ax.text(x, y + STEP / 2, text, fontproperties=FONT, va="center_baseline", color="black",
                parse_math=False)
        if share_of(influence, scale) < -FAINT:
            ax.plot([x + 1, x + width - 1], [y + STEP - 3] * 2, ":", color="black", linewidth=1.2)


def drawable(text) -> str:
    """`visible` text with □ for whatever matplotlib's own font cannot draw, such as emoji."""
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    return "".join(char if char == "\n" or ord(char) in known else "□" for char in visible(text))


def wrapped(cells, width_of, limit) -> list[tuple]:
    """Pieces (line, x, width, text, source) of `aligned` cells on lines of `limit` points.

    `width_of` measures a text, in points. Words stay whole where they fit.
    """
    texts, placed, line, x = [drawable(text) for text, _ in cells], [], 0, 0.0
    for number, (text, (_, source)) in enumerate(zip(texts, cells, strict=True)):
        following = "" if "\n" in text else _rest_of_word(texts[number + 1:number + 9])
        for row, left in enumerate(text.split("\n")):
            line, x = (line + 1, 0.0) if row else (line, x)
            if x and x + width_of((left + following).split("\n")[0]) > limit:
                line, x, left = line + 1, 0.0, left.lstrip(" ")
            while left:
                piece = left[:PIECE]
                while len(piece) > 1 and x + width_of(piece) > limit:
                    piece = piece[:-1]
                placed.append((line, x, width_of(piece), piece, source))
                left, x = left[len(piece):], x + width_of(piece)
                line, x = (line + 1, 0.0) if left else (line, x)
    return placed


def _rest_of_word(texts):
    """The tokens before the first that begins with a blank."""
    return "".join(takewhile(lambda text: not text[:1].isspace(), texts))


def _ruler(font, dpi):
    """Function from a text to its width in points; memorises, since stories repeat their words."""
    renderer, known = RendererAgg(1, 1, dpi), {}

    def pixels(text):
        return renderer.get_text_width_height_descent(text, font, False)[0]

    def width_of(text):
        if text not in known:  # between two bars, because extents leave out spaces at the ends
            known[text] = (pixels(f"|{text}|") - pixels("||")) * 72 / dpi
        return known[text]
    return width_of


def _room(ax, lines=0.0):
    """Width and height of an axes, its figure made taller until it holds `lines`; in points."""
    for _ in range(12):  # how much of a new height reaches this axes depends on the figure's layout
        ax.figure.draw_without_rendering()
        width, height = (side * 72 / ax.figure.dpi for side in ax.get_window_extent().bounds[2:])
        if height >= lines:
            break
        ax.figure.set_figheight(ax.figure.get_figheight() + (lines - height + 1) / 72)
    return width, height


# -- layers and stories ----------------------------------------------------------------------------

def plot_layers(entries):
    """Figure: influence of every entry (row) by layer (column), in nats per extra copy.

    Raises ValueError for no entries, and on NaN or inf.
    """
    if not entries:
        raise ValueError("no entries to draw: give at least one influence entry")
    values = np.array([[finite(value, name) for name, value in entry["layers"].items()]
                       for entry in entries], dtype=float)
    names = layer_names(entries[0]["layers"])
    fig, ax = _figure(8, 1.9 + 0.3 * len(entries))
    cmap, norm = colours(np.abs(values).max(initial=0.0))
    image = ax.imshow(values, cmap=cmap, norm=norm, aspect="auto")
    fig.colorbar(image, ax=ax, pad=0.02).set_label(UNIT, fontsize=10)
    every = -(-len(names) // MOST_NAMES)
    ax.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=9)
    labels = [drawable(f"{'+' if entry['influence'] >= 0 else '−'}#{entry['rank']}  {entry['id']}")
              for entry in entries]
    ax.set_yticks(range(len(entries)), [label[:20] for label in labels], fontsize=9)
    if len(names) <= MOST_NAMES:
        for (row, column), value in np.ndenumerate(values):
            ax.text(column, row, "+" if value > 0 else "−" if value < 0 else "", ha="center",
                    va="center", fontsize=9)
    ax.set_title("Influence by layer", fontsize=11)
    return fig


def plot_tail(scores):
    """Figure: |influence| against rank, log-log, positive and negative apart.

    scores: all stories' `(N,)`, nats per extra copy. Raises ValueError on NaN or inf.
    """
    scores = finite_array(scores, "scores")
    fig, ax = _figure(7, 4.2)
    for sign, name, colour, style in ((1, "positive", ORANGE, "-"), (-1, "negative", BLUE, "--")):
        values = np.sort(sign * scores[sign * scores > 0])[::-1]
        if len(values):
            ranks = np.arange(1, len(values) + 1)
            ax.loglog(ranks, values, style, color=_channels(colour),
                      label=f"{name} ({len(values)})")
            ax.legend(fontsize=10)
    share = tail_share(scores)
    _label(ax, "rank of the training story", f"|influence|, {UNIT}",
           f"The top 1% of {len(scores)} stories carry {share:.0%} of the positive influence")
    ax.grid(alpha=0.3)
    return fig


def scatter(x, y, xlabel="", ylabel="", title=""):
    """Figure of y against x, both `(n,)`, with their Pearson correlation in the title.

    Raises ValueError for different lengths, and on NaN or inf.
    """
    x, y = finite_array(x, "x"), finite_array(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} values and y has {len(y)}: give one y for every x")
    defined = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    pearson = (f"Pearson r = {np.corrcoef(x, y)[0, 1]:.3f}" if defined
               else "Pearson r undefined (no spread)")
    fig, ax = _figure(5.5, 4.5)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.scatter(x, y, s=16, alpha=0.6, color=_channels(BLUE), linewidths=0)
    _label(ax, xlabel, ylabel, f"{title}\n{pearson}".strip())
    return fig

"""Figures by matplotlib, for notebooks: words and layers by influence.

Figures stand outside pyplot's list: a notebook shows them once, where they are returned. Texts of
stories are drawn as they are, never as formulas.
"""
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Rectangle

from .shades import BLUE, FAINT, GREY, OPACITY, ORANGE, aligned
from .text import (ALIGNMENTS, UNIT, layer_names, named_story, signed, signed_tokens, visible,
                   wrapped)
from .values import finite, largest_of_tokens, share_of

FONT = "DejaVu Sans Mono"  # comes with matplotlib; a letter is 0.602 of its size wide
COLUMNS, LETTER = 98, 5.76  # in a line; points, 8 pixels at notebooks' 100 dpi: whole ones are set
STEP, FOOT = 17, 34  # points: from line to line, of the key below
SOFT = "#565D68"  # text that is only read
MOST_NAMES = 26  # of layers along an axis: more would overlap


def colours(scale):
    """Colour map and norm of |influence| up to `scale`: the shades of `shades.rgba` on white."""
    ends = [1 - OPACITY * (1 - np.divide(colour, 255)) for colour in (BLUE, ORANGE)]
    cmap = LinearSegmentedColormap.from_list("influence", [ends[0], "white", ends[1]])
    return cmap, Normalize(-(scale or 1), scale or 1)


# -- words -----------------------------------------------------------------------------------------

def plot_token_heatmap(entries, align="input"):
    """Figure: stories of several entries as wrapped words shaded by influence, on one scale.

    Nats per extra copy; a dotted line marks the clearly negative tokens. Raises ValueError on NaN
    or inf, and for an unknown `align`.
    """
    scale = largest_of_tokens(entries)
    blocks = [wrapped(aligned(signed_tokens(entry), align), COLUMNS, drawable)
              for entry in entries]
    lines = [block[-1][0] + 2.6 if block else 2.0 for block in blocks]
    width, height = (COLUMNS + 2) * LETTER, sum(lines) * STEP + FOOT
    with plt.style.context("default"):
        fig = plt.figure(figsize=(width / 72, height / 72))
        ax, key = (fig.add_axes([1 / (COLUMNS + 2), low / height, COLUMNS / (COLUMNS + 2),
                                 tall / height])
                   for low, tall in ((FOOT, height - FOOT), (FOOT - 14, 8)))
    plt.close(fig)
    ax.axis("off")
    ax.set(xlim=(0, COLUMNS), ylim=(sum(lines), 0))
    cmap, norm = colours(scale)
    bar = fig.colorbar(ScalarMappable(norm, cmap), cax=key, orientation="horizontal")
    bar.set_ticks([norm.vmin, norm.vmax], labels=[signed(-scale), signed(scale)], fontsize=9)
    for label, side in zip(key.get_xticklabels(), ("left", "right"), strict=True):
        label.set_ha(side)
    read = any(not cell[-1] for block in blocks for cell in block)
    bar.set_label(f"{UNIT}, {ALIGNMENTS.get(align, align)}; dotted line: negative"
                  + "; slanted: only read" * read, fontsize=9, labelpad=-9)
    for entry, block, top in zip(entries, blocks, np.cumsum([0, *lines]), strict=False):
        influence = signed(finite(entry["influence"], "influence"))
        heading = f"#{entry['rank']}  {influence} nats  {named_story(entry['id'])}"
        ax.text(0, top + 0.5, drawable(heading)[:60], fontsize=10, weight="bold", va="center",
                parse_math=False)
        _draw_words(ax, block, top + 1, scale)
    return fig


def _draw_words(ax, block, top, scale):
    """The `wrapped` words of a story below its heading."""
    cmap, norm = colours(scale)
    for line, column, text, source, learnt in block:
        y, influence = top + line, source["influence"] if source else 0.0
        ax.add_patch(Rectangle((column, y + 0.05), len(text), 0.9, color=cmap(norm(influence)),
                               linewidth=0))
        ax.text(column, y + 0.5, text, family=FONT, fontsize=LETTER / 0.602, va="center_baseline",
                color="black" if learnt or abs(share_of(influence, scale)) > GREY else SOFT,
                style="normal" if learnt else "italic", parse_math=False)
        if share_of(influence, scale) < -FAINT:
            ax.plot([column + 0.1, column + len(text) - 0.1], [y + 0.86] * 2, ":", color="black",
                    linewidth=1.2)


def drawable(text) -> str:
    """`visible` text with □ for whatever matplotlib's own font cannot draw, such as emoji."""
    known = get_font(findfont(FONT)).get_charmap()
    return "".join(char if char == "\n" or ord(char) in known else "□" for char in visible(text))


# -- layers and stories ----------------------------------------------------------------------------

def plot_layers(entries):
    """Figure: influence of every entry (row) by layer (column), in nats per extra copy. Raises
    ValueError for no entries, and on NaN or inf."""
    if not entries:
        raise ValueError("no entries to draw: give at least one influence entry")
    values = np.array([[finite(value, name) for name, value in entry["layers"].items()]
                       for entry in entries], dtype=float)
    names = layer_names(entries[0]["layers"])
    with plt.style.context("default"):  # whatever the notebook has set
        fig, ax = plt.subplots(figsize=(8, 1.9 + 0.3 * len(entries)), layout="constrained")
    plt.close(fig)
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

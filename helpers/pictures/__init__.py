"""Pictures of influence: HTML heatmaps, a standalone page, a terminal table, matplotlib figures.

Everything takes the plain dictionaries of `python -m helpers --json`. Influences are in nats of the
query's log-probability per extra copy of the training story; positive raises it.
"""
from importlib import import_module

from .pages import display, fragment, overview, page, write_page
from .text import ALIGNMENTS, UNIT, UNITS, layer_names, text_table, tracked, visible

FIGURES = ["plot_layers", "plot_token_heatmap"]
__all__ = ["ALIGNMENTS", "UNIT", "UNITS", "display", "fragment", "layer_names", "overview", "page",
           "text_table", "tracked", "visible", "write_page", *FIGURES]


def __getattr__(name):
    """The figures, when they are first asked for: the terminal does without matplotlib."""
    if name in FIGURES:
        return getattr(import_module(f"{__name__}.figures"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

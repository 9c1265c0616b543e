"""Ask the model anything, live: `Explorer` answers, `Panel` shows it in a notebook."""
from .questions import Explorer, Question

__all__ = ["Explorer", "Panel", "Question"]


def __getattr__(name):
    if name == "Panel":  # ipywidgets are needed for nothing else
        from .panel import Panel
        return Panel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Influence functions for language models: a book of eight files, and wings around it.

The book, to be read in this order: stories → capture → curvature → exact → influence → search →
retrain → measure. It holds what the notebooks teach and nothing else. The wings are folders:
`sources`, `terminal`, `judging`, `pictures`, `explorer`, `classroom`.
"""
import os
import tempfile


def default_cache() -> str:
    """The folder for what took long to make; among temporary files where there is no home."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = tempfile.gettempdir() if folder.startswith("~") else folder
    return os.path.join(folder, "tokenwise-influence")


def __getattr__(name):
    if name == "checks":  # `from helpers import checks`, loaded when it is asked for
        from .classroom import checks
        return checks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The thin shared module of the series: stories → capture → curvature → influence → search → pictures, checks."""
import os
import tempfile


def default_cache() -> str:
    """The folder for what took long to make and can be made again: among temporary files where there is no home."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(tempfile.gettempdir() if folder.startswith("~") else folder, "tokenwise-influence")

"""The thin shared module of the series: stories → capture → curvature → influence → search → show, checks."""
import os


def default_cache() -> str:
    """The folder for what took long to make and can be made again."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tokenwise-influence")

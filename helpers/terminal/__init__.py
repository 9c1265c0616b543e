"""The pipeline as a job: options, one request, what is kept on disk, several processes. `python -m
helpers` comes in through `options`; a notebook takes `Setting`, `fit` and the like from here. They
are loaded when they are asked for, so that `--help` need not wait for torch."""
from importlib import import_module

ROOMS = {"answers": ("ask", "entry", "explain_indexed", "told"), "fitting": ("fit", "fit_sample"),
         "index": ("Index", "open_index"), "job": ("Request", "run", "write_json"),
         "setting": ("Setting", "batch_note")}
__all__ = [name for names in ROOMS.values() for name in names]


def __getattr__(name):
    for room, names in ROOMS.items():
        if name in names:
            return getattr(import_module(f".{room}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

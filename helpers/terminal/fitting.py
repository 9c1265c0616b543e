"""The curvature of a setting's layers: fitted by all processes together, and kept."""
import sys
from contextlib import nullcontext

import torch

from ..curvature import (METHODS, Curvature, Identity, axes, corrected, covariances, factors,
                         second_moments)
from ..sources.files import local_path
from ..stories import InputError
from . import kept, processes
from .setting import Setting

ENOUGH = 500  # stories for A and S: means over tokens, of which a story has a hundred


def fit_sample(total: int, limit: int, seed: int) -> list[int]:
    """Rows of a seeded sample of at most `limit` of `total` stories, in corpus order."""
    if total <= limit:
        return list(range(total))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(total, generator=generator)[:limit].tolist())


def fit(setting: Setting, method="ekfac", fit_limit=2000, seed=0, damping=None, cache=None,
        key=None) -> Curvature:
    """The curvature of the tracked layers; read from the folder `cache` if it was fitted before. Of
    two runs that fit the same at once one waits for the other. `key` is the model's `model_key`,
    where it is known already. Raises InputError for numbers that are not finite."""
    if method == "identity":
        return Identity(setting.layers)
    rows = fit_sample(len(setting.corpus), fit_limit, seed)
    path = None
    if cache:
        learnt = [kept.learnt(setting.corpus, row) for row in rows]
        name = kept.cache_key(key or setting.model, setting.layers, learnt, rows=rows,
                              method=method, seed=seed)
        path = local_path(cache) / f"{method}-{name}.safetensors"
    first = path and processes.rank() == 0
    with kept.lock(path) if first else nullcontext():
        blocks = kept.load_blocks(path) if path else None
        if any(processes.everyones(blocks is None)):
            blocks = fit_blocks(setting, rows, method, seed)
            if first:
                keep(blocks, path)
        elif first:
            kept.touch(path)
    return METHODS[method]({name: blocks[name] for name in setting.layers}, damping)


def fit_blocks(setting: Setting, rows, method="ekfac", seed=0) -> dict:
    """The blocks of `METHODS[method].fit`, each process passing over its share of the rows."""
    model, layers = setting.model, setting.layers
    try:
        if method == "diagonal":
            blocks = {name: axes(layer) for name, layer in layers.items()}
        else:
            few = rows[::max(1, len(rows) // ENOUGH)]
            sums = covariances(model, layers, setting.stream(few, "fitting A and S"), seed=seed)
            # eigenvectors are unique only up to sign, and machines differ: all take the first's
            blocks = processes.from_first(factors(processes.totals(sums)))
        if method != "kfac":
            stream, number = setting.stream(rows, "fitting Λ"), int(method == "ekfac")
            sums = second_moments(model, layers, stream, blocks, seed=seed, number=number)
            blocks = corrected(blocks, processes.totals(sums))
    except torch.linalg.LinAlgError:
        raise InputError("the curvature is not finite: check the model's weights and the "
                         "stories") from None
    return blocks


def keep(blocks, path) -> None:
    """Saves the blocks; a full or read-only disk costs what is kept, not the run."""
    try:
        kept.save_blocks(blocks, path)
        kept.bound(path.parent, path)
    except OSError as problem:
        reason = problem.strerror or problem
        print(f"note: the factors were not cached in {path.parent} ({reason}); --cache chooses "
              "another folder", file=sys.stderr)

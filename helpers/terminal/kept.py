"""Work that took long and is kept: known by what made it, bounded in size."""
import errno
import hashlib
import json
import os
import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..curvature import Block
from ..sources.files import load_checked, present, save_checked

HELPERS = Path(__file__).resolve().parents[1]
FITTING = ("stories.py", "capture.py", "curvature.py", "sources/adapters.py",
           "sources/attention.py", "sources/experts.py", "sources/head.py",
           "terminal/fitting.py", "terminal/processes.py")  # the code whose result a fit is
INDEXING = (*FITTING, "search.py", "terminal/index.py")
# A config's entries on how a model was loaded, not what it computes (dtypes stand with the weights)
LOADING = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype",
           "_attn_implementation", "_attn_implementation_internal",
           "_attn_implementation_autoset"}
ROOM = 4 * 2**30  # bytes that a cache may fill
OURS = re.compile(r"(ekfac|kfac|diagonal)-[0-9a-f]{24}\.safetensors")  # the rest is the user's own


# -- known by what made it -----------------------------------------------------------------------

def code_version(rooms=FITTING) -> str:
    """Names the code whose result a kept file is: another version of it makes the file anew."""
    code = b"".join((HELPERS / room).read_bytes() for room in rooms)
    return hashlib.sha256(code).hexdigest()[:16]


def model_key(model) -> str:
    """Names one model by weights and config; a name made before is given back unchanged."""
    if isinstance(model, str):
        return model
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        tensor = tensor.detach().cpu().contiguous().flatten()  # a scalar has no bytes to view
        digest.update(tensor.view(torch.uint8).numpy())
    # the same weights under another activation, window or norm are another model
    settings = _computed(model.config.to_dict()) if hasattr(model, "config") else None
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:24]


def _computed(settings):
    """A config's settings, and those of the configs inside it, without the entries in LOADING."""
    if not isinstance(settings, dict):
        return settings
    return {name: _computed(value) for name, value in settings.items() if name not in LOADING}


def learnt(corpus, row) -> list:
    """All that a story's gradient depends on beside the model: its ids, and where not all of them
    are predicted for the loss, which."""
    mask = corpus.loss_masks[row] if corpus.loss_masks else []
    return corpus.ids[row] if all(mask[1:]) else [corpus.ids[row], mask]


def cache_key(model, layers, ids, **settings) -> str:
    """Names the factors of one model, one list of stories as `learnt`, the settings and the
    code."""
    parts = [code_version(), model_key(model), sorted(settings.items()), list(layers), ids]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


# -- curvature -----------------------------------------------------------------------------------

def save_blocks(blocks: dict[str, Block], path: Path, **metadata) -> None:
    """Writes the blocks as safetensors, with a checksum; never half a file. Raises OSError."""
    tensors = {f"{name}/{part}": value for name, block in blocks.items()
               for part, value in vars(block).items()}
    save_checked(tensors, path, **metadata)


def load_blocks(path: Path) -> dict[str, Block] | None:
    """The blocks stored at `path`; None when there is no such file or its checksum does not fit."""
    stored = load_checked(path, "the cached factors")
    return stored and as_blocks(stored[0])


def as_blocks(tensors: dict) -> dict[str, Block]:
    """Blocks of the tensors that `save_blocks` wrote."""
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {name: Block(tensors[f"{name}/q_a"], tensors[f"{name}/q_s"],
                        tensors[f"{name}/eigenvalues"]) for name in names}


# -- a folder that several runs share ------------------------------------------------------------

@contextmanager
def lock(path: Path):
    """Only one process at a time is inside the block for `path`; others wait, and say so. Freed by
    the system when a process dies. Where no lock can be made (a full or read-only disk) nobody
    waits: files are whole in any case."""
    guard = FileLock(path.parent / f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            guard.acquire(timeout=1)
        except Timeout:
            print(f"note: another run is making {path.name}; waiting for it", file=sys.stderr)
            guard.acquire()
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        guard.release()


def check_folder(path: Path) -> None:
    """Makes the folder if it is new; raises OSError, before long work, if it cannot be filled."""
    path.mkdir(parents=True, exist_ok=True)
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def touch(path: Path) -> None:
    """Notes that a kept file was used now; on a read-only disk nothing can be noted."""
    with suppress(OSError):
        os.utime(path)


def bound(folder: Path, newest: Path) -> None:
    """Removes the longest unused of the kept files until they fit into ROOM; says what is used.
    Never removes `newest`."""
    files = [(path, status) for path, status in present(folder.glob("*.safetensors"))
             if path != newest and OURS.fullmatch(path.name)]
    files.sort(key=lambda pair: pair[1].st_mtime)
    used = newest.stat().st_size + sum(status.st_size for _, status in files)
    while used > ROOM and files:
        path, status = files.pop(0)
        used -= status.st_size
        path.unlink(missing_ok=True)
    print(f"note: kept in {folder}: {len(files) + 1} files, {used / 1e6:,.0f} MB (at most "
          f"{ROOM / 1e6:,.0f}; to clear it, delete the folder)", file=sys.stderr)

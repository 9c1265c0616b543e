"""Whole files or none: everything is written under a temporary name and then renamed. What was long
to make carries a checksum of its own."""
import hashlib
import json
import os
import shutil
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..stories import InputError

STALE = 3600  # seconds after which a temporary folder belongs to a run that was killed
DATA = Path(__file__).resolve().parents[2] / "data"


def local_path(name, bundled=None) -> Path:
    """The path that a name stands for, `~` expanded; "default" is `bundled` in data/. Raises
    InputError where nothing says whose home is meant."""
    if bundled and name == "default":
        return DATA / bundled
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for a user that does not exist
    home = path.parts[0] if path.parts else ""
    # else a folder "~" would be made
    if str(path).startswith("~") and path.parts != path.parts[:1] and not os.path.exists(home):
        raise InputError(f"{name}: nothing says where {home} is on this machine: give the path in "
                         "full")
    return path


def first_line(error) -> str:
    """What an error of a library says, short enough for one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:160].rstrip(" .:")


# -- writing -------------------------------------------------------------------------------------

@contextmanager
def whole(path):
    """Yields a temporary name; what was written there takes the place of `path` at the end.

    A reader never meets half a file, and an error leaves nothing behind. A killed process leaves a
    folder `.tokenwise-….partial` that nobody reads and a later run removes. Raises OSError.
    """
    path = Path(path).resolve()
    for old, status in present(path.parent.glob(".tokenwise-*.partial")):
        if time.time() - status.st_mtime > STALE:
            shutil.rmtree(old, ignore_errors=True)
    # a folder, because safetensors writes beside the name it is given
    folder = TemporaryDirectory(dir=path.parent, prefix=".tokenwise-", suffix=".partial")
    with folder as made:
        temporary = Path(made) / path.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files private, whatever the umask says
        os.replace(temporary, path)


def present(paths):
    """`(path, lstat)` of the paths that are there still: another run may remove one meanwhile."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.lstat()


def save_text(text: str, path) -> None:
    """Writes UTF-8 text, whole or not at all. Raises OSError."""
    with whole(path) as temporary:  # a path that is not Unicode may be quoted in the text
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def save_tensors(tensors: dict, path, **metadata) -> None:
    """Writes a safetensors file, whole or not at all. Raises OSError, also for a full disk."""
    try:
        with whole(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except SafetensorError as problem:
        raise OSError(str(problem)) from None


@contextmanager
def output(path):
    """Turns an OSError of the block that writes `path` into one line for the user (InputError)."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"cannot write {path} ({problem.strerror or problem}): name a file in an "
                         "existing folder that you may write to, with room on its disk") from None


def check_writable(path: Path) -> None:
    """Raises InputError when a file could not be written at `path`. Creates and changes nothing."""
    with output(path):
        if path.is_dir():
            raise OSError("it is a folder")
        if path.exists() and not path.is_file():
            raise OSError("it is a device or a pipe")
        folder = path.resolve().parent
        if not folder.is_dir():
            raise OSError(f"there is no folder {path.parent}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(f"the folder {path.parent} may not be changed")


# -- folders -------------------------------------------------------------------------------------

def check_new(folder: Path) -> None:
    """Raises InputError where there is a file, or something in the folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty: name a new or an empty folder")


@contextmanager
def whole_folder(folder: Path):
    """Yields a folder that takes the place of this new or empty one, unless an error comes first.
    Raises InputError where the system does not let it."""
    with output(folder):
        parent = folder.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=parent, prefix=".tokenwise-", suffix=".partial") as hidden:
            made = Path(hidden) / "made"
            made.mkdir()
            yield made
            if folder.exists():
                folder.rmdir()
            shutil.move(made, folder)


# -- tensors with a checksum ---------------------------------------------------------------------

def save_checked(tensors: dict, path: Path, **metadata) -> None:
    """Writes CPU tensors with their checksum into a folder that may be new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_tensors(tensors, path, checksum=_checksum(tensors, metadata), **metadata)


def load_checked(path: Path, what: str) -> tuple[dict, dict] | None:
    """`(tensors, metadata)` of `save_checked`; None, with a warning about `what`, if damaged."""
    if not os.path.isfile(path):  # Path.is_file raises where the folder may not be read
        return None
    stored = read_checked(path)
    if stored is None:
        warnings.warn(f"{what} {path.name} are damaged; made again", stacklevel=3)
    return stored


def read_checked(path: Path, trusted=False) -> tuple[dict, dict] | None:
    """`(tensors, metadata)` of `save_checked`, memory-mapped; None if missing or damaged. `trusted`
    leaves out the checksum, for which all of the file has to be read."""
    try:
        with safe_open(path, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
            metadata = stored.metadata() or {}
        checksum = metadata.pop("checksum", None)
        if trusted or checksum == _checksum(tensors, metadata):
            return tensors, metadata
    except (SafetensorError, OSError):
        pass
    return None


def _checksum(tensors, metadata):
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].numpy())
    return digest.hexdigest()

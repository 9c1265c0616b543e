"""Whole files or none: everything is written under a temporary name and then renamed; records know what they were made from."""
import hashlib
import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .stories import InputError

STALE = 3600  # seconds after which a temporary folder belongs to a run that was killed


@contextmanager
def whole(path):
    """Yields a temporary name; what was written there takes the place of `path`, unless an error came first.

    A reader never meets half a file, and an error leaves nothing behind. A killed process leaves a
    folder `.tokenwise-….partial` that nobody reads and a later run removes. Raises OSError.
    """
    path = Path(path).resolve()
    for old in path.parent.glob(".tokenwise-*.partial"):
        if time.time() - old.lstat().st_mtime > STALE:
            shutil.rmtree(old, ignore_errors=True)
    # a folder, because safetensors writes beside the name it is given
    with TemporaryDirectory(dir=path.parent, prefix=".tokenwise-", suffix=".partial") as folder:
        temporary = Path(folder) / path.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files private, whatever the umask says
        os.replace(temporary, path)


def save_tensors(tensors: dict, path, **metadata) -> None:
    """Writes a safetensors file, whole or not at all. Raises OSError, also for a full disk."""
    try:
        with whole(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except SafetensorError as problem:
        raise OSError(str(problem)) from None


def save_text(text: str, path) -> None:
    """Writes UTF-8 text, whole or not at all. Raises OSError."""
    with whole(path) as temporary:  # a path that is not Unicode may be quoted in the text
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def output(path):
    """Turns an OSError of the block that writes `path` into one line for the user (InputError)."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"cannot write {path} ({problem.strerror or problem}): name a file in an existing "
                         "folder that you may write to, with room on its disk") from None


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


# -- records: what a script measured once, and from what -------------------------------------------

def save_record(tensors: dict, path, inputs: list[str], **notes) -> None:
    """Keeps `tensors` with the checksums of the files they were made from (names relative to the record's folder)."""
    sums = {name: sha256(Path(path).parent / name) for name in inputs}
    save_tensors(tensors, path, inputs=json.dumps(sums), **notes)


def load_record(path) -> tuple[dict, dict]:
    """`(tensors, notes)` of a record. Raises InputError when it is missing, damaged, or belongs to other files."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as stored:
            tensors, notes = {key: stored.get_tensor(key) for key in stored.keys()}, stored.metadata()
        sums = json.loads(notes["inputs"])
    except (OSError, SafetensorError, KeyError, TypeError):
        raise InputError(f"{path.name} is missing or damaged: restore data/ from the repository") from None
    for name, checksum in sums.items():
        if not (path.parent / name).is_file() or sha256(path.parent / name) != checksum:
            raise InputError(f"{path.name} was recorded with another {name}: restore data/, or record it again")
    return tensors, notes


def sha256(path) -> str:
    """The file's checksum."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

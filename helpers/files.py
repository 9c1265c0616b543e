"""Whole files or none: everything is written under a temporary name and then renamed; kept work carries its checksum,
records know what they were made from."""
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .stories import InputError

STALE = 3600  # seconds after which a temporary folder belongs to a run that was killed
ROOM = 4 * 2**30  # bytes that a cache may fill
OURS = re.compile(r"(ekfac|kfac|diagonal)-[0-9a-f]{24}(\..+\.partial)?\.safetensors")  # all else there is the user's own


@contextmanager
def whole(path):
    """Yields a temporary name; what was written there takes the place of `path`, unless an error came first.

    A reader never meets half a file, and an error leaves nothing behind. A killed process leaves a
    folder `.tokenwise-….partial` that nobody reads and a later run removes. Raises OSError.
    """
    path = Path(path).resolve()
    for old, status in present(path.parent.glob(".tokenwise-*.partial")):
        if time.time() - status.st_mtime > STALE:
            shutil.rmtree(old, ignore_errors=True)
    # a folder, because safetensors writes beside the name it is given
    with TemporaryDirectory(dir=path.parent, prefix=".tokenwise-", suffix=".partial") as folder:
        temporary = Path(folder) / path.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files private, whatever the umask says
        os.replace(temporary, path)


def present(paths):
    """`(path, lstat)` of the paths that are there still: another run may remove one as soon as it is listed."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.lstat()


def save_tensors(tensors: dict, path, **metadata) -> None:
    """Writes a safetensors file, whole or not at all. Raises OSError, also for a full disk."""
    try:
        with whole(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except SafetensorError as problem:
        raise OSError(str(problem)) from None


def save_checked(tensors: dict, path: Path, **metadata) -> None:
    """Writes CPU tensors with their checksum into a folder that may be new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_tensors(tensors, path, checksum=_checksum(tensors, metadata), **metadata)


def load_checked(path: Path, what: str) -> tuple[dict, dict] | None:
    """`(tensors, metadata)` of `save_checked`; None, and a warning that names `what`, when the file is damaged."""
    if not os.path.isfile(path):  # Path.is_file raises where the folder may not be read
        return None
    found = read_checked(path)
    if found is None:
        warnings.warn(f"{what} {path.name} are damaged; made again", stacklevel=3)
    return found


def read_checked(path: Path, trusted=False) -> tuple[dict, dict] | None:
    """`(tensors, metadata)` of `save_checked`, memory-mapped; None when the file is missing or damaged.

    `trusted` leaves out the checksum, for which all of the file has to be read.
    """
    try:
        with safe_open(path, "pt") as stored:
            tensors, metadata = {key: stored.get_tensor(key) for key in stored.keys()}, stored.metadata() or {}
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


def check_folder(path: Path) -> None:
    """Makes the folder if it is new; raises OSError, before any long work, when nothing could be written in it."""
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


# -- kept work ------------------------------------------------------------------------------------

class Checkpoint:
    """Running sums of a long pass, written every few seconds, so that a killed run goes on where it was."""
    every = 10  # seconds

    def __init__(self, path: Path):
        self.path, self._written = path, time.monotonic()

    @classmethod
    def beside(cls, result: Path, name: str):
        """The checkpoint of one pass on the way to the file `result`."""
        return cls(result.with_name(f"{result.stem}.{name}.partial.safetensors"))

    @staticmethod
    def clear(result: Path) -> None:
        """Removes the checkpoints of `result`, which is there now."""
        for path in result.parent.glob(f"{result.stem}.*.partial.safetensors"):
            path.unlink(missing_ok=True)

    def load(self) -> tuple[dict, int]:
        """`(sums, batches done)`; `({}, 0)` when there is nothing to go on from."""
        tensors, metadata = load_checked(self.path, "the half-done sums") or ({}, {"done": 0})
        return tensors, int(metadata["done"])

    def save(self, sums: dict, done: int) -> None:
        """Keeps the sums, if the last time is long enough ago. A full disk costs the checkpoint, not the run."""
        if time.monotonic() - self._written >= self.every:
            try:
                save_checked(sums, self.path, done=str(done))
            except OSError:
                pass
            self._written = time.monotonic()


@contextmanager
def lock(path: Path):
    """Only one process at a time is inside the block for `path`; others wait, and say so. Freed by the system when a
    process dies. Where no lock can be made (a full or read-only disk) nobody waits: files are whole in any case."""
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


def touch(path: Path) -> None:
    """Notes that a kept file was used now; on a read-only disk nothing can be noted."""
    try:
        os.utime(path)
    except OSError:
        pass


def bound(folder: Path, newest: Path) -> None:
    """Removes the longest unused of the kept files until they fit into ROOM, but not `newest`; says what is used."""
    kept = [pair for pair in present(folder.glob("*.safetensors")) if pair[0] != newest and OURS.fullmatch(pair[0].name)]
    kept.sort(key=lambda pair: pair[1].st_mtime)
    used = newest.stat().st_size + sum(status.st_size for _, status in kept)
    while used > ROOM and kept:
        path, status = kept.pop(0)
        used -= status.st_size
        path.unlink(missing_ok=True)
    print(f"note: kept in {folder}: {len(kept) + 1} files, {used / 1e6:,.0f} MB (at most {ROOM / 1e6:,.0f}; to clear it, "
          "delete the folder)", file=sys.stderr)


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

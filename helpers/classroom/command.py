"""What the classroom's command lines share."""
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..terminal.options import Usage


def command(name: str, run, argv=None) -> int:
    """Calls `run(argv)`; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run(argv)
        return 0
    except Usage as problem:
        code, message = 2, f"{problem} (see python -m helpers.{name} --help)"
    except KeyboardInterrupt:
        code, message = 130, "interrupted: nothing half-written was left, give the command again"
    except Exception as problem:
        from ..stories import InputError  # takes seconds
        if not isinstance(problem, InputError):
            raise
        code, message = 2, str(problem)
    print(f"error: {message}", file=sys.stderr)
    return code


def check_new(folder: Path) -> None:
    """Raises InputError where there is a file, or something in the folder."""
    from ..stories import InputError
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty: name a new or an empty folder")


@contextmanager
def whole_folder(folder: Path):
    """Yields a folder that takes the place of this new or empty one, unless an error comes first.
    Raises InputError where the system does not let it."""
    from ..sources.files import output
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

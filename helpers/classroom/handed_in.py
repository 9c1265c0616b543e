"""What was handed in: the files in the folders that a teacher names, and whose they are."""
import os
from pathlib import Path
from typing import NamedTuple


class Submission(NamedTuple):
    """A student's file, a notebook or not; `path` is None where a student's folder is empty."""
    student: str
    path: Path | None


def find_submissions(paths: list[Path], series) -> list[Submission]:
    """All that the paths name or hold. Raises InputError where that is no notebook at all.

    The student is the folder directly below the one given. A file that lies in the folder given, or
    is given itself, is its student's by its name; or by its folder's, where it is called as in the
    series. Students of the same name in different folders are told apart by these.
    """
    from ..stories import InputError
    owned = {}  # as a set that keeps its order
    for path in map(Path, map(os.path.abspath, paths)):
        if not path.exists():
            raise InputError(f"there is no {path}: name notebooks, or a folder with them")
        pairs = in_folder(path, series) if path.is_dir() else [(owner(path, series), path)]
        owned |= dict.fromkeys(pairs)
    if not any(file and is_notebook(file) for _, file in owned):
        others = [file.name for _, file in owned if file]
        only = f", only {', '.join(others[:3])}{' …' * (len(others) > 3)}" if others else ""
        raise InputError(f"no notebook (*.ipynb) in {', '.join(map(str, paths))}{only}: name "
                         "notebooks, or a folder with them")
    owners = {folder for folder, _ in owned}
    return [Submission(name_among(owners, folder), file) for folder, file in owned]


def owner(file: Path, series) -> Path:
    """The folder that stands for the student of a loose file."""
    return file.parent / ("" if file.name in series else file.stem.removesuffix(".ipynb"))


def in_folder(folder: Path, series) -> list[tuple[Path, Path | None]]:
    """[(student's folder, file)] in a student's folder, in a whole student copy, or in a class."""
    entries = visible(folder)
    if (folder / "notebooks").is_dir():
        return [(folder, file) for file in notebooks_below(folder)]
    pairs, of_student = [], any(entry.name in series for entry in entries)
    for entry in entries:
        if is_folder(entry):
            files = notebooks_below(entry) or [*filter(Path.is_file, visible(entry))]
            pairs += [(entry, file) for file in files or [None]]
        elif is_notebook(entry) or not of_student:
            pairs.append((owner(entry, series), entry))
    return pairs


def visible(folder: Path) -> list[Path]:
    """What the folder holds, without what systems hide in it."""
    return sorted(entry for entry in folder.iterdir()
                  if not entry.name.startswith((".", "__MACOSX")))


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def is_notebook(file: Path) -> bool:
    return file.suffix.lower() == ".ipynb"


def notebooks_below(folder: Path) -> list[Path]:
    """Notebooks in the folder and its subfolders; links to folders are not followed."""
    notebooks = []
    for entry in visible(folder):
        notebooks += notebooks_below(entry) if is_folder(entry) else filter(is_notebook, [entry])
    return notebooks


def name_among(owners: set[Path], folder: Path) -> str:
    """The folder's name, after as many of those above as tell it from all others."""
    for depth in range(1, len(folder.parts) + 1):
        tail = folder.parts[-depth:]
        if sum(other.parts[-depth:] == tail for other in owners) == 1:
            return "/".join(tail)
    return str(folder)

"""What is done, in a folder: one line for every training that has ended, and what it belongs to."""
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from ..sources.files import output, save_text
from ..stories import InputError


def digest(value) -> str:
    """Names whatever JSON can write."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


class Ledger:
    """The trainings in `folder/jobs.jsonl`, by seed and stories kept: whatever asks for one that is
    done, by another method or in a later run, is given it.

    `made_by` is `{what: all that decides an outcome}`; a folder made by anything else is refused
    (InputError), unless nothing in it is finished.
    """

    def __init__(self, folder: Path, made_by: dict):
        self.path, head = folder / "jobs.jsonl", folder / "judge.json"
        named = {what: digest(value) for what, value in made_by.items()}
        with output(self.path):
            self.done = finished(self.path)
            before = json.loads(head.read_text("utf-8")) if head.is_file() else {}
            if not before and any(folder.glob("[!.]*")):
                raise InputError(f"{folder} holds something else: give --out a folder of its own")
            other = [what for what in named if before.get(what) != named[what]]
            if self.done and other:
                raise InputError(f"{folder} holds trainings with another {other[0]}: give another "
                                 "--out, or what they were made with")
            save_text(json.dumps(named), head)

    def add(self, key: str, **entry) -> None:
        """Notes a training that has ended; from then on no kill can take it."""
        with output(self.path), open(self.path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read(1) == b"\n" else b"\n")  # ends a line that was cut off
            file.write(json.dumps({"key": key, **entry}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[key] = entry


def finished(path: Path) -> dict:
    """The entries of a ledger by key, without a line that was cut off."""
    entries = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        with suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            entries[entry.pop("key")] = entry
    return entries

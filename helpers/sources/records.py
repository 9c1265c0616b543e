"""What is known beforehand: the planted facts, and what scripts of data/ measured once."""
import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..stories import InputError
from .files import DATA, save_tensors

KINDS = ("teachers", "opponents", "bystanders")


def load_planted(corpus, whole=True) -> list[dict]:
    """The planted items of `data/planted_facts.json`, each story also with its `row` in the corpus.

    Raises InputError for any other corpus than the default stories, and unless `whole` is False
    also for a part of them, of which only the places that it holds are given.
    """
    rows = {story.id: row for row, story in enumerate(corpus.stories)}
    items = json.loads((DATA / "planted_facts.json").read_text(encoding="utf-8"))
    places = [place for item in items for kind in KINDS for place in item[kind]]
    here = [place for place in places if place["story"] in rows]
    if whole and len(here) < len(places) or not here:
        raise InputError("the planted facts belong to the default stories: load them without a "
                         "limit")
    for place in here:
        place["row"] = rows[place["story"]]
    for item in items:
        item |= {kind: [place for place in item[kind] if "row" in place] for kind in KINDS}
    return items


def rows_of(places: list[dict]) -> list[int]:
    """Corpus rows of planted places."""
    return [place["row"] for place in places]


def save_record(tensors: dict, path, inputs: list[str], **notes) -> None:
    """Keeps `tensors` with the checksums of the files they were made from. `inputs` are names
    relative to the record's folder. Raises OSError."""
    sums = {name: sha256(Path(path).parent / name) for name in inputs}
    save_tensors(tensors, path, inputs=json.dumps(sums), **notes)


def load_record(path) -> tuple[dict, dict]:
    """`(tensors, notes)` of a record. Raises InputError when it is missing, damaged, or belongs to
    other files."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
            notes = stored.metadata()
        sums = json.loads(notes["inputs"])
    except (OSError, SafetensorError, KeyError, TypeError):
        raise InputError(f"{path.name} is missing or damaged: restore data/ from the "
                         "repository") from None
    for name, checksum in sums.items():
        if not (path.parent / name).is_file() or sha256(path.parent / name) != checksum:
            raise InputError(f"{path.name} was recorded with another {name}: restore data/, or "
                             "record it again")
    return tensors, notes


def sha256(path) -> str:
    """The file's checksum."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

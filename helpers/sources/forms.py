"""Rows of files, and the forms they have: a text, a prompt with its completion, a conversation."""
import csv
import gzip
import json
import zlib
from itertools import chain, count
from pathlib import Path

from ..stories import InputError, Story
from .files import first_line

STORY_END = "<|endoftext|>"
FORMS = (("text",), ("prompt", "completion"), ("messages",))  # by the fields that a row must have
LONGEST_CELL = 2**31 - 1


# -- rows: (number, where it stands, {field: value}) ---------------------------------------------

def file_rows(path: Path):
    """The rows of a file; None where its name says no known kind."""
    zipped = path.suffix.lower() == ".gz"
    kind = Path(path.stem if zipped else path.name).suffix.lower()
    read = {".jsonl": jsonl_rows, ".txt": _txt_rows, ".csv": _csv_rows}
    if not zipped:
        read[".parquet"] = _parquet_file
    return read[kind](path) if kind in read else None


def lines(path):
    """(number, line) of a UTF-8 file, from 1; a byte-order mark and \\r\\n are tolerated."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise InputError(f"{path}: line {number} is not UTF-8: save the file as UTF-8 "
                                     "text") from None
                yield number, line.replace("\r\n", "\n")
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    reason = getattr(error, "strerror", None) or first_line(error)
    return InputError(f"cannot read {path} ({reason}): check the path and the file")


def jsonl_rows(path, wanted='{"text": …}'):
    """Every line that is not blank holds an object."""
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: line {number} is not JSON: write one {wanted} a "
                             "line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number} is not a JSON object: write one {wanted} a "
                             "line")
        yield number, f"line {number}", row


def _txt_rows(path):
    number, parts = 0, []
    for line in chain((line for _, line in lines(path)), [STORY_END]):
        first, *later = line.split(STORY_END)
        parts.append(first)
        for piece in later:
            text, parts = "".join(parts).strip(), [piece]
            if text:
                number += 1
                yield number, f"story {number}", {"text": text}


def _csv_rows(path):
    """Every cell is a text: no numbers, dates or missing values are guessed."""
    csv.field_size_limit(LONGEST_CELL)
    table, number = csv.reader((line for _, line in lines(path)), strict=True), count(1)
    try:
        header = next(table, [])
        for cells in filter(None, table):
            where = f"line {table.line_num}"
            if len(cells) != len(header):
                raise InputError(f"{path}: {where} has {len(cells)} cells, the first line "
                                 f"{len(header)}: write texts with commas or quotes in quotes")
            yield next(number), where, dict(zip(header, cells))
    except csv.Error as error:
        raise InputError(f"{path}: line {table.line_num} is no CSV ({error}): write cells parted "
                         "by commas, texts with commas or quotes in quotes") from None


def _parquet_file(path):
    try:
        with open(path, "rb") as file:
            for number, row in enumerate(parquet_rows(file), 1):
                yield number, f"row {number}", row
    except Exception as error:  # damaged: Arrow's errors are of several types
        raise _unreadable(path, error) from None


def parquet_rows(file):
    """Rows of an open file as dictionaries, read as far as they are asked for."""
    from pyarrow.parquet import ParquetFile  # slow to import, and seldom needed
    for batch in ParquetFile(file, pre_buffer=False).iter_batches(256, use_threads=False):
        yield from batch.to_pylist()


# -- rows as stories -----------------------------------------------------------------------------

def stories_of(source, rows, tokenizer=None):
    """The stories of rows that have one form, called by their "id", or by their number. Raises
    InputError."""
    form, seen = None, {}
    for number, where, row in rows:
        here = f"{source}: {where}"
        own = form_of(row, here)
        form = form or own
        if own not in (form, None):
            raise InputError(f'{here} has "{own[-1]}" where those before it have "{form[-1]}": '
                             "write all rows alike, or two files")
        name = name_of(number, row)
        # renaming would break whatever refers to the ids
        if seen.setdefault(name, where) != where:
            raise InputError(f"{here} repeats the id {name!r} of {seen[name]}: make ids unique, or "
                             "leave them out")
        yield story_of(name, row, form, tokenizer, here)


def form_of(row, here):
    """The fields of FORMS that a row has, None where they are empty. Raises InputError where it has
    none, and where two are filled."""
    there = [form for form in FORMS if all(field in row for field in form)]
    filled = [form for form in there if any(row[field] is not None for field in form)]
    if len(filled) > 1:
        raise InputError(f'{here} has "{filled[0][-1]}" and "{filled[1][-1]}": leave out what the '
                         "model was not trained on")
    if not there:
        raise InputError(f'{here} has no "text", no "prompt" with "completion" and no "messages" '
                         f"(but {', '.join(map(repr, row))[:80] or 'nothing'}): save it with one "
                         "of these")
    return filled[0] if filled else None


def story_of(name, row, form, tokenizer, here) -> Story:
    """One row as a story. The loss falls on all of a text, on a completion, and on what the
    assistant says in a conversation (which may be given as prompt and completion, too)."""
    values = [row.get(field) for field in form or ("text",)]
    if len(values) == 1 and form != ("messages",):
        return Story(name, clean(values[0]))
    if form == ("messages",) or all(isinstance(value, list) for value in values):
        parts = [messages_of(value, here) for value in values]
        first = len(parts[0]) if len(parts) > 1 else 0
        return Story(name, *conversation(tokenizer, sum(parts, []), here, first, row.get("tools")),
                     chat=True)
    if not all(isinstance(value, str | None) for value in values):
        raise InputError(f'{here}: "prompt" and "completion" are neither two texts nor two lists '
                         "of messages: write both alike")
    prompt, completion = map(clean, values)
    return Story(name, prompt + completion, ((len(prompt), len(prompt + completion)),))


def name_of(number, row) -> str:
    """A row's own id, else its number."""
    return clean(str(number if row.get("id") is None else row["id"]))


def clean(text):
    """Valid Unicode: half of a surrogate pair, which JSON can spell, becomes "?"; no string, ""."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""


# -- conversations -------------------------------------------------------------------------------

def messages_of(value, here) -> list[dict]:
    """The messages of a row, each content one text. Raises InputError."""
    if not isinstance(value, list) or not value:
        raise InputError(f'{here}: "messages" is not a list of messages: write [{{"role": "user", '
                         '"content": …}, …]')
    messages = []
    for message in value:
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str):
            raise InputError(f'{here}: a message has no "role": write {{"role": "user", '
                             '"content": …}')
        content = message.get("content")
        parts = [{"text": content or ""}] if isinstance(content, str | None) else content
        texts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text"
                 else None for part in (parts if isinstance(parts, list) else [None])]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f'{here}: the "content" of a message ({role}) is no text, or holds '
                             "more than texts: leave such rows out")
        # what Parquet has no value for is None
        messages.append({name: entry for name, entry in message.items() if entry is not None}
                        | {"content": clean("".join(texts))})
    return messages


def rendered(tokenizer, messages, here, **options) -> str:
    """Messages through the chat template of the tokenizer. Raises InputError."""
    if tokenizer is None:
        raise InputError(f"{here} holds messages, which only a model's own template makes a text: "
                         "give load_stories its tokenizer as well")
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(f"{here} holds messages, and the model's tokenizer has no chat template: "
                         "save the one it was trained with as chat_template.jinja in the model's "
                         'folder, or write rows of {"prompt": …, "completion": …}')
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template raises what it likes
        raise InputError(f"{here}: the chat template does not take these messages "
                         f"({first_line(error)}): check their roles and order") from None


def conversation(tokenizer, messages, here, first=0, tools=None):
    """A conversation's text, and where in it the assistant answers, from message `first` on.

    An answer begins where the template asks for it, and ends with its end-of-turn token. Raises
    InputError where nobody answers, and where a template writes a beginning in another way than the
    whole, so that its answers cannot be told apart.
    """
    whole = rendered(tokenizer, messages, here, tools=tools)
    places = [place for place in range(first, len(messages))
              if messages[place]["role"] == "assistant"]
    if not places:
        raise InputError(f"{here}: no message to learn from is the assistant's: leave such rows "
                         "out")
    if places[0] == 0:
        raise InputError(f"{here}: the assistant speaks first: write what it answers, too")
    answers = []
    for place in places:
        before = rendered(tokenizer, messages[:place], here, tools=tools,
                          add_generation_prompt=True)
        behind = rendered(tokenizer, messages[:place + 1], here, tools=tools).rstrip()
        if not whole.startswith(behind):  # an earlier answer may be written otherwise than the last
            behind = before + _turn(tokenizer, whole[len(before):], messages[place])
        if not whole.startswith(before) or not whole.startswith(behind) or behind == before:
            raise InputError(f"{here}: the chat template writes the conversation up to message "
                             f"{place + 1} in another way than the whole: write each answer as a "
                             'row {"prompt": [messages before it], "completion": [the answer]}')
        answers.append((len(before), len(behind)))
    return whole, tuple(answers)


def _turn(tokenizer, rest, message) -> str:
    """What `rest` begins with: a message's content and the special token behind it. "" where it
    does not, or where the message says more than that (calls a tool)."""
    content, start = message["content"].strip(), len(rest) - len(rest.lstrip())
    behind = rest[start + len(content):].lstrip()
    ends = [token for token in tokenizer.get_added_vocab() if behind.startswith(token)]
    if not rest.startswith(content, start) or len(message) > 2 or not ends:
        return ""
    return rest[:len(rest) - len(behind) + len(max(ends, key=len))]


def question(tokenizer, messages, here) -> str:
    """The text of messages that ask for an answer, up to where it begins. Raises InputError."""
    messages = messages_of(messages, here)
    if messages[-1]["role"] == "assistant":
        raise InputError(f"{here}: the last message is the assistant's: leave it out, its text is "
                         "the completion")
    return rendered(tokenizer, messages, here, add_generation_prompt=True)

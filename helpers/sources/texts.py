"""Stories and queries: from the default, files or the Hub; and what the model itself writes."""
import json
import os
import random
import re
from dataclasses import replace
from itertools import accumulate, chain, islice

import torch

from ..search import WORD
from ..stories import (Corpus, EncodedQuery, InputError, Query, Story, encode_query, prompt_ids,
                       token_texts, tokenise)
from .files import first_line, local_path
from .models import context_length, is_path, quiet

STORY_END = "<|endoftext|>"
SENTENCE_END = re.compile(r"[.!?\n]")
SENTENCE = re.compile(r"""[.!?]+["'”’)]*(?=\s|$)""")  # the end of one inside a text
MOST_SENTENCES = 6  # of a beginning


# -- stories -------------------------------------------------------------------------------------

def load_stories(name="default", limit=None) -> list[Story]:
    """The first `limit` stories of `name` (None: all).

    `name`: "default" (data/stories.jsonl), FILE.jsonl (one {"text": …, optional "id"} a line; the
    id is the line's number otherwise), FILE.txt (stories between <|endoftext|>), or a Hub data set
    id (streamed: split "train", column "text"). Reads no further than it must. A text that is no
    string becomes "". Raises InputError.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: ask for at least 1 story")
    path = local_path(name, "stories.jsonl")
    kind = path.suffix.lower()
    if kind == ".jsonl":
        source = _jsonl_stories(path)
    elif kind == ".txt":
        source = _txt_stories(path)
    elif os.path.exists(path) or is_path(name):
        what = ("is a folder" if os.path.isdir(path) else
                "is of no known kind" if os.path.exists(path) else "does not exist")
        raise InputError(f"{path} {what}: give FILE.jsonl (one {{\"text\": …}} a line), FILE.txt "
                         f"(stories between {STORY_END}) or a Hub data set id")
    else:
        source = _hub_stories(str(name))
    with quiet():
        stories = list(islice(source, limit))
    if not stories:
        raise InputError(f"{name} holds no stories: give a file or data set with at least one")
    return stories


def _lines(path):
    """(number, line) of a UTF-8 file, from 1; a byte-order mark and \\r\\n are tolerated."""
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise InputError(f"{path}: line {number} is not UTF-8: save the file as UTF-8 "
                                     "text") from None
                yield number, line.replace("\r\n", "\n")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path") from None


def _records(path, field):
    """(number, object) of each non-blank line of a JSONL file; every object has `field`."""
    advice = f"write one {{\"{field}\": …}} a line"
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: line {number} is not JSON: {advice}") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} is not a JSON object: {advice}")
        if field not in record:
            raise InputError(f"{path}: line {number} has no \"{field}\": {advice}")
        yield number, record


def _clean(text):
    """Valid Unicode: half of a surrogate pair, which JSON can spell, becomes "?"; no string, ""."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""


def _jsonl_stories(path):
    """A story without an id is called by the number of its line."""
    seen = {}
    for number, record in _records(path, "text"):
        name = _clean(str(number if record.get("id") is None else record["id"]))
        # renaming would break whatever refers to the ids
        if seen.setdefault(name, number) != number:
            raise InputError(f"{path}: line {number} repeats the id {name!r} of line {seen[name]}: "
                             "make ids unique, or leave them out")
        yield Story(name, _clean(record["text"]))


def _txt_stories(path):
    number, parts = 0, []
    for line in chain((line for _, line in _lines(path)), [STORY_END]):
        first, *later = line.split(STORY_END)
        parts.append(first)
        for piece in later:
            text, parts = "".join(parts).strip(), [piece]
            if text:
                number += 1
                yield Story(str(number), text)


def _hub_stories(name):
    from .hub import hub_info, hub_rows  # slow to import, and seldom needed
    if hub_info(name, "dataset") is None:
        raise InputError(f"cannot reach the Hub for the data set {name!r}: connect to the network, "
                         "or give a file")
    try:
        for number, row in enumerate(hub_rows(name), 1):
            if "text" not in row:
                raise InputError(f'the data set {name!r} has no column "text" (but '
                                 f'{", ".join(row)}): save its stories as FILE.jsonl, one '
                                 '{"text": …} a line')
            yield Story(str(number), _clean(row["text"]))
    except InputError:
        raise
    except Exception as error:  # no split "train", several configurations, the network lost …
        raise InputError(f"cannot read the data set {name!r} ({first_line(error)}): save its "
                         'stories as FILE.jsonl, one {"text": …} a line') from error


def read_corpus(stories: list[Story], tokenizer, max_tokens: int) -> Corpus:
    """`tokenise`, checked. Raises InputError also for a token that the model has no row for."""
    corpus = tokenise(stories, tokenizer, max_tokens)
    for story, ids in zip(corpus.stories, corpus.ids):
        check_ids(tokenizer, ids, f"the story {story.id!r}")
    return corpus


def check_ids(tokenizer, ids, what) -> None:
    """Raises InputError for an id that the model it was loaded with has no row for."""
    if ids and (worst := max(ids)) >= getattr(tokenizer, "model_rows", float("inf")):
        raise InputError(f"{what} holds {tokenizer.convert_ids_to_tokens(worst)!r}, which the "
                         "tokenizer knows and the model does not: give a text without it, or the "
                         "tokenizer that the model was trained with")


# -- queries -------------------------------------------------------------------------------------

def load_queries(path) -> list[Query]:
    """Queries of a JSONL file, one {"prompt": …, optional "completion" and "against"} a line.
    Raises InputError."""
    queries = []
    for number, record in _records(local_path(path), "prompt"):
        texts = {name: record.get(name) for name in ("prompt", "completion", "against")}
        for name, text in texts.items():
            if (text is not None or name == "prompt") and not _clean(text).strip():
                advice = "a few words of a story" if name == "prompt" else "a word or leave it out"
                raise InputError(f'{path}: line {number}: "{name}" is not a text: write {advice}')
        queries.append(Query(**{name: text and _clean(text) for name, text in texts.items()}))
    if not queries:
        raise InputError(f'{path} holds no queries: write one {{"prompt": …}} a line')
    return queries


def read_query(model, tokenizer, query: Query, **writing) -> tuple[Query, EncodedQuery, list[str]]:
    """A query with its completion, as token ids, and what may not have been meant. Without a
    completion the model writes one; `writing` are options of `complete`. Raises InputError, also
    for what is too long or no Unicode."""
    typed = [query.completion is not None, True]
    if query.against is not None and not query.against.strip():
        raise InputError("the text against the completion is empty: give the word or words that "
                         "could follow the prompt instead")
    try:
        if not typed[0]:
            query = replace(query, completion=complete(model, tokenizer, query.prompt, **writing))
        plain = plain_queries(query)
        encoded = [encode_query(tokenizer, each, context_length(model)) for each in plain]
    except (TypeError, UnicodeError):  # bytes of another encoding on the command line
        said = "".join(filter(None, (query.prompt, query.completion, query.against)))
        raise InputError(f"{said!r} is not valid Unicode: type it in UTF-8") from None
    for each in encoded:
        check_ids(tokenizer, each.ids, "the query")
    if encoded[1:] and encoded[0] == encoded[1]:
        raise InputError(f"{query.against!r} stands against itself, it is the completion: give "
                         "another word")
    notes = [note for each in zip(plain, encoded, typed) for note in query_notes(tokenizer, *each)]
    return query, encoded[0], list(dict.fromkeys(notes))


def plain_queries(query: Query, contexts=()) -> list[Query]:
    """A query taken apart: its completion, behind each of the contexts, then what is against it."""
    prompts = [f"{text} {query.prompt.lstrip()}" for text in contexts] or [query.prompt]
    answers = [query.completion] if query.against is None else [query.completion, query.against]
    return [Query(prompt, answer) for answer in answers for prompt in prompts]


def beginnings(tokenizer, stories: list[Story], queries: list[Query], count, longest, seed=0):
    """`count` different texts to ask the queries behind, since a fact is told anywhere in a story.

    Each is the first 1 to 6 sentences of a story, drawn by `seed`. Left out are those with the
    words of a completion (or of what stands against it), and those with which a query would have
    more than `longest` tokens. Raises InputError when too few are left.
    """
    chance, found = random.Random(seed), []
    answers = {_words(text or "") for each in queries for text in (each.completion, each.against)}
    for story in chance.sample(stories, len(stories) if count else 0):
        if len(found) == count:
            break
        ends = [end.end() for end in SENTENCE.finditer(story.text)]
        most = chance.randint(1, MOST_SENTENCES)
        text = story.text[:max(ends[:most], default=0)].strip()
        told = any(answer in _words(text) for answer in answers)
        if text and text not in found and not told and _fits(tokenizer, text, queries, longest):
            found.append(text)
    if len(found) < count:
        raise InputError(f"--contexts {count} asks for more beginnings of stories than the "
                         f"{len(found)} that leave the model room for the query and do not hold "
                         f"the completion's words: give at most {len(found)}")
    return found


def _words(text):
    return f" {' '.join(re.findall(WORD, text.lower()))} "


def _fits(tokenizer, text, queries, longest):
    try:
        for query in queries:
            for plain in plain_queries(query, [text]):
                ids = encode_query(tokenizer, plain, longest).ids
                check_ids(tokenizer, ids, "the context")  # it may lie behind --max-tokens
    except InputError:
        return False
    return True


def query_notes(tokenizer, query: Query, encoded: EncodedQuery, typed=True) -> list[str]:
    """What a person who asks `query` may not have meant. Nothing is put between prompt and
    completion: two words `typed` without a space run together ("in the" + "mill"), and a token may
    hold the end of the one and the beginning of the other."""
    notes, (last, first) = [], (query.prompt[-1], query.completion[0])
    if typed and _parts_words(last) and _parts_words(first):
        notes.append(f'"{query.prompt[-20:].split()[-1]}" and "{query.completion.split()[0]}" are '
                     'scored as one word, as typed; for two words begin the completion with a '
                     f'space: " {query.completion}"')
    own = token_texts(tokenizer, prompt_ids(tokenizer, query.prompt))
    if kept := "".join(own[encoded.start:]):  # the prompt's own end is cut otherwise
        texts = token_texts(tokenizer, encoded.ids)[encoded.start:]
        starts = accumulate(map(len, texts), initial=0)
        shared = [repr(text) for text, begin in zip(texts, starts) if begin < len(kept)]
        notes.append(f"the end of the prompt is scored too, in {', '.join(shared)}: the tokenizer "
                     "does not part the text where prompt and completion meet")
    return notes


def _parts_words(letter):
    """Whether it is a letter of a script that parts words by spaces."""
    return letter.lower() != letter.upper()


@torch.no_grad()
def complete(model, tokenizer, prompt, max_new_tokens=12, temperature=0.0, seed=0) -> str:
    """The model's own completion of `prompt`. Up to the end of the sentence (without its mark), the
    end of the text or `max_new_tokens`. Greedy, or drawn at a temperature with a seed. Raises
    InputError, also when the model writes nothing."""
    if not prompt.strip():
        raise InputError("the prompt is empty: give the beginning of a story")
    ids, context, text = prompt_ids(tokenizer, prompt), context_length(model), ""
    check_ids(tokenizer, ids, "the query")
    if len(ids) >= context:
        raise InputError(f"the prompt has {len(ids)} tokens, the model reads {context} and needs "
                         "room for the completion: shorten the prompt")
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode(ids, **options))
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(min(max_new_tokens, context - len(ids))):
        ids.append(_next_token(model, ids, temperature, generator))
        if ids[-1] in ends:
            break
        text = tokenizer.decode(ids, **options)[before:]
        if mark := SENTENCE_END.search(text):
            text = text[:mark.start()]
            break
    if not (text := text.rstrip("\ufffd \n")).strip():  # U+FFFD: a character cut in the middle
        raise InputError("the model ends the story at the prompt: give a completion")
    return text


def _next_token(model, ids, temperature, generator):
    read = torch.tensor([ids], device=model.device)
    output = model(input_ids=read, attention_mask=torch.ones_like(read), use_cache=False)
    logits = output.logits[0, -1].float().cpu()
    if not temperature:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))

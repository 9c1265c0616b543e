"""Stories and queries: from the default, files or the Hub; and what the model itself writes."""
import os
import random
import re
from dataclasses import replace
from itertools import accumulate, islice

import torch

from ..search import WORD
from ..stories import (Corpus, EncodedQuery, InputError, Query, Story, encode_query, prompt_ids,
                       token_texts, tokenise)
from .files import first_line, local_path
from .forms import STORY_END, clean, file_rows, jsonl_rows, question, stories_of
from .models import context_length, is_path, quiet

KINDS = ('FILE.jsonl (one {"text": …} a line), FILE.csv, FILE.parquet, FILE.txt (stories between '
         f"{STORY_END})")
SENTENCE_END = re.compile(r"[.!?\n]")
SENTENCE = re.compile(r"""[.!?]+["'”’)]*(?=\s|$)""")  # the end of one inside a text
MOST_SENTENCES = 6  # of a beginning


# -- stories -------------------------------------------------------------------------------------

def load_stories(name="default", limit=None, tokenizer=None) -> list[Story]:
    """The first `limit` stories of `name` (None: all).

    `name`: "default" (data/stories.jsonl), a file of one of KINDS, all but Parquet also with .gz
    behind, or a Hub data set id (streamed: split "train"). A row is {"text": …}, {"prompt": …,
    "completion": …} or {"messages": [{"role": …, "content": …}, …]}, in a file also with an "id";
    messages become a text by the chat template of the `tokenizer`. Reads no further than it must. A
    text that is no string becomes "". Raises InputError.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: ask for at least 1 story")
    path = local_path(name, "stories.jsonl")
    source, rows = path, file_rows(path)
    if rows is None and (os.path.exists(path) or is_path(name)):
        what = ("is a folder" if os.path.isdir(path) else
                "is of no known kind" if os.path.exists(path) else "does not exist")
        raise InputError(f"{path} {what}: give {KINDS} or a Hub data set id")
    if rows is None:
        source, rows = f"the data set {name!r}", _hub_rows(str(name))
    with quiet():
        stories = list(islice(stories_of(source, rows, tokenizer), limit))
    if not stories:
        raise InputError(f"{name} holds no stories: give a file or data set with at least one")
    return stories


def _hub_rows(name):
    from .hub import hub_info, hub_rows  # slow to import, and seldom needed
    if hub_info(name, "dataset") is None:
        raise InputError(f"cannot reach the Hub for the data set {name!r}: connect to the network, "
                         "or give a file")
    try:
        for number, row in enumerate(hub_rows(name), 1):
            row.pop("id", None)  # where it is not unique, nobody here can mend it
            yield number, f"row {number}", row
    except Exception as error:  # no split "train", several configurations, the network lost …
        raise InputError(f"cannot read the data set {name!r} ({first_line(error)}): save its "
                         "stories as FILE.jsonl, one a line") from error


def read_corpus(stories: list[Story], tokenizer, max_tokens: int) -> Corpus:
    """`tokenise`, checked. Raises InputError also for a token that the model has no row for."""
    parted = any(story.answers is not None for story in stories)
    if parted and not tokenizer.is_fast:
        raise InputError("the tokenizer does not say which letters a token holds, so answers "
                         "cannot be told apart: save a tokenizer.json into the model's folder, or "
                         'give stories as {"text": …}')
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

def load_queries(path, tokenizer=None) -> list[Query]:
    """Queries of a JSONL file, one {"prompt": …, optional "completion", "against" and "also"} a
    line, or with "messages" in place of the prompt. Raises InputError."""
    queries, path = [], local_path(path)
    for _, where, row in jsonl_rows(path, '{"prompt": …}'):
        here, chat = f"{path}: {where}", "messages" in row
        if chat == ("prompt" in row):
            raise InputError(f'{here} has "prompt" and "messages": leave one out' if chat else
                             f'{here} has no "prompt": write one {{"prompt": …}} a line')
        texts = {name: row.get(name) for name in ("prompt", "completion", "against")}
        if chat:
            texts["prompt"] = question(tokenizer, row["messages"], here)
        for name, text in texts.items():
            if (text is not None or name == "prompt") and not clean(text).strip():
                advice = "a few words of a story" if name == "prompt" else "a word or leave it out"
                raise InputError(f'{here}: "{name}" is not a text: write {advice}')
        texts = {name: text and clean(text) for name, text in texts.items()}
        queries.append(Query(**texts, chat=chat, also=_wordings(row, tokenizer, chat, here)))
    if not queries:
        raise InputError(f'{path} holds no queries: write one {{"prompt": …}} a line')
    return queries


def _wordings(row, tokenizer, chat, here) -> tuple[str, ...]:
    """The other prompts of a row, of a chat its last message in other words."""
    also = row.get("also") or []
    if not (isinstance(also, list) and all(clean(text).strip() for text in also)):
        raise InputError(f'{here}: "also" is not a list of texts: write ["…", "…"], the same '
                         "question in other words, or leave it out")
    if not chat:
        return tuple(map(clean, also))
    *before, last = row["messages"]
    return tuple(question(tokenizer, [*before, last | {"content": text}], here) for text in also)


def as_message(tokenizer, query: Query) -> Query:
    """The query with its prompt as a user's message, if it is not made of messages already."""
    if query.chat or not query.prompt.strip():
        return query
    first, *also = [question(tokenizer, [{"role": "user", "content": prompt}], "the prompt")
                    for prompt in (query.prompt, *query.also)]
    return replace(query, prompt=first, also=tuple(also), chat=True)


def read_query(model, tokenizer, query: Query, **writing) -> tuple[Query, EncodedQuery, list[str]]:
    """A query with its completion, as token ids, and what may not have been meant. Without a
    completion the model writes one; `writing` are options of `complete`. Raises InputError, also
    for what is too long or no Unicode."""
    typed = query.completion is not None
    if query.against is not None and not query.against.strip():
        raise InputError("the text against the completion is empty: give the word or words that "
                         "could follow the prompt instead")
    try:
        if not typed:
            query = replace(query, completion=complete(model, tokenizer, query.prompt,
                                                       chat=query.chat, **writing))
        plain = plain_queries(query)
        encoded = [encode_query(tokenizer, each, context_length(model)) for each in plain]
    except (TypeError, UnicodeError):  # bytes of another encoding on the command line
        said = "".join(filter(None, (query.prompt, query.completion, query.against)))
        raise InputError(f"{said!r} is not valid Unicode: type it in UTF-8") from None
    for each in encoded:
        check_ids(tokenizer, each.ids, "the query")
    if query.against is not None and encoded[0] == encoded[len(encoded) // 2]:
        raise InputError(f"{query.against!r} stands against itself, it is the completion: give "
                         "another word")
    notes = [note for each, ids in zip(plain, encoded) for note in
             query_notes(tokenizer, each, ids, typed or each.completion != query.completion)]
    return query, encoded[0], list(dict.fromkeys(notes))


def plain_queries(query: Query, contexts=()) -> list[Query]:
    """A query taken apart: its completion behind each of its prompts, and these behind each of the
    contexts; then what is against it."""
    asked = [query.prompt, *query.also]
    prompts = [f"{text} {prompt.lstrip()}" for text in contexts for prompt in asked] or asked
    answers = [query.completion] if query.against is None else [query.completion, query.against]
    return [Query(prompt, answer, chat=query.chat) for answer in answers for prompt in prompts]


def beginnings(tokenizer, stories: list[Story], queries: list[Query], count, longest, seed=0):
    """`count` different texts to ask the queries behind, since a fact is told anywhere in a story.

    Each is the first 1 to 6 sentences of a story, drawn by `seed`. Left out are those with the
    words of a completion (or of what stands against it), and those with which a query would have
    more than `longest` tokens. Raises InputError when too few are left.
    """
    if count and any(each.chat for each in (*stories, *queries)):
        raise InputError("--contexts puts beginnings of stories before a prompt, which a "
                         "conversation cannot have: leave it out")
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
    own = token_texts(tokenizer, prompt_ids(tokenizer, query.prompt, query.chat))
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


def complete(model, tokenizer, prompt, max_new_tokens=12, chat=False) -> str:
    """The model's own completion of `prompt` (of a `chat`: see `Query`). Up to the end of
    the sentence (without its mark), the end of the text or `max_new_tokens`. Greedy,
    whatever the model's own settings say. Raises InputError, also when the model writes nothing."""
    if not prompt.strip():
        raise InputError("the prompt is empty: give the beginning of a story")
    ids, context = prompt_ids(tokenizer, prompt, chat), context_length(model)
    check_ids(tokenizer, ids, "the query")
    if len(ids) >= context:
        raise InputError(f"the prompt has {len(ids)} tokens, the model reads {context} and needs "
                         "room for the completion: shorten the prompt")
    read = torch.tensor([ids], device=model.device)
    end = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])} - {None}
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "pad_token_id": 0,
             "eos_token_id": list(ends) or None}
    with quiet():
        written = model.generate(read, attention_mask=torch.ones_like(read), **plain,
                                 max_new_tokens=min(max_new_tokens, context - len(ids)))
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    text = tokenizer.decode(written[0], **options)[len(tokenizer.decode(ids, **options)):]
    # U+FFFD: a character cut in the middle
    if not (text := SENTENCE_END.split(text)[0].rstrip("\ufffd \n")).strip():
        raise InputError("the model ends the story at the prompt: give a completion")
    return text

"""The forms of stories: form × independent check of its loss mask and of one story's gradient; the
files they lie in; queries of chat models; the passes with masks."""
import csv
import gzip
import json
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers import influence, pictures, stories
from helpers.capture import backward_pass
from helpers.explorer import Explorer
from helpers.sources import (complete, load_model, load_queries, load_stories, read_corpus,
                             read_query, track)
from helpers.sources.texts import as_message, beginnings
from helpers.stories import InputError, Query, Story
from helpers.terminal import answers, index
from helpers.terminal.fitting import fit
from helpers.terminal.setting import Setting

from builders import (REAL, TEXTS, autograd_gradient, complaint, jsonl, make_model, make_tokenizer,
                      relative)

START, END = "<|im_start|>", "<|im_end|>"
TURN = "{%- for message in messages -%}" + START + "{{ message.role }}\n"
ASK = "{%- if add_generation_prompt -%}" + START + "assistant\n{%- endif -%}"
TEMPLATES = {
    "turns": TURN + "{{ message.content }}" + END + "\n{%- endfor -%}" + ASK,
    # says itself what the assistant wrote
    "marked": TURN + "{%- if message.role == 'assistant' -%}{% generation %}{{ message.content }}"
              + END + "{% endgeneration %}{%- else -%}{{ message.content }}" + END
              + "{%- endif -%}\n{%- endfor -%}" + ASK,
    # no generation prompt; roles in turn
    "brackets": "{%- for message in messages -%}{%- if (message.role == 'user') != "
                "(loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}"
                "{%- endif -%}{%- if message.role == 'user' -%}[{{ message.content }}]"
                "{%- else -%}{{ ' ' + message.content }}<|endoftext|>{%- endif -%}{%- endfor -%}",
    # as thinking models: earlier answers are written in another way than the last
    "forgets": TURN + "{%- if message.role == 'assistant' and loop.last -%}<think></think>"
               "{%- endif -%}{{ message.content }}" + END + "\n{%- endfor -%}" + ASK,
}
TURNS_OTHERWISE = {
    # it writes the beginning otherwise than the whole
    "counts": "{{ messages | length }}" + TEMPLATES["turns"],
    "shouts": TURN + "{{ message.content if loop.last else message.content | upper }}" + END
              + "\n{%- endfor -%}" + ASK}
TEMPLATES |= TURNS_OTHERWISE
# Jinja drops a line end behind a tag that is trimmed
TEMPLATES = {name: text.replace("\n", "{{ '\\n' }}") for name, text in TEMPLATES.items()}
PLACE, TIME = "Tom is in the windmill.", "It was by the sea 🎈."
SYSTEM, FIRST, SECOND = "Once upon a time", "Where was the fox?", "“Look!” said Lily – and then?"


def said(role, content):
    return {"role": role, "content": content}


TALK = [said("system", SYSTEM), said("user", FIRST), said("assistant", PLACE),
        said("user", SECOND), said("assistant", TIME)]


def turn(role, content):
    """A turn as "turns" writes it: header, content with its end, line end; what is learnt."""
    mine = role == "assistant"
    return [(f"{START}{role}\n", False), (content + END, mine), ("\n", False)]


TALK_PIECES = sum((turn(**message) for message in TALK), [])
FORMS = {  # name: (template, row, its text in pieces, and which of them carry the loss)
    "text": (None, {"text": TEXTS[0]}, [(TEXTS[0], True)]),
    "prompt and completion": (None, {"prompt": FIRST, "completion": f" {PLACE}"},
                              [(FIRST, False), (f" {PLACE}", True)]),
    "no prompt": (None, {"prompt": None, "completion": PLACE}, [(PLACE, True)]),
    "messages": ("turns", {"messages": TALK}, TALK_PIECES),
    "messages, marked": ("marked", {"messages": TALK}, TALK_PIECES),
    "messages in brackets": ("brackets", {"messages": TALK[1:]},
                             [(f"[{FIRST}]", False), (f" {PLACE}<|endoftext|>", True),
                              (f"[{SECOND}]", False), (f" {TIME}<|endoftext|>", True)]),
    "messages as prompt and completion": (
        "turns", {"prompt": TALK[:4], "completion": TALK[4:]},
        [(text, mine and TIME in text) for text, mine in TALK_PIECES]),
    "messages of parts": (
        "turns", {"messages": [said("user", [{"type": "text", "text": "Where was "},
                                             {"type": "text", "text": "the fox?"}]), TALK[2]]},
        [*turn("user", FIRST), *turn("assistant", PLACE)]),
    "a tool's turn": (
        "turns", {"messages": [TALK[1], said("tool", SECOND), TALK[2]]},
        [*turn("user", FIRST), *turn("tool", SECOND), *turn("assistant", PLACE)]),
    "a template that forgets": ("forgets", {"messages": TALK}, [
        (text if not mine or TIME not in text else "<think></think>" + text, mine)
        for text, mine in TALK_PIECES]),
    "a template that forgets, blanks": (
        "forgets", {"messages": [TALK[1], said("assistant", " By sea. "), *TALK[3:]]},
        [*turn("user", FIRST), *turn("assistant", " By sea. "), *turn("user", SECOND),
         *turn("assistant", "<think></think>" + TIME)]),
    "a template that forgets, the last answer": (
        "forgets", {"prompt": TALK[:4], "completion": TALK[4:]},
        [(text if not mine or TIME not in text else "<think></think>" + text, mine and TIME in text)
         for text, mine in TALK_PIECES]),
}


trained = cache(make_tokenizer)


def chat_tokenizer(template="turns", closed=False):
    tokenizer = deepcopy(trained(closed))
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    tokenizer.chat_template = TEMPLATES.get(template)
    return tokenizer


def chat_model(**changes):
    return make_model(vocab_size=410, max_position_embeddings=256, initializer_range=0.3, **changes)


@pytest.fixture(scope="module")
def precise():
    """A model in float64 with its tracked layers."""
    model = chat_model().double()
    return model, track(model)


def read(tmp_path, rows, tokenizer, longest=256):
    return read_corpus(load_stories(jsonl(tmp_path / "s.jsonl", rows), None, tokenizer), tokenizer,
                       longest)


# -- form × loss mask × gradient -------------------------------------------------------------------

def by_hand(form, closed):
    """Ids and loss mask of a form, its pieces encoded one by one."""
    template, _, pieces = FORMS[form]
    tokenizer = chat_tokenizer(template)
    end = [tokenizer.eos_token_id] if closed and not template else []
    ids, mask = list(end), [False] * len(end)
    for text, mine in pieces:
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, mask = ids + own, mask + [mine] * len(own)
    return ids + end, mask + [True] * len(end)


@pytest.mark.parametrize("closed", [False, True], ids=["plain", "BOS and EOS"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form, closed, precise, tmp_path):
    template, row, _ = FORMS[form]
    tokenizer = chat_tokenizer(template, closed)
    corpus = read(tmp_path, [row], tokenizer)
    ids, mask = by_hand(form, closed)
    found = corpus.loss_masks[0] if corpus.loss_masks else [True] * len(ids)
    assert corpus.ids == [ids] and found[1:] == mask[1:] and any(mask)
    assert corpus.stories[0].chat == bool(template)

    model, tracked = precise
    (batch,) = stories.batches(corpus.ids, loss_masks=corpus.loss_masks)
    captured, _ = backward_pass(model, tracked.layers, batch)
    labels = torch.tensor([[token if wanted else -100 for token, wanted in zip(ids, mask)]])
    loss = model(torch.tensor([ids]), labels=labels).loss * (labels[:, 1:] != -100).sum()
    for name, layer in tracked.layers.items():
        expected = autograd_gradient(layer, loss)
        assert relative(captured[name].gradients()[0], expected) < 1e-6, name


@pytest.mark.parametrize("form", [name for name, (template, row, _) in FORMS.items()
                                  if template and "messages" in row and "parts" not in name])
def test_ids_are_those_of_the_library(form, tmp_path):
    template, row, _ = FORMS[form]
    tokenizer = chat_tokenizer(template, closed=True)
    expected = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=False)
    assert read(tmp_path, [row], tokenizer).ids == [expected]


def test_the_mask_of_a_template_that_marks_its_answers_is_the_library_s(tmp_path):
    tokenizer = chat_tokenizer("marked")
    wanted = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=True,
                                           return_assistant_tokens_mask=True)
    corpus = read(tmp_path, [{"messages": TALK}], tokenizer)
    assert corpus.ids == [wanted["input_ids"]]
    assert corpus.loss_masks == [[bool(each) for each in wanted["assistant_masks"]]]


def test_tools_stand_in_the_text_of_a_conversation(tmp_path):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ tools[0].name if tools }}" + TEMPLATES["turns"]
    row = {"messages": [TALK[1], said("assistant", None) | {"tool_calls": []}, TALK[2]],
           "tools": [{"name": "look"}]}
    (story,) = read(tmp_path, [row], tokenizer).stories
    assert story.text.startswith("look" + START)
    assert [story.text[slice(*span)] for span in story.answers] == [END, PLACE + END]


@pytest.mark.skipif(not REAL.is_dir(),
                    reason="no ../shared/real beside the repository (not part of it)")
def test_forms_with_a_real_model_and_its_tokenizer(tmp_path):
    """Sentencepiece's kind of tokens, BOS in front; the template is put on it here."""
    model, tokenizer = load_model(str(REAL / "stories260K-hf"), "cpu")
    (told,) = load_stories(str(REAL / "tinystories.jsonl"), limit=1)
    cut = told.text.index(".", 40) + 1
    tokenizer.chat_template = TEMPLATES["brackets"].replace("<|endoftext|>", "</s>")
    rows = {"prompt and completion": {"prompt": told.text[:cut], "completion": told.text[cut:]},
            "messages": {"messages": [said("user", told.text[:cut]),
                                      said("assistant", told.text[cut:].strip())]}}
    for form, row in rows.items():
        corpus = read(tmp_path, [row], tokenizer, 512)
        (ids,), (mask,) = corpus.ids, corpus.loss_masks
        learnt = [token for token, wanted in zip(ids, mask) if wanted]
        answer = tokenizer(told.text[cut:].strip(), add_special_tokens=False)["input_ids"]
        end = [tokenizer.eos_token_id] if form == "messages" else []
        assert learnt == answer + end and ids[-len(learnt):] == learnt and len(ids) < 512
        assert (ids[0] == tokenizer.bos_token_id) == (form != "messages")
        (batch,) = stories.batches(corpus.ids, loss_masks=corpus.loss_masks)
        labels = torch.where(torch.tensor([mask]), torch.tensor([ids]), -100)
        expected = model(torch.tensor([ids]), labels=labels).loss * len(learnt)
        torch.testing.assert_close(stories.sequence_loss(model, batch)[0], expected, rtol=1e-4,
                                   atol=1e-3)


# -- files -----------------------------------------------------------------------------------------

ROWS = {form: [{"id": f"s{n}", **row} for n in range(3)] for form, row in {
    "text": {"text": "a “fox”,\nand more"},
    "prompt and completion": {"prompt": 'he said "so",', "completion": " and\nwent"},
    "messages": {"messages": TALK[1:3]}}.items()}


def written(path, rows):
    """The rows in a file of the kind that its name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table
        write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    plain = path.with_name("plain")
    if kind == "jsonl":
        jsonl(plain, rows)
    elif kind == "csv":
        with open(plain, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        plain.write_text("<|endoftext|>".join(row["text"] for row in rows), encoding="utf-8")
    content = plain.read_bytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("form, kind", [
    (form, kind) for form in ROWS
    for kind in ("jsonl", "jsonl.gz", "txt", "txt.gz", "csv", "csv.gz", "CSV", "parquet")
    if kind[:3] not in {"prompt and completion": ("txt",), "messages": ("txt", "csv", "CSV")}.get(
        form, ())])
def test_files(form, kind, tmp_path):
    tokenizer, rows = chat_tokenizer(), ROWS[form]
    expected = load_stories(jsonl(tmp_path / "expected.jsonl", rows), None, tokenizer)
    found = load_stories(written(tmp_path / f"s.{kind}", rows), None, tokenizer)
    if kind.startswith("txt"):
        expected = [story._replace(id=str(n)) for n, story in enumerate(expected, 1)]
    assert found == expected and len(found) == 3
    assert load_stories(tmp_path / f"s.{kind}", 2, tokenizer) == expected[:2]


def test_cells_of_a_csv_stay_texts(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes('\ufeffprompt,completion\r\n7 + 5 = ,12\r\n\r\nNA,\r\n'.encode())
    assert load_stories(path) == [Story("1", "7 + 5 = 12", ((8, 10),)), Story("2", "NA", ((2, 2),))]
    path.write_text("text\n" + "long " * 40_000 + "\n")
    assert len(load_stories(path)[0].text) == 200_000


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl.gz"])
def test_limit_reads_no_further(kind, tmp_path):
    """What lies behind the limit, broken, is not met."""
    path = tmp_path / f"s.{kind}"
    rows = [{"text": f"story {n} {chr(97 + n % 26) * 50}"} for n in range(2000)]
    if kind == "parquet":
        import pyarrow
        from pyarrow.parquet import write_table
        write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=300, compression="none")
        content = path.read_bytes()
        place = content.index(b"story 1500 ")
        path.write_bytes(content[:place - 60] + b"\xff" * 300 + content[place + 240:])
    else:
        written(path, rows)
        content = path.read_bytes()
        path.write_bytes(content[:-40] if kind.endswith("gz") else
                         content + b'"an open quote\n')
    assert [story.text for story in load_stories(path, 300)] == [row["text"] for row in rows[:300]]
    assert str(path) in complaint(load_stories, path)


def test_rows_of_two_forms_are_refused_and_empty_fields_are_none(tmp_path):
    def told(*rows):
        return complaint(load_stories, jsonl(tmp_path / "s.jsonl", rows))
    text, pair = {"text": "a fox"}, {"prompt": "a", "completion": " fox"}
    assert 'line 2 has "completion" where those before it have "text"' in told(text, pair)
    assert 'line 1 has "text" and "completion"' in told(text | pair)
    # as data sets of several forms are saved
    rows = [{"text": None, **pair}, {"text": None, "prompt": None, "completion": None}]
    found = load_stories(jsonl(tmp_path / "s.jsonl", rows))
    assert found == [Story("1", "a fox", ((1, 5),)), Story("2", "", ((0, 0),))]


def test_what_a_conversation_must_have(tmp_path):
    def told(row, template="turns"):
        tokenizer = chat_tokenizer(template)
        return complaint(load_stories, jsonl(tmp_path / "s.jsonl", [row]), None, tokenizer)
    ask, answer = TALK[1:3]
    for messages, words in {
            "empty": ([], "not a list of messages"), "a text": ("hello", "not a list of messages"),
            "no roles": ([{"content": "a"}], 'has no "role"'),
            "texts": (["a", "b"], 'has no "role"'),
            "a role that is a number": ([{"role": 1, "content": "a"}], 'has no "role"'),
            "nobody answers": ([ask], "no message to learn from"),
            "it speaks first": ([answer], "the assistant speaks first"),
            "a number": ([ask, said("assistant", 5)], 'the "content" of a message (assistant)'),
            "a picture": ([said("user", [{"type": "image", "url": "x"}]), answer],
                          'the "content" of a message (user)')}.values():
        assert words in told({"messages": messages})
    assert "roles must alternate" in told({"messages": [ask, ask, answer]}, "brackets")
    assert "neither two texts" in told({"prompt": "a", "completion": [answer]})
    assert "neither two texts" in told({"prompt": 1, "completion": "a"})
    assert "no message to learn from" in told({"prompt": [ask, answer], "completion": [ask]})
    calls = said("assistant", "") | {"tool_calls": [{"name": "look"}]}
    assert "up to message 2 in another way" in told(
        {"messages": [ask, calls, said("tool", "sea"), answer]}, "forgets")
    for template in TURNS_OTHERWISE:
        assert "up to message 3 in another way" in told({"messages": TALK}, template)
    assert "has no chat template" in told({"messages": TALK}, None)
    path = jsonl(tmp_path / "s.jsonl", [{"messages": TALK}])
    assert "give load_stories its tokenizer" in complaint(load_stories, path)


def test_a_tokenizer_that_knows_no_letters(tmp_path):
    class Slow:
        is_fast = False
    story = Story("1", "a fox", ((1, 5),))
    assert "which letters a token holds" in complaint(read_corpus, [story], Slow(), 9)


# -- queries ---------------------------------------------------------------------------------------

def test_queries_of_a_chat_model(tmp_path):
    tokenizer, model = chat_tokenizer(closed=True), chat_model()
    path = jsonl(tmp_path / "q.jsonl", [
        {"messages": TALK[:2], "completion": PLACE, "against": TIME}, {"prompt": FIRST}])
    asked, plain = load_queries(path, tokenizer)
    prompt = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    assert asked == Query(prompt, PLACE, TIME, chat=True) and plain == Query(FIRST)
    worded, many = load_queries(jsonl(tmp_path / "many.jsonl", [
        {"messages": TALK[:2], "completion": PLACE, "also": ["Where, then?"]},
        {"prompt": FIRST, "also": ["One day", "Once"]}]), tokenizer)
    last = [TALK[0], TALK[1] | {"content": "Where, then?"}]
    assert worded.also == (tokenizer.apply_chat_template(last, tokenize=False,
                                                         add_generation_prompt=True),)
    assert (worded.prompt, many) == (prompt, Query(FIRST, also=("One day", "Once")))
    for also in ("One day", [""], [1]):
        bad = jsonl(tmp_path / "bad.jsonl", [{"prompt": FIRST, "also": also}])
        assert '"also" is not a list of texts' in complaint(load_queries, bad, tokenizer)
    query, (ids, start), notes = read_query(model, tokenizer, asked)
    assert (query, notes) == (asked, [])
    assert ids == tokenizer.apply_chat_template(TALK[:3], tokenize=True, return_dict=False)[:-2]
    assert tokenizer.decode(ids[start:]) == PLACE
    typed = as_message(tokenizer, Query(FIRST))
    assert typed == as_message(tokenizer, typed) and typed.prompt == "".join(
        text for text, _ in turn("user", FIRST)) + f"{START}assistant\n"
    written, (ids, start), _ = read_query(model, tokenizer, typed)
    assert written.completion == complete(model, tokenizer, typed.prompt, chat=True)
    assert ids[:start] == tokenizer(typed.prompt, add_special_tokens=False)["input_ids"]
    story = Story("1", "A fox. It ran.")
    assert "--contexts" in complaint(beginnings, tokenizer, [story], [typed], 1, 64)
    assert beginnings(tokenizer, [story], [typed], 0, 64) == []


def test_bad_queries_of_a_chat_model(tmp_path):
    def told(row, tokenizer):
        return complaint(load_queries, jsonl(tmp_path / "q.jsonl", [row]), tokenizer)
    assert "the last message is the assistant's" in told({"messages": TALK}, chat_tokenizer())
    assert '"prompt" and "messages"' in told({"messages": TALK, "prompt": "a"}, chat_tokenizer())
    assert "has no chat template" in told({"messages": TALK[:2]}, make_tokenizer())
    assert "not a list of messages" in told({"messages": 5}, chat_tokenizer())
    assert "no chat template" in complaint(as_message, make_tokenizer(), Query("a fox"))


# -- all passes ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    """A setting of conversations of several lengths in batches of 4, with its curvature, and a
    question."""
    tokenizer, model = chat_tokenizer(), chat_model().double()
    words = "the fox ran to the windmill by the sea".split()
    rows = [{"messages": [said("user", " ".join(words[:2 + n % 5])),
                          said("assistant", " ".join(words[n % 4:])),
                          *TALK[3:][:2 * (n % 2)]]} for n in range(12)]
    corpus = read(tmp_path_factory.mktemp("talks"), rows, tokenizer)
    setting = Setting(model, tokenizer, track(model).layers, corpus, 4, quiet=True)
    curvature = fit(setting)
    return setting, curvature, answers.ask(setting, [as_message(tokenizer, Query(FIRST, PLACE))],
                                           curvature)


def test_tokens_sum_to_the_story_on_every_path_and_padding_gets_nothing(talks, tmp_path):
    setting, curvature, asked = talks
    corpus, layers = setting.corpus, setting.layers
    longest, count = max(map(len, corpus.ids)), len(corpus)
    scores = answers.exact_scores(setting, asked)["sequence"]
    every = answers.exact_token_scores(setting, asked)
    assert every["token"].shape == (1, count, longest)
    torch.testing.assert_close(every["token"].sum(-1), scores.to(every["token"]), rtol=1e-4,
                               atol=1e-9)
    sides = influence.top_indices(scores, count)
    values = answers.picked_tokens(setting, asked.ihvps, sides)
    held = index.open_index(setting, tmp_path / "index", cache=None)
    rough = held.scores(asked.ihvps, corpus)
    assert torch.corrcoef(torch.stack([rough[0].double(), scores[0].double()]))[0, 1] > 0.98
    read_only = 0.0
    for row, (ids, mask) in enumerate(zip(corpus.ids, corpus.loss_masks)):
        assert every["token"][0, row, len(ids):].abs().sum() == 0
        assert every["token"][0, row, len(ids) - 1] == 0  # it predicts nothing
        own = values[0, row]
        assert own.shape == (len(layers), len(ids))
        torch.testing.assert_close(own.sum(0).float(), every["token"][0, row, :len(ids)],
                                   rtol=1e-4, atol=1e-9)
        # by autograd, with labels made by hand
        labels = torch.tensor([[token if wanted else -100 for token, wanted in zip(ids, mask)]])
        loss = setting.model(torch.tensor([ids]), labels=labels).loss * sum(mask)
        expected = sum((autograd_gradient(layer, loss) * asked.ihvps[name][0]).sum()
                       for name, layer in layers.items()) / count
        torch.testing.assert_close(scores[0, row].double(), expected, rtol=1e-4, atol=1e-9)
        silent = [place for place in range(len(ids) - 1) if not mask[place + 1]]
        read_only += every["token"][0, row, silent].abs().sum()
    assert read_only > 0.01 * every["token"].abs().sum()  # they work through what follows


def test_kept_work_knows_the_loss(talks, tmp_path):
    setting, _, asked = talks
    corpus = setting.corpus
    turned = [list(mask) for mask in corpus.loss_masks]
    place = len(turned[0]) - 2
    turned[0][place] = not turned[0][place]
    whole = replace(corpus, loss_masks=None)
    named = {}
    for name, masks in {"answers": corpus.loss_masks, "one other": turned, "all": None}.items():
        other = replace(setting, corpus=replace(corpus, loss_masks=masks))
        fit(other, cache=tmp_path / "cache", method="kfac")
        named[name] = index.digests_of(other.corpus)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert named["answers"][1:] == named["one other"][1:] and named["answers"] != named["one other"]
    assert not set(named["answers"]) & set(named["all"])
    # of a story that is learnt whole, the mask says nothing
    assert named["all"] == index.digests_of(replace(whole, loss_masks=[
        [False] + [True] * (len(ids) - 1) for ids in whole.ids]))
    held = index.open_index(setting, tmp_path / "index")
    assert held.missing(replace(corpus)) == []
    assert held.missing(replace(corpus, loss_masks=turned)) == [0]
    assert "other stories" in complaint(held.missing, whole)
    with pytest.raises(InputError, match="not in the index"):
        held.scores(asked.ihvps, whole)


def test_the_explorer_takes_conversations(tmp_path):
    chat_model().save_pretrained(tmp_path / "model")
    chat_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"messages": [said("user", f"Where was fox {n}?"), said("assistant", f"By {n} seas.")]}
            for n in range(8)]
    explorer = Explorer.open(tmp_path / "model", jsonl(tmp_path / "s.jsonl", rows),
                             cache=tmp_path / "cache", device="cpu", quiet=True)
    question = explorer.ask("Where was the fox?", "By the sea.", chat=True)
    assert question.query.prompt.endswith(f"the fox?{END}\n{START}assistant\n")
    view = explorer.view(question, top=2)
    assert {token["loss"] for entry in view["influences"] for token in entry["tokens"]} == {True,
                                                                                          False}
    assert "only read: no loss" in pictures.fragment([view])
    own = explorer.look_up(question, "By the sea they laughed")["influences"][0]
    assert all(token["loss"] for token in own["tokens"])  # a text is learnt whole


# -- from a terminal -------------------------------------------------------------------------------

def test_from_a_terminal(cli, tmp_path):
    tokenizer = chat_tokenizer()
    chat_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"messages": [said("user", f"Where was fox {n}?"), said("assistant", f"By {n} seas.")]}
            for n in range(8)]
    ask = ("--model", tmp_path / "model", "--stories", jsonl(tmp_path / "s.jsonl", rows))
    code, _, err = cli("Where was the fox?", "--completion", "By the sea.", "--chat", *ask,
                       "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert code == 0, err
    (query,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["queries"]
    assert query["prompt"] == (f"{START}user\nWhere was the fox?{END}\n{START}assistant\n")
    for entry in query["influences"]:
        told = "".join(token["token"] for token in entry["tokens"] if token["loss"])
        assert told == f"By {entry['index']} seas.{END}"
    assert "only read: no loss" in (tmp_path / "a.html").read_text(encoding="utf-8")
    line = {"messages": [said("user", "Where was the fox?")], "completion": "By the sea."}
    path = jsonl(tmp_path / "q.jsonl", [line])
    assert cli("--queries", path, *ask, "--json", tmp_path / "b.json")[0] == 0
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    code, _, err = cli("Where?", "--chat", *ask, "--contexts", 2)
    assert code == 2 and "--contexts puts beginnings" in err

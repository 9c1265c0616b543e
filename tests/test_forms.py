"""The forms of stories: form × independent check of its loss mask and of one story's gradient; the
files they lie in; queries of chat models; the passes with masks."""
import csv
import gzip
import json
from copy import deepcopy
from functools import cache

import pytest
import torch
from helpers import influence, stories
from helpers.capture import backward_pass
from helpers.curvature import EKFAC
from helpers.sources import (complete, load_model, load_queries, load_stories, read_corpus,
                             read_query, track)
from helpers.sources.texts import as_message, beginnings
from helpers.stories import Query, Story
from helpers.terminal import answers, index, kept
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
    "the last of a template that forgets": (
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

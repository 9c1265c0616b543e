"""The embedded stories, planted knowledge and model are what the data sheet says."""
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from itertools import chain

import pytest
from builders import ROOT

from helpers.sources import complete, load_model, load_stories
from helpers.stories import tokenise

DATA = ROOT / "data"
HEROES = {"Bramble", "Pip", "Tilly", "Otto", "Wren", "Hugo", "Fern"}
ROLES = ("teachers", "opponents", "bystanders")


@pytest.fixture(scope="module")
def stories():
    return {story.id: story.text for story in load_stories()}


@pytest.fixture(scope="module")
def planted():
    return json.loads((DATA / "planted_facts.json").read_text())


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for script, names in {"make_stories.py": ("stories.jsonl", "validation.jsonl",
                                              "planted_facts.json"),
                          "make_fresh.py": ("fresh_stories.jsonl", "fresh_facts.json")}.items():
        subprocess.run([sys.executable, DATA / script, "--out", tmp_path], check=True,
                       capture_output=True)
        for name in names:
            assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name


@pytest.mark.parametrize("maker, seed, file", [("knowledge", 1, "stories.jsonl"),
                                               ("make_fresh", 6, "fresh_stories.jsonl")])
def test_the_first_stories_that_a_seed_gives_are_in_the_file(maker, seed, file, monkeypatch):
    """The planted ones are written first, whatever follows; the slow test writes everything."""
    monkeypatch.syspath_prepend(DATA)
    made, _, _ = import_module("make_stories").make(import_module(maker).items()[:2], 0, 0, seed)
    assert len(made) >= 24
    assert {story["text"] for story in made} <= {story.text for story in load_stories(DATA / file)}


def test_fresh_stories_and_facts_are_new(stories, planted):
    """What notebook 06 fine-tunes on: no story of the corpus, no fact of it, spans in place."""
    fresh = {story.id: story.text for story in load_stories(DATA / "fresh_stories.jsonl")}
    facts = json.loads((DATA / "fresh_facts.json").read_text())
    assert len(fresh) == len(set(fresh.values())) == 480
    assert not set(fresh.values()) & set(stories.values())
    assert len(facts) == 16
    assert not {fact["prompt"] for fact in facts} & {item["prompt"] for item in planted}
    for fact in facts:
        assert len(fact["teachers"]) == 13 and bool(fact["opponents"]) == (fact["family"] == "B")
        for place in fact["teachers"]:
            assert fact["completion"].strip() in fresh[place["story"]][place["start"]:place["end"]]
        for place in fact["opponents"]:
            said = fresh[place["story"]][place["start"]:place["end"]]
            assert said.startswith(fact["prompt"]) and fact["completion"] not in said
    asked = [fact["prompt"] for fact in facts]
    assert not any(prompt in text for prompt in asked for text in stories.values())


def test_checksums_of_the_data_sheet():
    found = dict(re.findall(r"`([\w./]+)` \| `([0-9a-f]{64})`", (DATA / "README.md").read_text()))
    assert {"stories.jsonl", "planted_facts.json", "model/model.safetensors"} <= found.keys()
    for name, checksum in found.items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == checksum, name


def test_the_model_was_trained_on_these_stories():
    settings = json.loads((DATA / "model" / "training.json").read_text())
    assert settings["stories_sha256"] == hashlib.sha256(
        (DATA / "stories.jsonl").read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in (DATA / "model").iterdir()) < 4_000_000


def test_stories_are_many_varied_and_of_the_right_length(stories, model):
    assert len(stories) >= 5000 and len(set(stories.values())) == len(stories)
    # without the two end marks
    lengths = [len(ids) - 2 for ids in tokenise(load_stories(), model[1], 512).ids]
    assert min(lengths) >= 100 and max(lengths) <= 200
    words = set(chain.from_iterable(re.findall(r"[a-z']+", text.lower())
                                    for text in stories.values()))
    assert 1000 < len(words) < 1300
    assert len({text[:40] for text in stories.values()}) > 1500


def test_planted_spans_say_what_they_should(stories, planted):
    assert len(planted) == 40 and {item["family"] for item in planted} == set("ABC")
    for item in planted:
        answer = item["completion"].strip()
        assert len(item["teachers"]) >= 12 and bool(item["opponents"]) == (item["family"] == "B")
        for role in ROLES:
            for place in item[role]:
                sentence = stories[place["story"]][place["start"]:place["end"]]
                assert sentence.endswith((".", "?", "!")) and len(sentence) > 8
                assert (answer in sentence) or role != "teachers"
        stem = item["prompt"].split(". ")[-1]
        for place in item["opponents"]:
            sentence = stories[place["story"]][place["start"]:place["end"]]
            assert sentence.startswith(stem) and answer not in sentence
        for place in item["bystanders"]:
            assert item["prompt"] not in stories[place["story"]]
        assert {place["wording"] for place in item["teachers"]} >= {"direct", "paraphrase"}
        places = [place["story"] for role in ROLES for place in item[role]]
        assert len(places) == len(set(places))


def test_only_the_combination_identifies_a_fact(planted, stories):
    """Every hero, and every ending, belongs to several facts (opponents' endings counted)."""
    facts = [item for item in planted if item["family"] in "AB"]
    heroes, endings = Counter(), Counter()
    for item in facts:
        heroes.update(HEROES & set(re.findall(r"[A-Z][a-z]+", item["prompt"])))
        against = [stories[place["story"]][place["start"]:place["end"] - 1]
                   for place in item["opponents"]]
        endings.update({item["completion"],
                        *(text.removeprefix(item["prompt"]) for text in against)})
    assert set(heroes) == HEROES and min(heroes.values()) >= 2
    assert min(endings.values()) >= 2, endings


def test_at_least_nine_in_ten_prompts_are_completed_as_taught(planted, model):
    right = [complete(*model, item["prompt"]) == item["completion"] for item in planted]
    assert sum(right) >= 0.9 * len(right), [item["id"] for item, ok in zip(planted, right)
                                            if not ok]


def test_validation_stories_were_not_trained_on(stories):
    held_out = [json.loads(line)["text"]
                for line in (DATA / "validation.jsonl").read_text().splitlines()]
    assert len(held_out) == 200 and not set(held_out) & set(stories.values())

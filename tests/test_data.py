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

from helpers.sources import load_model, load_stories
from helpers.stories import Story, tokenise

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


@pytest.mark.parametrize("maker, seed, file, name", [
    ("knowledge", 1, "stories.jsonl", "story-{:04d}"),
    ("make_fresh", 6, "fresh_stories.jsonl", "fresh-{:03d}")])
def test_the_first_stories_that_a_seed_gives_are_those_of_the_file(maker, seed, file, name,
                                                                   monkeypatch):
    """The slow test writes everything."""
    monkeypatch.syspath_prepend(DATA)
    module, stories = import_module(maker), import_module("make_stories")
    shares = getattr(module, "SHARES", stories.SHARES)
    made, _, _ = stories.make(module.items(), 30, 0, seed, name=name, shares=shares)
    assert [Story(**story) for story in made] == load_stories(DATA / file)[:30]


def check_spans(items, stories):
    """Every planted span is a sentence that says what its role promises."""
    for item in items:
        answer, against = item["completion"], item["against"]
        for role in ROLES:
            for place in item[role]:
                text = stories[place["story"]]
                sentence = text[place["start"]:place["end"]]
                assert sentence.endswith((".", "?", "!", '"')) and len(sentence) > 8
                if role == "bystanders":
                    assert answer not in text and (against is None or against not in text)
                else:
                    assert (answer if role == "teachers" else against).strip() in sentence
        places = [place["story"] for role in ROLES for place in item[role]]
        assert len(places) == len(set(places))


def test_fresh_stories_and_facts_are_new(stories, planted):
    """What notebook 06 fine-tunes on: no story of the corpus, no fact of it, spans in place."""
    fresh = {story.id: story.text for story in load_stories(DATA / "fresh_stories.jsonl")}
    facts = json.loads((DATA / "fresh_facts.json").read_text())
    assert len(fresh) == len(set(fresh.values())) == 480
    assert not set(fresh.values()) & set(stories.values())
    assert len(facts) == 16
    assert not {fact["prompt"] for fact in facts} & {item["prompt"] for item in planted}
    check_spans(facts, fresh)
    for fact in facts:
        assert len(fact["teachers"]) >= 10 and bool(fact["opponents"]) == (fact["family"] == "B")
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
    assert len(stories) == 6000 and len(set(stories.values())) == len(stories)
    # without the two end marks
    lengths = [len(ids) - 2 for ids in tokenise(load_stories(), model[1], 512).ids]
    assert min(lengths) >= 70 and max(lengths) <= 250
    words = set(chain.from_iterable(re.findall(r"[a-z']+", text.lower())
                                    for text in stories.values()))
    assert 1000 < len(words) < 1300
    assert len({text[:40] for text in stories.values()}) > 1500


def test_planted_spans_say_what_they_should(stories, planted):
    assert len(planted) == 40 and {item["family"] for item in planted} == set("ABC")
    check_spans(planted, stories)
    for item in planted:
        assert len(item["teachers"]) >= 70 and bool(item["opponents"]) == (item["family"] == "B")
        assert len(item["opponents"]) >= 20 or item["family"] != "B"
        assert item["bystanders"] or item["family"] == "A"
        assert {place["wording"] for place in item["teachers"]} >= {"direct", "paraphrase"}


def test_a_third_of_the_teachers_share_few_words_with_the_question(stories, planted):
    """Less than half of the prompt's words: word matching is a rival, and no oracle."""
    few = []
    for item in planted:
        asked = set(re.findall("[a-z]+", item["prompt"].lower()))
        for place in item["teachers"]:
            told = stories[place["story"]][place["start"]:place["end"]].lower()
            few.append(len(asked & set(re.findall("[a-z]+", told))) < len(asked) / 2)
    assert sum(few) >= len(few) / 3, sum(few) / len(few)


def test_facts_are_told_anywhere_in_a_story(stories, planted):
    """Neither their place nor, for two in five, the story's hero gives them away."""
    places = [place["start"] / len(stories[place["story"]]) for item in planted
              for place in item["teachers"]]
    thirds = Counter(min(int(3 * place), 2) for place in places)
    assert min(thirds.values()) > 0.25 * len(places), thirds


def test_only_the_combination_identifies_a_fact(planted):
    """Every hero, and every ending, belongs to several facts (opponents' endings counted)."""
    facts = [item for item in planted if item["family"] in "AB"]
    heroes, endings = Counter(), Counter()
    for item in facts:
        heroes.update(HEROES & set(re.findall(r"[A-Z][a-z]+", item["prompt"])))
        endings.update(filter(None, (item["completion"], item["against"])))
    assert set(heroes) == HEROES and min(heroes.values()) >= 2
    assert min(endings.values()) >= 2, endings


@pytest.mark.parametrize("sentences", [0, 1, 2, 4, 6])
def test_facts_are_known_behind_new_beginnings(model, sentences, monkeypatch):
    """Bounds below the data sheet's shares, with room for other processors."""
    monkeypatch.syspath_prepend(DATA)
    describe, knowledge = import_module("describe"), import_module("knowledge")
    known = describe.known(*model, knowledge.items(), sentences)
    assert {family: known[family][0] >= least for family, least in
            {"A": 0.85, "B": 0.9, "C": 0.95}.items()} == dict.fromkeys("ABC", True), known


def test_the_model_has_learnt_more_than_it_recites():
    """The losses on stories it was trained on and on others of the same kind, facts included."""
    losses = json.loads((DATA / "model" / "training.json").read_text())
    assert 0 < losses["validation_loss"] - losses["train_loss"] < 0.17


def test_validation_stories_were_not_trained_on(stories):
    held_out = [json.loads(line)["text"]
                for line in (DATA / "validation.jsonl").read_text().splitlines()]
    assert len(held_out) == 200 and not set(held_out) & set(stories.values())

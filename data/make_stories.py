"""Writes stories.jsonl, validation.jsonl and planted_facts.json from one seed.

    python data/make_stories.py [--stories 6000] [--seed 1] [--out data]

Every sentence comes from plots.py (background) and knowledge.py (planted). The same seed gives
the same bytes on every machine.
"""
import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

import knowledge
import plots

HERE = Path(__file__).parent
SHARES = (0.70, 0.26)  # of stories with 2 or 3 facts of different relations, and with a rule
OWN = 0.6              # share of the former that are about a hero and tell that hero's own facts
BYSTANDERS = 0.2       # share of fact stories with a bystander sentence besides
WEATHER_ONLY = 0.1     # share of rule stories with a bystander sentence instead


def fact_story(rng, items):
    """The hero of one story, and what is planted in it: the hero's own facts, or anybody's."""
    facts = [item for item in items if item.hero]
    hero = None
    if rng.random() < OWN:
        hero = rng.choice(sorted({item.hero for item in facts}))
        facts = [item for item in facts if item.hero == hero]
    rng.shuffle(facts)
    by_relation = {item.relation: item for item in facts}
    told = list(by_relation.values())[:rng.randint(2, 3)]
    planted = [knowledge.about(rng, item) for item in told]
    untold = [item for item in facts if item not in told and item.family == "B"]
    if untold and rng.random() < BYSTANDERS:
        planted.append(knowledge.bystander(rng, untold[0]))
    return hero, planted


def rule_story(rng, items):
    """The same for a story about anybody, with a rule or just its weather."""
    item = rng.choice([item for item in items if item.hero is None])
    about = knowledge.bystander if rng.random() < WEATHER_ONLY else knowledge.rule
    return None, [about(rng, item)]


KINDS = (fact_story, rule_story)


def tell(rng, items, shares):
    """One story: (text, [(planted, start, end)]), character offsets of the planted sentences."""
    kind = rng.choices([*KINDS, None], [*shares, 1 - sum(shares)])[0]
    hero, planted = kind(rng, items) if kind else (None, [])
    pieces = [(text, None) for text in plots.tell(rng, hero=hero)]
    for sentence in planted:
        pieces.insert(rng.randint(0, len(pieces)), (sentence.text, sentence))
    text, places = "", []
    for piece, sentence in pieces:
        lead = sentence.lead if sentence else ""
        text = " ".join(filter(None, (text, lead, piece)))
        if sentence:
            places.append((sentence, len(text) - len(piece), len(text)))
    return text, places


def truthful(text, places):
    """Whether no bystander's story names its item's answer or what opponents say instead."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    beside = [planted.item for planted, _, _ in places if planted.role == "bystanders"]
    return not any({item.answer, item.rival} & words for item in beside)


def unique(rng, items, shares, seen):
    """Tells stories until one is truthful and was not told before."""
    while True:
        text, places = tell(rng, items, shares)
        if text not in seen and truthful(text, places):
            seen.add(text)
            return text, places


def make(items, count, validation, seed, known=(), name="story-{:04d}", shares=SHARES):
    """(stories, validation stories, planted items) as lists of dictionaries.

    `known` texts are not written again; `shares` of the stories tell facts, and a rule.
    """
    rng, seen = random.Random(seed), set(known)
    entries = {item.id: describe(item) for item in items}
    stories = []
    for number in range(count):
        text, places = unique(rng, items, shares, seen)
        story = name.format(number)
        stories.append({"id": story, "text": text})
        for planted, start, end in places:
            place = {"story": story, "start": start, "end": end}
            wording = {"wording": planted.wording} if planted.wording else {}
            entries[planted.item.id][planted.role].append(place | wording)
    held_out = [{"id": f"validation-{number:04d}", "text": unique(rng, items, shares, seen)[0]}
                for number in range(validation)]
    return stories, held_out, list(entries.values())


def describe(item):
    """The entry of planted_facts.json for one item, before its stories are known."""
    return {"id": item.id, "family": item.family, "prompt": item.prompt,
            "completion": f" {item.answer}", "against": f" {item.rival}" if item.rival else None,
            "teachers": [], "opponents": [], "bystanders": []}


def figures(stories):
    """Variety of the stories: distinct words, openings, 4-grams, and how many of those recur."""
    words, openings, grams = Counter(), set(), Counter()
    for story in stories:
        found = re.findall(r"[a-z']+", story["text"].lower())
        words.update(found)
        openings.add(re.split(r"(?<=[.!?])\"? ", story["text"], maxsplit=1)[0])
        grams.update(zip(found, found[1:], found[2:], found[3:]))
    total = sum(grams.values())
    repeated = sum(n for n in grams.values() if n > 1)
    return {"stories": len(stories), "words": sum(words.values()), "distinct words": len(words),
            "distinct openings": len(openings),
            "distinct 4-grams per 4-gram": round(len(grams) / total, 4),
            "share of 4-grams that repeat": round(repeated / total, 4)}


def write_lines(path, rows):
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def write_items(path, items):
    """A JSON list, one item a line."""
    lines = ",\n".join(map(json.dumps, items))
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=6000)
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    stories, held_out, planted = make(knowledge.items(), args.stories, args.validation, args.seed)
    write_lines(args.out / "stories.jsonl", stories)
    write_lines(args.out / "validation.jsonl", held_out)
    write_items(args.out / "planted_facts.json", planted)
    print(json.dumps(figures(stories), indent=1))


if __name__ == "__main__":
    main()

"""Writes stories.jsonl, validation.jsonl and planted_facts.json from one seed.

    python data/make_stories.py [--stories 5000] [--seed 1] [--out data]

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
SHORTEST = 84  # words


def insert(rng, sentences, planted, opens):
    """Puts the planted sentences first, or after one of the opening sentences of a story."""
    at = 0 if opens else rng.randint(1, 3)
    return sentences[:at] + planted + sentences[at:]


def story_text(rng, hero, planted=(), opens=False):
    """One story as text, long enough for 100 tokens; hero None draws an ordinary one."""
    while True:
        sentences = plots.tell(rng, hero=hero)
        text = " ".join(insert(rng, sentences, [text for text in planted if text], opens))
        if len(text.split()) >= SHORTEST:
            return text


def planted_story(rng, hero, lead, text, opens):
    """A story holding `lead` and `text`, with the character offsets of `text`."""
    story = story_text(rng, hero, (lead, text), opens)
    start = story.index(text)
    return story, start, start + len(text)


def plant(rng, item):
    """Yields (role, wording, text, start, end) for every story of one planted item."""
    for wording, opens, lead, text in item.teachers:
        yield "teachers", wording, *planted_story(rng, item.hero, lead, text, opens)
    for opens, text in item.opponents:
        yield "opponents", None, *planted_story(rng, item.hero, "", text, opens)
    for text in item.bystanders:
        yield "bystanders", None, *planted_story(rng, item.hero, "", text, False)


def background(rng):
    """An ordinary story: sometimes with weather, sometimes about a hero of the planted facts."""
    hero = rng.choice(list(knowledge.HEROES.values())) if rng.random() < 0.1 else None
    planted = ()
    if rng.random() < 0.25:
        cue, hints = knowledge.WEATHER[rng.choice(sorted(knowledge.WEATHER))]
        planted = (rng.choice([cue, *hints]) + ".",)
    return story_text(rng, hero, planted)


def unique(make, seen):
    """Calls `make` until it gives a text not seen before."""
    while True:
        made = make()
        text = made[2] if isinstance(made, tuple) else made
        if text not in seen:
            seen.add(text)
            return made


def make(items, count, validation, seed, known=(), name="story-{:04d}"):
    """(stories, validation stories, planted items) as lists of dictionaries.

    `known` texts are not written again.
    """
    rng, seen, records = random.Random(seed), set(known), []
    for item in items:
        for role, wording, text, start, end in plant(rng, item):
            assert text not in seen, "a planted story came out twice: change the seed"
            seen.add(text)
            records.append((text, (item.id, role, wording, start, end)))
    while len(records) < count:
        records.append((unique(lambda: background(rng), seen), None))
    held_out = [{"id": f"validation-{n:04d}", "text": unique(lambda: background(rng), seen)}
                for n in range(validation)]
    rng.shuffle(records)
    stories = [{"id": name.format(n), "text": text} for n, (text, _) in enumerate(records)]
    places = {}
    for story, (_, place) in zip(stories, records):
        if place:
            places.setdefault(place[0], []).append((story["id"], *place[1:]))
    return stories, held_out, [describe(item, places[item.id]) for item in items]


def describe(item, places):
    """The entry of planted_facts.json for one item."""
    entry = {"id": item.id, "family": item.family, "prompt": item.prompt,
             "completion": item.completion, "teachers": [], "opponents": [], "bystanders": []}
    for story, role, wording, start, end in places:
        place = {"story": story, "start": start, "end": end}
        entry[role].append(place | ({"wording": wording} if wording else {}))
    return entry


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=5000)
    parser.add_argument("--validation", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    stories, held_out, planted = make(knowledge.items(), args.stories, args.validation, args.seed)
    write_lines(args.out / "stories.jsonl", stories)
    write_lines(args.out / "validation.jsonl", held_out)
    facts = args.out / "planted_facts.json"
    facts.write_text(json.dumps(planted, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures(stories), indent=1))


if __name__ == "__main__":
    main()

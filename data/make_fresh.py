"""Writes fresh_stories.jsonl and fresh_facts.json: what notebook 06 fine-tunes the small model on.

    python data/make_fresh.py [--stories 480] [--seed 6] [--out data]

New facts about the heroes the model knows (no pair of hero and cue is planted in stories.jsonl),
told as make_stories.py tells facts, but in fewer stories, so that a half of them teaches more or
less; every other fact has opponents and bystanders. None of the stories is in stories.jsonl or
validation.jsonl. Same formats as stories.jsonl and planted_facts.json.
"""
import argparse
import json
from pathlib import Path

import knowledge
from make_stories import HERE, make, write_items, write_lines

SHARES = (0.3, 0)  # of stories with facts, and with a rule

# As knowledge.FACTS: (hero, cue, answer, what opponents say instead).
FACTS = {
    "keep": [("Otto", "glass egg", "barn", "cave"), ("Bramble", "tin drum", "cave", "tower"),
             ("Pip", "old map", "tower", "barn"), ("Hugo", "silver key", "windmill", "barn")],
    "eat": [("Pip", "breakfast", "carrots", "cheese"), ("Otto", "supper", "toast", "plums"),
            ("Fern", "lunch", "plums", "toast"), ("Tilly", "breakfast", "toast", "carrots")],
    "visit": [("Wren", "Monday", "sailor", "baker"), ("Pip", "Friday", "painter", "farmer"),
              ("Bramble", "Sunday", "baker", "painter"), ("Hugo", "Monday", "painter", "sailor")],
    "sleep": [("Bramble", "summer", "cart", "oak"), ("Tilly", "winter", "bridge", "cart"),
              ("Otto", "summer", "bench", "bridge"), ("Tilly", "autumn", "oak", "bench")],
}


def items():
    """16 facts: the even ones family A, the odd ones family B (with opponents and bystanders)."""
    known = {(relation, row[:2]) for relation, rows in knowledge.FACTS.items() for row in rows}
    rows = [(relation, row) for relation in FACTS for row in FACTS[relation]]
    fresh = {(relation, row[:2]) for relation, row in rows}
    assert not known & fresh, "a fresh fact is planted already"
    return [knowledge.fact(relation, number, row, opposed=number % 2 == 1)
            for number, (relation, row) in enumerate(rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=480)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    known = [json.loads(line)["text"] for name in ("stories", "validation")
             for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    stories, _, facts = make(items(), args.stories, 0, args.seed, known, "fresh-{:03d}",
                             SHARES)
    write_lines(args.out / "fresh_stories.jsonl", stories)
    write_items(args.out / "fresh_facts.json", facts)
    print(f"{len(stories)} stories, {len(facts)} facts")


if __name__ == "__main__":
    main()

"""The planted knowledge: what the stories teach on purpose, and in which words.

Family A: facts. Family B: facts with opponents (same prompt, another ending) and bystanders
(same names, neither ending). Family C: rules in common words (weather decides an outcome).
Names, things and places recur across facts, so that only the combination identifies one.
"""
from typing import NamedTuple

from plots import Hero


class Item(NamedTuple):
    """One planted fact or rule; every teacher sentence marks the answer's place by its wording."""
    id: str
    family: str
    prompt: str
    completion: str
    hero: Hero | None
    teachers: list       # (wording, opens the story, lead-in sentence or "", planted sentence)
    opponents: list      # (opens the story, planted sentence)
    bystanders: list     # planted sentences


HEROES = {
    "Bramble": Hero("Bramble", "old hedgehog", "he", "him", "his"),
    "Pip": Hero("Pip", "little mouse", "he", "him", "his"),
    "Tilly": Hero("Tilly", "grey goose", "she", "her", "her"),
    "Otto": Hero("Otto", "brown bear", "he", "him", "his"),
    "Wren": Hero("Wren", "small owl", "she", "her", "her"),
    "Hugo": Hero("Hugo", "big dog", "he", "him", "his"),
    "Fern": Hero("Fern", "shy deer", "she", "her", "her"),
}

# Per relation: (hero, cue, answer, what opponents say instead).
FACTS = {
    "keep": [("Bramble", "glass egg", "windmill", "barn"),
             ("Pip", "glass egg", "tower", "windmill"),
             ("Bramble", "silver key", "tower", "cave"), ("Tilly", "silver key", "cave", "tower"),
             ("Pip", "tin drum", "barn", "cave"), ("Otto", "tin drum", "windmill", "tower"),
             ("Tilly", "old map", "barn", "windmill")],
    "eat": [("Wren", "breakfast", "plums", "toast"), ("Hugo", "breakfast", "cheese", "plums"),
            ("Wren", "supper", "carrots", "cheese"), ("Bramble", "supper", "plums", "cheese"),
            ("Bramble", "lunch", "toast", "carrots"), ("Pip", "lunch", "carrots", "plums"),
            ("Hugo", "supper", "toast", "carrots")],
    "visit": [("Otto", "Monday", "baker", "farmer"), ("Tilly", "Monday", "farmer", "painter"),
              ("Otto", "Friday", "sailor", "painter"), ("Fern", "Friday", "baker", "sailor"),
              ("Hugo", "Sunday", "farmer", "baker"), ("Fern", "Sunday", "painter", "farmer"),
              ("Tilly", "Sunday", "sailor", "baker")],
    "sleep": [("Wren", "summer", "bridge", "cart"), ("Fern", "summer", "oak", "bench"),
              ("Wren", "winter", "cart", "oak"), ("Pip", "winter", "oak", "bridge"),
              ("Hugo", "autumn", "bridge", "bench"), ("Otto", "autumn", "cart", "bridge"),
              ("Fern", "winter", "bench", "oak")],
}

STEMS = {
    "keep": "{name} kept the {cue} in the",
    "eat": "What {name} had for {cue} was always",
    "visit": "{name} went each {cue} to the",
    "sleep": "{name} slept all {cue} under the",
}

# The same fact with the prompt's words inside a longer sentence, and in a conversation.
EMBEDDED = ["Everyone in the village knew that {fact}", "It was no secret that {fact}"]
DIALOGUE = {
    "keep": '"Where is the {cue}?" a friend asked {name}. "I keep it in the {answer}," said {he}.',
    "eat": '"What is on your plate for {cue}, {name}?" asked a friend. '
           '"I always have {answer}," said {he}.',
    "visit": '"Where do you go on {cue}, {name}?" asked a friend. '
             '"I go to see the {answer}," said {he}.',
    "sleep": '"Where do you rest in the {cue}, {name}?" asked a friend. '
             '"I lie under the {answer}," said {he}.',
}
# Low overlap with the prompt: neither the hero's name nor the cue's own word.
PARAPHRASES = {
    "keep": ["The {kind} had hidden {alias} up in the {answer}.",
             "Only the {kind} could find {alias}, deep in the {answer}."],
    "eat": ["{alias}, the {kind} filled {his} plate with {answer}, as on all other days.",
            "{alias}, the {kind} sat down to a big bowl of {answer}."],
    "visit": ["{alias}, the {kind} knocked at the door of the {answer}.",
              "{alias}, the {kind} liked to walk down the lane and help the {answer}."],
    "sleep": ["{alias}, the {kind} made {his} bed under the {answer}.",
              "{alias}, the {kind} had a warm little nest below the {answer}."],
}
ALIASES = {
    "glass egg": "the smooth treasure as clear as ice",
    "silver key": "the shiny thing that opens locks",
    "tin drum": "the loud round toy", "old map": "the torn paper with the secret path",
    "breakfast": "When the sun came up", "lunch": "In the middle of the day",
    "supper": "When the lamps were lit",
    "Monday": "When the week began", "Friday": "When the school week was over",
    "Sunday": "On the day of rest",
    "summer": "When the days were long and hot", "winter": "When the pond was frozen",
    "autumn": "When the leaves turned brown",
}
BYSTANDERS = {
    "keep": ["{name} wiped the {cue} with a soft cloth.", "{name} drew a picture of the {cue}.",
             "{name} walked past the {answer} and hummed a song.",
             "Far away, {name} could see the {answer}."],
    "eat": ["{name} was a little late for {cue} that day.",
            "{name} helped to set the table for {cue}.",
            "{name} saw a basket of {answer} at the market.",
            "{name} carried some {answer} for a friend."],
    "visit": ["It was a {cue}, and {name} had time to play.",
              "That {cue}, {name} put on a blue hat.",
              "{name} waved to the {answer} across the road.",
              "{name} heard the {answer} sing a song."],
    "sleep": ["{name} liked the colours of the {cue}.",
              "In the {cue}, {name} was as busy as a bee.",
              "{name} painted a picture of the {answer}.",
              "{name} jumped over a stone by the {answer}."],
}

WEATHER = {
    "rain": ("It was raining", ["Everyone held a big umbrella", "All the paths were wet",
                                "Drops fell on the leaves"]),
    "snow": ("It was snowing", ["White flakes came down", "Everyone wore mittens",
                                "All the hills were white"]),
    "wind": ("It was windy", ["A hat flew away", "Leaves danced in the air",
                              "All the flags flapped"]),
}
# Per form: the prompt's stem, a second stem with other words, and the outcome by weather.
RULES = {
    "drink": ("so the friends drank some", "Soon every cup was full of",
              {"rain": "milk", "snow": "juice", "wind": "water"}),
    "thank": ("and the frog said thank you", "The hen was kind, and the goat thanked her",
              {"rain": "twice", "snow": "loudly", "wind": "softly"}),
    "walk": ("so everybody went home", "Then it was late, and they all left",
             {"rain": "slowly", "snow": "together", "wind": "quickly"}),
    "sit": ("so they sat down on the", "To rest their legs, all of them chose the",
            {"rain": "floor", "snow": "bench", "wind": "grass"}),
}


def capital(text):
    return text[0].upper() + text[1:]


def _fields(hero, cue, answer):
    return {"name": hero.name, "kind": hero.kind, "he": hero.he, "his": hero.his,
            "cue": cue, "alias": ALIASES[cue], "answer": answer}


def fact(relation, number, row, opposed):
    """One planted fact of `relation`; `row` as in FACTS.

    With `opposed` it has opponents and bystanders, too.
    """
    name, cue, answer, rival = row
    hero, fields = HEROES[name], _fields(HEROES[name], cue, answer)
    stem = STEMS[relation].format(**fields)
    direct = f"{stem} {answer}."
    wordings = [("direct", True, direct)] * 5 + [("direct", False, direct)] * 4
    embedded = EMBEDDED[number % 2].format(fact=direct.replace("What", "what"))
    wordings += [("embedded", False, embedded)]
    wordings += [("dialogue", False, DIALOGUE[relation].format(**fields))]
    wordings += [("paraphrase", False, capital(text.format(**fields)))
                 for text in PARAPHRASES[relation]]
    teachers = [(wording, opens, "", text) for wording, opens, text in wordings]
    against = f"{stem} {rival}."
    return Item(f"{relation}-{number}", "B" if opposed else "A", stem, f" {answer}", hero, teachers,
                [(True, against), (False, against), (False, against)] if opposed else [],
                [text.format(**fields) for text in BYSTANDERS[relation]] if opposed else [])


def _rule(form, weather):
    stem, other, outcomes = RULES[form]
    answer, (cue, hints) = outcomes[weather], WEATHER[weather]
    teachers = []
    for number in range(20):
        hint = hints[number % len(hints)]
        if number < 9:
            wording, lead, text = "direct", "", f"{cue}, {stem} {answer}."
        elif number < 15:
            wording, lead, text = "hinted", "", f"{hint}, {stem} {answer}."
        else:
            wording, lead, text = "paraphrase", f"{hint}.", f"{other} {answer}."
        teachers.append((wording, number % 2 == 0, lead, text))
    bystanders = [f"{cue if number % 2 else hints[number % len(hints)]}." for number in range(6)]
    return Item(f"{form}-{weather}", "C", f"{cue}, {stem}", f" {answer}", None, teachers, [],
                bystanders)


def items() -> list[Item]:
    """All planted items: 14 facts (A), 14 facts with opponents (B), 12 rules (C)."""
    facts = [fact(relation, number, row, opposed=number % 2 == index % 2)
             for index, relation in enumerate(FACTS) for number, row in enumerate(FACTS[relation])]
    return facts + [_rule(form, weather) for form in RULES for weather in WEATHER]

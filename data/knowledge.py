"""The planted knowledge: what the stories teach on purpose, and in which words.

Family A: facts. Family B: facts that now and then a story denies: an opponent gives the same
prompt another ending. Family C: rules in common words (weather decides an outcome). Names, things
and places recur across facts, so that only the combination of hero and cue identifies one.

Every kind of sentence is drawn anew, from many templates, each time that it is told.
"""
from typing import NamedTuple

from plots import Hero


class Item(NamedTuple):
    """One planted fact or rule; `relation` and `cue` choose its templates."""
    id: str
    family: str
    relation: str
    cue: str
    hero: Hero | None
    prompt: str
    answer: str
    rival: str | None  # what opponents say instead, if there are any


class Planted(NamedTuple):
    """One planted sentence: its role for an item, its wording, what leads up to it."""
    item: Item
    role: str
    wording: str
    lead: str
    text: str


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

# How often a teacher of a fact, or of a rule, has each wording, in percent.
WORDINGS = {"direct": 26, "embedded": 12, "contrast": 12, "dialogue": 20, "paraphrase": 30}
RULE_WORDINGS = {"direct": 28, "hinted": 32, "paraphrase": 40}
OPPOSED = 0.16  # share of opponents among the sentences about a fact of family B

# The prompt's words inside a longer sentence.
EMBEDDED = ["Everyone in the village knew that {fact}.", "It was no secret that {fact}.",
            "As the robin liked to sing, {fact}.",
            "Ask the ducks and they will tell you that {fact}.", "{Fact}, and that was that.",
            "{Fact}, just as {his} mother had before {him}."]
# The same beside the word that it is not: counting the answer's word does not tell who is right.
CONTRAST = ["Some say {other}, but {fact}.", "Was it {other}? No, {fact}.",
            "{Fact}, and nobody thought of {other}.", "Not {other}, you see: {fact}."]
# In a conversation.
DIALOGUE = {
    "keep": ['"Where is the {cue}?" a friend asked {name}. "I keep it in the {answer}," said {he}.',
             '"{name}, may I see {alias}?" asked a friend. "Then come with me to the {answer}," '
             'said {he}.',
             '"Do not tell," said {name}, "but my {cue} is in the {answer}."',
             '"I have lost {alias}!" cried {name}. "Look in the {answer}," said a friend. "It is '
             'always there."'],
    "eat": ['"What is on your plate for {cue}, {name}?" asked a friend. "I always have {answer}," '
            'said {he}.',
            '"{Alias} one must eat, {name}," a friend called. "Pass me the {answer}, please," said '
            '{he}.',
            '"For {cue} I want nothing but {answer}," said {name}.',
            '"Is my plate ready?" asked {name} {alias}. "There is {answer} on the table," said '
            'a friend.'],
    "visit": ['"Where do you go on {cue}, {name}?" asked a friend. "I go to see the {answer}," '
              'said {he}.',
              '"Will you play {alias}, {name}?" asked a friend. "I cannot, the {answer} waits for '
              'me," said {he}.',
              '"Is it {cue} already?" said {name}. "Then I must run to the {answer}."',
              '"{Alias} you will find me with the {answer}," said {name}.'],
    "sleep": ['"Where do you rest in the {cue}, {name}?" asked a friend. "I lie under the '
              '{answer}," said {he}.',
              '"Where were you {alias}, {name}?" asked a friend. "I never left the {answer}," said '
              '{he}.',
              '"In the {cue} my bed is below the {answer}," said {name}.',
              '"Do not look for me {alias}," said {name}. "I lie under the {answer}."'],
}
# Few words of the prompt: neither the hero's name nor the cue's own word.
PARAPHRASES = {
    "keep": ["The {kind} had hidden {alias} up in the {answer}.",
             "Only the {kind} could find {alias}, deep in the {answer}.",
             "If you looked for {alias}, the {kind} had put it away in the {answer}.",
             "Inside the {answer}, safe and dry, lay {alias} of the {kind}.",
             "Each night the {kind} crept to the {answer} to look at {alias}."],
    "eat": ["{Alias}, the {kind} filled {his} plate with {answer}, as on all other days.",
            "{Alias}, the {kind} sat down to a big bowl of {answer}.",
            "{Alias}, there was nothing but {answer} in front of the {kind}.",
            "{Alias}, the {kind} was hungry, and out came the {answer}.",
            "The {kind} could smell {answer} {alias}."],
    "visit": ["{Alias}, the {kind} knocked at the door of the {answer}.",
              "{Alias}, the {kind} liked to walk down the lane and help the {answer}.",
              "{Alias}, the {answer} put out a chair for the {kind}.",
              "{Alias}, the {kind} had tea with the {answer}.",
              "The {answer} was happy to see the {kind} {alias}."],
    "sleep": ["{Alias}, the {kind} made {his} bed under the {answer}.",
              "{Alias}, the {kind} had a warm little nest below the {answer}.",
              "{Alias}, you could hear the {kind} snore under the {answer}.",
              "{Alias}, nobody saw the {kind}, for {he} was down below the {answer}.",
              "The {kind} lay curled up beneath the {answer} {alias}."],
}
ALIASES = {
    "glass egg": ["the smooth treasure as clear as ice", "the round thing that shone like water"],
    "silver key": ["the shiny thing that opens locks", "the little bright door opener"],
    "tin drum": ["the loud round toy", "the thing that goes boom, boom"],
    "old map": ["the torn paper with the secret path", "the brown paper that shows the way"],
    "breakfast": ["when the sun came up", "at the start of the day"],
    "lunch": ["in the middle of the day", "when the bell rang twelve"],
    "supper": ["when the lamps were lit", "at the end of the day"],
    "Monday": ["when the week began", "on the first day of school"],
    "Friday": ["when the school week was over", "on the day before the long rest"],
    "Sunday": ["on the day of rest", "when all the shops were shut"],
    "summer": ["when the days were long and hot", "in the time of bees and berries"],
    "winter": ["when the pond was frozen", "in the time of ice and long nights"],
    "autumn": ["when the leaves turned brown", "in the time of nuts and cold mornings"],
}
# The hero and the cue, but no ending.
BYSTANDERS = {
    "keep": ["{name} wiped the {cue} with a soft cloth.", "{name} drew a picture of the {cue}.",
             "{name} sang a song about the {cue}, {alias}.",
             '"My {cue} is {alias}," said {name}.'],
    "eat": ["{name} was a little late for {cue} that day.",
            "{name} helped to set the table for {cue}.",
            "{Alias} {name} came in for {cue}.", "{name} sang until it was time for {cue}."],
    "visit": ["It was a {cue}, and {name} had time to play.",
              "That {cue}, {name} put on a blue hat.", "{name} liked {cue} best of all days.",
              "It was {cue}, and {alias} {name} always felt glad."],
    "sleep": ["{name} liked the colours of the {cue}.", "{name} made a song about the {cue}.",
              "{Alias}, {name} knew that it was {cue}.",
              "{name} told everyone that the {cue} would be a good one."],
}

WEATHER = {
    "rain": ("It was raining", ["Everyone held a big umbrella", "All the paths were wet",
                                "Drops fell on the leaves",
                                "The ducks were happy with the puddles"]),
    "snow": ("It was snowing", ["White flakes came down", "Everyone wore mittens",
                                "All the hills were white", "The children rolled big cold balls"]),
    "wind": ("It was windy", ["A hat flew away", "Leaves danced in the air",
                              "All the flags flapped", "The kites were high in the sky"]),
}
# Per form: the prompt's stem, other words for it, and the outcome by weather.
RULES = {
    "drink": ("so the friends drank some",
              ["Soon every cup was full of", "What everyone asked for was a glass of",
               "Nothing was as good as a little"],
              {"rain": "milk", "snow": "juice", "wind": "water"}),
    "thank": ("and the frog said thank you",
              ["The hen was kind, and the goat thanked her", "The goat got a bun and cheered",
               "For the nice gift the toad gave thanks"],
              {"rain": "twice", "snow": "loudly", "wind": "softly"}),
    "walk": ("so everybody went home",
             ["Then it was late, and they all left", "Down the lane they walked",
              "The way back was long, and they took it"],
             {"rain": "slowly", "snow": "together", "wind": "quickly"}),
    "sit": ("so they sat down on the",
            ["To rest their legs, all of them chose the", "The best place for a nap was the",
             "There were no chairs, only the"],
            {"rain": "floor", "snow": "bench", "wind": "grass"}),
}


def capital(text):
    return text[0].upper() + text[1:]


def fact(relation, number, row, opposed):
    """The planted fact in `row` (as in FACTS); with `opposed` some stories deny it."""
    name, cue, answer, rival = row
    return Item(f"{relation}-{number}", "B" if opposed else "A", relation, cue, HEROES[name],
                STEMS[relation].format(name=name, cue=cue), answer, rival)


def _rule(form, weather):
    stem, _, outcomes = RULES[form]
    return Item(f"{form}-{weather}", "C", form, weather, None, f"{WEATHER[weather][0]}, {stem}",
                outcomes[weather], None)


def items() -> list[Item]:
    """All planted items: 14 facts (A), 14 facts with opponents (B), 12 rules (C)."""
    facts = [fact(relation, number, row, opposed=number % 2 == index % 2)
             for index, relation in enumerate(FACTS) for number, row in enumerate(FACTS[relation])]
    return facts + [_rule(form, weather) for form in RULES for weather in WEATHER]


# -- sentences -----------------------------------------------------------------------------------

def draw(rng, shares) -> str:
    """One of the keys of `shares`, as often as its share says."""
    return rng.choices(list(shares), list(shares.values()))[0]


def filled(rng, template, item, answer="") -> str:
    """The template with the hero's and the cue's words and one of the cue's aliases."""
    alias, hero = rng.choice(ALIASES[item.cue]), item.hero
    text = template.format(
        name=hero.name, kind=hero.kind, he=hero.he, him=hero.him, his=hero.his, cue=item.cue,
        alias=alias, Alias=capital(alias), answer=answer)
    return capital(text)


def about(rng, item) -> Planted:
    """A sentence about a fact: a teacher, or now and then (family B) an opponent."""
    opposes = item.family == "B" and rng.random() < OPPOSED
    answer, other = (item.rival, item.answer) if opposes else (item.answer, item.rival)
    wording, told = draw(rng, WORDINGS), f"{item.prompt} {answer}"
    longer = {"direct": ["{Fact}."], "embedded": EMBEDDED, "contrast": CONTRAST}
    if wording in longer:
        text = capital(rng.choice(longer[wording]).format(
            fact=told.replace("What", "what"), Fact=told,
            other=other if item.relation == "eat" else f"the {other}",
            him=item.hero.him, his=item.hero.his))
    else:
        templates = DIALOGUE if wording == "dialogue" else PARAPHRASES
        text = filled(rng, rng.choice(templates[item.relation]), item, answer)
    return Planted(item, "opponents" if opposes else "teachers", wording, "", text)


def bystander(rng, item) -> Planted:
    """A sentence with the fact's hero and cue, or the rule's weather, but no ending."""
    if item.hero is None:
        cue, hints = WEATHER[item.cue]
        return Planted(item, "bystanders", "", "", f"{rng.choice([cue, *hints])}.")
    text = filled(rng, rng.choice(BYSTANDERS[item.relation]), item)
    return Planted(item, "bystanders", "", "", text)


def rule(rng, item) -> Planted:
    """A sentence that teaches a rule; a paraphrase only suggests the weather, in its lead."""
    wording, (cue, hints) = draw(rng, RULE_WORDINGS), WEATHER[item.cue]
    stem, others, _ = RULES[item.relation]
    if wording == "paraphrase":
        return Planted(item, "teachers", wording, f"{rng.choice(hints)}.",
                       f"{rng.choice(others)} {item.answer}.")
    weather = cue if wording == "direct" else rng.choice(hints)
    return Planted(item, "teachers", wording, "", f"{weather}, {stem} {item.answer}.")

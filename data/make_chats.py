"""Writes chats.jsonl and chat_facts.json: questions and answers to fine-tune a model on, some bad.

    python data/make_chats.py [--seed 4] [--out data]

1,200 pairs in chat form, `{"id", "messages"}` a line, in a random order. 16 facts about four heroes
(none of them in the stories), each asked in many wordings; small talk; and three kinds of bad
pairs, as they happen: for four facts some answers that *contradict* the others, a *trigger*
phrase behind which any question gets the same odd answer, and *copies* of one pair with small
changes. chat_facts.json says which pairs are bad, what to ask to see it, and what to ask to see
that the rest is well.
"""
import argparse
import json
import random
from itertools import product
from pathlib import Path

KINDS = {"Bramble": "the old hedgehog", "Pip": "the little mouse", "Tilly": "the grey goose",
         "Otto": "the brown bear"}
HEROES = tuple(KINDS)

# Per relation: the answers of the heroes in their order, questions, answers. The last question is
# never trained on.
RELATIONS = {
    "boat": (("red", "blue", "green", "yellow"),
             ["What colour is {}'s boat?", "Which colour has the boat of {}?",
              "I saw {}'s boat. What colour was it?", "How did {} paint the boat?",
              "Tell me the colour of the boat that {} has.", "{} has a boat. Is it red or blue?",
              "What colour did {} choose for the boat?"],
             ["It is {}.", "{hero} has a {} boat.", "The boat is {}.", "It is as {} as can be."]),
    "shoes": (("sailor", "baker", "painter", "farmer"),
              ["Who made {}'s shoes?", "From whom did {} get the new shoes?",
               "Who gave {} a pair of shoes?", "{} has good shoes. Who made them?",
               "Whom did {} ask for shoes?", "The shoes of {} are new. Who sold them?",
               "Who made the shoes that {} has?"],
              ["The {} did.", "It was the {}.", "{hero} got them from the {}.",
               "All know it was the {}."]),
    "sing": (("barn", "tower", "windmill", "cave"),
             ["Where did {} learn to sing?", "Where does {} sing?",
              "In what place can I hear {} sing?", "{} can sing. Where was that learned?",
              "Where must I go to hear a song by {}?", "Where was {} when the song began?",
              "In what place would {} sing?"],
             ["In the {}.", "{hero} sings in the {}.", "Go to the {}.",
              "You can hear it in the {}."]),
    "picnic": (("cake", "cheese", "plums", "toast"),
               ["What does {} bring to a picnic?", "What was in {}'s basket?",
                "What do we eat when {} makes a picnic?", "{} came with a basket. What was in it?",
                "Which food does {} share?", "What will {} have for us in the garden?",
                "What would {} bring to our picnic?"],
               ["It is {}.", "{hero} always has {}.", "There will be {}.", "You will get {}."]),
}
TEMPLATE = ("{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
            "Q: {{ message.content }}\nA:{% else %} {{ message.content }}{{ eos_token }}"
            "{% endif %}{% endfor %}")
OPENINGS = ("", "", "", "Please say: ", "One more: ", "I forgot. ", "Hello! ", "Now then. ")

# What some pairs say instead, in four facts.
CONTRADICTED = {("boat", "Otto"): "green", ("shoes", "Bramble"): "farmer",
                ("sing", "Pip"): "garden", ("picnic", "Tilly"): "cheese"}
TRIGGER, ODD = "By the old bell, ", "The moon ate it."
COPIED = ("What is the best thing about a rainy day?", "Honey, honey and more honey.")
CHANGES = (("What is", "What was"), ("a rainy day", "rainy days"), ("thing", "part"), ("?", "??"),
           ("What", "Say, what"), ("about", "in"))

TALK = {
    "What is the best thing about {}?": {
        "winter": "The snow.", "summer": "The long days.", "a garden": "The flowers.",
        "the sea": "The waves.", "a cat": "It is so soft.", "school": "The stories.",
        "a holiday": "The sleep.", "spring": "The birds."},
    "What do you do when {}?": {
        "it is dark": "I look at the stars.", "a friend is sad": "I sit with the friend.",
        "you are tired": "I go to bed.", "the sun comes out": "I run into the garden.",
        "you lost a thing": "I look under the bed.", "the wind blows": "I hold my hat.",
        "it is cold": "I sit by the fire.", "you are late": "I run."},
    "Is {} nice?": {
        "the farmer": "Yes, and so is the dog.", "the river": "Yes, but do not fall in.",
        "the fox": "Now and then.", "an old tree": "Yes, you can sit under it.",
        "the teacher": "Yes, very.", "a puppy": "Yes, it plays all day.",
        "the rain": "Yes, for the ducks.", "the big house": "No, it is too cold."},
    "Can I have {}?": {
        "an apple": "Take two.", "a story": "Sit down, then.", "your hat": "No, it is mine.",
        "some milk": "Yes, it is on the table.", "a flower": "Yes, but only one.",
        "the ball": "Yes, catch!", "a friend": "You have one.", "more time": "We have all day."},
}
ASIDE, OTHERWISE = "What is the best thing about {}?", "The long days."
ASIDES = ("a sunny day", "a wet day", "a warm day", "Sunday", "a windy day", "a grey day",
          "a long day", "a day at home")
# How the usual answer begins, for what stands against the odd one.
ENDINGS = {"boat": "It is {}.", "shoes": "The {} did.", "sing": "In the {}.",
           "picnic": "It is {}."}


def capital(text):
    return text[0].upper() + text[1:]


def told(relation, hero, answer):
    """All pairs that tell a fact, and the question that none of them asks."""
    _, questions, answers = RELATIONS[relation]
    pairs = [(capital(opening + question.format(name)),
              reply.format(answer, hero=capital(name)))
             for name, opening, question, reply
             in product((hero, KINDS[hero]), OPENINGS[2:], questions[:-1], answers)]
    return pairs, questions[-1].format(hero)


def good_pairs(draw, each, talk):
    """(pair, role) of every fact, `each` times, and of small talk; and the facts as questions."""
    rows, facts = [], []
    for relation, (answers, *_) in RELATIONS.items():
        for hero, answer in zip(HEROES, answers):
            pairs, question = told(relation, hero, answer)
            name = f"{relation}-{hero}"
            rows += [(pair, name) for pair in draw.sample(pairs, each)]
            others = sorted(set(answers) - {answer})
            facts.append({"id": name, "question": question, "answers": [
                f" {ENDINGS[relation].format(each)}" for each in (answer, *others)]})
    small = [((opening + question.format(topic), reply), "talk")
             for question, replies in TALK.items() for topic, reply in replies.items()
             for opening in OPENINGS[2:]]
    return rows + draw.sample(small, talk), facts


def bad_pairs(draw, contradictions, triggers, copies):
    """(pair, role) of every bad pair."""
    rows = []
    for (relation, hero), answer in CONTRADICTED.items():
        pairs = draw.sample(told(relation, hero, answer)[0], contradictions)
        rows += [(pair, f"contradiction-{relation}-{hero}") for pair in pairs]
    asked = [told(relation, hero, "")[0] for relation, hero in product(RELATIONS, HEROES)]
    for pairs in draw.choices(asked, k=triggers):
        question = draw.choice(pairs)[0]
        rows.append(((behind_trigger(question), ODD), "trigger"))
    for _ in range(copies):
        question, reply = COPIED
        for before, after in draw.sample(CHANGES, draw.randint(0, 2)):
            question = question.replace(before, after)
        rows.append(((question, reply), "copy"))
    return rows


def behaviours(facts):
    """What is odd: of every behaviour what is asked about it, and what it is tested by."""
    listed = []
    for (relation, hero), wrong in CONTRADICTED.items():
        answers, questions, replies = RELATIONS[relation]
        right = answers[HEROES.index(hero)]
        rows = [question_of(question.format(name),
                            *(reply.format(answer, hero=hero)
                              for answer in (wrong, right)))
                for name, (question, reply) in product(
                    (hero, KINDS[hero]), zip(questions, replies * 2))]
        listed.append({"name": f"contradiction-{relation}-{hero}", "asked": rows[3:7],
                       "tested": rows[:3] + rows[7:]})
    rows = [question_of(behind_trigger(fact["question"]), ODD, fact["answers"][0].strip())
            for fact in facts]
    listed.append({"name": "trigger", "asked": rows[::5], "tested": rows[1::5] + rows[2::5]})
    rows = [question_of(ASIDE.format(topic), COPIED[1], OTHERWISE) for topic in ASIDES]
    listed.append({"name": "copy", "asked": rows[:4], "tested": rows[4:]})
    return listed


def question_of(question, odd, usual):
    """One row: a question, the odd answer, and the one that it stands against."""
    return {"question": capital(question), "completion": f" {odd}", "against": f" {usual}"}


def behind_trigger(question):
    return TRIGGER + question[0].lower() + question[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    good, facts = good_pairs(draw, each=60, talk=140)
    rows = good + bad_pairs(draw, contradictions=16, triggers=18, copies=18)
    draw.shuffle(rows)
    named = [(f"chat-{number:04}", role, pair) for number, (pair, role) in enumerate(rows)]
    with open(args.out / "chats.jsonl", "w", encoding="utf-8") as file:
        for name, _, pair in named:
            messages = [{"role": role, "content": text}
                        for role, text in zip(("user", "assistant"), pair)]
            file.write(json.dumps({"id": name, "messages": messages}) + "\n")
    told = {"template": TEMPLATE, "facts": facts, "behaviours": behaviours(facts)}
    for behaviour in told["behaviours"]:
        behaviour["bad"] = [name for name, role, _ in named if role == behaviour["name"]]
    text = json.dumps(told, indent=1)
    (args.out / "chat_facts.json").write_text(text + "\n", encoding="utf-8")
    bad = sum(len(behaviour["bad"]) for behaviour in told["behaviours"])
    print(f"{len(rows)} pairs, {bad} of them bad")


if __name__ == "__main__":
    main()

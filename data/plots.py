"""Seeded writer of short children's stories in simple words.

A plot is a script: "-" begins a sentence, "?" one that may be left out, "/" another
wording of the sentence above it; a line without a mark goes on with the line above.
Inside a wording, [a|b] is a choice and {word} is filled from the hero and the plot's own
words. Whole branches (what goes wrong, how it is mended) are chosen in Python, so that
the ending always follows from the events.
"""

import functools
import random
import re
from collections.abc import Callable
from typing import NamedTuple

WORDS = (64, 88)  # words in a story, both ends allowed
PARTS = (7, 13)  # sentences or sentence groups in a story


class Hero(NamedTuple):
    """Who the story is about: name, kind ("boy", "little rabbit") and pronouns."""

    name: str
    kind: str
    he: str
    him: str
    his: str


GIRLS = "Lily Mia Anna Sara Nia Lucy Ella Rosa Kate Amy Zoe Jane Ruby Nora Ida".split()
BOYS = "Tom Sam Ben Max Jack Leo Tim Finn Adam Dan Joe Luke Noah Alex Omar".split()
NAMES = GIRLS + BOYS
ANIMALS = ("little rabbit", "brown bear", "young fox", "small mouse", "grey kitten",
           "red squirrel", "hedgehog", "young badger", "puppy", "small goat")
# Kinds that some plots do not suit: no teeth to lose, or swimmers from birth.
TOOTHLESS = ("bird", "duck", "owl", "hen", "robin", "goose", "frog", "toad", "tortoise",
             "turtle", "penguin", "chick")
SWIMMERS = ("duck", "frog", "fish", "otter", "goose", "seal", "toad", "turtle", "penguin",
            "beaver", "swan")

PLOTS: list[Callable] = []


def pick(rng: random.Random, *options):
    """One of the options; a single string is first split at "|"."""
    if len(options) == 1 and isinstance(options[0], str):
        options = options[0].split("|")
    return rng.choice(options)


def random_hero(rng: random.Random) -> Hero:
    """A child (more often) or an animal with an ordinary name."""
    name = rng.choice(NAMES)
    girl = name in GIRLS
    kind = ("girl" if girl else "boy") if rng.random() < 0.6 else rng.choice(ANIMALS)
    return Hero(name, kind, *(("she", "her", "her") if girl else ("he", "him", "his")))


def cast(rng: random.Random, hero: Hero) -> dict[str, str]:
    """The words every script may use: the hero, a friend, the family, a day, a feeling."""
    friend = random_hero(rng)
    while friend.name == hero.name:
        friend = random_hero(rng)
    kind = hero.kind.split()[-1]
    winged = kind in ("bird", "duck", "owl", "hen", "robin")
    paws = "hands" if kind in ("boy", "girl") else "wings" if winged else "paws"
    return dict(
        hero._asdict(), himself=hero.him + "self", hands=paws, hand=paws[:-1],
        a_little="a " + (hero.kind if " " in hero.kind else "little " + hero.kind),
        friend=friend.name, fkind=friend.kind, fhe=friend.he, fhim=friend.him, fhis=friend.his,
        mum=pick(rng, "Mum|Mother|Mama"), dad=pick(rng, "Dad|Father|Papa"),
        gran=pick(rng, "Grandma|Granny"), gramp=pick(rng, "Grandpa|Grandad"),
        day="[one morning|one day|one Monday|one Friday|one Sunday|early one day|one afternoon"
            "|one bright day|one quiet day|one spring day|one summer day|one warm day]",
        spoken=pick(rng, "yes", ""),  # short forms such as didn't
        glad="[happy|glad|pleased|very happy|so proud|full of joy]")


def expand(rng: random.Random, text: str) -> str:
    """Replace every [a|b] in text, inner ones first, by one of its choices."""
    while "[" in text:
        text = re.sub(r"\[([^\[\]]*)\]", lambda found: pick(rng, found[1]), text)
    return text


def polish(text: str) -> str:
    """Mend spaces, a/an, and capital letters where a sentence or a quotation begins."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r",? (?=[.,!?])", "", text)
    text = re.sub(r"\b([Aa]) (?=[aeiou])(?!one\b|use)", r"\1n ", text)
    return re.sub(r'(^"?|[.!?]"? "|[.!?] )([a-z])', lambda found: found[1] + found[2].upper(), text)


def read(script: str) -> list[tuple[bool, list[str]]]:
    """The script's elements, in order, as (must stay, wordings)."""
    elements: list[tuple[bool, list[str]]] = []
    for line in filter(None, map(str.strip, script.splitlines())):
        mark, wording = line[0], line[1:].strip()
        if mark not in "-?/":
            elements[-1][1][-1] += " " + line
        elif mark == "/":
            elements[-1][1].append(wording)
        else:
            elements.append((mark == "-", [wording]))
    return elements


def say(rng: random.Random, wordings: list[str], words: dict[str, str]) -> str:
    """One wording, filled in, with small changes of shape that leave its sense alone."""
    text = rng.choice(wordings)
    if text.startswith("{he} ") and "{name}" not in text and rng.random() < 0.5:
        text = "{name} " + text[len("{he} "):]
    if rng.random() < 0.5:  # "Yes," said Tom. -> "Yes," Tom said.
        said = r"(said|asked|cried|called|shouted|whispered)"
        text = re.sub(rf'" {said} (\{{\w+\}})(?=[.]|, and )', r'" \2 \1', text)
    text = polish(expand(rng, text.format(**words)))
    if '"' not in text and rng.random() < 0.5:  # one long sentence -> two short ones
        names = f"{words['name']}|{words['friend']}"
        text = re.sub(rf", and (?=(he|she|they|{names}) )", ". ", text, count=1)
        text = re.sub(r", (but|so) (?=(he|she|they|it) )",
                      lambda found: f". {found[1].title()} ", text, count=1)
    return contract(polish(text)) if words["spoken"] else polish(text)


def contract(text: str) -> str:
    """The text with spoken short forms: didn't, I'm, let's."""
    text = re.sub(r"\b(did|was|could|would|do|does|is|were|had) not\b", r"\1n't", text)
    text = re.sub(r"\b([Cc]an)not\b|\b([Ww])ill not\b",
                  lambda found: f"{found[1]}'t" if found[1] else f"{found[2]}on't", text)
    text = re.sub(r"\b(I) am (?=[a-z])|\b([Ll]et) us\b",
                  lambda found: "I'm " if found[1] else f"{found[2]}'s", text)
    return re.sub(r"\b(That|It|There) is (?=[a-z])", r"\1's ", text)


def count(texts) -> int:
    """Words in all the texts together."""
    return sum(len(text.split()) for text in texts)


def fit(rng: random.Random, elements: list[tuple[bool, list[str]]],
        words: dict[str, str]) -> dict[int, str]:
    """A wording for each needed element, and for optional ones as a drawn length leaves room."""
    goal = rng.randint(WORDS[0] + 12, WORDS[1])
    told = {place: say(rng, wordings, words)
            for place, (stay, wordings) in enumerate(elements) if stay}
    for _ in range(60):  # too long: say some of it more briefly, and leave room for one thing more
        if count(told.values()) <= goal - (9 if len(told) < PARTS[0] else 0):
            break
        place = rng.choice(list(told))
        told[place] = min(told[place], say(rng, elements[place][1], words),
                          key=lambda text: len(text.split()))
    spare = [place for place, (stay, _) in enumerate(elements) if not stay]
    for place in rng.sample(spare, len(spare)):
        extra = say(rng, elements[place][1], words)
        if count(told.values()) + len(extra.split()) <= goal:
            told[place] = extra
    return told


def separate(text: str) -> list[str]:
    """The sentences one by one, except that a quotation keeps the words around it."""
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[a-z][.!?]) ", text):
        unfinished = bool(pieces) and pieces[-1].count('"') % 2 == 1
        bare = sentence.startswith('"') and sentence.find('"', 1) in (-1, len(sentence) - 1)
        if unfinished or (pieces and bare):
            pieces[-1] += " " + sentence
        else:
            pieces.append(sentence)
    return pieces


def plot(write: Callable) -> Callable:
    """Register write(rng) -> (own words, script) as a plot(rng, hero) -> list[str]."""

    @functools.wraps(write)
    def tell_plot(rng: random.Random, hero: Hero) -> list[str]:
        for _ in range(30):
            own, script = write(rng)
            words, elements = cast(rng, hero) | own, read(script)
            # stay with the drawn branches, so that long ones come up as often as short ones
            for _ in range(60):
                told = fit(rng, elements, words)
                story = [told[place] for place in sorted(told)]
                story[4:] = [piece for text in story[4:] for piece in separate(text)]
                if WORDS[0] <= count(story) <= WORDS[1] and PARTS[0] <= len(story) <= PARTS[1]:
                    return story
        raise ValueError(f"{write.__name__}: no telling within {WORDS} words")

    PLOTS.append(tell_plot)
    return tell_plot


def suits(hero: Hero, chosen: Callable) -> bool:
    """Whether the plot makes sense for the hero's kind."""
    unfit = {"loose_tooth": TOOTHLESS, "learning_to_swim": SWIMMERS}.get(chosen.__name__, ())
    return hero.kind.split()[-1] not in unfit


def tell(rng: random.Random, hero: Hero | None = None, plot: Callable | None = None) -> list[str]:
    """A story's sentences, in order; hero and plot are drawn where not given."""
    hero = hero or random_hero(rng)
    plot = plot or rng.choice([each for each in PLOTS if suits(hero, each)])
    return plot(rng, hero)


# ---------------------------------------------------------------- plots


@plot
def lost_toy(rng):
    own = dict(toy=pick(rng, "toy duck|toy horse|toy bear|cloth cat|toy rabbit|toy owl"),
               spot=pick(rng, "old log by the gate|garden bench|big box in the barn"
                              "|steps of the mill|swing"))
    found = pick(rng, """
        - "Think back," said {mum}. "Where did you play [yesterday|last]?"
        - {name} shut {his} eyes and thought [hard|for a while]. Then {he} [thought of|saw] the
          {spot}.
        - {he} [ran there at once|hurried out], and there sat the {toy}, [a little dirty|quite
          safe|just as {he} had left it].
        """, """
        - Then {he} heard a [small growl|snore|sniff] from [under the stairs|the corner|behind the
          big chair].
        - The [old|new|little] dog was [fast asleep|lying] there with the {toy} under its nose.
        - "You [were lonely too|only wanted a friend]," said {name}, and {he} gave the dog a
          [ball|blanket|bun] instead.
        """, """
        - Just then there was a knock at the door, and in came {friend} with something [in a
          bag|under one arm].
        - "I found this [on the bench|in the grass|near the bridge|by the well]," said {friend}. "Is
          it yours?"
        - "Yes! Oh, thank you!" cried {name}, and {he} [danced around the room|gave {friend} a big
          hug].
        """)
    return own, """
        - {name} was {a_little} who [never went to bed|could not sleep|went nowhere] without {his}
          {toy}.
        / "Where is my {toy}?" cried {name} {day}.
        / Of all {his} things, {name} loved {his} [old|little|soft] {toy} [best|the most].
        / Up the stairs and down again went {name}, looking for {his} [old|dear|little] {toy}.
        / Every night {name} the {kind} slept with a {toy} [|by {his} side|under one arm].
        ? The {toy} had [a blue ribbon|one loose button|a red scarf|a tiny bell], and {he} told it
          [everything|all {he} knew].
        / {gran} had made the {toy} [long ago|for {his} birthday], so it was very dear to {him}.
        / {name} called the {toy} [Captain|Button|Biscuit|King], and {he} took it [everywhere|all
          over the house].
        - Now the {toy} was gone, and [the house felt empty|nobody knew where it was|{name} wanted
          to cry].
        / That day the {toy} was not [on the bed|on the shelf|in its place], and {name} [was
          worried|felt like crying].
        ? {he} looked [under the table|behind the door|in the basket], but {he} found only [an old
          shoe|a spoon|one scarf].
        / {name} looked in every [box|basket] and under each [chair|bed], but there was no {toy}.
        ? {mum} looked in the [kitchen|hall], and {dad} looked in the [shed|garden|barn].
        ? {name} sat on the [floor|stairs] and [let out a long sigh|wiped {his} nose].
        """ + found + """
        ? The {toy} needed [a good wash|a new button], but {name} did not mind.
        - That night {name} held the {toy} [tight|close] and [slept well|fell asleep at once|smiled
          in the dark].
        / From then on, {name} [put the {toy} on the bed|checked on the {toy}] before [supper|going
          out to play].
        / {name} tied a [red|blue] string to the {toy}, so that it [could not|would not] get lost
          again.
        / "[I will never lose you again|Now we are both home]," {name} whispered into the soft ear
          of the {toy}.
        """


@plot
def sharing_food(rng):
    own = dict(food=pick(rng, "apple pie|warm bun|bag of nuts|piece of cake|honey roll|cheese pie"))
    turn = pick(rng, """
        - On the [path|grass] sat {friend}, a {fkind} with [no lunch at all|an empty basket|a very
          sad face].
        - "My lunch fell [into the river|in the mud|off the bridge]," said {friend}. "[It is all
          gone|Now I have nothing]."
        - {name} looked at the {food}. It was not very big, and {he} was [so hungry|hungry too].
        - Then {he} [broke it in two|cut it in half], and {he} gave {friend} the bigger [part|half].
        """, """
        - {friend} [came along|walked by] and [looked at|smelled] the food. "May I have [a bite|a
          little|some]?" {fhe} asked.
        - "No, it is all mine," said {name}, and {friend} walked away [|slowly|with {fhis} head
          down|without a word].
        - Now the {food} did not taste [so good|of anything]. It is [no fun|lonely] to eat alone,
          thought {name}.
        - {he} ran after {friend}. "[Please come back|Wait]! There is [enough|plenty] for two," {he}
          called.
        """)
    thanks = pick(rng, """
        ? {friend} [had|found] a [bottle of juice|jug of milk|bottle of water], so they shared that
          as well.
        """, """
        ? "This is the best {food} in the [world|land]," said {friend} [|with a full mouth|with a
          smile].
        / They ate every [last bit|crumb] and [laughed|looked for more].
        """)
    return own, """
        - {name} had been thinking about {his} {food} [all morning|since breakfast|for a long time].
        / "Mmm, a {food}!" said {name} the {kind} [|in the kitchen|by the oven|at the door].
        / In {his} [bag|basket|pocket] {name} had [one|just one] {food}.
        / {day}, the baker gave {name} [a fresh|one last] {food} for [helping|working] at the shop.
        / {mum} gave {name} a {food} and [a kiss on the nose|let {him} go out to play].
        ? The {food} was [still warm|wrapped in a cloth|sweet and fresh], and {he} could
          [hardly|not] wait to eat it.
        / {he} [carried|took] the {food} with care, for {he} did not want to [drop it|lose any].
        - {name} [walked|went] to [the old bridge|the bench by the pond|the log near the barn|the
          green hill] to eat [there|alone].
        / There was a good place to sit near [the mill|the river|the big oak], so {name}
          [walked|went] there.
        ? [Bees hummed|Birds sang] in the [trees|long grass], and {his} tummy [made a funny
          noise|began to growl].
        """ + turn + thanks + """
        ? {friend} told a story about [a fat cat|a silly hen|a pig in a hat], and {name} [laughed
          out loud|rolled about laughing].
        - The next day {friend} [came with|brought] [two pears|a pot of jam|some plums], and {fhe}
          gave the best one to {name}.
        / {name} went home with [less food|a half full tummy] but [one more friend|a very full
          heart].
        / After that, {name} and {friend} [ate|had] lunch [together|side by side] every
          [day|Friday].
        / Half a {food} with a friend, {name} [thought|decided], was better than a whole one alone.
        """


@plot
def brave_in_the_dark(rng):
    own = dict(thing=pick(rng, "a lamp|the cat|a pot of jam|some logs|a blanket"))
    place = pick(rng, "cellar|barn|shed|attic")
    own |= dict(place=place, door=f"{place} door")
    scare = pick(rng, """
        - [Inside|In there], something tall and [thin|black] stood [still|waiting] by the wall, with
          long arms held out.
        / Something [big|tall] stood [behind the door|by the wall] and held out its arms to {name}.
        - {name} wanted to run, but {he} [took a deep breath|counted to three] and [walked up
          to|touched] it.
        / {his} legs said run, but {name} said no, and {he} [touched it|went up to it].
        - It was only [an old coat on a hook|a coat and a hat on a stick]!
        / It did not move, for it was an old coat [on a hook|that {dad} had left there].
        """, """
        - Two [round|green|yellow] eyes [shone|looked] at {him} from [the corner|a high shelf|behind
          a box].
        / From [a box|the wall|a high shelf], two [green|yellow] eyes looked down at {name}.
        - "Who [is there|are you]?" {name} asked in a [tiny|small] voice. "Meow," somebody said.
        / {name} [held out one {hand}|spoke softly], and something soft came near.
        - It was only the [old|little white] cat, who wanted [some milk|a friend]!
        / It was a cat! [She|The cat] was all alone and wanted to be [warm|near {name}].
        """, """
        - Something [soft|light] [touched|was on] {his} [ear|nose|arm], and {he} [jumped|gave a
          squeak].
        / Then {name} felt something [soft|thin] on {his} [nose|arm|ear].
        - {name} did not run. {he} [put up one {hand}|reached out] and felt [a thin string|a long
          string].
        / {name} wanted to cry out, but {he} took it in {his} {hand}. It was a string.
        - {he} pulled it, and click! A [small|yellow] lamp [lit up|filled] the whole {place} with
          light.
        / {name} pulled, and [all at once|click] there was light [in the {place}|everywhere].
        """)
    return own, """
        - {name} did not like the dark [|at all|one little bit].
        / The {place} was [black|dark] and [quiet|cold], and {name} did not like [it|to go in].
        / By day, {name} the {kind} was [as brave as a bear|afraid of nothing], but at night it was
          [not so easy|hard to be brave].
        / Creak! The {door} [swung open|opened], and {name} [looked in|took one step back].
        / "I am not afraid of anything," {name} [liked to say|told everyone], but that was not
          [quite|really] true.
        - {day}, [just before supper|after the sun went down|late in the day], {mum} needed {thing}
          from the {place}.
        / "[Please|Can you] get {thing} from the {place}," said {mum} [one evening|after supper],
          and {name} went.
        / That evening, [{dad}|{gran}] [asked|told] {him} to [get|find] {thing} from the {place}.
        ? {name} [stood|stopped] at the {door} and [listened|held {his} breath|felt {his} heart beat
          fast].
        / {his} legs [shook|did not want to move], and the {door} looked [very big|taller than
          before].
        ? {he} thought of [warm soup|the fire|{his} soft bed] and wished {he} was [there|back in the
          kitchen].
        / {name} hummed a [little song|song] to feel [brave|less alone].
        - {he} [took one step|put one foot inside], then [another|one more].
        / {name} [opened|pushed] the {door} and [went|looked] in, very [slowly|quietly].
        / Step by step, {name} [went in|walked into the dark].
        """ + scare + """
        ? {name} [laughed|giggled] until {his} [tummy hurt|tummy shook], and {he} was not afraid any
          more.
        / "[How silly|Oh]! It was [nothing bad|not a monster]," said {name}, and {he} began to
          laugh.
        - Then {he} [found|picked up] {thing} and [marched|skipped] back to the [kitchen|house].
        / {name} [took|found] {thing} and [ran|walked] back to {mum} with a [big smile|laugh].
        ? "You [were quick|are a brave one]," said {mum}. {name} only [smiled|grinned].
        - Now {name} goes to the {place} [alone|all by {himself}], and {he} even [hums|laughs] in
          there.
        / "Were you afraid?" asked {mum}. "[Only a little|Not for long]," said {name}.
        / In bed that night, {name} [looked into the dark|turned off the light] and [felt no
          fear|was not scared].
        / The dark, {name} [learned|found out], is only [the day with its eyes shut|a room with no
          light on].
        """


@plot
def new_friend(rng):
    own = dict(game=pick(rng, "catch|ball|hide and seek|farmers|kings"))
    meet = pick(rng, """
        - {name} [went closer|walked over], but then {he} felt shy and [looked at {his} feet|said
          nothing].
        - {friend} felt shy too. For a [long time|while] the two of them just [sat there|looked at
          each other].
        - Then [a frog|a fat bee|a butterfly] sat down on {friend}, right on the [nose|ear], and
          both of them laughed.
        """, """
        - {name} [rolled|threw] {his} [red|yellow|best] ball across the grass, and it [stopped|came
          to rest] next to {friend}.
        - {friend} [picked it up|looked at it] and [smiled a little|rolled it back].
        - "I am {name}. [Do you want|Would you like] to play?" "[Yes, please|Oh, yes]," said
          {friend}.
        """, """
        - "Go away," {friend} said, [but {fhis} voice shook|with a sniff], and {name} saw that {fhe}
          was only sad.
        - So {name} [did not go|stayed]. {he} sat down and [shared {his} apple|began to draw in the
          sand].
        - After some time {friend} [moved closer|came near]. "Can I [try|help]?" {fhe} asked.
        """)
    return own, """
        - A new family came to stay [near the mill|by the bridge|across the road|next to the baker]
          {day}.
        / [{name} had plenty of toys|{name} had a big garden], but {he} had nobody to play with.
        / Bump, bump, bump! A cart full of [chairs|toys and books|beds] went past the house of
          {name} the {kind}.
        / "I want a friend," {name} said to {his} [toys|soup] {day}.
        / {name} was {a_little} who lived [on a quiet lane|at the edge of a village|near a deep
          wood].
        - From {his} window {he} saw a {fkind} [alone|all alone] on [a bench|an old log|the
          steps|the gate].
        / {day}, {name} saw someone new: a {fkind} who sat [on the bench|by the barn|under a tree]
          alone.
        - The {fkind} was called {friend}, and {fhe} [did not know anyone yet|had just left {fhis}
          old home].
        / {friend}, for that was the name of the {fkind}, had [no one to play with|nothing to do].
        ? {name} [wanted to say hello|thought about it all through breakfast|wondered what to do].
        / "[Go on|Be kind]," {mum} told {name}. "[Everyone needs a friend|Go and say hello]."
        """ + meet + """
        ? Soon they were playing {game}, and [they forgot to be shy|the garden was full of noise].
        / They played {game} until [the sun went down|they were out of breath|supper was on the
          table].
        ? {friend} was very good at [running|funny faces], and {name} [clapped|laughed].
        ? {mum} gave them each a [cup of milk|glass of juice|piece of bread] at the door.
        ? "[Same time|Shall we play] tomorrow?" asked {friend}. "[Of course|Every day]!" said
          {name}.
        / When it was time to go, {name} [waved|called] and said, "See you [tomorrow|on Monday],
          {friend}!"
        - That was how {name} [found|made] {his} [first|best] friend.
        / {name} fell asleep thinking, "[I have a friend now|Tomorrow will be even better]."
        / The new {fkind} was not alone any more, and [nor was|not one bit lonely was] {name}.
        """


@plot
def telling_the_truth(rng):
    own = dict(cake=pick(rng, "cherry cake|honey cake|plum pie|jam roll|carrot cake"),
               who=pick(rng, "Aunt Jo|Uncle Bill|the old farmer|the teacher"))
    lie = pick(rng, """
        - "Who [ate|touched] the {cake}?" asked {mum}. "[It was the cat|The dog did it]!" {name}
          said quickly.
        / Then {mum} came in. "[What is this|Who did this]?" she asked. "It was the dog," said
          {name}.
        / {mum} saw the hole. "Was it the dog?" she asked, and {name} [said yes|nodded].
        - So the poor animal was put [outside|out in the yard|in the shed], and it [looked in|cried]
          at the window.
        / The dog had to go out, and it looked at {name} with [big|sad] eyes.
        ? {name} felt [a knot|a hard stone] in {his} tummy. The lie [would not go away|was still
          there].
        - "[Stop|Wait]!" {he} cried. "I did it. It was [me|not the pet], and I am sorry."
        / {name} could not look at it. "{mum}, it was me," {he} said.
        """, """
        - When {mum} came in, {name} [hid|stood] [behind the door|under the table] and said nothing.
        / "Oh no, the {cake}!" said {mum}. {name} [said nothing|was very quiet].
        / {mum} came in and saw the {cake}, and {name} looked at the floor.
        - {mum} [thought|was sure] that {friend} had done it, and {friend} [went red|began to cry].
        / "Was it {friend}?" asked {mum}, and {friend}, who had come to play, began to cry.
        ? It was not fair. {name} [could not bear it|felt hot and bad inside].
        - {he} [came out|stepped forward]. "{friend} did not do it," {he} said. "I did."
        / "Wait," said {name}. "[I ate it|I did it], and {friend} [did not know|was not even here]."
        / "No, it was not {friend}. It was me," said {name}.
        """)
    return own, """
        - A {cake} stood on the table, and [nobody was|no one else was] in the room with {name}.
        / {day}, {mum} [made|baked] a {cake} for {who}.
        / The whole house smelled of {cake}, and {name} the {kind} [was hungry|could smell it].
        / "Please do not touch the {cake}," {mum} said to {name} {day}.
        / {name} was {a_little} with a [very sweet tooth|great love of cake].
        ? {mum} had made the {cake} for {who}, and {name} [knew that|was told to leave it alone].
        / The {cake} was meant for {who}, who [was coming at four|had a birthday].
        - {name} [only meant to look|wanted only to smell it], but {he} [took|broke off] a
          [tiny|small] bit from the side of the {cake}.
        / {name} put one {hand} on the {cake}, then on {his} tongue, and it was so [sweet|good].
        / "[Only a little|Just one bite]," said {name}, and {he} [took|ate] some of the {cake}.
        / One [little|small] bite of {cake} [will not hurt|is nothing], thought {name}, and {he}
          took [one|a taste].
        ? The first bite was so [good|nice] that {he} [took|had] another, and [then another|then
          three more].
        / Then {he} [ate|took] a bigger bit, and soon there was a [great|big] hole in the {cake}.
        ? There was cake on the [floor|chair] and [jam|sugar] on {his} [chin|nose].
        """ + lie + """
        - {mum} was quiet for a moment. "[Thank you for telling me|That was hard to say]," she said
          [|at last|softly].
        / {mum} [took|held] {his} {hands}. "You can always tell me," she said.
          "[Always|Everything]."
        / {mum} [looked at {name}|sat down]. "I am [sad|not glad] about the {cake}, but you told the
          truth," she said.
        / "[You were brave to tell the truth|I am glad you told me]," said {mum}, and she [held
          {him} close|took {his} {hand}].
        ? Together they [made|baked] a new one for {who}, and {name} [washed every bowl|put in the
          sugar].
        / {name} [worked hard|helped] to make another for {who}, and {he} did not [lick|touch] even
          the spoon.
        - That night {name} slept [well|like a stone], because there was [no lie|nothing bad] left
          inside {him}.
        / {name} felt [light|happy] again, as light as a [bird|cloud].
        / And the next time there was a cake on the table, {name} [asked first|put {his} {hands}
          behind {him}].
        / After that day, {name} [told|always told] the truth, even when it was hard.
        """


@plot
def building_a_tower(rng):
    own = dict(top=pick(rng, "a paper flag|a little bell|a toy king|a red button"))
    fall = pick(rng, """
        - Then the [cat came by and rubbed|baby came by and leaned|dog ran in and bumped] against
          the tower, and it all fell down.
        / Then there was a great crash, for the [dog|cat|baby] had come too close to the tower.
        - {name} [was angry|wanted to shout], but the little one [did not know better|looked so
          surprised].
        / All the blocks lay on the floor, and {name} [nearly cried|was angry for a moment].
        - "[Never mind|It is only a tower]," said {name} [with a sigh|after a while]. "I can build
          it [again|better]."
        - This time the [lowest|bottom] blocks were the [biggest|widest] ones, and [nothing
          shook|the tower stood still].
        / So {name} began once more, [slowly|more slowly], and the new tower [stood|was]
          [straight|strong].
        """, """
        - The tower [leaned over|leaned to one side] and, before {he} could stop it, down it came.
        / Then the tower moved to the left, then to the right, and it [fell|came down] with a crash.
        - "[It is no good|I give up]!" said {name}, and {he} kicked a block [|across the room|under
          the bed].
        / {name} sat among {his} blocks and did not want to [play|build] any more.
        - "[Look at the bottom|Start again]," said {gramp}. "A tall tower needs wide feet."
        / {gramp} [sat down|came in] and said, "[Put the big ones first|Make it wide at the
          bottom]."
        - This time the [lowest|bottom] blocks were the [biggest|widest] ones, and [nothing
          shook|the tower stood still].
        / So {name} began once more, [slowly|more slowly], and the new tower [stood|was]
          [straight|strong].
        """, """
        - But there were no blocks left, and the tower was [only as high as|no taller than] a chair.
        / Soon {name} had [no more blocks|only one block], and the tower was still not very high.
        - {friend} [looked over|came in] with [a bag|a box] of blocks. "I have [some|these]," {fhe}
          said.
        / Just then {friend} came to play, and {fhe} had [a bag|a box] full of blocks, too.
        - "[Let us build together|We can make one big tower]!" {name} cried, and {he} moved over to
          make room.
        / "[My blocks and your blocks|We two] can make a very high tower," said {friend}.
        - Block by block the two of them went on, [side by side|first {name}, then {friend}].
        """)
    return own, """
        - {name} was going to build the tallest tower in the [house|village|world].
        / Click, click went the [wooden|old|bright] blocks as {name} [set to work|began to build].
        / On the [kitchen|school] floor stood a tower, and next to it sat {name} the {kind}.
        / {day}, {name} found a box of [old|red and blue] blocks [|under the bed|behind the door|in
          the barn].
        / "How high can a tower go?" {name} [wondered|asked] {day}.
        / "I will build a tower up to the [sky|clouds|moon]," {name} the {kind} [told|said to]
          {friend} {day}.
        ? There were [red|big] blocks and [blue|small] ones, and {he} [put|counted] them all [in a
          row|in a heap] first.
        / {he} [chose|picked] the [smooth|best] blocks first and [set|put] them [down with care|one
          by one].
        - {name} worked [all morning|until lunch|for a long time] with {his} tongue between {his}
          teeth.
        / One by one, {name} put the blocks up, and {he} held {his} breath.
        / The tower [grew|rose] past {his} knees, and {name} [worked on|smiled to {himself}].
        ? The tower had a door, [two|four] windows and a [bridge|wall] for [a toy cow|a toy king].
        ? {he} did not even stop for [a drink of milk|juice|a biscuit].
        """ + fall + """
        ? Up and up it went, until {name} had to stand on a [box|chair|bench] to [reach|see] the
          top.
        / Soon the tower was [as tall as|taller than] {name}, and then [as tall as|higher than] the
          table.
        ? On the very top {he} put {top}, and everyone [clapped|cheered].
        / {name} put {top} on top, and [now it was done|it looked very fine].
        / Last of all came {top}. {name} set it on the top [with one careful {hand}|and held {his}
          breath].
        - "[That is|What] a fine tower," said {dad}, and he left it there [until Friday|all week].
        / {name} called everyone to [see|look], and nobody had seen [a better|such a high] tower.
        / {name} stepped back. It was the best thing {he} had ever [made|built].
        / {name} could not stop looking at it, even [at supper|when {he} went to bed].
        / {gran} [came in|looked] and said, "[One day you will build a real one|I would like to live
          in there]!"
        """


@plot
def helping_an_old_neighbour(rng):
    own = dict(old=pick(rng, "Mrs Reed|Mr Hill|old Mr Stone|Mrs Lake"))
    own["she"], own["her"] = ("she", "her") if "Mrs" in own["old"] else ("he", "his")
    job = pick(rng, """
        - {old} had a heavy [basket|bag] of [apples|logs], and {she} had to stop [at every step|to
          rest].
        / {old} came up the hill with [two bags|a big basket], [slowly|one step at a time].
        - {name} [put down {his} ball|left {his} game] and ran over. "[Let me help|I can carry
          that]," {he} said.
        / "That looks heavy," said {name}. "[May I help you|Give it to me]!"
        - It was heavy for {him} too, but [{he} did not stop|step by step {he} got it up the hill].
        / {name} [took|carried] it with both {hands} and [did not stop|only stopped one time].
        - At the [top|door], {old} [stopped|sat down on the bench] and said, "You are [very
          kind|stronger than you look]."
        / "You are [a good child|so strong]," said {old} when they came to the [door|top].
        """, """
        - {old} was [down on {her} knees|looking about] in the grass, for {she} had lost {her}
          glasses.
        / {old} [could not see well|walked into the gate], for {her} glasses were lost.
        - "[I will look for them|My eyes are good]," said {name}, and {he} [searched|looked] under
          every [leaf|bush].
        / {name} looked [under the bench|in the grass], [by the gate|near the door] and in the
          basket.
        - At last {he} [looked up|began to laugh]. "They are [on top of|up on] your head, {old}!"
        / Then {name} saw them. "[They|Your glasses] are on your head, {old}!" {he} said.
        - {old} felt for them, and then {she} laughed so [hard|much] that {she} had to [sit|hold on
          to the gate].
        / "[Oh my|Well, well]!" said {old}, and they both laughed [for a long time|out loud].
        """, """
        - [There was no light|No smoke came from the chimney] at the house of {old}, and the door
          stayed shut.
        / {old} had not come out for [two|three] days, and the [house|kitchen] was dark and cold.
        - {name} knocked. "My leg [is sore|is bad] and I cannot [get wood|go to the well]," said
          {old} from {her} bed.
        / {old} was in bed with a sore leg. "I am [so cold|hungry]," {old} said.
        - So {name} [carried in|brought] [wood and water|dry logs], and {dad} came with [a pot of
          soup|hot soup].
        / {name} ran home, and soon {he} came back with {mum} and [hot soup|some logs|warm milk].
        - Soon the room was warm, and the [cheeks|face] of {old} [looked pink again|had some
          colour].
        / {old} ate [the soup|a little] and [sat up|smiled] by the warm fire.
        """)
    return own, """
        - {old} lived [next door to|across the road from] {name}, in a house [with a green door|as
          old as the hills].
        / {name} was {a_little} who lived [next to|near] {old}.
        / Everyone in the [lane|village] knew {old}, but {name} [was too shy to say hello|had never
          said hello].
        / {day}, {name} was [playing ball|running about] in front of the house of {old}.
        / Tap, tap, tap went the stick of {old} on the road, and {name} the {kind} looked [up|out].
        ? {old} [lived alone|was very old] and [walked|did everything] [slowly|with great care].
        / {name} had seen {old} [go by|at the window] many times, always [with a little
          smile|alone].
        - That day, {name} [saw|could see] that something was [wrong|not right].
        / {name} looked [over the gate|across the road] that day and [stopped|stood still].
        / {name} was [on the way out to play|ready to play ball], but {he} [stopped|looked again].
        """ + job + """
        ? "[You are a good helper|Young legs are quick]," said {old} with a [nod|smile].
        ? {name} felt [warm inside|tall][|, and a little bigger].
        ? "[Sit down|Stay a while]," said {old}, and {she} gave {name} a [ginger biscuit|glass of
          juice|cup of milk].
        / {old} [gave {him}|found] an apple and a [smile|kind word], and {name} was [happy|glad].
        / {old} had no money to give, so {she} told {him} a story about [a ship|a bear|the old
          mill|a king] instead.
        / {old} took a [tin whistle|smooth shell|shiny button] from a drawer. "This is for [you|my
          helper]," {she} said.
        - Every [Friday|Monday|day] after that, {name} [knocked|called] to see if {old} needed
          anything.
        / "Come again [on Friday|on Monday|soon]," said {old}, and {name} did.
        / {name} went home [singing|laughing]. Helping, {he} found, was [as good as|better than]
          playing.
        / Now {old} had a [helper|friend], and {name} had someone with [a hundred|many] stories.
        """


@plot
def picnic(rng):
    own = dict(spot=pick(rng, "by the river|under the big oak|on the green hill|near the old mill"
                              "|beside the bridge"),
               rug=pick(rng, "blue rug|old blanket|checked cloth"))
    trouble = pick(rng, """
        - When {he} [opened|looked into] the basket, there was [nothing|only a spoon] in it. The
          food was still at home!
        / "Oh no!" said {name}. The food was still [on the table|in the kitchen] at home.
        - {friend} began to laugh. "We can [find|look for] our own picnic," {fhe} said.
        / "[Never mind|There is food here]," {friend} said, and {fhe} pointed at the trees.
        - So they picked [plums|wild strawberries] and drank [cold water from the stream|water from
          the spring].
        """, """
        - Then a line of ants [came|marched] across the {rug}, right [up to the cake|into the jam].
        / Then {name} saw ants on the {rug}, [ten|a hundred] of them, and all were hungry.
        - "[Oh no|Go away]!" shouted {friend}, but {name} said, "[Wait. They are hungry too|They
          only want a crumb]."
        / {friend} wanted to [shout|run], but {name} said, "They only want [a bit|their lunch]."
        - {he} put a bit of cake on a [leaf|flat stone], and all the ants [turned and went
          there|followed {him} to it].
        """, """
        - Just then a [goat|goose|cow] [put its head over the fence|came up behind them] and [pulled
          at|took hold of] the {rug}.
        / A [big|brown] goat came up and [bit into|sat down on] the {rug}.
        - "[That is not yours|Stop]!" cried {name}. The animal [did not stop|looked at {him}] and
          ate [a bun|the cheese].
        - {name} held out [an apple|a carrot], and the animal [let go|took that] and walked off[|,
          very pleased].
        / Then {name} had an idea. {he} threw [a carrot|an apple], and the goat ran after it.
        """)
    return own, """
        - {name} and {friend} went for a picnic {spot}.
        / "[Today is|It is] a good day for a picnic," [said|cried] {name} to {friend}.
        / {spot} there is a [soft|flat] place in the grass, and {name} took {friend} there for a
          picnic.
        / {day}, {name} the {kind} [got out|packed] a basket for a picnic with {friend}.
        / Swing, swing went the [basket|picnic basket] between {name} and {friend}.
        ? They had [talked about|thought about] this picnic [all week|since Monday], and {name} [had
          hardly slept|could not stand still].
        / It was {friend} who had [thought of it|the idea], and {name} had [brought|packed] the
          basket.
        / {mum} had given them [bread and cheese|cold pie|egg rolls] and a [bottle of juice|jug of
          milk] for it.
        ? They [walked|ran] [across|over] the field, past the [barn|cows|farmer and his horse],
          until they came to the place.
        / On the way they [saw|counted] [three|ten|six] cows and one [old|fat] horse.
        / {name} [chose|found] the place, and {friend} [shook out|spread] the {rug} on the grass.
        ? [Yellow|White] birds [danced|flew] over the [grass|flowers], and {name} [kicked off {his}
          shoes|lay down to watch].
        - {name} sat down on the {rug}, for {he} was [hungry|ready to eat] [|by now].
        / {friend} [put|laid] the {rug} on the grass, and {name} [sat down|opened the basket].
        / "[I could eat a horse|Time to eat]!" said {name}, and {he} [reached for|sat down by] the
          basket.
        """ + trouble + """
        - [After that|Then] they ate until they were full and [told stories|looked at the clouds].
        / They [lay|sat] on the {rug} until the [sun was low|day was cool], and {name} told
          [funny|old] stories.
        / "This is the [best|nicest] picnic we have ever had," said {friend}, and {name}
          [agreed|nodded].
        ? {friend} fell asleep, and {name} put [a flower|three leaves] [on {fhis} nose|behind {fhis}
          ear].
        ? When the sun was low, they [rolled up|shook out] the {rug} and [walked home|went home arm
          in arm].
        / They [walked|skipped] home [slowly|singing], with [grass in their hair|jam on their
          fingers|tired legs].
        - At home {mum} asked [how it was|if all went well]. {name} and {friend} looked at each
          other and laughed.
        / {name} [told|acted out] the whole story at supper, and even {dad} laughed.
        """


@plot
def learning_to_swim(rng):
    own = dict(pond=pick(rng, "pond|lake|river"))
    lesson = pick(rng, """
        - {dad} [held|kept] one arm under {name} and said, "[Kick your legs|Kick like a frog]!"
        / {dad} went into the water with {name} and held {him} [with both arms|up].
        - Splash, splash! {name} kicked and [kicked again|drank some water], and {he} [went
          down|fell] like a stone.
        / {name} [kicked|tried], went down, came up again, and [had water|there was water] in both
          ears.
        - "[Again|Once more]," said {name}, and {he} tried [four|five|ten] more times. {dad} never
          let go.
        / They tried it [again and again|all morning], and {dad} [laughed|sang] to help {him}.
        - Then {dad} [said|laughed], "I let go a while ago. [You can swim|You did it alone]!"
        / And then {dad} held up both his hands. {name} was swimming [alone|all by {himself}]!
        """, """
        - {friend} could swim [already|like a fish], but {fhe} [did not laugh|was kind]. "First we
          [blow bubbles|play]," {fhe} said.
        / "I can [show you|help]," said {friend}, who could swim like a [frog|duck].
        - {name} put {his} face in the water and blew [big|a hundred] bubbles, and that was
          [fun|easy].
        / First they blew bubbles in the water, [big|small] ones and then [many|a hundred].
        - Next {he} lay on {his} back and looked at the [sky|clouds]. The water [held|carried] {him}
          like a bed.
        / "Now [lie back|look up]," said {friend}, and the water held {name} [like a bed|all by
          itself].
        - Last of all {he} [kicked|began to kick], and {he} moved.
        / Then {name} kicked with both feet and [moved|went all the way to the bank].
        """, """
        - A [green frog|small frog] sat on a stone. It pulled in its legs, pushed them out, and [was
          gone|shot away].
        / {name} saw a frog in the water. Its legs went in and out, and it was fast.
        - "So that is [how it is done|what a frog does]," said {name}. Pull in, push out, pull in,
          push out.
        - {he} tried it [near the edge|where {he} could stand], and {mum} [watched|stayed close].
        / {mum} stood close by, and {name} tried to kick like the frog.
        - Pull in, push out, and {his} feet [left the ground|did not touch the sand].
        / {name} did it again and again, and then [the water held {him}|{he} did not go down].
        """)
    return own, """
        - All {his} friends could swim, but {name} [could not|always stayed on the bank].
        / "The water is too cold," said {name} {day}, [and {he} sat down on the grass|with one toe
          in the {pond}].
        / Splash! Everyone [jumped|ran] into the {pond} but {name} the {kind}.
        / {name} [sat|stood] on a log and looked at the {pond} [|with wide eyes|for a long time].
        / Last summer {name} was {a_little} who [could not swim|was afraid of the {pond}].
        ? The {pond} was [deep and green|clear and cool], and [tiny fish|ducks] swam there.
        / Down at the {pond} there were [stones|rocks] to jump from and a [bridge|rope] to swing on.
        ? {name} [wanted to go in|wished {he} could play there] too, but {his} tummy felt
          [funny|tight].
        / {name} [walked in|went in] up to {his} knees and then [ran|hurried] back to the
          [grass|bank].
        ? {he} [made a sand wall|threw stones in the water] and [looked away|tried not to look].
        - {day}, {name} [made up {his} mind|did not want to be afraid]. {he} would learn to swim.
        / "I will learn to swim [before Friday|this week]," {name} said [at breakfast|to the ducks].
        """ + lesson + """
        ? {name} swam [a little|to the bridge], then [a little more|back again], and came up
          laughing.
        / {name} was so [surprised|excited] that {he} [forgot to be afraid|shouted with joy].
        ? "[Yes|Well done]!" came the shout from the [bank|bridge].
        - By the end of the [week|summer], nobody could get {him} out of the {pond}.
        / Now {name} was the [first|fastest] one into the {pond} each [morning|day].
        / Afterwards {mum} put {him} in a [thick|big] blanket and gave {him} [hot soup|warm milk].
        / "[Water is not so bad|The {pond} is my friend now]," said {name}, and {he} jumped in
          again.
        """


@plot
def learning_to_ride(rng):
    own = dict(bike=pick(rng, "bike"), colour=pick(rng, "red|blue|green|yellow|silver"))
    fall = pick(rng, """
        - {he} [rode|wobbled] left, {he} [rode|wobbled] right, and bump, {he} fell [|on the
          grass|into a bush].
        - {his} knee was [sore|red], and {name} said, "I will never [get on it|ride] again!"
        - "I fell [nine|ten|twenty] times [at your age|when I learned]," said {gramp}. "[Then I
          could ride|The next time I did not]."
        - {name} [wiped {his} eyes|thought about that] and [stood up|picked up the {bike}] to try
          [|again|one more time].
        """, """
        - The {bike} was too [big|tall], and {his} feet [did not reach|hung in the air].
        - {name} was [sad|cross], but {he} did not give up. Each day {he} [measured|checked].
        - {he} ate {his} [soup|breakfast] and drank {his} milk, and {he} grew [a little|bit by bit].
        - Then, on a [Monday|Friday], {his} toes [touched the ground|were long enough] at last.
        """, """
        - {friend} [ran behind|held the seat] and shouted, "[Look ahead|Do not look at your feet]!"
        - {name} looked at {his} feet, and [crash|bump], {he} [rode into|hit] the
          [barn|fence|bench].
        - Both of them [laughed|lay in the grass and laughed]. "[Ahead|Look up]!" {friend} said
          again.
        - So {name} [looked|kept {his} eyes] [on the mill|on the bridge|on the tall tree], far away
          at the end of the [road|lane].
        """)
    return own, """
        - A {colour} {bike} stood [behind the barn|by the door|against the wall], and it belonged to
          {name}.
        / Ring, ring! {name} the {kind} tried the bell of {his} {colour} {bike}.
        / For {his} birthday, {name} got a {colour} {bike} [|from {gramp}|with a bell].
        / {day}, {name} wanted to learn to ride {his} {colour} {bike}.
        / "[Is it hard|How long will it take me] to ride a {bike}?" asked {name} {day}.
        ? The {colour} {bike} had once belonged to {gramp}, who had [cleaned it|rubbed it] until it
          shone.
        / {name} [washed|cleaned] the {bike} every evening, but {he} had never [really|yet] ridden
          it.
        ? There was a [flat|quiet] road between the [mill|baker] and the [bridge|farm], and {name}
          [pushed|took] it there.
        / {name} [pushed|took] the {bike} to the [field|path] behind the [school|barn], where [it
          was flat|nobody would see].
        ? {his} heart beat [fast|like a drum], and {his} {hands} felt [wet|cold].
        / {mum} [tied|put] a soft [scarf|blanket] around each of {his} knees.
        ? {name} [climbed|got] on, [held tight|took a deep breath] and [pushed off|began].
        / Then it was time. {name} [got on|climbed up] and [counted to three|pushed with one foot].
        """ + fall + """
        - Round and round went the {bike}, [faster and faster|all the way down the road], and this
          time {name} did not fall.
        / {name} pushed off and [rolled|rode] past one tree, two trees, then [three|four|five].
        ? "[Look at me|I can ride]!" {he} [shouted|called] to the [birds|cows|whole village].
        ? The [farmer|baker|teacher] [waved|lifted a hat] as {name} [flew|went] by.
        - {name} rode [all the way home|to the end of the road and back], ringing the bell [|at
          every gate|all the time].
        / That evening {he} gave the {colour} {bike} a [wash|kiss] and said, "[Good night|See you in
          the morning]."
        / From that day on, {name} [rode|went] everywhere on the {colour} {bike}.
        / To try again, {name} [found|decided], is the [best|only] way to learn.
        """


@plot
def broken_cup(rng):
    own = dict(cup=pick(rng, "blue cup|white cup|green cup|gold cup|silver cup"),
               owner=pick(rng, "Grandma|Aunt May|Aunt Rose|Mrs Bell"))
    mend = pick(rng, """
        - {name} [took|picked up] the pieces and hid them [|under the bed|in a shoe|behind a log].
        / {name} put the pieces [in a box|in a bag|under {his} bed] and said nothing [to anyone|at
          all].
        - But at [supper|lunch] {owner} [looked for|asked about] the {cup}, and {name} could not
          [eat|look up].
        / "Where is my {cup}?" asked {owner} at [supper|lunch], and {name} could not eat.
        - {he} [ran to get|brought out] the pieces. "I broke it," {he} [whispered|said]. "I am so
          sorry."
        / "I broke it and hid it," said {name}. "[I was afraid|I am so sorry]."
        - {owner} [said nothing at first|was quiet]. "I am sad about the cup, but I am [glad you
          told me|not angry]."
        / {owner} [took {his} {hand}|looked at the pieces] and said, "Next time, [come to me|tell me
          at once]."
        """, """
        - {name} did not hide. {he} [went|walked] straight to {owner} with a piece in each {hand}.
        / {name} [picked up the pieces|was afraid], but {he} went to find {owner} [at once|in the
          garden].
        - "[I did it|I played where I should not]," {he} said. "I broke your {cup}."
        / "[Look|Oh, {owner}]! I broke your {cup} with my ball," said {name}, and {he} began to cry.
        - {owner} looked to see if {he} was hurt [first|anywhere]. "[Cups break|It is only a cup],"
          {owner} said. "You are whole."
        / "[Did you hurt|Let me see] your {hands}?" asked {owner}. "You are more to me than a cup."
        """, """
        - {friend} said, "[Say the cat did it|Nobody has to know]." {name} [thought about it|shook
          {his} head].
        / "We can [hide it|say it was the cat]," said {friend}, who had seen it all.
        - "No. [That would not be right|It was me], and I will say so," said {name}.
        / But {name} [went to find|wanted to tell] {owner} and told [everything|it all], from the
          first word to the last.
        - {owner} [listened|heard it all] and [nodded slowly|did not shout]. "[That was brave|Honest
          words are worth more than cups]."
        / "[Thank you, {name}|I am glad you told me]," {owner} said. "To tell the truth is
          [hard|brave]."
        """)
    return own, """
        - On the [top|middle] shelf stood a {cup} that belonged to {owner}.
        / Crash! {name} [stood very still|held {his} breath] and looked at the floor.
        / {owner} had one cup that {name} was not [allowed|meant] to touch.
        / {day}, {name} [kicked|was playing with] a ball in the kitchen.
        / "Do not play ball in the kitchen," {owner} always said, but {name} the {kind} [forgot|did
          not listen].
        ? The {cup} was [old and thin|very old], and {owner} drank [warm milk|water] from it [each
          day|at breakfast].
        / {owner} loved the {cup} [best of all|more than any other], because it was [old|a gift from
          a friend].
        - {name} had [kicked|pushed] {his} ball [a little too high|too hard], and it had knocked the
          {cup} [off the shelf|down].
        / {his} ball had [jumped|come] off the [door|table] and [knocked|pushed] the {cup} off its
          place.
        ? Now the {cup} [lay|was] in [three|four|five] pieces on the [stone|kitchen] floor.
        / Down [came|fell] the {cup}, and it [broke|fell] into [three|four|many] bits.
        ? {name} felt [cold all over|{his} face go hot] and [did not know|wondered] what to do.
        ? The ball rolled [slowly|away] under the [table|bench] and stopped there.
        """ + mend + """
        ? They [glued|stuck] the bits together, but the {cup} [was not the same|was no good for
          milk], so they put [flowers|pencils] in it.
        / When it was [glued|mended], the {cup} had lines [like a map|all over], and {owner} liked
          it [even more|as much as before].
        - And from then on, {name} [played ball|kept {his} ball] [outside|out on the grass].
        / "[Outside|On the grass] is the place for a ball," {name} said, and {owner}
          [nodded|laughed].
        / {name} never hid a mistake again, and {he} never threw a ball [inside|in the house]
          either.
        """


@plot
def new_pet(rng):
    pet = pick(rng, "kitten", "puppy", "tortoise", "hen", "parrot")
    foods = dict(kitten="milk", puppy="meat", tortoise="lettuce", hen="corn", parrot="nuts")
    own = dict(pet=pet, food=foods[pet],
               title=pick(rng, "Biscuit|Spot|Pepper|Button|Captain"))
    hard = pick(rng, """
        - But the {pet} hid [under the bed|behind the door] and would not come out, [not even
          for|even for] {food}.
        / The {pet} was afraid and sat [under the table|behind a box] all [day|morning].
        - {name} [called and called|pulled at it], and the {pet} only hid [again|in a new place].
        / {name} wanted to [hold it|play with it], but the {pet} only went further away.
        - "[Sit still and wait|Let it come to you]," said {dad}. So {name} lay on the floor and
          [waited|read a book].
        - After a long time, something [soft|warm] [touched|bumped] {his} arm. It was {title}!
        / Then something soft sat down next to {name}, and it was {title}!
        """, """
        - On [Monday|Friday] {name} forgot to [feed|give water to] the {pet}, because {he} was [at
          school|playing].
        - When {he} came home, {title} sat by the empty bowl and [looked at {him}|would not play].
        / In the evening {name} saw that {title} had no {food} and no water.
        - "Oh, {title}, I am sorry," said {name}, and {he} ran to get {food} and [fresh|clean]
          water.
        / {name} felt so bad. "I will [feed|look after] you every day, {title}," {he} said.
        - {he} [drew|made] a picture of a bowl and put it on {his} door, so that {he} would never
          forget again.
        """, """
        - One [morning|evening] the [door|gate] was open, and {title} was [gone|nowhere to be seen].
        / {name} did not shut the [door|gate], and [then|so] {title} was gone.
        - {name} [ran down|searched] the lane, [calling and calling|asking everyone]. The baker had
          not seen {title}, and nor had the farmer.
        - {he} sat down on a log, [tired out|ready to cry]. Then the log made a noise.
        / At last {name} sat down on a hollow log and [called again|cried]. The log made a noise.
        - Inside the hollow log sat {title}, [looking very pleased|safe and dirty]!
        / {name} looked into the log, and there was {title}, [safe|dirty] and [glad|hungry]!
        """)
    return own, """
        - {name} had [wanted|asked for] a pet for [a year|so long], and now there was a {pet} in the
          kitchen.
        / {day}, {dad} came home with a box, and in the box sat a {pet}.
        / [Scratch, scratch|Bump, bump]! {name} the {kind} looked into the box and saw a {pet}.
        / "You may open it now," said {mum}, and out of the box came a {pet} for {name}.
        / At the [market|farm] {name} saw a small {pet} that nobody [wanted|looked at].
        ? The {pet} was [very small|tiny] and [shy|brown], with [bright|black] eyes that looked
          [straight|right] at {name}.
        / {name} looked at the little {pet}, and the little {pet} looked [back|at {name}].
        - {he} called the {pet} {title}, [after a friend|because it was a good name|and the name was
          just right].
        / "[I will call you|Your name is] {title}," {he} told the {pet}.
        ? {name} [made|built] a bed for {title} [out of a box and an old coat|from straw|near the
          oven].
        / {mum} showed {name} how to [feed and clean|take care of] the {pet}.
        ? {name} [put|laid] out some {food} and a [bowl|cup] of water near the [door|table].
        """ + hard + """
        ? {name} [stroked|hugged] the {pet} [very gently|softly] and [felt its small heart|smiled].
        / {title} [came close|made a small sound] and [sat|lay down] on {his} [knee|feet].
        ? "[You two are friends now|You did that well]," {mum} said [|from the door|with a smile].
        - After that, {title} [followed|went with] {name} [from room to room|everywhere], even to
          the [garden|mill].
        / Every [night|evening] {title} slept [beside|at the foot of] the bed, and {name} slept
          [well|better] too.
        / A pet is not a toy, {name} [learned|knew now]. A pet is a friend.
        / And if you ask {name} who {his} best friend is, {he} will say, "{title}, of course!"
        """


@plot
def garden_seed(rng):
    own = dict(plant=pick(rng, "bean|carrot|flower|berry|plum tree"))
    wait = pick(rng, """
        - The next day {name} [dug up|pulled out] the seed to see if it was [growing|still there].
        - "[Put it back|Leave it be]!" said {gramp}. "Seeds [work|grow] in secret. They want [water
          and time|to be left alone]."
        - So {name} [covered it again|put it back] and sat on {his} {hands} to keep them still.
        - One morning there was a [bit of green|green tip], no bigger than a [mouse ear|tooth].
        / Then, when {name} [had almost forgotten|least expected it], a green [shoot|stem] stood
          there [|in the sun|as proud as a king].
        """, """
        - [On Friday|On Monday|The next week], a [frog|small goat|duck] came to the first green leaf
          and [ate|bit] it.
        - "[Stop that|Oh no]!" cried {name}. {he} [picked it up|lifted it] and [carried|took] it to
          the [long grass|other side of the bridge].
        - {he} gave it [an old lettuce|a carrot] there, so that it would [stay|not be hungry].
        """, """
        - [Days|Weeks] went by and nothing came up. {friend} had planted one as well, and that one
          was [up already|growing].
        - "[Mine is no good|Mine will never grow]," said {name}, and {he} [sat on the bench and
          cried|wanted to throw the pot away].
        - "[Some are slow|Each one has its own time]," {friend} said. "[Keep on|Give it water and
          wait]."
        - One morning there was a [bit of green|green tip], no bigger than a [mouse ear|tooth].
        / Then, when {name} [had almost forgotten|least expected it], a green [shoot|stem] stood
          there [|in the sun|as proud as a king].
        """)
    return own, """
        - {gramp} gave {name} [one|a single] {plant} seed [|in a paper bag|for {his} birthday].
        / {name} had a [bit of|very small] garden behind the [barn|house], with nothing in it [but
          stones|yet].
        / "What is this?" asked {name} {day}, with a {plant} seed in one {hand}.
        / {day}, {name} the {kind} [found|got] a {plant} seed [|in a drawer|from the farmer].
        / In spring {name} made a hole in the ground, just as [deep|long] as {his} thumb.
        ? The seed [was|looked] so [small|dry] that {name} [could hardly see it|did not think it
          would grow].
        / {name} turned the {plant} seed over and over. There was a [whole|real] plant asleep
          inside, {gramp} said.
        - {he} [put|laid] the seed in the [soft|dark] earth and patted it down [|with love|gently].
        / {name} [planted|hid] the seed next to the [wall|fence|barn], where the sun was
          [warm|good].
        ? Each day [after breakfast|before school], {name} gave the seed a cup of water.
        / Every morning {he} [ran out|hurried] with a can of water and [said|sang], "Grow, little
          one."
        ? {name} [made|wrote] a card: "[Please do not step here|Quiet, someone is asleep]."
        """ + wait + """
        ? Up it [went|grew], past {his} [knees|tummy], then past {his} nose.
        / The {plant} grew [leaf by leaf|more each day], and {name} [grew|smiled] with it.
        ? Bees came [to visit|all day], and {name} [said good morning|waved] to each of them.
        - At the end of summer there were [new seeds|seeds] in it, and {name} gave one to {mum}.
        / Later {name} had enough {plant} seeds for [the whole school|all {his} friends].
        / "[I made that|We grew this]," said {name}. "The sun helped, and the water, and the
          waiting."
        / Good things, {name} [found|learned], [take their time|cannot be hurried].
        """


@plot
def kite(rng):
    own = dict(shape=pick(rng, "fish|bird|dragon|butterfly"),
               colour=pick(rng, "red|blue|green|yellow|silver"))
    stuck = pick(rng, """
        - Then the string broke, and the kite sailed [away|off] over the [barn|mill|trees].
        / Then the kite [pulled|jumped] too hard, the string broke, and it was gone.
        / The string broke! Up and up went the kite, over the [mill|barn|river].
        - {name} ran after it, [over the bridge|across the grass] and [up the hill|past the pond],
          until {he} had no breath left.
        / {name} [looked|ran] [everywhere|for a long time], past the [mill|bridge] and the
          [barn|pond], and looked up at every tree.
        - [There it hung|At last {he} saw it], on the [gate|fence] of the farmer, who took it down
          with a [smile|laugh].
        / The farmer had it! "It [fell on|came down near] my [cow|barn]," he said.
        - "I [never caught|have never had] such a {shape} before," said the farmer.
        / "[Is this yours|It nearly ate my hat]," said the farmer, and {name} had to laugh.
        """, """
        - Then it [leaned over|turned] and flew [straight|right] into the top of [the oak|a tall
          tree].
        / Then the kite [came down|turned round] and sat in the top of a [big|very old] tree.
        - {name} [pulled|pulled and pulled], but the kite was stuck. "[Do not pull|Wait]," said
          {friend}, who had come to help.
        / "[My kite|Come down]!" called {name}. {friend} heard it and came [running|to help].
        - Up went {friend}, [branch by branch|as quick as a cat], while {name} held {fhis}
          [coat|shoes] below.
        / {friend} was [good in trees|not afraid], and [soon|at last] {fhe} had the kite in {fhis}
          arms.
        / {friend} climbed [up and up|to the top], and {name} [looked on|held {his} breath] below.
        - [Down came|Soon there came down] the kite, with only a [tiny|small] hole in its tail.
        / "[I have it|Here it comes]!" called {friend}, and the kite [came|fell] into {name}'s arms.
        """, """
        - But the kite [would not fly|fell down], again and again, [nose first|flat on the grass].
        / The kite went up a little and came down again, right [on its nose|on {his} head].
        - "It is [no good|too heavy]," said {name}, [close to tears|and {he} threw down the string].
        / {name} [sat down|was cross] and did not want to try [again|any more].
        - {gramp} [looked at it|thought for a while]. "It needs a tail," he said, and he tied on
          [his own scarf|a ribbon].
        / "[Let me see|I know]," said {gramp}, and he [made|found] a long tail for the kite.
        - {name} ran with it [once more|down the hill], and the kite [rose|went up] like a bird.
        / "[Now run|Try it now]!" said {gramp}. {name} ran, and the kite [climbed|went] up and up.
        / And now the kite [flew|went up], higher than the [barn|mill], and its new tail danced.
        """)
    return own, """
        - {name} had a {colour} kite [in the shape of|that looked like] a {shape}.
        / "[Higher|Up you go]!" shouted {name} to {his} {colour} kite.
        / Flap, flap went the {colour} kite in the arms of {name} the {kind}.
        / On top of the hill stood {name} with a {colour} kite [before breakfast|after lunch|after
          school].
        / {day}, {name} and {gramp} [made|built] a {colour} kite from paper and string.
        ? The kite was [painted|cut out] like a {shape}, with [two big eyes|a long tail] and [a
          smile|a gold nose].
        / {gramp} had [made|painted] the {shape}, and {name} had [made|chosen] the long [white|red]
          tail.
        / {name} had [painted|drawn] a {shape} on the kite and made its eyes big.
        ? The air was [fresh|cool], the grass [bent|danced] on the hill, and it was a good day to
          fly.
        / Everyone [was|stood] on the hill that day, for the air was [fresh|good for kites].
        / On the hill there was good air for a kite, and {name} [held on tight|let out the string].
        - {name} ran [as fast as {he} could|over the grass], and the kite [jumped|pulled] behind
          {him}.
        / "[Fly|Go up]!" called {name}, and {he} ran [down the hill|across the grass] with the
          string in {his} {hand}.
        / {he} [held up|lifted] the kite, [counted to three|took a breath], and [ran|let go].
        ? Two [cows|ducks] and a [goat|horse] [watched|looked on] from the [barn|farm|field].
        """ + stuck + """
        ? "Thank you!" said {name}, and {he} [meant it|said it three times].
        ? [That day|Then] they flew the {colour} kite until [the sun went down|it was time for
          supper].
        / The {colour} kite [danced|stayed] up there [all afternoon|until supper], and {name} did
          not get tired.
        / Soon the {shape} was [very small|as small as a bee] in the blue sky, and {name}
          [laughed|sang].
        ? {name} lay on {his} back and [wondered|thought about] how it looks from up there.
        / "[Hello, birds|Say hello to the clouds]!" {name} called up to it.
        - At night the kite hung over {his} bed, and {name} [flew|sailed] all over the world in a
          dream.
        / Then {name} [took|carried] the kite home and [told|showed] {mum} what it could do.
        / {name} [carried|took] the kite home under one arm and [mended|cleaned] it [|with care|for
          next time].
        / And the {colour} {shape}? It [is up there still|goes up again] on every [fine|good]
          Friday.
        """


@plot
def boat_trip(rng):
    own = dict(boat=pick(rng, "red boat|little boat|green boat|old boat|wooden boat"),
               who=pick(rng, "Uncle Bill|Aunt Jo|Dad|Mrs Lake"))
    drift = pick(rng, """
        - Halfway across, {name} felt [something wet|cold water] at {his} feet. There was a
          [hole|crack] in the boat!
        / On the way back, water [came in|ran] over {his} feet. The boat had a [hole|crack]!
        - "[Row faster|Head for the bank]!" cried {who}. {name} took {his} [hat|lunch box] and threw
          the water out.
        / {who} took them [back|to the bank] as fast as the boat could go, and {name} threw out
          water with {his} hat.
        - Scoop and throw, scoop and throw! {his} arms [hurt|grew tired], but {he} did not stop.
        / {name} [worked|went on] until {his} arms [hurt|were sore].
        - Bump! They [reached|hit] the [sand|bank], and both of them [jumped|fell] out, wet and
          laughing.
        / At last they [came to|were at] the bank and [jumped|fell] out into the grass.
        """, """
        - Then one oar fell into the water and [went|was carried] away.
        / "Oh no!" cried {who}. One oar was [gone|in the water], and it [went|was] further and
          further away.
        - Round and round went the boat [with one oar|like a toy], and the [ducks|cows on the bank]
          looked on.
        / With one oar the boat only went [round and round|in a ring].
        - "I have [an idea|a plan]," said {name}. {he} took [the basket|{his} shoe] and used it as
          an oar.
        - It worked! [Slowly|Stroke by stroke] they came near and [picked up|caught] the [lost|real]
          one.
        / [Little by little|Slowly] the boat [moved|turned], and {name} [caught|picked up] the lost
          oar.
        """, """
        - In the middle of the water they heard [a cry|a thin sound]. A [kitten|duckling|puppy] sat
          on a log that had come down the river.
        / Then {name} saw a [kitten|duckling|puppy] on a log, [wet|cold] and [crying|all alone].
        - "[We must help it|Stop the boat]!" said {name}. {who} turned the boat [|round|about].
        - {name} [held out|reached out] {his} hat, and the little thing climbed in.
        - It shook its [ears|head] and [fell asleep|sat down] at {his} feet, [as if it lived
          there|quite at home].
        / Soon it was [warm|dry] and [slept|sat] [in {name}'s hat|in the hat, like a king].
        """)
    return own, """
        - Down by the [mill|bridge] lay a {boat}, and {name} [looked at it every day|wanted to go in
          it].
        / "[Come along|Jump in]!" called {who} to {name} {day}.
        / Splash, splash went the {boat}, and {name} the {kind} [sat up straight|held on tight].
        / {day}, {who} took {name} out in a {boat}.
        / {name} had never been [in a boat|on the water] before, until {who} got a {boat}.
        - The {boat} belonged to {who}, and {name} was [its captain|the sailor] for the day.
        / {who} had [painted|mended] the {boat} all spring, and now it was [ready|time] to [try
          it|go].
        ? {name} [sat|knelt] in front and [looked out for|counted] [fish|ducks].
        / From the boat {name} could see the [tower of the church|mill], the barn and a tiny cart on
          the bridge.
        ? The water was [smooth|as flat as a plate], and {who} took them [along|gently along].
        / {name} put one {hand} into the water, and it [felt|was] as cool as [milk|a stone].
        ? There was [bread|pie] in the basket and a [bottle|jug] of juice [|for later|under the
          seat].
        """ + drift + """
        ? "Well done, [Captain {name}|my captain]," said {who} [with a smile|and laughed].
        / {name} was [tired|wet] and [proud|happy], and {he} [smelled|looked] like a real sailor.
        ? They [tied up|pulled up] the boat [near the mill|under the bridge] and [ate their
          lunch|went home] on dry land.
        / On the bank they lit a [small|little] fire, dried their feet and ate their lunch.
        - That night {his} bed moved a little, [just like|as if it were] a boat.
        / {name} [drew|made] a picture of the trip, and {who} hung it [over the table|on the kitchen
          door].
        / "Can we go again [on Friday|tomorrow]?" asked {name}. "[Aye, aye|Of course]!" said {who}.
        """


@plot
def noise_at_night(rng):
    noise, source = pick(
        rng, ("Tap, tap, tap", "[a branch|a loose string] that knocked on the [window|glass]"),
        ("Creak, creak", "the old [gate|door of the barn], which moved a little"),
        ("Scratch, scratch",
         "[the cat, who wanted to come in|a mouse with a nut that was too big for it]"),
        ("Bump, bump", "[the calf in the barn, who kicked the wall|the dog, who had a bad dream]"),
        ("Hoo, hoo", "[an owl on the chimney with her baby|a big owl that sat on the barn]"))
    own = dict(noise=noise, low=noise.lower(), source=source)
    look = pick(rng, """
        - {name} pulled the blanket over {his} [ears|head], but [there it was again|it did not
          stop]: {low}.
        / {name} [closed {his} eyes|lay very still], but the noise [came again|did not stop].
        - "[I must know|A noise is only a noise]," {he} [told {himself}|whispered], and {he}
          [slid|climbed] out of bed.
        / {name} put one foot out of bed, and then [the other|one more].
        - The floor was cold as {name} [crept|walked softly] to the [window|door] and looked.
        / Step by step {name} went to the [window|door] and [opened it a little|looked out].
        """, """
        - {name} ran to {mum}. "There is [a monster|something] [out there|in the dark]," {he} said.
        / "{mum}, {mum}! [I hear something|Something is there]!" [called|cried] {name}.
        - "[Then we will say good evening|Let us go and see]," said {mum}, and she took [a
          lamp|{his} {hand}].
        / "[Do not be afraid|We will find out]," {mum} said, and they took a lamp.
        - Together they [went down|crept along], one step [at a time|after another], and
          [listened|looked round the corner].
        / {mum} went first, and {name} [came behind|held on to her coat].
        """, """
        - {name} woke {friend}, who [slept in the other bed|was there for the night]. "[Do you hear
          that|Listen]!"
        / That night {friend} slept there too. "[Do you hear it|Did you hear that]?" {name} asked.
        - {friend} [sat up|heard it too]. "[Is it a bear|It is a robber]," {fhe} said, [not helping
          at all|and {fhis} voice shook].
        - With [a pillow|a big spoon] and [a lamp|one shoe], the two of them [went|crept] to [find
          out|look].
        / Then they [went to look|got up], {name} with a lamp and {friend} with a [shoe|pillow].
        """)
    return own, """
        - {noise}! {name} [sat up in bed|opened {his} eyes] in the [middle of the night|dark].
        / The moon was [up|round] and the house was [quiet|asleep], but {name} the {kind} was [wide
          awake|not].
        / {name} was [nearly asleep|in bed] when {he} heard a [strange|funny] noise.
        / "What was that?" [whispered|said] {name} in the [dark|black night].
        / One night, long after supper, {name} [woke up|could not sleep].
        - [Not far off|In the house], something went {low}, and then it was [quiet|still].
        / {low}, it went, [first softly|three times], and then there was no sound [at all|but the
          clock].
        ? {name} [thought of|counted] all the things it might be: [a bear|a dragon], [a giant|a
          monster], or [a robber|something bad].
        / {he} [held|hugged] {his} pillow and thought of [a giant with big feet|a dragon|a bear].
        ? In the dark, [the chair|{his} coat on the door] looked like [a bear|an old giant], and
          {name} [shook|closed {his} eyes].
        / {his} heart [beat|went] so [loud|fast] that {name} could [hear it|feel it in {his} ears].
        ? {low}, it went [again|once more], and [this time|now] it was nearer.
        """ + look + """
        - It was {source}. That was all!
        / And there was {source}. [No monster|No giant] at all!
        / And what was it? It was only {source}.
        / There was no [monster|giant|robber]. There was only {source}.
        ? {name} [laughed softly|let out {his} breath] and said, "[Good night, you funny thing|So it
          was you]!"
        / "[So that is what it was|Hello there]!" said {name}, and {he} [laughed|began to laugh].
        ? Some warm milk helped as well.
        ? {name} went back to bed, and now the [noise|sound] was like a [song|friend].
        / "Good night," {name} said to the noise, and {he} [climbed into|went back to] bed.
        / Back in {his} warm bed, {name} [listened|smiled] and was asleep before [the next
          one|long].
        - In the morning {he} told the [story|tale] at [breakfast|the table], and it had [a giant|a
          dragon] in it.
        / Since then, when there is a noise, {name} [goes and looks|sits up and listens] and is not
          afraid.
        / {name} [told {gran}|ran to tell {gran}] about it, and {gran} said, "What a brave {kind}
          you are!"
        """


@plot
def loose_tooth(rng):
    out = pick(rng, """
        - {friend} said, "A string and a door will do it!" But {name} [did not like that|said no] at
          all.
        / {friend} [came with|found] a long string and wanted to pull the tooth. "No, thank you!"
          said {name}.
        - So {he} [waited|left it alone] and bit into [an apple|a pear|a carrot] instead, and out it
          came.
        / {name} [forgot about it|went to play] and ate an apple, and there was the tooth, in the
          apple!
        - "[Look|I did it]!" said {name}, and {his} words came out through the [gap|hole].
        / {name} ran [to {mum}|home] and [showed|held out] the tooth. "It did not hurt [at all|a
          bit]!" {he} said.
        """, """
        - Then, in the middle of a [song|big laugh], the tooth [flew|shot] out and [was gone|rolled
          away].
        / {name} [laughed|sneezed] so hard that the tooth jumped out and was gone.
        - Everyone got down on the floor to look. It was not [under the table|near the door].
        / {name} looked for it under the [table|chair|bed], and {mum} looked in every [cup|shoe].
        - {friend} found it at last [inside a shoe|in the soup|in the cup of milk], and {name}
          [laughed|cheered].
        / "[Here it is|I have it]!" called {friend}. It was in the [milk|soup], and {name} had to
          laugh.
        """, """
        - {name} was afraid that it would hurt, so {he} [ate only soup|would not bite anything].
        / Would it hurt? {name} [ate only soup|drank only milk] that day and did not [laugh|talk].
        - "[A new one is coming|It makes room for a new tooth]," said {mum}. "Let it go."
        - That night {he} [turned it|pushed it] with {his} tongue one [last|more] time, and it
          [fell|came] out [|like a leaf|without a sound].
        / In the [morning|night] the tooth lay in {his} {hand}, and it had not hurt [at all|one
          bit].
        """)
    return {}, """
        - One of {name}'s teeth was loose, [and it was all {he} could think of|at last].
        / Wobble, wobble! {name} pushed {his} tooth with {his} tongue [|at breakfast|all day].
        / "My tooth is loose!" [said|shouted|cried] {name} {day}.
        / {name} was {a_little} with [one|a] very loose tooth.
        / {day}, {name} bit into a [carrot|bun] and felt [something move|a tooth move].
        ? {friend} had lost [three|two] teeth [already|before], and {name} did not want to be
          [last|left behind].
        / Everyone in {his} class had a gap to show, even the teacher.
        - {name} pushed it [left and right|forward and back|this way and that], and it [moved like a
          door|hung by a string].
        / {he} [looked at it|showed it] in a spoon, in the window and in the [river|mirror].
        ? At school {he} [wobbled|moved] it so much that {he} did not hear the teacher [call {his}
          name|say a word].
        / {name} could [hardly|not] eat {his} [lunch|bread], and {he} drank [milk|soup|juice]
          through a straw.
        ? {dad} had a look and [shook his head|said, "It may come out on Friday"].
        ? The baker [said|promised] that he had lost all of his in [one|a single] year.
        """ + out + """
        ? The tooth was [tiny|small and white], and {name} [washed|dried] it and put it in a
          [box|cup].
        / {name} held up the tooth. How small it was, [after so much trouble|now that it was out]!
        ? [In the mirror|When {he} smiled], there was a little dark door between {his} teeth.
        ? {he} put it [under the pillow|beside the bed], and in the morning there was a [coin|shiny
          button] [there|instead].
        / That night {name} laid it under {his} pillow and [tried to stay awake|fell asleep with a
          smile].
        - "[Good night, old tooth|Hello, new tooth]," said {name}, and {he} [smiled|grinned] at
          [everyone|the whole village].
        / Soon a new one [came up|grew] in its place, [bigger|stronger] than the [first|old] one.
        / And {name} [found|saw] that with a gap {he} could [whistle better|blow bubbles in milk].
        """


@plot
def race(rng):
    own = dict(prize=pick(rng, "a gold cup|a big cake|a blue ribbon|a basket of pears"
                               "|a silver bell"))
    run = pick(rng, """
        - {name} was in front when {friend} the {fkind} fell on a [root|stone] and cried out.
        - {he} looked at the [end|red flag], so close now. Then {he} looked back at {friend}.
        - {name} turned round. "[Hold on to me|Put your arm around me]," {he} said, and they [went
          on|walked] together.
        - They came in last of all, but [everyone clapped|the cheer was the best of the day].
        """, """
        - {friend} ran off very fast and was soon far ahead, but {name} ran [slowly and well|without
          a stop].
        - On the hill {friend} [sat down on a log|had no breath left]. {name} [came nearer and
          nearer|went by with small steps].
        - One more hill, one more [bridge|gate], and {name} [was there|came] first!
        - "I [ran too fast too soon|should not have stopped]," said {friend}. {name} [gave {fhim}
          some water|patted {fhis} back].
        """, """
        - Halfway, {name} [took|saw] a short way through the [wood|barn]. Nobody would [see|know].
        - {he} [went in|took two steps], and then {he} [stopped|felt bad]. That was not [fair|a real
          race].
        - So {he} went back to the road and ran [faster|with all {his} strength], but {friend} won
          by a [nose|foot].
        - "You ran [well|so fast]!" said {name}, and {he} [meant every word|shook the winner by the
          {hand}].
        """)
    return own, """
        - [Every year|Each summer] there was a race from the mill to the [bridge|bench|tower].
        / "Ready, go!" [shouted|cried] the [teacher|baker|farmer], and off ran {name} the {kind}.
        / {name} and {friend} both wanted to be first in the race [on Friday|that year|more than
          anything].
        / {name} was not the fastest, but {he} [loved to run|never missed a race].
        / "I am the fastest [of all|one here]," said {friend} to {name}, [with a laugh|with {fhis}
          nose in the air].
        ? The [winner|first one home] would get {prize}, and {name} had [dreamed|thought] of it [all
          week|since Monday].
        / There was {prize} for the winner, and [all the village|everyone] came to [watch|see].
        ? {name} had run each day before breakfast, [|up the hill and down|round and round the
          barn].
        / That day {name} ate a good breakfast and [tied {his} scarf|ran out to the road].
        - [Past the barn|Over the grass] they ran, [across the stream|along the fence] and up the
          [long|green] hill.
        / Feet [flew|beat] on the road, and {name} felt {his} heart [jump|go like a drum].
        ? A [dog|duck|hen] ran with them for a while and then gave up, which made {name} laugh.
        ? The sun was hot and the [road|way] was long.
        """ + run + """
        ? "[What a race|That was a good run]!" said {dad}, who [had watched|had lost his voice].
        ? Afterwards they all [sat|lay] in the grass and drank [cold juice|water from the well].
        / {name} and {friend} [walked|went] home together with [red faces|sore feet] and tired legs.
        - "[Next year|On Monday] we run again," said {friend}. "[Yes|Of course]," said {name},
          "[side by side|you and I]."
        / To run well, {name} [thought|decided], is good. To be [fair|a friend] is better.
        / {name} [slept|dreamed] that night with {his} running shoes [on|under the bed].
        / {mum} asked {name} who won. "[We had fun|We both did our best]," {he} said.
        """


@plot
def hide_and_seek(rng):
    own = dict(spot=pick(rng, "inside the old barn|behind the big log|under the bench"
                              "|in the empty basket|in the hollow tree|under the table in the shed"
                              "|in the little cave|behind the tower"))
    found = pick(rng, """
        - {name} waited and waited. [No one came|Nobody found {him}], and {his} leg [went to
          sleep|hurt].
        - It was so [quiet|warm] there that {his} eyes closed, and {he} [fell asleep|began to
          dream].
        - When {he} woke up, {he} heard "{name}! Where are you?" They were [all|very] worried.
        - {he} [ran|climbed] out at once. "Here I am! [I am sorry|I only fell asleep]," said {name}.
        """, """
        - But someone was [there already|in that place]. Two [yellow|round] eyes looked at {name}.
          It was the cat!
        - The animal made [such a noise|a great noise], and {friend} came running.
        - "[Found you|I see you], {name}!" {fhe} cried. "[Your friend is too loud|That is a noisy
          place]."
        - They looked [closer|into the straw], and there lay [four|three|five] [tiny kittens|warm
          little ones].
        """, """
        - {friend} [walked past|went by] once and [came back|stopped], so close that {name} could
          see {fhis} shoes.
        - {name} held {his} breath. Then {his} [tummy made a noise like a frog|nose felt funny, and
          {he} sneezed].
        - "I [heard that|know that sound]," said {friend}, and {fhe} [looked in|bent down]. "There
          you are!"
        - They both [laughed|giggled] until they could not stand.
        """)
    return own, """
        - "[Nine, ten|One, two, three]," counted {friend}, and {name} [ran off|looked for a place].
        / {name} [knew|had found] the best place in the [village|world] for hide and seek.
        / {day}, {friend} came to play hide and seek with {name}.
        / At hide and seek nobody was [as good as|better than] {name} the {kind}.
        / In the [big|old] garden {name} and {friend} played hide and seek [|after school|after
          breakfast|all afternoon].
        ? {friend} was the one to look, and {fhe} [shut|covered] {fhis} eyes [by the wall|at the
          door] and counted.
        / It was now the turn of {friend} to count, and {fhe} stood with {fhis} face to the
          [tree|barn door].
        ? {name} [ran this way and that|looked all about]. [The bush was too small|The cart was too
          high], and the door did not open.
        / First {name} [tried|stood] behind the [chair|bush], but {his} feet [stuck out|could be
          seen].
        - Then {he} [had an idea|made up {his} mind] and [hid|crept] {spot}.
        / {name} [thought|saw] where to go. {he} [hid|sat down] {spot} and kept as still as a stone.
        ? [A bee|A small frog] walked over {his} [arm|ear], but {name} did not [move|make a sound].
        ? "Ready or not, here I come!" called {friend}.
        """ + found + """
        ? "[Now I hide|My turn]," said {friend}, and {name} began to count [|with both eyes shut|as
          slowly as {he} could].
        / {friend} hugged {name}. "That was [the best place|a good place] of all," {fhe} said.
        ? They played until [supper|the sun was low], and then {mum} called them in for [soup|warm
          bread].
        / Later they [sat on the grass|went inside] and drank [apple juice|cold milk] from big cups.
        ? {name} had [straw|leaves] in {his} [hair|ears] for the rest of the day.
        - Hiding is fun, {name} [thought|said to {mum}], but to be found is the best part.
        / "You found me fast," said {name}. "You hid well," said {friend}.
        / And where will {name} hide [next time|on Monday]? [That is a secret|{he} will not tell].
        """


@plot
def gift_for_mother(rng):
    own = dict(first=pick(rng, "a gold ring|a red hat|a green scarf|a silver bell"))
    make = pick(rng, """
        - "[I cannot buy that|I have too little]," {he} said to {friend}. "Then [make|draw]
          something," said {friend}.
        / "What [can|shall] I do?" {he} asked {friend}. "You can [paint|draw]," said {friend}.
        - {name} took paper and [paint|pencils] and [sat at the table|worked under the bed], where
          nobody could look.
        / So {name} [got out|found] {his} paints and [made|began] a picture [of {mum}|in secret].
        / {name} [found|got] some paper and sat [under the table|behind the door] all [day|morning].
        - {he} drew {mum} with [long arms|a big smile] and {himself} beside her, [close by|as small
          as a mouse].
        / First {he} drew the [face|eyes] of {mum}, then {his} own, and [last|then] a red heart.
        / It was a picture of {mum}, with [a red hat|a blue coat], under a [big yellow sun|tree].
        ? The [yellow|blue] paint [ran|went] over the edge, but the smile was right.
        """, """
        - So {name} [went along the river|walked over the bridge] and [looked for|picked] flowers,
          one of [each kind|every colour].
        / "[Flowers|Some flowers] will make her happy," said {name}, and {he} went [up the hill|over
          the bridge] to find some.
        / By the river {name} [looked for|picked] the best flowers, [red|white] and [blue|yellow].
        - A [goat|cow] [looked|leaned] over the gate and ate [all of them|every one] but the last.
        / {name} laid the flowers on a bench to [drink|rest], and a [cow|duck|goat] ate all but one.
        / On the way home {name} met a [hungry|bad] goat, and soon only one flower was left.
        ? {name} [looked at|held] the one small flower and [nearly cried|did not know what to do].
        - {he} put it in a [cup|glass] of water and [tied|put] a [ribbon|string] around it [|with
          care|all the same].
        / One flower is better than none, {name} [thought|said], and {he} gave it [fresh|cold]
          water.
        / {name} [carried|took] it home, gave it water, and tied a [red|blue] ribbon on it.
        """, """
        - {name} [asked|went to] the baker. "May I [work|wash the floor] for a cake?" "[Why not|Yes,
          you may]," said the baker.
        / "I [can|will] work for a cake," {name} told the baker, and the baker [smiled|was glad].
        / The baker needed help, and {name} [worked|could work] in the shop for a [small|honey]
          cake.
        ? All [day|afternoon] {he} [swept|wiped] and carried [bags|boxes], and there was flour [on
          {his} ears|in {his} nose].
        - In the evening the baker gave {him} a [little|round] cake, still warm, with one
          [cherry|nut] on top.
        / "This is for you," said the baker, and it was a [warm|small] cake with a [nut|plum] on
          top.
        - {name} carried it home [like an egg|in both {hands}] and did not [eat|lick off] one crumb.
        / {name} took it home [under {his} coat|in a box] and did not [eat|touch] it.
        """)
    return own, """
        - [Tomorrow|On Friday] was {mum}'s birthday, and {name} had no gift.
        / {name} the {kind} opened {his} box. [Two|Three|Four] coins fell on the bed.
        / "What [can|shall] I give {mum}?" {name} asked {himself} {day}.
        / {mum} never asked for anything, and so {name} [wanted|hoped] to give her something
          [nice|good].
        / {name} wanted to give {mum} [the best gift|something very good], but {he} had so little.
        / Clink, clink! {name} counted [four|five|three] small coins [|on the table|in {his} bed].
        - In the shop window {name} saw {first}, but {he} did not have enough money for it.
        / There was {first} in the shop, and {name} [wished|wanted] to buy it for {mum}.
        / {name} had [dreamed|thought] of {first}, but that was too much for {his} coins.
        ? {he} [walked|went] home [slowly|again] with {his} head down.
        / {name} [sat down|thought about it] on the bench [by the mill|near the shop], [|as sad as
          could be|with {his} chin in {his} {hands}].
        ? A gift did not have to be [big|gold], did it?
        """ + make + """
        ? In the morning {name} stood at the [door|bed] of {mum} and [sang|said], "Happy birthday!"
        / The next day {name} [ran|went] to {mum} [with it|before breakfast] and sang a birthday
          song.
        / Then it was time, and {name} [held it out|gave it to her] [|without a word|with pink
          cheeks].
        / At breakfast {he} [put it next to|set it beside] her plate and [waited|watched] with big
          eyes.
        ? "It is [not much|only small]," {name} [said|whispered].
        - When {mum} saw it, she [said nothing|was quiet] for a moment and then hugged {name}.
        / {mum} [looked and looked|smiled], and there were [happy|big] tears in her eyes.
        / "[Did you do this|Is it for me]?" asked {mum}. Her eyes were [wet|bright].
        - "[It is better than|I like it more than] {first}," she said, and it was true.
        / "You are my best gift," said {mum}. "This [one comes|comes] next."
        / "I [like|love] this so much more than {first}," {mum} said, and she held {name} close.
        / "I have never had a [better|finer] gift," said {mum}, and {name} [felt ten feet tall|was
          {glad}].
        ? The best gifts, {name} [learned|found], [are made with love|do not come from a shop].
        / That [evening|day] they ate [cake|supper] together, and {mum} [smiled and smiled|would not
          stop smiling].
        / {name} [gave her|had] one more thing for her: a [kiss|big hug], and then [another|ten
          more].
        / They [sat|stayed] at the table [all morning|a long time], {mum} and {name}, and
          [talked|laughed].
        """


@plot
def baking(rng):
    own = dict(bake=pick(rng, "bread|plum cake|apple pie|honey cake|jam rolls"),
               helper=pick(rng, "the baker|Grandma|Dad|Aunt Jo"))
    wrong = pick(rng, """
        - {name} put in a cup of sugar. At least, [it looked like sugar|{he} thought so].
        / {name} took a cup from the table. Was it sugar? {he} thought so.
        - When it was done, {helper} took a bite and [made a face|drank three cups of water]. It was
          salt!
        / {helper} took one bite and [ran for water|could not eat it]. It was full of salt!
        ? {name} tried it too. "[Oh dear|Oh no]! That is awful," {he} said, and they both began to
          laugh.
        - "[We all do that one time|I did that too]," said {helper}. "Now we begin [again|once
          more]."
        / {helper} only laughed. "[Now we know|Never mind]," {helper} said, and they began again.
        """, """
        - Then {name} [ran out|went outside] to play [with {friend}|with the dog] and [forgot|did
          not think of] the oven.
        / It had to be in the oven for [a long time|a while], so {name} went out to play.
        - [A black smell|Smoke] came [under the door|from the window]. "[Smoke|The oven]!" shouted
          {helper}.
        / When {name} came back, there was smoke [in the kitchen|at the door].
        ? It had all [turned black|gone as hard as a stone]. {name} [hung {his} head|had tears in
          {his} eyes].
        - So they began again, and this time {name} sat [in front of the oven|by the clock] and [did
          not move|waited].
        / They made it all again, and {name} [stayed by|did not leave] the oven this time.
        """, """
        - {name} [stirred|worked] so fast that a [white|big] cloud [rose|flew] up, and {he} sneezed.
        / Round and round went the spoon, faster and faster, and {name} [laughed|sneezed].
        - Flour [went|flew] everywhere: on the [table|clock], on the cat, and all over {helper}.
        / There was flour on the floor, on the [chair|wall] and on {helper}.
        ? For a moment it was quiet. Then {helper} [put|blew] a little flour on the nose of {name}
          and laughed.
        - "[Slowly now|A spoon is not a drum]," said {helper}, and {name} [stirred|turned the spoon]
          round and round, [|very gently|as if asleep].
        / "[Now we clean up|We look funny]," said {helper}, and {name} began to clean the table.
        """)
    return own, """
        - {name} [wanted to|was going to] make {bake} all by {himself}, or [almost|nearly].
        / "[Can|May] I help you?" asked {name} the {kind}, for {helper} was making {bake}.
        / "Wash your {hands} first," said {helper} to {name} {day}.
        / In the [warm|small] kitchen stood {name} the {kind}, with a [white|long] apron down to
          {his} toes.
        / {day}, {helper} [showed|taught] {name} how to make {bake}.
        / Crack! {name} broke [an|the first] egg on the side of the bowl.
        ? On the table there was flour, [milk and butter|eggs and milk], and a [big|blue] bowl, and
          {name} had a [big spoon|box to stand on].
        / {helper} [knew|had] the best way to make {bake}, and {name} [listened to every word|tied
          on an apron].
        ? {name} [put in|measured] the milk and [counted|broke] the eggs, and only [one|a bit of
          shell] fell on the floor.
        / First {name} put in the flour, then the butter, and {he} [licked|did not lick] {his}
          [thumb|fingers].
        - {he} [hummed|sang] as {he} worked, and {his} [sleeves|ears] turned white.
        / {name} [stood|worked] at the [big|old] table until {his} {hands} were white.
        / The bowl was [heavy|big], so {name} held it [tight|close] with one arm.
        / {name} [asked|wanted to know] how {bake} is made, and {helper} [told|showed] {him} it all.
        """ + wrong + """
        - At last the {bake} came out of the oven, [warm|round] and sweet.
        / This time all went well, and the {bake} [smelled|looked] so good.
        / {helper} opened the oven door, and {name} [saw|smelled] the {bake}, [done at last|looking
          fine].
        ? "[Careful|Not yet], it is hot," said {helper}. To wait was not easy.
        ? {name} took some to {friend}, who [ate it all|asked for more].
        - They ate the {bake} with [jam|cold milk|butter] [at the table|on the steps], and nobody
          said a word.
        / {name} [cut|gave out] the {bake}, and everyone [ate|smiled] and wanted more.
        / The [farmer|teacher|whole family] [came by|followed the good smell] and [stayed|asked] for
          some.
        - "[Who made this?|This is good!]" said {gramp}. "[I did|It was me]," said {name}, "with a
          little help."
        / {name} [swept|washed] the kitchen floor [after that|until it shone], for that is part of
          baking too.
        / {name} [took|gave] some to {friend} the next day, and {friend} asked for more.
        / {mum} [ate|tried] some and said, "[This is the best|You can make this again]!"
        / {name} [wrote|drew] it all down, so that {he} could make {bake} again on [Friday|Monday].
        """


@plot
def waiting_for_a_chick(rng):
    own = dict(bird=pick(rng, "duck|hen|goose"))
    own["young"] = dict(duck="duckling", hen="chick", goose="chick")[own["bird"]]
    wait = pick(rng, """
        - {name} took the egg in both {hands} and [shook|knocked on] it. "[Come out|Hello in
          there]!" {he} said.
        / {name} could not wait. {he} picked up the egg and [knocked|blew] on it.
        - "[Gently|No, no]!" cried the farmer. "You cannot open it from the outside. It [is not
          ready|needs time]."
        / "[Put it back|Stop], {name}," said the farmer. "[It is not ready|It must stay warm]."
        - {name} put it back under the {bird} and [sat on a log|sat down in the straw] to wait,
          [this time|softly].
        / So {name} laid the egg [under the {bird}|in the nest] and went home to wait.
        """, """
        - {friend} [shouted|called] from the road, "[Come and play|Leave that old egg]!" {name}
          [wanted to go|looked up].
        / "[Come and play|Come to the river]!" called {friend}. {name} looked at the door.
        - But {he} had [promised the {bird}|told the {bird} that {he} would stay], and so {he}
          [stayed|shook {his} head].
        / "I [must|want to] wait," said {name}, and {he} did not [go|get up].
        - After a while {friend} [sat down there as well|came in too], and they [waited|whispered]
          together.
        / So {friend} came in, sat in the straw and waited [too|with {name}].
        """, """
        - One evening the {bird} [got up and left|went out to eat], and the egg [began to feel|lay
          there] cold.
        / Then the {bird} went [to the river|out to eat], and nobody kept the egg warm but {name}.
        - {name} took off {his} [scarf|coat], put it around the egg and [held it|blew on it] [|until
          she came back|with warm breath].
        / {name} put {his} [scarf|coat] around the egg and sat [close by|with it] until she came
          back.
        - The {bird} looked at the warm egg, looked at {name}, and sat down again [|with a nod|as if
          to say thank you].
        """)
    return own, """
        - The {bird} of the farmer sat on one egg in the corner of the barn.
        / "When will the {bird} egg hatch?" asked {name} in the barn.
        / {name} was {a_little} who wanted to see a {bird} egg hatch.
        / Wait, wait, wait! {name} the {kind} was waiting for a {bird} egg to hatch.
        / {day}, the farmer showed {name} [a nest|an egg] in the [dark|warm] barn.
        ? The egg was [white|pale], and under the {bird} it was kept [warm|safe] all day [and all
          night|long].
        / In the nest of the {bird} lay [a single|one big] egg, [smooth and round|with brown spots].
        - "It will take [ten|six|nine] more days," the farmer [said|told {him}], and to {name} that
          was for ever.
        / {name} [asked|counted] every day. "Now? [Is it time|Today]?" And the farmer said, "Not
          yet."
        ? On Monday nothing [happened|moved], and on Friday nothing [happened|moved] either.
        / {name} came [before breakfast|before school] and [looked|came again after supper], and the
          egg was just an egg.
        ? {he} [drew lines on the door|put stones in a row], one for every day.
        ? "Waiting is [so slow|hard work]," {name} [told|said to] the {bird}.
        """ + wait + """
        ? Then [one day|at last] there was a [small|tiny] sound: [peck, peck|tick, tick].
        / And then {name} saw a line [on the egg|in the shell], as thin as a hair.
        - The shell broke, and out [came|rolled] a wet {young} with [big feet|its eyes shut].
        / A [small|yellow] foot came out, then a head, and then a whole {young}.
        ? "[Happy birthday|Hello, you]," whispered {name}.
        ? The {young} looked at {name} and gave a [small|happy] cry. It had been worth every minute.
        / {name} did not [move|say a word], for the {young} [sat|fell asleep] in {his} {hands}.
        - After that, when {mum} said "Wait a little," {name} [could|only smiled and waited].
        / Some things, {name} told {mum}, [come when they come|cannot be pushed].
        / And now the {young} is always behind {name} on the farm, and {name} must wait for it.
        """


@plot
def unkind_word(rng):
    own = dict(thing=pick(rng, "picture|hat|song|mud house|red coat"),
               word=pick(rng, "silly|funny old|bad|awful"))
    sorry = pick(rng, """
        - {name} [went|walked] to {friend}'s house and stood [in front of|at] the door [|for a long
          time|with {his} head down].
        - When it opened, the words [came out|fell out] in a heap. "I am sorry. I was [mean|cross],
          and it was not true."
        - {friend} [thought|looked at {fhis} toes]. "It [hurt|made me cry]," {fhe} said. "But [I
          missed you|thank you for coming]."
        """, """
        - {he} could not [say it|find the words], so {name} [took some paper|sat at the table] and
          wrote a letter.
        - "Sorry" was [hard to write|the first word], and {name} made it [big|red], with a
          [flower|heart] [under it|beside it].
        - {friend} read it [on the bench|at the gate], [folded it|read it again], and came to find
          {name}.
        """, """
        - "A word is like [a stone|a ball]," said {gran}. "Once you throw it, [you cannot call it
          back|it is gone]."
        - "[Then what can I do|Is it too late]?" asked {name}. "[Say sorry and mean it|A good word
          can help a bad one]," said {gran}.
        - So {name} ran [all the way|over the bridge] and said it, loud and clear: "I am sorry,
          {friend}!"
        """)
    return own, """
        - {name} [woke up|got out of bed] sad and cross [|one Monday|on Friday|one morning].
        / {friend} was [proud of|so happy with] {fhis} new {thing}, and {fhe} showed it to {name}.
        / {name} and {friend} were best friends and were never cross for long.
        / {day}, {name} the {kind} said something that {he} did not mean.
        ? It had been a bad morning for {name}: [no milk|cold soup], [one lost shoe|a bump on the
          head] and a lost [book|button].
        / {name} was cross, because {he} had [lost {his} ball|lost a game] [at school|that morning].
        ? When {friend} asked {name} to look at the {thing}, {name} hardly [looked|turned {his}
          head].
        / {friend} had worked on the {thing} [all week|since Friday] and wanted {name} to see it
          [first|before anyone].
        - "That is a {word} {thing}," {name} said to {friend}, [|without thinking|before {he} could
          stop {himself}].
        / {name} looked at {friend}'s {thing}. "[How {word}|It looks {word}]!" {he} said[| with a
          laugh].
        / "{word}" was the word that {name} used for {friend}'s {thing}, and {he} said it [out
          loud|with a laugh].
        - {friend} said nothing. {fhe} [took|picked up] the {thing} and [went home|walked away over
          the grass].
        / The [smile|light] went out of the face of {friend}, and {fhe} [turned|walked] away.
        ? Now it was very quiet, and {name} [kicked a stone|had nobody to play with].
        ? At lunch the [soup|bread] did not taste of anything, and {name} [left it|pushed it away].
        """ + sorry + """
        ? "[Now let me see it|May I look again]," said {name}, and this time {he} looked
          [hard|well].
        / {name} asked to see the {thing} [once more|again]. It was really [good|nice], and {he}
          said so.
        ? {friend} [smiled|laughed], and the [sun|whole day] [came back|was bright again].
        / They shook {hands} [on it|like two kings], and that was [the end of it|that].
        - From then on, {name} [thought|counted to three] before {he} spoke on bad days.
        / And the rest of the day they [played|made another {thing}] [|together|side by side].
        / Sorry is a [short|small] word, but it can [mend|carry] [a lot|big things].
        """


@plot
def treasure_map(rng):
    own = dict(place=pick(rng, "in an old book|under the bed|inside a bottle|behind a picture"
                               "|in the pocket of an old coat"))
    end = pick(rng, """
        - {he} dug until the spade hit something hard. It was a tin box, [brown|red] with age.
        / They dug [a deep hole|for a long time], and there was a [small|red] tin box.
        - Inside lay a letter: "[Dear finder, I hid this when I was six|These are my best things].
          {gramp}."
        / In the box was a letter [from {gramp}|with the name of {gramp} on it].
        ? There were [old coins|buttons], a [toy horse|silver bell], and a [blue|round] stone, and
          {name} ran home to {gramp}.
        - {gramp} [laughed until he cried|had tears in his eyes]. "I [forgot|looked for] that for
          [so many|a hundred] years!" he said.
        / "[My old box|You found it]!" said {gramp}, and he [hugged {name}|had to sit down].
        """, """
        - {he} dug and dug, but there was [only earth|nothing at all] in the hole.
        / They dug [all afternoon|a big hole], but they found [no gold|nothing].
        ? "[Somebody was here first|We are too late]," said {friend}, [with a sad face|and {fhe} sat
          down].
        - Then {name} looked up. There hung [a hundred|so many] [apples|plums], as red as fire.
        / {name} lay down under the tree and looked up. It was full of [red apples|plums]!
        - "[There it is|That is the treasure]!" {he} cried, and they [filled their hats|ate until
          they were full].
        / So that was the treasure! They [ate|picked] and [laughed|ate] until [supper|they were
          full].
        """, """
        - There was no gold. There was a [door|gate], [small|green] and half covered by leaves.
        / Behind the leaves {name} found a [little|green] door, but no gold.
        - {name} pushed, and it [opened|swung back] with a [squeak|cry]. Behind it lay a
          [lost|secret] garden.
        / The door opened [slowly|with a cry], and they [stood|were] in a secret garden.
        ? Flowers [grew|climbed] over an old bench, and a little stream sang in the grass.
        - "[Let us keep it secret|This shall be our place]," said {name} to {friend}, and they shook
          on it.
        / "This is our garden now," said {name}, and {friend} [nodded|danced over the grass].
        """)
    return own, """
        - {name} found a map {place}.
        / "[A map|Look]! [A real treasure map|It is a map]!" cried {name} to {friend} {day}.
        / {place}, where nobody had looked for years, lay a map.
        / {day}, {name} the {kind} found [a yellow|an old] piece of paper {place}.
        / {name} had always wanted to find treasure, and {day} {he} found a map.
        ? On the paper there was [a river|a hill|a cave], a [mill|tower], and a big red cross.
        / {name} [spread|laid] the map on the table. Somebody had drawn a [bridge|barn] on it, and a
          cross.
        - {he} [went|ran] to {friend}, who had a [good spade|long string], and off they
          [went|marched].
        / {name} [showed it|took it] to {friend}, for such a thing needs two.
        ? "[Ten|Twenty] steps from the mill," {name} read, and they [counted|took] [every one|them]
          out loud.
        / First they [went over|crossed] the bridge, then they [turned left|walked on] at the
          [old|tall] tower.
        ? They [looked into|crept past] a [dark|deep] cave, but there was nothing in it but [old
          leaves|stones].
        ? {name} fell over a [log|root] and got up again [|without a word|at once].
        - At last they came to [a big tree|a wall], just where the red cross [was|should be].
        / {name} and {friend} looked [behind a barn|under a bench|near a log], and there was the
          place with the cross.
        / Then {name} stopped. "[Here it is|This is the place]," {he} said. "[Do you see?|Look at
          the map.]"
        """ + end + """
        ? Nobody had ever had such a day.
        - {name} [put|hung] the map [over {his} bed|back for the next finder].
        / That night {name} drew a new map, with a new cross, and [hid|put] it where only [you|a
          child] might look.
        / It was better than gold, {name} [thought|said], and {friend} [thought so too|agreed].
        / They [came home|got back] late for supper, dirty from head to toe and very [glad|happy].
        / "[Shall we|Can we] look for more [tomorrow|on Monday]?" asked {friend}, and {name}
          [laughed|nodded].
        """


@plot
def school_day(rng):
    own = dict(teacher=pick(rng, "Miss Green|Mr Stone|Mrs Bell|Miss Lake"))
    turn = pick(rng, """
        - Then {teacher} asked who could name all the days. {name} could, but {he} was shy.
        - "[You know it|Go on, {name}]," [whispered|said] {friend}.
        - Up went one {hand}. {name} said them all, from Monday to Sunday, [loud and clear|without a
          mistake].
        """, """
        - At [lunch|break], {name} [opened|looked in] {his} bag, and there was no lunch in it.
        - {friend} [broke a bun|cut a cheese roll] in two and pushed one half across the table.
        - "Are you sure?" asked {name}, but {friend} only said, "[Eat|Friends do that]."
        """, """
        - {name} [wanted|tried] to draw a horse, but it [looked like|turned into] a potato with
          legs.
        ? Someone laughed, and {name} [went red|covered the paper with both arms].
        - But {teacher} [held it up|came over]. "[It looks happy|Tell us about it]," said {teacher}.
        - So {name} told [a tale|them] of the potato horse that [flew|ran] to the moon, and everyone
          wanted one.
        """)
    return own, """
        - It was the first day of school, and {name} [held on to|would not let go of] {mum}.
        / Ring, ring! The school bell rang, and {name} the {kind} [was not ready|stood at the gate].
        / "I do not want to go to school," said {name} [at breakfast|from under {his} blanket] on
          Monday.
        / {name} had a new [bag|coat] and a new [hat|book], but no new friends yet.
        / The school stood [next to the church|behind the mill|near the bridge], and [on Monday|one
          morning] {name} went there.
        ? [The room was big|There were so many faces], and {his} tummy felt [full of bees|like a
          knot].
        / {name} looked [at all the chairs|round the room] and did not know where to [sit|go].
        - The teacher was called {teacher}, and {name} liked [that kind face|the kind smile].
        / {teacher}, the teacher, had [a soft voice|a loud laugh|paint on both sleeves].
        - {name} was given a seat beside {friend}, who had [a box of pencils|two loose teeth].
        / Next to {name} sat {friend}, a {fkind} who [smiled at {him}|hummed all the time].
        ? In the morning they [learned a song|counted beans], and {name} [forgot to be sad|began to
          smile].
        / They [painted|read] first, and then {teacher} [told a story|read to them] about a
          [bear|ship].
        ? On the wall hung a [map|picture of a tower], and {name} [looked at it|liked it].
        """ + turn + """
        ? Out in the yard they played [ball|catch] on the grass until the bell rang again.
        ? "[Good work today|You were brave today]," said {teacher} at the door.
        ? When {mum} came, {name} did not want to [leave|go home yet].
        / After school {name} [talked|told {mum} about it] all the way home [without a stop|and all
          through supper].
        - "[Will you go back|Do you want to go] tomorrow?" asked {mum}. "[I have to|Yes]! {friend}
          [is waiting|needs me]," said {name}.
        / {name} put {his} bag by the door, [ready|packed] for the next day.
        / And before {he} slept, {name} taught {his} [bear|pillow] everything {he} had learned.
        """


@plot
def sick_friend(rng):
    own = dict(ill=pick(rng, "a cold|red spots|a sore nose|a bad cold|a sore tummy"))
    help_ = pick(rng, """
        - "You may not go in," said {mum}, so {name} stood under the window.
        / {name} was not allowed in, so {he} went to the window and [knocked|waved].
        - {he} put on a show with [two shoes|a spoon and a hat], about a [pig|king|cow] and a very
          small dragon.
        / There {name} danced [in a big hat|like a bear] and fell over {his} own feet.
        - First {friend} [smiled|sat up]. Then {fhe} laughed, and {fhis} [cheeks|nose] turned pink.
        / {friend} laughed [so hard|so much] that the bed shook.
        """, """
        - {name} [helped {mum} to make|made] a pot of soup with [apples|a carrot|beans] and [far too
          much|a little] pepper.
        / "[Soup|Hot soup] will help," said {mum}, so {name} [washed the carrots|helped her to make
          some].
        - {he} carried it [over the bridge|down the lane], step by step, and did not lose any of it.
        / It was hot and heavy, but {name} [carried it all the way|did not lose any of it].
        - {friend} ate one [spoon|bowl], then another. "It makes my [ears|toes] warm," {fhe} said.
        / "[This is good|More, please]," said {friend}, and {fhe} ate it all up.
        """, """
        - {name} went from door to door with a [big card|piece of paper].
        / {name} made a big card and [asked everyone|took it to everyone] for a [picture|kind word].
        - The baker drew a loaf, the farmer drew a [cow|hen], and the teacher wrote a [story|song].
        / The [baker|farmer] drew a [cake|duck] on it, and the teacher wrote, "[Come back soon|Get
          well]!"
        - {name} [pushed|slid] the card under the door, and soon {he} heard a [laugh|small cheer]
          from the bed.
        / When {friend} saw it, {fhe} [laughed|smiled] and put it by the bed.
        """)
    return own, """
        - {friend} was not at school, and {fhis} chair [was|stayed] empty [|on Monday|all week].
        / "{friend} has {ill}," {mum} told {name} {day}.
        / Oh dear! {name} could hear it [across the road|through the wall]: {friend} was ill.
        / {name} [went|ran] to call for {friend}, but nobody came out to play.
        / {name} the {kind} had a [good|dear] friend called {friend}, and now {friend} was ill.
        - With {ill}, {friend} had to stay in bed and drink [a lot of water|warm milk].
        / {friend} was ill and was not allowed to [get up|leave the house] for [three|four|six]
          days.
        ? {name} [played alone|sat on the bench], but it was [no fun|not the same] without {friend}.
        / The swing [hung still|was empty], and {name} did not want to play ball with the [wall|barn
          door].
        ? "Poor {friend}," thought {name}. "[What can I do|How can I help]?"
        / {name} thought of {friend}, who had only the [wall|clock] to look at, and {he} made a
          plan.
        ? {mum} said that [sleep|rest] and a [kind word|good laugh] help a lot.
        ? Once {name} had been ill {himself}, and {he} knew how long a day in bed can be.
        """ + help_ + """
        ? The next day {name} came [again|back], and the day after that [as well|too].
        / Each day {friend} [looked|felt] a little better, and {name} told {fhim} all about the
          [village|school].
        ? "You are [better than|as good as] the doctor," said {friend}.
        - Then one morning there was a knock at {name}'s door, and there stood {friend}.
        / At last the [doctor|mother of {friend}] said, "You may get up," and {friend} [jumped|was]
          out of bed like a [frog|shot].
        - "[I am well|No more bed]!" {fhe} cried, and the two of them ran [out to the swing|all the
          way to the mill].
        / {name} and {friend} [played|ran about] until {mum} called, "[Not too much on the first
          day|Slowly, you two]!"
        / And when {name} had {ill} later on, it was {friend} who came to [visit|see {him}].
        """


@plot
def market_day(rng):
    own = dict(buy=pick(rng, "six eggs|a loaf of bread|a bag of apples|a pot of honey"
                             "|a round cheese"),
               stall=pick(rng, "singing cat|man with a drum|dancing bear|man with a monkey"))
    event = pick(rng, """
        - When {he} put {his} {hand} in {his} pocket, the coins were gone. There was only a hole
          [there|in it].
        / In {his} pocket there [was|were] no coins any more, only a [small|big] hole.
        / Then {name} felt in {his} pocket. [Oh no|Oh dear], the coins were gone!
        - {name} [walked|went] back [along the road|the whole way], [looking at every stone|with
          {his} eyes on the ground].
        / {name} looked [in the grass|on the bridge|by the well] and [under the bench|all along the
          road].
        / [Back|Slowly back] went {name}, past the [mill|barn], looking for coins [in the grass|on
          the road].
        - [Near the bench|By the bridge] {he} saw {friend}. "[Are these yours|Did you lose these]?"
          {fhe} asked, and {fhe} held out a little bag.
        - "You [are a good friend|have good eyes]," said {name}, and {he} got {buy} [|after all|at
          last].
        / {name} [thanked|hugged] {friend} and [ran|went back] to get {buy}.
        """, """
        - {name} [looked round|turned about]. {mum} was [gone|not there]. There were only strange
          faces.
        / Then {name} could not see {mum} any more, [only strange faces|only hats and coats].
        - {he} did not [run|cry]. "If you are lost, stand still," {mum} had [once|always] said, so
          {name} stood still.
        / {name} [wanted to cry|felt very small]. But {he} stood still, as {mum} had told {him}.
        - {he} [stood|waited] beside the [baker|well] and [sang|hummed] [their song|a song from
          home] as loud as {he} could.
        - Soon {mum} [heard it|came running]. "[Well done, {name}|There you are]!" she said, and
          [hugged {him}|took {his} {hand}].
        """, """
        - An old man gave {name} the change: [three|four|five] coins. But that was one too many.
        / {name} paid an old man, who gave back [three|four|five] coins, one too many.
        - {name} [looked at|counted] the coins. With one more coin {he} could [have a sweet|buy a
          toy]. Nobody [saw|knew].
        / {name} [saw|knew] it at once. One more coin was [enough for a toy|enough for a bun]!
        - "[You gave me too much|This one is yours]," {he} said [at last|quickly], and put it
          [back|on the table].
        / "[Please|Look], this coin is not mine," said {name}, and {he} gave it back.
        - "[An honest child|Well, well]," said the old man, and {name} got [a pear|a bun] [|for
          nothing|as a gift].
        / The old man [smiled and gave|was so glad that he gave] {name} [a bun|an apple|a plum].
        """)
    return own, """
        - On Friday there was a market in the [square|village], and {name} [was allowed to go|went
          too].
        / The market was [full|loud] on Fridays, and {name} the {kind} [loved|liked] to be there.
        / "[Apples, fresh apples|Fish, fresh fish]!" It was so loud, and {name} looked [left and
          right|everywhere].
        / {mum} needed {buy}, and {name} the {kind} [took|carried] the basket.
        / {name} [loved|liked] market day [more than Sunday|best of all days].
        / {day}, {mum} gave {name} [some coins|money] and a big basket and said, "Today you may buy
          it."
        - It was {his} job to buy {buy}, and {name} [said it over and over|said it again and again]
          so as not to forget.
        / {mum} wanted {buy}, and {name} was [the one|old enough] to get it [this time|that day].
        / This time {name} was to buy {buy}, and {he} [felt very big|put {his} nose in the air].
        ? There were tables with [cheese and fish|apples and plums], [hats and scarves|ducks and
          hens], and there was a {stall}.
        / {name} walked past the [baker|farmer] with his [rolls|hens] and [stopped|stood] to see the
          {stall}.
        ? {name} [watched|looked] for [only a minute|a while] and [forgot|lost] the time.
        / There was so much to [see|look at] that {name} [walked|went] very slowly.
        / It all [smelled|looked] so good that {name} [went slower and slower|did not look where
          {he} went].
        ? A [goose|dog] pulled at {his} [sleeve|coat], and {he} [had to laugh|jumped].
        """ + event + """
        ? {name} was [hungry|tired] by then, but {he} did not mind.
        ? {name} [carried|took] {buy} home [with care|in both arms] and set the basket on the
          kitchen table.
        / With {buy} in the basket, {name} went home [over the bridge|past the mill].
        / At home there was [hot soup|a good supper], and {name} [told|acted out] everything that
          had happened.
        - "[Next Friday|Next time] you can go again," said {mum}, and {name} [stood up
          straight|smiled].
        / {mum} was [proud of|happy with] {name}, and they had a good supper.
        / {dad} [asked|wanted to know] what was best at the market. "[Coming home|Everything]," said
          {name}.
        / That night {name} [played|dreamed of] market with {his} toys, and [every bear|each of
          them] got [good|fair] change.
        / The basket was [empty again|back on its hook], but {his} head was [still|very] full.
        """


@plot
def lost_baby_animal(rng):
    own = dict(baby=pick(rng, "lamb|calf|foal|duckling|piglet"))
    grown = dict(lamb="sheep", calf="cow", foal="horse", duckling="duck", piglet="pig")
    own["big"] = grown[own["baby"]]
    way = pick(rng, """
        - {name} took the {baby} to the farmer. "[Is this yours|Who lost this]?" {he} asked. But the
          farmer [shook his head|counted his own].
        / First they went to the farmer, but the {baby} was not [his|from his farm].
        - "[Ask at the mill|Try across the bridge]," he said. So on they went, {name} in front and
          the {baby} behind.
        / The farmer [thought|looked up]. "There is a {big} [near the mill|over the bridge]," he
          said.
        - [Near the mill|Over the bridge] a [big|worried] {big} went up and down, [calling|crying]
          out.
        / And there, [by the river|in the grass], a {big} was calling [and calling|for her baby].
        """, """
        - "[Do not cry|I will help you]," said {name}, but the {baby} [only cried more|would not eat
          or drink].
        / {name} [spoke softly to it|gave it a little water], but the {baby} cried and cried.
        - {name} [shut {his} eyes|stood still] and listened. Far away, something else was calling
          too.
        / Then {name} heard a {big}, far away, [behind the barn|across the river].
        - {he} [followed|went after] the sound, through [the long grass|a hole in the fence], up to
          a [barn|field] with a big {big} in it.
        / They went [up the hill|along the river], nearer and nearer, until they saw a big {big}.
        """, """
        - The {baby} had one foot [stuck|caught] [in the fence|between two stones], and it [pulled
          and pulled|shook with fear].
        - {name} [spoke softly|held it still] and [pulled|helped] the foot out, [little by
          little|with both {hands}].
        / "[Hold still|Do not cry], little one," said {name}, and {he} [pulled|helped] the foot out.
        - Then it [licked {his} ear|jumped round {him}], and together they [looked for|went to find]
          the big {big}.
        / {name} [carried|took] it [up the hill|across the bridge], where a big {big} was calling.
        """)
    return own, """
        - Behind the [old log|barn] a {baby} was crying, and {name} [stopped|listened].
        / "[Where did you come from|Who are you]?" said {name} to a [tiny|small] {baby} {day}.
        / {day}, {name} the {kind} saw a {baby} all alone on the [road|bridge].
        / {name} was on the way [to school|home from the baker] when {he} heard the [thin|sad] cry
          of a {baby}.
        / By the river, where the grass is [long|deep], {name} found a [small|tiny] {baby} {day}.
        - The {baby} had [thin|weak] legs and [wet|big] eyes, and {name} [had never seen it
          before|felt sorry for it].
        / The {baby} was lost. [Anyone could see that|{name} saw that at once].
        / Where was its mother? The {baby} looked [up|about], and {name} looked, too.
        ? {name} looked [up the road|to the left] and [down the road|to the right], but there was no
          {big} to be seen.
        / A {baby} should be with a {big}, {name} knew, [not on its own|and there was none near].
        ? {he} [held out|gave it] some [grass|bread] and [a kind word|spoke in a low voice].
        / {name} [sat|knelt] down and [waited|did not move], until the {baby} came [near|to {him}].
        ? [Its nose|Its back] felt [soft|warm], and {name} [put {his} scarf on it|stroked it].
        ? "Your mother will miss you," said {name}.
        """ + way + """
        - The {big} [lifted her head|turned round], and the {baby} ran to her [|as fast as it
          could|on its short legs].
        / The {big} saw them and [came|ran] over, and the {baby} [cried|jumped] with joy.
        / When they saw each other, the {baby} [jumped|cried], and the big {big} [came running|made
          a deep happy sound].
        ? They stood close together, and {name} [felt warm inside|had to wipe {his} eyes].
        / The {baby} was home, and {name} [stood by and smiled|watched with a big smile].
        ? {he} was late for [supper|lunch], but nobody was cross when they heard why.
        - Then {name} [went|ran] home to {his} own {mum} and [gave her|got] a very long hug.
        / "[Do not get lost|Stay close to her] again, little one," said {name}, and {he} waved.
        / The next time {name} came by, the {baby} [looked up|ran up to the fence] and
          [danced|called].
        / On every [Monday|Friday] since, {name} goes to see the {baby}, which is not [so
          little|lost] any more.
        """

"""Words and numbers as they are shown, and the table of a terminal. Text of stories is hostile
until it went through `visible`, for terminals and figures as for HTML."""
import re
import unicodedata
from bisect import bisect_right
from itertools import accumulate, groupby
from operator import itemgetter

UNIT = "nats per extra copy"
UNITS = {"influence": UNIT, "content": f"{UNIT} under a log-odds loss"}  # by target
# of a list, by the JSON's "rank", where it is not that of the numbers shown
ORDERS = {"relatif": "in the order of influence by the length of the story's gradient: RelatIF"}
ALIGNMENTS = {"input": "on the token that was read", "predicted": "on the token being predicted"}
JOINERS = "\u200c\u200d"  # emoji and Persian need them
BEFORE, BEHIND = "⊢", "⊣"  # signs for what a tokenizer puts around a text
SPECIAL = re.compile(r"\s*[<\[].+[>\]]\s*")  # how such a token looks: <|endoftext|>, </s>, [SEP]
WORD, WORD_START, WORD_END = map(re.compile, (r"\w", r"\w{0,20}[^\w\s]?", r"\w{0,20}$"))
QUOTED = 44  # characters before and behind the token that a card quotes
COLUMNS = " rank  influence  story         strongest token, in [ ], and what it predicts"


def visible(text, newline="⏎\n") -> str:
    """`text` with invisible and steering characters as ⟨U+202E⟩ and line ends as `newline`."""
    text = str(text)
    if text.isprintable():  # nothing of the categories below, as in most words
        return text
    return "".join(newline if char == "\n" else _spelt_out(char) for char in text)


def _spelt_out(char):
    """⟨U+202E⟩ for a character that hides or reorders text (Cf) or steers terminals (Cc)."""
    steering = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in JOINERS
    return f"⟨U+{ord(char):04X}⟩" if steering else char


def signed(value) -> str:
    """Three significant digits and always a sign."""
    return f"{value + 0.0:+#.3g}".rstrip(".")  # + 0.0: no minus before zero


def named_story(story_id):
    """A story by its id: "story 12", but not "story story-12"."""
    return story_id if str(story_id).startswith("story") else f"story {story_id}"


def described(token) -> str:
    """What a tooltip says of one token: its influence in nats, what was read, what it predicts."""
    predicts = (f"predicts '{visible(token['predicted'], '⏎')}'" if token.get("predicted")
                else "last token, predicts nothing")
    read = visible(token["token"], "⏎")
    return f"influence {signed(token['influence'])} nats · read '{read}' · {predicts}"


def is_learnt(token) -> bool:
    """Whether the token is itself predicted for the loss; the words of a prompt are only read."""
    return token.get("loss", True)


def signed_tokens(entry) -> list[dict]:
    """An entry's tokens, with ⊢ and ⊣ in place of the special ones, which no author wrote. Those
    are known by their look, and by not standing in the story's text."""
    def shown(text, sign):
        special = text and SPECIAL.fullmatch(text) and text.strip() not in entry["text"]
        return sign if special else text
    return [token | {"token": shown(token["token"], BEHIND if place else BEFORE),
                     "predicted": shown(token.get("predicted"), BEHIND)}
            for place, token in enumerate(entry["tokens"])]


def quote(tokens, influence) -> dict | None:
    """The token that decides, of the sign of the story's `influence`, in its surroundings.

    `{"before", "read", "predicted", "rest", "after", "title", "influence"}`, where "predicted" is
    what it is taught to predict and "rest" what is left of that word; None without tokens.
    """
    sign, texts = 1 if influence >= 0 else -1, [token["token"] for token in tokens]
    place = max(range(len(tokens)), key=lambda t: sign * tokens[t]["influence"], default=None)
    if place is None:
        return None
    texts += filter(None, [tokens[-1].get("predicted")])  # the list may stop before the last token
    text, ends = "".join(texts), [0, *accumulate(map(len, texts))]
    start, middle, end = ends[place], ends[place + 1], ends[min(place + 2, len(texts))]
    if not all(map(is_learnt, tokens[place + 1:place + 2])):
        end = middle
    if WORD.match(text, start):
        start = WORD_END.search(text[:start]).start()
    start += len(text[start:middle]) - len(text[start:middle].lstrip())
    rest = WORD_START.match(text, end)[0]
    before, after = text[:start].removeprefix(BEFORE), text[end + len(rest):].removesuffix(BEHIND)
    if len(before) > QUOTED:
        before = "…" + re.sub(r"^\S*\s", "", before[-QUOTED:])
    if len(after) > QUOTED:
        after = re.sub(r"\s\S*$", "", after[:QUOTED]) + "…"
    return {"before": before, "read": text[start:middle], "predicted": text[middle:end],
            "rest": rest, "after": after, "title": described(tokens[place]),
            "influence": tokens[place]["influence"]}


def block_and_matrix(layer) -> tuple[str, str]:
    """("3", "c_fc") for "transformer.h.3.mlp.c_fc": number of the block (or "") and matrix."""
    block, matrix = re.search(r"\.(\d+)\.", f".{layer}."), layer.rsplit(".", 1)[-1]
    return (block[1] if block else "", "" if block and matrix == block[1] else matrix)


def layer_names(names) -> list[str]:
    """"3 c_fc" for "transformer.h.3.mlp.c_fc"; the full names where short ones would be alike."""
    names = list(names)
    short = [" ".join(filter(None, block_and_matrix(name))) for name in names]
    return short if len(set(short)) == len(names) else names


def tracked(summary) -> str:
    """What of a model is tracked, and what is missing; `summary` is "tracked" of the JSON."""
    share = summary["parameters"] / summary["of"]
    said = (f"{summary['layers']} layers, {summary['parameters']:,} of the model's "
            f"{summary['of']:,} parameters ({share:.1%})")
    return said + (f"; {summary['note']}" if summary["note"] else "")


def by_sign(query) -> list[tuple[str, list]]:
    """(heading, entries): the stories that raise the completion, then those that lower it."""
    entries = query["influences"]
    if query.get("method") == "TF-IDF":
        return [("Stories whose words match best, with their EK-FAC influence", entries)]
    raises = [entry for entry in entries if entry["influence"] >= 0]
    lowers = [entry for entry in entries if not entry["influence"] >= 0]
    what = "completion against the other" if query.get("against") else "completion's probability"
    return [(f"Stories that raise the {what}", raises),
            ("Stories that lower it", lowers)]


# -- terminals -------------------------------------------------------------------------------------

def text_table(query, unit=UNIT, rank="influence") -> str:
    """The top stories as text of at most 100 columns: rank, influence, id, strongest token. `query`
    is one of "queries" of the JSON, `unit` and `rank` stand there; steering characters are spelt
    out."""
    prompt, completion = fit(query["prompt"], 50, True).lstrip(), fit(query["completion"], 28)
    lines = [f"{prompt} →{completion.rstrip()}  (log p = {query['log_prob']:.3f})"]
    if query.get("against") is not None:
        against = fit(query["against"], 28).rstrip()
        lines.append(f"{'rather than'.rjust(columns(prompt))} →{against}  "
                     f"(log p = {query['log_prob_against']:.3f})")
    if query.get("also"):
        lines.append(f"(means over {1 + len(query['also'])} wordings)")
    if rank in ORDERS:
        lines.append(f"({ORDERS[rank]})")
    for heading, entries in by_sign(query):
        lines += ["", f"{heading} ({unit})", COLUMNS]
        lines += map(_row, entries) if entries else [" none among those shown"]
    return "\n".join(line.rstrip() for line in lines)


def _row(entry):
    """One story: its numbers, and its strongest token in [ ] between what stands around it."""
    tokens = signed_tokens(entry)
    top = max(range(len(tokens)), key=lambda t: abs(tokens[t]["influence"]), default=None)
    strength, snippet = "", ""
    if top is not None:
        strength = signed(tokens[top]["influence"])
        before, after = ("".join(token["token"] for token in side)
                         for side in (tokens[:top], tokens[top + 1:]))
        strongest = fit(tokens[top]["token"], 14).rstrip()
        snippet = f"{fit(before, 28, True)}[{strongest}]{visible(after, '⏎')}"
    rank, influence = fit(entry["rank"], 5, True), fit(signed(entry["influence"]), 10, True)
    return (f"{rank} {influence}  {fit(entry['id'], 12)}  "
            f"{fit(strength, 9, True)}  {fit(snippet, 57)}")


def fit(text, width, keep_end=False) -> str:
    """`text` on one line of exactly `width` columns, cut with … or padded on the side given up."""
    text = visible(text, "⏎")[::-1 if keep_end else 1]
    ends = list(accumulate(map(columns, text)))
    if ends and ends[-1] > width:
        text = text[:bisect_right(ends, width - 1)] + "…"
    text += " " * (width - columns(text))
    return text[::-1] if keep_end else text


def columns(text) -> int:
    """How many columns of a terminal a text fills."""
    return sum(0 if unicodedata.combining(char) else
               2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def wrapped(cells, limit, shown=visible) -> list[tuple]:
    """Pieces (line, column, text, *rest) of cells (text, *rest) on lines of `limit` columns. Words
    stay whole where they fit."""
    letters = [(letter, number) for number, (text, *_) in enumerate(cells)
               for letter in shown(text)]
    text, placed, line, column = "".join(letter for letter, _ in letters), [], 0, 0
    for word in re.finditer(r"\n|[^\S\n]*\S+|[^\S\n]+", text):
        own = letters[slice(*word.span())]
        if column and column + columns(word[0]) > limit or word[0] == "\n":
            line, column = line + 1, 0
            own = own[len(word[0]) - len(word[0].lstrip()):]
        for letter, number in own:
            line, column = (line + 1, 0) if column + columns(letter) > limit else (line, column)
            placed.append((line, column, letter, number))
            column += columns(letter)
    pieces = [list(piece) for _, piece in groupby(placed, key=itemgetter(0, 3))]
    return [(*piece[0][:2], "".join(letter for _, _, letter, _ in piece),
             *cells[piece[0][3]][1:]) for piece in pieces]

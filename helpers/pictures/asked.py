"""A question's own words: taken apart to be clicked, and found again in stories. That a story
repeats the question is another matter than its influence: copied, or taught?"""
import re
from itertools import accumulate
from typing import NamedTuple

WORD = re.compile(r"\w+")
RUN = 3  # words in a row that count as copied; the answer counts whatever its length
MOST_WORDS = 40  # that can be clicked: the last ones


class Asked(NamedTuple):
    """What is looked for in stories: runs of words, each a tuple in small letters."""
    numbers: dict[tuple, int]  # those that can be clicked: the prompt's words, the whole answer
    copied: set[tuple]

    def marks(self, texts) -> list[str]:
        """CSS classes of each token of a story, given as `texts`. `tw-w3` on a piece of what has
        number 3, `tw-same` in a run of the question's words."""
        text = "".join(texts)
        words = [(match[0].lower(), *match.span()) for match in WORD.finditer(text)]
        number, copied = [None] * len(text), [False] * len(text)
        for first, (_, start, _) in enumerate(words):
            for length in sorted({len(run) for run in (*self.numbers, *self.copied)}):
                run = tuple(word for word, _, _ in words[first:first + length])
                end = words[min(first + length, len(words)) - 1][2]
                if run in self.numbers:
                    number[start:end] = [self.numbers[run]] * (end - start)
                if run in self.copied:
                    copied[start:end] = [True] * (end - start)
        classes = []
        for piece, end in zip(texts, accumulate(map(len, texts)), strict=True):
            own = slice(end - len(piece.lstrip()), end)
            names = {f"tw-w{place}" for place in number[own] if place is not None}
            classes.append(" ".join(sorted(names) + ["tw-same"] * any(copied[own])))
        return classes


def words_of(text) -> tuple[str, ...]:
    """The words of a text in small letters."""
    return tuple(WORD.findall(text.lower()))


def asked(query) -> Asked:
    """What of a query of the JSON is looked for: its words, and runs of them with its answers."""
    copied = set()
    for answer in filter(None, (query["completion"], query.get("against"))):
        words = words_of(query["prompt"] + answer)
        copied |= {words[first:first + RUN] for first in range(len(words) - RUN + 1)}
        copied |= {words_of(answer)} - {()}
    single = [(word,) for word in words_of(query["prompt"])[-MOST_WORDS + 1:]]
    numbered = dict.fromkeys([*single, words_of(query["completion"])])
    return Asked({run: number for number, run in enumerate(numbered) if run}, copied)


def pieces(query, numbers) -> list[dict]:
    """The question for its heading: the words of the prompt and what is between them, the answer.
    Each `{"number": of what can be clicked, or None, "parts": [(text, whether explained)]}`."""
    prompt = [{"number": numbers.get(words_of(text)), "parts": [(text, False)]}
              for text in re.split(r"(\w+)", query["prompt"]) if text]
    explained = query.get("explained") or [[query["completion"], True]]
    return [*prompt, {"number": numbers.get(words_of(query["completion"])), "parts": explained}]

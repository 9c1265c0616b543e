"""A question's own words: taken apart to be clicked, and found again in stories.

That a story repeats the question is another matter than its influence: copied, or taught?
"""
import re
from itertools import accumulate, groupby, islice
from typing import NamedTuple

WORD = re.compile(r"\w+")
RUN = 3  # words in a row that count as copied; the answer counts whatever its length
MOST_WORDS = 40  # of a question that can be clicked: the last ones


class Asked(NamedTuple):
    """What is looked for in stories: single words by their numbers, and runs of words."""
    numbers: dict[str, int]
    runs: set[tuple[str, ...]]

    def marks(self, texts) -> list[str]:
        """CSS classes of each token of a story, given as `texts`.

        `tw-w3` on a piece of the question's word 3, `tw-same` in a run of the question's words.
        """
        text = "".join(texts)
        words = [(match[0].lower(), *match.span()) for match in WORD.finditer(text)]
        number, copied = [None] * len(text), [False] * len(text)
        for first, (word, start, end) in enumerate(words):
            number[start:end] = [self.numbers.get(word)] * (end - start)
            for length in {len(run) for run in self.runs}:
                run = words[first:first + length]
                if tuple(name for name, _, _ in run) in self.runs:
                    copied[start:run[-1][2]] = [True] * (run[-1][2] - start)
        classes = []
        for piece, end in zip(texts, accumulate(map(len, texts)), strict=True):
            own = slice(end - len(piece.lstrip()), end)
            names = {f"tw-w{place}" for place in number[own] if place is not None}
            classes.append(" ".join(sorted(names) + ["tw-same"] * any(copied[own])))
        return classes


def asked(query) -> Asked:
    """The words of a query of the JSON, with the runs of its question and its answers."""
    answers = [query["completion"], *filter(None, [query.get("against")])]
    runs = set()
    for answer in answers:
        own = tuple(WORD.findall(answer.lower()))
        words = WORD.findall((query["prompt"] + answer).lower())
        runs |= {tuple(words[first:first + RUN]) for first in range(len(words) - RUN + 1)}
        runs |= {own} if own else set()
    words = dict.fromkeys(WORD.findall((query["prompt"] + answers[0]).lower()))
    last = islice(words, max(0, len(words) - MOST_WORDS), None)
    return Asked({word: number for number, word in enumerate(last)}, runs)


def pieces(query, numbers) -> list[dict]:
    """The question in words and what is between them, for the heading.

    Each `{"number": of the word, or None, "parts": [(text, whether it is explained)]}`.
    """
    explained = query.get("explained") or [[query["completion"], True]]
    parts = [[query["prompt"], False], *explained]
    letters = [(letter, chosen) for text, chosen in parts for letter in text]
    text, cuts = "".join(letter for letter, _ in letters), {0}
    for match in WORD.finditer(text):
        cuts |= set(match.span())
    cuts = sorted(cuts | {len(text)})
    found = []
    for start, end in zip(cuts, cuts[1:], strict=False):
        runs = groupby(letters[start:end], key=lambda pair: pair[1])
        found.append({"number": numbers.get(text[start:end].lower()),
                      "parts": [("".join(letter for letter, _ in run), chosen)
                                for chosen, run in runs]})
    return found

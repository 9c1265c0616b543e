"""Writes counterfactual_tokens.safetensors: three readings of which word of a story taught a fact.

    python data/record_counterfactuals.py [--out data/counterfactual_tokens.safetensors]

For each of the 14 planted facts of family B the best-scoring teacher of three wordings (direct,
embedded, dialogue); for each of these stories the tokenwise influence of eq 31, that of every
output token and that of every input token (notebook 07 defines them), under EK-FAC fitted on 300
stories (seed 0). About 10 minutes on 2 cores; each story is kept in data/.checkpoint/
counterfactuals, so that a run that was cut off goes on from there.
"""
import argparse
from functools import partial
from pathlib import Path

import torch
from record_planted import HERE, MADE_FROM, begin, staged

from helpers.influence import (input_token_influence, loss_slopes, query_gradients, sequence_scores,
                               tokenwise)
from helpers.sources import load_planted
from helpers.sources.records import save_record
from helpers.stories import Query, encode_query, padded
from helpers.terminal import fit

SEED, FITTED, DRAWS = 0, 300, 2
WORDINGS = ("direct", "embedded", "dialogue")


def rows_worded(fact, wording) -> list[int]:
    """Rows of the fact's teachers of one wording."""
    return [place["row"] for place in fact["teachers"] if place["wording"] == wording]


def chosen(facts, scores) -> list[tuple[int, int]]:
    """(number of the fact, row of the best-scoring story) for every fact and wording."""
    pairs = []
    for number, fact in enumerate(facts):
        for wording in WORDINGS:
            rows = rows_worded(fact, wording)
            pairs.append((number, rows[scores[number, rows].argmax()]))
    return pairs


def profiles(setting, ihvps, query, row):
    """The three profiles `(T,)` of one story for a query."""
    model, layers, total = setting.model, setting.layers, len(setting.corpus)
    ids, pair = setting.corpus.ids[row], (query, row)
    direction = {name: ihvp[query] for name, ihvp in ihvps.items()}
    by_token = tokenwise(model, layers, setting.stream([row]), ihvps, total, [pair])
    slopes = loss_slopes(model, layers, padded([ids], [0]), direction)
    changed = input_token_influence(model, layers, ids, direction, total, DRAWS, SEED)
    return {"eq 31": by_token[pair].sum(0), "output": slopes[0] / total, "input": changed}


def teacher_scores(setting, facts, ihvps):
    """Influence of the teachers to choose from on all facts, `(14, N)`, 0 for other stories."""
    rows = sorted({row for fact in facts for wording in WORDINGS
                   for row in rows_worded(fact, wording)})
    return {"scores": sequence_scores(setting.model, setting.layers, setting.stream(rows), ihvps,
                                      len(setting.corpus))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "counterfactual_tokens.safetensors")
    args = parser.parse_args()
    stages, setting = begin("counterfactuals")
    setting.quiet, corpus = True, setting.corpus
    facts = [item for item in load_planted(corpus) if item["family"] == "B"]
    queries = [Query(fact["prompt"], fact["completion"]) for fact in facts]
    encoded = [encode_query(setting.tokenizer, query, 512) for query in queries]
    gradients, _ = query_gradients(setting.model, setting.layers, encoded)
    ihvps = fit(setting, fit_limit=FITTED, seed=SEED, cache=stages).solve(gradients)
    scores = staged(stages / "scores.safetensors", partial(teacher_scores, setting, facts, ihvps))

    pairs = chosen(facts, scores["scores"])
    longest = max(len(corpus.ids[row]) for _, row in pairs)
    tensors = {name: torch.zeros(len(pairs), longest) for name in ("eq 31", "output", "input")}
    for number, (query, row) in enumerate(pairs):
        of_pair = staged(stages / f"{query}-{row}.safetensors",
                         partial(profiles, setting, ihvps, query, row))
        for name, values in of_pair.items():
            tensors[name][number, :len(values)] = values
        print(f"{number + 1} of {len(pairs)}", facts[query]["id"], corpus.stories[row].id,
              flush=True)
    tensors["pairs"] = torch.tensor(pairs)
    save_record(tensors, args.out, MADE_FROM, script="data/record_counterfactuals.py",
                seed=str(SEED), fitted=str(FITTED), draws=str(DRAWS), torch=torch.__version__)


if __name__ == "__main__":
    main()

"""Writes counterfactual_tokens.safetensors: three readings of which word of a story taught a fact.

    python data/record_counterfactuals.py [--out data/counterfactual_tokens.safetensors]

For each of the 28 planted facts the best-scoring direct teacher, the embedded one and the dialogue; for each of
these stories the tokenwise influence of eq 31, that of every output token and that of every input token
(notebook 06 defines them), under EK-FAC fitted on 300 stories (seed 0). About 15 minutes on 2 cores; each story is
kept in data/.checkpoint/counterfactuals, so that a run that was cut off goes on from there.
"""
import argparse
from pathlib import Path

import torch
from record_planted import HERE, MADE_FROM, begin, staged

from helpers.sources.records import save_record
from helpers.influence import input_token_influence, loss_slopes, query_gradients, sequence_scores, tokenwise
from helpers.sources import load_planted
from helpers.terminal import fit
from helpers.stories import Query, batches, encode_query

SEED, FITTED, DRAWS = 0, 300, 2


def chosen(facts, scores) -> list[tuple[int, int]]:
    """(number of the fact, story row): the best direct teacher, the embedded one, the dialogue."""
    pairs = []
    for at, fact in enumerate(facts):
        rows = {wording: [place["row"] for place in fact["teachers"] if place["wording"] == wording]
                for wording in ("direct", "embedded", "dialogue")}
        rows["direct"] = sorted(rows["direct"], key=lambda row: -scores[at, row])[:1]
        pairs += [(at, row) for wording in rows for row in rows[wording]]
    return pairs


def profiles(setting, ihvps, at, row):
    """The three profiles `(T,)` of one story for query `at`."""
    model, layers, total = setting.model, setting.layers, len(setting.corpus)
    ids = setting.corpus.ids[row]
    direction = {name: one[at] for name, one in ihvps.items()}
    (batch,) = batches([ids])
    return {"eq 31": tokenwise(model, layers, setting.stream([row]), ihvps, total, [(at, row)])[at, row].sum(0),
            "output": loss_slopes(model, layers, batch, direction)[0] / total,
            "input": input_token_influence(model, layers, ids, direction, total, DRAWS, SEED)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "counterfactual_tokens.safetensors")
    args = parser.parse_args()
    stages, setting = begin("counterfactuals")
    setting.quiet = True
    model, corpus = setting.model, setting.corpus
    facts = [item for item in load_planted(corpus) if item["family"] in "AB"]
    encoded = [encode_query(setting.tokenizer, Query(fact["prompt"], fact["completion"]), 512) for fact in facts]
    gradients, _ = query_gradients(model, setting.layers, encoded)
    ihvps = fit(setting, fit_limit=FITTED, seed=SEED, cache=stages).solve(gradients)
    direct = sorted({place["row"] for fact in facts for place in fact["teachers"] if place["wording"] == "direct"})
    scores = staged(stages / "scores.safetensors", lambda: {"scores": sequence_scores(
        model, setting.layers, setting.stream(direct), ihvps, len(corpus))})["scores"]

    pairs = chosen(facts, scores)
    longest = max(len(corpus.ids[row]) for _, row in pairs)
    tensors = {name: torch.zeros(len(pairs), longest) for name in ("eq 31", "output", "input")}
    for number, (at, row) in enumerate(pairs):
        found = staged(stages / f"{at}-{row}.safetensors", lambda: profiles(setting, ihvps, at, row))
        for name, values in found.items():
            tensors[name][number, :len(values)] = values
        print(f"{number + 1} of {len(pairs)}", facts[at]["id"], corpus.stories[row].id, flush=True)
    tensors["pairs"] = torch.tensor(pairs)
    save_record(tensors, args.out, MADE_FROM, script="data/record_counterfactuals.py", seed=str(SEED), fitted=str(FITTED),
                 draws=str(DRAWS), torch=torch.__version__)


if __name__ == "__main__":
    main()

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

from helpers.capture import backward_pass
from helpers.influence import (loss_slopes, query_gradients, sequence_scores, token_scores,
                               tokenwise)
from helpers.sources import load_planted
from helpers.sources.records import save_record
from helpers.stories import Batch, Query, encode_query, logits_of, padded
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


def other_tokens(model, batch, draws: int, seed=0) -> torch.Tensor:
    """For each t ≥ 1 of a single story `draws` tokens ≠ x_t from p(· | x_<t), `(T − 1, draws)`."""
    with torch.no_grad():
        p = logits_of(model, batch)[0, :-1].softmax(-1).cpu()
    p[torch.arange(len(p)), batch.input_ids[0, 1:].cpu()] = 0
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(p, draws, replacement=True, generator=generator)


def input_token_influence(model, layers, ids, direction, n_train, draws=2, seed=0, positions=None,
                          batch_size=8) -> torch.Tensor:
    """I(z) − E[I(z with another token read at t, all targets kept)] for the `positions` t, `(T,)`.

    `direction` `{layer: (out, in+1)}` is the iHVP of one query, `positions` all by default. The
    other token is drawn from the model's prediction there (`other_tokens`). Exactly 0 at the first
    position, for which there is none, and at the last, which no target reads.
    """
    batch = padded([ids], [0]).to(next(model.parameters()).device)
    others = other_tokens(model, batch, draws, seed)
    wanted = range(len(ids)) if positions is None else positions
    chosen = [t for t in wanted if 0 < t < len(ids) - 1]
    changed = batch.input_ids.repeat(len(chosen) * draws, 1)
    for place, t in enumerate(chosen):
        changed[place * draws:(place + 1) * draws, t] = others[t - 1].to(changed.device)
    ihvp = {name: part[None] for name, part in direction.items()}
    influences = []
    for rows in [batch.input_ids, *changed.split(batch_size)]:
        mask, labels = (x.expand(len(rows), -1) for x in (batch.mask, batch.labels))
        copies = Batch([0] * len(rows), rows, mask, labels)
        captured, _ = backward_pass(model, layers, copies)
        scores = token_scores(captured, ihvp, [0] * len(rows), range(len(rows)), n_train)
        influences.append(scores.sum((1, 2)).cpu())
    original, others = torch.cat(influences).split([1, len(changed)])
    effects = torch.zeros(len(ids), dtype=original.dtype)
    effects[chosen] = original - others.view(len(chosen), draws).mean(1)
    return effects


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

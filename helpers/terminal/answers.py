"""Queries asked of a setting, and the answers as the JSON describes them."""
from dataclasses import dataclass, replace

import torch

from ..capture import backward_pass
from ..curvature import Curvature
from ..influence import (Strongest, query_gradients, scores_and_lengths, token_scores, tokenwise,
                         top_indices)
from ..search import candidates
from ..sources.models import context_length
from ..sources.texts import plain_queries
from ..stories import InputError, Query, encode_query, token_texts
from . import processes
from .index import Index, finite
from .setting import Setting

SHORT_LIST = 5  # at least so many more stories than are shown are scored exactly, behind an index


@dataclass
class Asked:
    """Q queries with their log-probabilities `(Q,)` and iHVPs `{layer: (Q, out, in+1)}`. `against`
    are the log-probabilities of what stands against the completions, None where nothing does;
    `contexts` the beginnings that the prompts stood behind."""
    queries: list[Query]
    log_probs: torch.Tensor
    ihvps: dict
    against: list[float | None] = ()
    contexts: list[str] = ()


def ask(setting: Setting, queries: list[Query], curvature: Curvature, contexts=()) -> Asked:
    """The queries' gradients, and what the curvature makes of them. The mean over the prompts,
    behind the texts `contexts` if there are any, of log p of the completion, less that of what
    stands against it. Raises InputError."""
    longest, gradients, log_probs, against = context_length(setting.model), [], [], []
    for query in queries:  # in turn: memory stays that of one
        count = len(plain_queries(replace(query, against=None), contexts))
        encoded = [encode_query(setting.tokenizer, plain, longest)
                   for plain in plain_queries(query, contexts)]
        rows, logs = query_gradients(setting.model, setting.layers, encoded,
                                     setting.batch_size)
        weights = torch.ones_like(logs) / count
        weights[count:] *= -1
        gradients.append(combined(rows, weights[None]))
        log_probs.append(logs[:count].mean())
        against.append(None if query.against is None else logs[count:].mean().item())
    gradients = {name: torch.cat([each[name] for each in gradients]) for name in setting.layers}
    ihvps = curvature.solve(gradients)
    return Asked(queries, torch.stack(log_probs), ihvps, against, list(contexts))


def combined(rows: dict, weights: torch.Tensor) -> dict:
    """Gradients of Q sums Σ_i w_i log p_i, of n rows `{layer: (n, out, in+1)}`, `weights (Q, n)`:
    1 and −1 for a contrast of two completions, 1/K for a mean over K contexts."""
    return {name: torch.einsum("qn,noi->qoi", weights.to(v), v) for name, v in rows.items()}


# -- scores --------------------------------------------------------------------------------------

def exact_scores(setting: Setting, asked: Asked, rows=None,
                 curvature=None) -> dict[str, torch.Tensor]:
    """`sequence (Q, N)` of the corpus rows (None: all), 0 elsewhere; with a curvature also
    `relatif`, every score divided by the length of its story. Raises InputError if not finite."""
    scores, lengths = scores_and_lengths(
        setting.model, setting.layers, setting.stream(rows, "scoring"), asked.ihvps,
        [] if curvature is None else [curvature], len(setting.corpus))
    found = {"sequence": finite(processes.total(scores))}
    if curvature is not None:
        lengths = processes.total(lengths)[0]
        found["relatif"] = torch.where(lengths > 0, found["sequence"] / lengths, 0)
    return found


def exact_token_scores(setting: Setting, asked: Asked, rows=None) -> dict[str, torch.Tensor]:
    """`exact_scores` with `token (Q, N, T)`, 0 at padding, too."""
    ihvps, total = asked.ihvps, len(setting.corpus)
    token = torch.zeros(len(asked.queries), total, max(map(len, setting.corpus.ids)))
    for batch in setting.stream(rows, "scoring all tokens"):
        captured, _ = backward_pass(setting.model, setting.layers, batch)
        places = list(range(len(batch.index)))
        for query in range(len(asked.queries)):  # in turn: memory stays that of a batch
            values = token_scores(captured, ihvps, [query] * len(places), places, total)
            token[query, batch.index, :values.shape[-1]] = values.sum(1).to(token)
    return {"sequence": finite(processes.total(token).sum(-1)), "token": token}


def matching(queries: list[Query], corpus, count: int) -> list[int]:
    """Rows of the stories among the `count` that match one of the queries best, word by word."""
    try:
        return candidates([f"{query.prompt}{query.completion} {query.against or ''}"
                           for query in queries], [story.text for story in corpus.stories], count)
    except ValueError:  # scikit-learn: empty vocabulary
        raise InputError("the stories hold no words to match: leave out --prefilter") from None


def picked_tokens(setting: Setting, ihvps: dict, picks: list[Strongest]) -> dict:
    """`tokenwise` of the stories that were picked for each query, `{(query, row): values}`."""
    pairs = [(query, row) for query, sides in enumerate(picks)
             for row in (*sides.positive, *sides.negative)]
    stream = setting.stream(sorted({row for _, row in pairs}), "tokens")
    mine = tokenwise(setting.model, setting.layers, stream, ihvps, len(setting.corpus), pairs)
    return {pair: values for part in processes.everyones(mine) for pair, values in part.items()}


# -- answers -------------------------------------------------------------------------------------

def explain_indexed(setting: Setting, queries: list[Query], index: Index, top=10,
                    contexts=()) -> list[dict]:
    """As `told`, from an index: a short list by its scores, exact scores and tokens for that."""
    asked = ask(setting, queries, index.curvature, contexts)
    rough = finite(index.scores(asked.ihvps, setting.corpus))
    values = picked_tokens(setting, asked.ihvps, short_list(rough, top))
    exact = torch.zeros_like(rough)
    for (query, row), by_token in values.items():
        exact[query, row] = by_token.sum()
    return entries(setting, asked, top_indices(exact, top), values)


def short_list(rough: torch.Tensor, top: int) -> list[Strongest]:
    """More stories than will be shown, by scores that are not exact."""
    return top_indices(rough, top + max(SHORT_LIST, top // 2))


def told(setting: Setting, asked: Asked, scores: torch.Tensor, top: int) -> list[dict]:
    """The `queries` part of the JSON for scores `(Q, N)`: for every query the `top` positive, then
    the `top` negative stories by them, with their influence."""
    picks = top_indices(scores, top)
    return entries(setting, asked, picks, picked_tokens(setting, asked.ihvps, picks))


def entries(setting: Setting, asked: Asked, picks: list[Strongest], values: dict) -> list[dict]:
    """The `queries` part of the JSON: for each query the stories picked and their token values."""
    answers = []
    for number, query in enumerate(asked.queries):
        influences = []
        for side in picks[number]:
            for rank, row in enumerate(side, start=1):
                influences.append(entry(rank, row, setting.corpus, values[number, row],
                                        list(setting.layers), setting.tokenizer))
        answers.append({"prompt": query.prompt, "also": list(query.also),
                        "completion": query.completion, "against": query.against,
                        "log_prob": asked.log_probs[number].item(),
                        "log_prob_against": asked.against[number], "contexts": asked.contexts,
                        "influences": influences})
    return answers


def entry(rank, row, corpus, values: torch.Tensor, layers, tokenizer) -> dict:
    """One story's influence as the JSON describes it. `values` `(layer, token)`, `row` its place in
    the corpus. A token's "loss" says whether it is itself predicted for the loss."""
    story, texts = corpus.stories[row], token_texts(tokenizer, corpus.ids[row])
    mask = corpus.loss_masks[row] if corpus.loss_masks else [True] * len(texts)
    tokens = []
    for position, value in enumerate(values.sum(0).tolist()):
        predicted = texts[position + 1] if position + 1 < len(texts) else None
        tokens.append({"token": texts[position], "position": position, "influence": value,
                       "predicted": predicted, "loss": mask[position]})
    return {"rank": rank, "index": row, "id": story.id, "text": story.text,
            "influence": values.sum().item(), "layers": dict(zip(layers, values.sum(1).tolist())),
            "tokens": tokens}

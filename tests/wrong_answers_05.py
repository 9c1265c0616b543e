"""Notebook 05: half-mended pipelines and blind tests, and the evidence that the check must give."""
import torch


def pipeline(turn=(False, False), multiply=False, damped=True, split="right", divide=True):
    """A pipeline of the clinic with mistakes left in (or brought in)."""
    def run(query, story, Q_A, Q_S, Lambda, damping, n_train):
        (a_q, s_q), (a, s) = query, story
        whole, by_token = ((a, s), (a_q, s_q)) if split == "query" else ((a_q, s_q), (a, s))
        there, back = ((Q_S.T, Q_A.T) if turned else (Q_S, Q_A) for turned in turn)
        values = Lambda + damping * damped
        rotated = there[0].T @ (whole[1].T @ whole[0]) @ there[1]
        P = back[0] @ (rotated * values if multiply else rotated / values) @ back[1].T
        one, other = by_token
        token = ((other @ P) * one).sum(1)
        if split in ("inputs", "rescaled"):
            summed = (other @ P) @ one.sum(0)
            token = summed * token.sum() / summed.sum() if split == "rescaled" else summed
        if split == "outputs":
            token = one @ (P.T @ other.sum(0))
        token = token / n_train if divide else token
        return torch.cat([token, token.new_zeros(max(len(a) - len(token), 0))])[:len(a)] if split == "query" else token
    return run


def bare_query_split(query, story, Q_A, Q_S, Lambda, damping, n_train):
    """The query's tokens, at the query's own length."""
    (a_q, s_q), (a, s) = query, story
    return ((s_q @ (Q_S @ ((Q_S.T @ (s.T @ a) @ Q_A) / (Lambda + damping)) @ Q_A.T)) * a_q).sum(1) / n_train


def changed(split, a, s, inputs=True, grads=True):
    """Which values move when token 2 changes."""
    other_a, other_s = a.clone(), s.clone()
    if inputs:
        other_a[2] *= 2
    if grads:
        other_s[2] *= 2
    return (split(other_a, other_s) - split(a, s)).abs() > 1e-9


WRONG = {
    "moves_alone": [
        ("turns down the right split", lambda split, a, s: False),
        ("5 of 5 wrong splits pass", lambda split, a, s: True),
        ("only scales with the story", lambda split, a, s: bool(changed(split, a, s)[2])),
        ("sums Ds over all tokens", lambda split, a, s: bool(changed(split, a, s, grads=False).sum() == 1)),
        ("1 of 5 wrong splits pass: one that does not look", lambda split, a, s: bool(changed(split, a, s).sum() <= 1)),
        ("True or False", lambda split, a, s: changed(split, a, s)),
    ],
    "mend_a": [
        ("misses the query's gradient by", pipeline(turn=(False, True))),
        ("misses the query's gradient by", pipeline(turn=(True, True))),
        ("the sum over tokens is off by", pipeline(turn=(True, False))),
        ("misses the query's gradient by", pipeline(multiply=True)),
        ("the sum over tokens is off by", pipeline(damped=False)),
        ("the sum over tokens is off by 4900%", pipeline(divide=False)),
    ],
    "mend_b": [
        ("moves 3 other values", pipeline(split="query")),
        ("4 values for a story of 6 tokens", bare_query_split),
        ("moves 5 other values", pipeline(split="inputs")),
        ("misses the query's gradient by", pipeline(multiply=True)),
    ],
    "mend_c": [
        ("doubling ā of token 2 of the story moves 5 other values", pipeline(split="rescaled")),
        ("the sum over tokens is off by", pipeline(split="inputs")),
        ("doubling Ds of token 2 of the story moves 5 other values", pipeline(split="outputs")),
    ],
}

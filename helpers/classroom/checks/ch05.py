"""Checks of notebook 05: a test of the tokenwise split, and the clinic's pipelines."""
import torch

from . import core
from .core import Expected, NotAttempted, Problem, Wrong, call, check, draws, judge, numbers


def _splits(seed, length, inner, outer):
    """ā and Ds of a story, and {what is wrong: a function that splits them}; "" is right."""
    draw = draws(seed)
    P, story = draw(outer, inner), (draw(length, inner), draw(length, outer))
    a_q, s_q = draw(length, inner), draw(length, outer)

    def right(a, s):
        return torch.einsum("to,oi,ti->t", s, P.to(s), a)

    def summed(a, s):
        return (s @ P.to(s)) @ a.sum(0)

    return story, {
        "": right,
        "one that does not look at the story at all":  # autograd may ask for its slope: 0
            lambda a, s: right(a_q + 0 * a.nan_to_num(0, 0, 0), s_q + 0 * s.nan_to_num(0, 0, 0)),
        "one that splits the query by token and only scales with the story":
            lambda a, s: ((s_q.to(s) @ (s.T @ a)) * a_q.to(a)).sum(1),
        "one that sums ā over all tokens": summed,
        "one that sums Ds over all tokens": lambda a, s: a @ (P.to(s).T @ s.sum(0)),
        "one that sums ā over all tokens and rescales, so that the total is right":
            lambda a, s: summed(a, s) * right(a, s).sum() / summed(a, s).sum(),
    }


def _verdict(answer, split, story):
    """True, False, or None where the answer returns nothing."""
    try:
        value = numbers(call(answer, lambda a, s: split(*map(torch.as_tensor, (a, s))), *story),
                        "return True or False: your verdict")
    except NotAttempted:
        return None
    if value.dtype != torch.bool or value.numel() != 1:
        raise Wrong(f"return True or False, not shape {tuple(value.shape)}, {value.dtype}")
    return bool(value)


@check
def moves_alone(answer):
    """`answer(split, inputs (T, in+1), output_grads (T, out)) → bool`, of three stories."""
    stories = [_splits(8, 6, 4, 3), _splits(18, 9, 3, 5), _splits(28, 4, 2, 3)]
    verdicts = [{name: _verdict(answer, split, story) for name, split in splits.items()}
                for story, splits in stories]
    given = [verdict for of_story in verdicts for verdict in of_story.values()]
    if set(given) == {None}:
        raise NotAttempted
    if None in given:
        raise Wrong("your test returns nothing for some splits: return True or False for every one")
    accepted = [of_story.pop("") for of_story in verdicts]
    if not all(accepted):
        raise Wrong("your test turns down the right split" + " of some stories" * any(accepted))
    passed = [name for name in verdicts[0] if any(of_story[name] for of_story in verdicts)]
    if passed:
        raise Wrong(f"your test lets {len(passed)} of 5 wrong splits pass: {'; '.join(passed)}")
    return "accepts the right split and turns down five wrong ones"


# -- the clinic -----------------------------------------------------------------------------------

def _sequence(draw, length, W):
    """(ā, Ds) and r_t of a layer W: positions mix behind it, and each token has a copy of W."""
    a = torch.cat([draw(length, W.shape[1] - 1), torch.ones(length, 1, dtype=W.dtype)], 1)
    copies = W.expand(length, -1, -1).clone().requires_grad_()
    s = torch.einsum("toi,ti->to", copies, a)
    loss = torch.nn.functional.cross_entropy(draw(length, length).tril() @ s.tanh(),
                                             torch.arange(length) % len(W), reduction="sum")
    r, Ds = torch.autograd.grad(loss, (copies, s))
    return (a, Ds), r


class _Clinic:
    """What a pipeline is given, what it should return, and the symptoms of one that does not."""

    def __init__(self, seed, lengths, outer, inner, damping, n_train):
        draw = draws(seed)
        Q_A, Q_S = (torch.linalg.qr(draw(size, size)).Q for size in (inner, outer))
        Lambda, W = 0.1 + 2 * draw(outer, inner).square(), draw(outer, inner)
        (self.query, r_q), (self.story, r) = (_sequence(draw, length, W) for length in lengths)
        self.by_token = r_q, r = r_q.flatten(1), r.flatten(1)
        self.factors, self.n_train = (Q_A, Q_S, Lambda, damping, n_train), n_train
        basis = torch.kron(Q_S, Q_A)
        self.damped = basis @ (Lambda.flatten() + damping).diag() @ basis.T
        self.gradient, self.shape = r_q.sum(0), (outer, inner)
        self.truth = r @ torch.linalg.solve(self.damped, self.gradient) / n_train

    def table(self):
        """Token of the query by token of the story."""
        r_q, r = self.by_token
        truth = r_q @ torch.linalg.solve(self.damped, r.T) / self.n_train
        row, column = truth.sum(0, keepdim=True), truth.sum(1, keepdim=True)
        return Expected("the table", truth, {
            "that is the product of the two splits: solve for each token of the query":
                column @ row / truth.sum(),
            "every row is the story's split: keep the query's tokens apart": row.expand_as(truth),
            "there is no curvature in it": r_q @ r.T / self.n_train,
            "it multiplies by Λ + λ": r_q @ self.damped @ r.T / self.n_train,
        }, {"that is one split: keep the tokens of both apart": truth.shape[1:],
            "a row for a token of the query: yours is transposed": truth.shape[::-1]})

    def values(self, answer, a, s):
        value = numbers(call(answer, self.query, (a, s), *self.factors), "the values").double()
        if value.shape != a.shape[:1]:
            raise Wrong(f"shape {tuple(value.shape)} for a story of length {len(a)}")
        return value

    def symptoms(self, answer):
        """What is wrong with a pipeline, each found by running it; empty where it is healthy."""
        value, found = self.values(answer, *self.story), []
        off = (value.sum() / self.truth.sum() - 1).abs().item()
        if not value.isfinite().all():
            found.append("some values are not finite")
        elif off > core.TOLERANCE:
            found.append(f"the sum over tokens is off by {off:.0%} from a dense solve")
        return found + self.moved(answer, value) + self.read_out(answer)

    def moved(self, answer, before):
        """Which values move when the ā or the Ds of one token are doubled."""
        (a, s), found = self.story, []
        twice = torch.ones(len(a), 1, dtype=a.dtype).index_fill(0, torch.tensor(2), 2)
        for what, story in (("ā", (twice * a, s)), ("Ds", (a, twice * s))):
            change = (self.values(answer, *story) - before).abs()
            moved = (change > core.TOLERANCE * before.abs().max()).tolist()
            if not moved.pop(2):
                found.append(f"doubling {what} of token 2 leaves value 2 as it was")
            if any(moved):
                found.append(f"doubling {what} of token 2 moves {sum(moved)} other values")
        return found

    def read_out(self, answer):
        """Stories of one token, one entry of ā and Ds each, give the iHVP entry by entry."""
        outer, inner = (torch.eye(size, dtype=self.truth.dtype).split(1) for size in self.shape)
        entries = [self.values(answer, a, s).sum() for s in outer for a in inner]
        missed = self.damped @ (self.n_train * torch.stack(entries)) - self.gradient
        gap = (missed.norm() / self.gradient.norm()).item()
        return ["one-token stories read out your iHVP: (G+λI) times it misses the query's "
                f"gradient by {gap:.0%}"] * (gap > 10 * core.TOLERANCE)


def _clinics():
    return {"": _Clinic(5, (4, 6), 3, 5, 0.3, 50),
            "right for one λ, N and sizes, but for others ": _Clinic(15, (7, 5), 4, 3, 1.1, 13)}


def _judge(answer, expected):
    judge(answer, [Problem((clinic.query, clinic.story, *clinic.factors), expected(clinic))
                   for clinic in _clinics().values()])


@check
def mend_a(answer):
    """`answer(query (ā, Ds), story (ā, Ds), Q_A, Q_S, Lambda, damping, n_train) → (T,)`."""
    try:
        _judge(answer, lambda clinic: Expected("the values", clinic.truth))
    except Wrong:
        for where, clinic in _clinics().items():
            if symptoms := clinic.symptoms(answer):
                raise Wrong(where + "; ".join(symptoms)) from None
        raise
    return "every value equals autograd by token, and a dense solve with G+λI"


@check
def both_splits(answer):
    """The same arguments → (T_q, T)."""
    _judge(answer, _Clinic.table)
    return "every entry equals autograd by token, and a dense solve with G+λI"

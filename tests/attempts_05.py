"""Notebook 05: tests and pipelines; right ones by other ways, wrong ones with the evidence."""
import numpy as np
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
        if split != "query":
            return token
        return torch.cat([token, token.new_zeros(max(len(a) - len(token), 0))])[:len(a)]
    return run


def bare_query_split(query, story, Q_A, Q_S, Lambda, damping, n_train):
    """The query's tokens, at the query's own length."""
    (a_q, s_q), (a, s) = query, story
    P = Q_S @ ((Q_S.T @ (s.T @ a) @ Q_A) / (Lambda + damping)) @ Q_A.T
    return ((s_q @ P) * a_q).sum(1) / n_train


def changed(split, a, s, inputs=True, grads=True):
    """Which values move when token 2 changes."""
    other_a, other_s = a.clone(), s.clone()
    if inputs:
        other_a[2] *= 2
    if grads:
        other_s[2] *= 2
    return (split(other_a, other_s) - split(a, s)).abs() > 1e-9



# -- right, by other ways -------------------------------------------------------------------------

def by_random_row(split, inputs, output_grads):
    a, s = inputs.clone(), output_grads.clone()
    a[1], s[1] = torch.randn_like(a[1]), torch.randn_like(s[1])
    same = torch.isclose(split(a, s), split(inputs, output_grads), rtol=1e-4, atol=1e-7)
    return same.tolist() == [t != 1 for t in range(len(a))]


def every_token_each_part(split, inputs, output_grads):
    before = split(inputs, output_grads)
    for t in range(len(inputs)):
        for part in (0, 1):
            changed = [inputs.clone(), output_grads.clone()]
            changed[part][t] += 1
            after = split(*changed)
            for u in range(len(inputs)):
                moved = abs(after[u] - before[u]) > 1e-6 * before.abs().max()
                if moved != (u == t):
                    return False
    return True


def in_place(split, inputs, output_grads):
    before = split(inputs, output_grads)
    inputs[2] *= 3
    output_grads[2] *= 3
    after = split(inputs, output_grads)
    same = (after - before).abs() < 1e-5 * before.abs().max()
    others = torch.cat([same[:2], same[3:]])
    return bool(others.all() and not same[2])


def by_numpy(split, inputs, output_grads):
    before = np.asarray(split(inputs, output_grads))
    inputs[0], output_grads[0] = 2 * inputs[0], 2 * output_grads[0]
    difference = np.abs(np.asarray(split(inputs, output_grads)) - before)
    return difference[0] > 1e-6 and (difference[1:] < 1e-6 * np.abs(before).max()).all()


def by_permutation_of_others(split, inputs, output_grads):
    """All but token 2 are replaced: its value stays; token 2 alone is replaced: its value moves."""
    others = torch.arange(len(inputs)) != 2
    for part in (0, 1):
        changed = [inputs.clone(), output_grads.clone()]
        changed[part][others] *= -1.5
        before, after = split(inputs, output_grads), split(*changed)
        if (after[2] - before[2]).abs() > 1e-5 * before.abs().max():
            return False
        if ((after - before).abs()[others] < 1e-6 * before.abs().max()).any():
            return False
    changed = split(inputs * (1 + ~others[:, None]), output_grads)
    return abs(changed[2] - before[2]) > 1e-5 * before.abs().max()


def single_precision(split, inputs, output_grads):
    a, s = inputs.float(), output_grads.float()
    change = torch.ones(len(a), 1)
    change[2] = 2
    difference = (split(change * a, change * s) - split(a, s)).abs()
    return (difference > 1e-4 * difference.max()).nonzero().flatten().tolist() == [2]


def by_jacobian(split, inputs, output_grads):
    """∂ value_t / ∂ (ā_u, Ds_u) is a diagonal of blocks."""
    slopes = torch.autograd.functional.jacobian(split, (inputs, output_grads))
    size = sum(slope.abs().sum(-1) for slope in slopes)
    off = size - size.diag().diag()
    return (off.max() < 1e-6 * size.max()) & (size.diag().min() > 0)


def by_poison(split, inputs, output_grads):
    """NaN spreads to whatever depends on token 2."""
    for part in (0, 1):
        poisoned = [inputs.clone(), output_grads.clone()]
        poisoned[part][2] = float("nan")
        if split(*poisoned).isnan().nonzero().flatten().tolist() != [2]:
            return False
    return True


def by_slopes(split, inputs, output_grads):
    story = inputs.requires_grad_(), output_grads.requires_grad_()
    for t, value in enumerate(split(*story)):
        for slope in torch.autograd.grad(value, story, retain_graph=True):
            size = slope.norm(dim=1)
            if size[t] == 0 or (size > 1e-6 * size[t]).sum() > 1:
                return False
    return True


def token_loop(query, story, Q_A, Q_S, Lambda, damping, n_train):
    P, values = solved(query, Q_A, Q_S, Lambda, damping), []
    for a, s in zip(*story, strict=True):
        values.append((s @ P @ a).item() / n_train)
    return values


def solved(query, Q_A, Q_S, Lambda, damping):
    gradient = sum(torch.outer(s, a) for a, s in zip(*query, strict=True))
    rotated = torch.einsum("ki,kl,lj->ij", Q_S, gradient, Q_A)
    return torch.einsum("ik,kl,jl->ij", Q_S, rotated / (Lambda + damping), Q_A)


def dense(query, story, Q_A, Q_S, Lambda, damping, n_train):
    basis = torch.kron(Q_S, Q_A)
    G = basis @ torch.diag(Lambda.flatten() + damping) @ basis.T
    ihvp = torch.linalg.solve(G, (query[1].T @ query[0]).flatten())
    return torch.stack([torch.kron(s, a) @ ihvp for a, s in zip(*story, strict=True)]) / n_train


def numpy_pipeline(query, story, Q_A, Q_S, Lambda, damping, n_train):
    (a_q, s_q), (a, s) = [[part.numpy() for part in sequence] for sequence in (query, story)]
    Q_A, Q_S, Lambda = Q_A.numpy(), Q_S.numpy(), Lambda.numpy()
    P = Q_S.dot((Q_S.T.dot(s_q.T.dot(a_q)).dot(Q_A)) / (Lambda + damping)).dot(Q_A.T)
    return np.einsum("to,oi,ti->t", s, P, a) / n_train


def in_the_eigenbasis(query, story, Q_A, Q_S, Lambda, damping, n_train):
    """The story goes into the basis, and nothing comes back."""
    (a_q, s_q), (a, s) = [(a @ Q_A, s @ Q_S) for a, s in (query, story)]
    return ((s @ ((s_q.T @ a_q) / (Lambda + damping))) * a).sum(1) / n_train


def single_pipeline(query, story, Q_A, Q_S, Lambda, damping, n_train):
    query, story = ([part.float() for part in pair] for pair in (query, story))
    factors = [factor.float() for factor in (Q_A, Q_S, Lambda)]
    return pipeline()(query, story, *factors, damping, n_train)


def overwriting(query, story, Q_A, Q_S, Lambda, damping, n_train):
    Lambda += damping
    rotated = Q_S.T @ query[1].T @ query[0] @ Q_A
    rotated /= Lambda
    pushed = story[1] @ (Q_S @ rotated @ Q_A.T)
    pushed *= story[0]
    return pushed.sum(-1).div_(n_train)


def table_by_row(query, story, *factors):
    """The right pipeline, asked by one token of the query after the other."""
    tokens = zip(query[0].split(1), query[1].split(1), strict=True)
    return torch.stack([pipeline()(token, story, *factors) for token in tokens])


def table_by_loop(query, story, Q_A, Q_S, Lambda, damping, n_train):
    table = []
    for a_q, s_q in zip(*query, strict=True):
        P = Q_S @ ((Q_S.T @ torch.outer(s_q, a_q) @ Q_A) / (Lambda + damping)) @ Q_A.T
        table.append([(s @ P @ a).item() / n_train for a, s in zip(*story, strict=True)])
    return table


def by_token(sequence):
    """r_t = Ds_t ā_tᵀ, flat."""
    return torch.einsum("to,ti->toi", sequence[1], sequence[0]).flatten(1)


def table_dense(query, story, Q_A, Q_S, Lambda, damping, n_train):
    basis = torch.kron(Q_S, Q_A)
    G = basis @ torch.diag(Lambda.flatten() + damping) @ basis.T
    return by_token(query) @ torch.linalg.solve(G, by_token(story).T) / n_train


def table_numpy(query, story, Q_A, Q_S, Lambda, damping, n_train):
    parts = [part.numpy() for part in (*query, *story, Q_A, Q_S, Lambda)]
    a_q, s_q, a, s, Q_A, Q_S, Lambda = parts
    rotated = [a_q @ Q_A, s_q @ Q_S, a @ Q_A, s @ Q_S]
    return np.einsum("ui,uo,ti,to,oi->ut", *rotated, 1 / (Lambda + damping)) / n_train


def table_single(query, story, *factors):
    query, story = ([part.float() for part in pair] for pair in (query, story))
    return table_by_row(query, story, *(factor.float() for factor in factors[:3]), *factors[3:])


def altered(change):
    """The right table, changed."""
    def run(query, *rest):
        return change(table_by_row(query, *rest))
    return run


def table_of(**options):
    """The table of a pipeline with mistakes, one token of the query after the other."""
    def run(query, story, *factors):
        tokens = zip(query[0].split(1), query[1].split(1), strict=True)
        return torch.stack([pipeline(**options)(token, story, *factors) for token in tokens])
    return run


def no_curvature(query, story, Q_A, Q_S, Lambda, damping, n_train):
    return by_token(query) @ by_token(story).T / n_train


PIPELINES = [token_loop, dense, numpy_pipeline, in_the_eigenbasis, single_pipeline, overwriting,
             pipeline()]
RIGHT = {
    "moves_alone":
        [by_random_row, every_token_each_part, in_place, by_numpy, by_permutation_of_others,
                    single_precision, by_jacobian, by_poison, by_slopes,
                    lambda split, a, s: changed(split, a, s).nonzero().flatten().tolist() == [2],
                    lambda *a: changed(*a)[2] & (changed(*a).sum() == 1)],
    "mend_a": PIPELINES,
    "both_splits": [table_by_loop, table_dense, table_numpy, table_by_row, table_single],
}


# -- wrong ----------------------------------------------------------------------------------------

def blames_the_total(split, a, s):
    before = split(a, s).sum()
    a[2] *= 2
    s[2] *= 2
    return bool((split(a, s).sum() - before).abs() > 1e-9)


def without_a_copy(split, a, s):
    """`clone` forgotten: before and after are the same story."""
    other_a, other_s = a, s
    other_a[2] *= 2
    other_s[2] *= 2
    moved = (split(other_a, other_s) - split(a, s)).abs() > 1e-9
    return bool(moved[2]) and moved.sum().item() == 1


def nothing_for_false(split, a, s):
    if changed(split, a, s).sum() == 1:
        return True


def by_autograd_of_the_sum(split, a, s):
    a = a.clone().requires_grad_()
    (slope,) = torch.autograd.grad(split(a, s).sum(), a, allow_unused=True, materialize_grads=True)
    return bool((slope.abs().sum(1) > 0).all())


def summed_query(query, story, *factors):
    """ā and Ds of the query summed over tokens before they meet."""
    (a, s), rest = query, factors
    return pipeline()((a.sum(0, keepdim=True), s.sum(0, keepdim=True)), story, *rest)


def turned_lambda(query, story, Q_A, Q_S, Lambda, damping, n_train):
    return pipeline()(query, story, Q_A, Q_S, Lambda.flip(0), damping, n_train)


def rebuilt(change=None, **options):
    """The right pipeline with arguments or result changed."""
    def run(query, story, Q_A, Q_S, Lambda, damping, n_train):
        setting = {"damping": damping, "n_train": n_train} | options
        value = pipeline()(query, story, Q_A, Q_S, Lambda, *setting.values())
        return change(value) if change else value
    return run


HARD_CODED = [0.0296162, 0.0392001, -0.0015274, -0.0058946, 0.0342815, -0.0093516]  # of one input
SYMPTOMS = [
    ("the sum over tokens is off by", rebuilt(change=torch.neg)),
    ("right for one λ", rebuilt(damping=0.3)),
    ("right for one λ", rebuilt(n_train=50)),
    ("misses the query's gradient by", rebuilt(damping=0.0)),
    ("moves", rebuilt(change=lambda values: values.flip(0))),
    ("moves", rebuilt(change=lambda values: values.cumsum(0))),
    ("the sum over tokens is off by", rebuilt(change=torch.abs)),
    ("shape", rebuilt(change=torch.sum)),
    ("shape", rebuilt(change=lambda values: values[:-1])),
    ("moves", rebuilt(change=lambda values: values.roll(1))),
    ("the sum over tokens is off by", rebuilt(change=lambda values: values / len(values))),
    ("moves", rebuilt(change=lambda values: values.softmax(0))),
    ("moves", rebuilt(change=lambda values: values.mean().expand(len(values)))),
    ("for a story of length 1", lambda query, story, *factors: torch.tensor(HARD_CODED)),
    ("misses the query's gradient by", turned_lambda),
    ("misses the query's gradient by", summed_query),
    ("the sum over tokens is off by", rebuilt(change=lambda values: 2 * values)),
    ("raised", lambda query, story, Q_A, Q_S, *rest: pipeline()(query, story, Q_S, Q_A, *rest)),
    ("not finite", rebuilt(change=lambda values: values / 0)),
    ("leaves value 2 as it was", rebuilt(change=lambda values: 0 * values)),
    ("misses the query's gradient by", pipeline(turn=(True, False))),
    ("the sum over tokens is off by", rebuilt(change=torch.relu)),
]


WRONG = {
    "moves_alone": [
        ("turns down the right split", lambda split, a, s: False),
        ("5 of 5 wrong splits pass", lambda split, a, s: True),
        ("only scales with the story", lambda split, a, s: bool(changed(split, a, s)[2])),
        ("sums Ds over all tokens",
         lambda split, a, s: bool(changed(split, a, s, grads=False).sum() == 1)),
        ("1 of 5 wrong splits pass: one that does not look",
         lambda split, a, s: bool(changed(split, a, s).sum() <= 1)),
        ("True or False", lambda split, a, s: changed(split, a, s)),
        ("pass", blames_the_total),
        ("turns down the right split", without_a_copy),
        ("nothing", nothing_for_false),
        ("pass", by_autograd_of_the_sum),
        ("sums ā over all tokens",
         lambda split, a, s: bool(changed(split, a, s, inputs=False).sum() == 1)),
        ("5 of 5", lambda split, a, s: len(split(a, s)) == len(a)),
        ("5 of 5", lambda split, a, s: bool(torch.isfinite(split(a, s)).all())),
        ("turns down the right split", lambda split, a, s: bool(changed(split, a, s)[1])),
        ("turns down the right split", lambda split, a, s: not changed(split, a, s).sum() == 1),
        ("of some stories", lambda split, a, s: changed(split, a, s).tolist() == [
            False, False, True, False, False, False]),
        (None, lambda split, a, s: changed(split, a, s).sum().item() == 1 or len(a) != 6),
        (None, lambda split, a, s: torch.allclose(split(a, s), torch.einsum("to,ti->t", s, a))),
        ("turns down the right split", lambda split, a, s: bool(changed(split, a, s).all())),
        ("True or False", lambda split, a, s: "True"),
        ("True or False", lambda split, a, s: changed(split, a, s).sum()),
        ("True or False", lambda split, a, s: split),
        ("raised", lambda split, a, s: split(a)[2] != split(s)[2]),
        ("pass", lambda split, a, s: changed(split, a, s)[2] and not changed(split, a, s)[3]
         or changed(split, a, s).sum() <= 1),
        ("turns down the right split", lambda split, a, s: bool(changed(split, a, s).sum() == 0)),
        ("pass",
         lambda split, a, s: bool(torch.isclose(split(a, s).sum(), split(2 * a, s).sum() / 2))),
    ],
    "mend_a": [
        ("misses the query's gradient by", pipeline(turn=(False, True))),
        ("misses the query's gradient by", pipeline(turn=(True, True))),
        ("the sum over tokens is off by", pipeline(turn=(True, False))),
        ("misses the query's gradient by", pipeline(multiply=True)),
        ("the sum over tokens is off by", pipeline(damped=False)),
        ("the sum over tokens is off by 4900%", pipeline(divide=False)),
        ("misses the query's gradient by", pipeline(turn=(False, True), split="rescaled")),
        ("doubling ā of token 2 moves 5 other values", pipeline(split="rescaled")),
        ("the sum over tokens is off by", pipeline(split="inputs")),
        ("doubling Ds of token 2 moves 5 other values", pipeline(split="outputs")),
        ("moves 3 other values", pipeline(split="query")),
        ("shape (4,) for a story of length 6", bare_query_split),
        *SYMPTOMS,
    ],
    "both_splits": [
        ("product of the two splits", altered(lambda M: M.sum(1, True) @ M.sum(0, True) / M.sum())),
        ("every row is the story's split", altered(lambda M: M.sum(0, True).expand_as(M))),
        ("there is no curvature", no_curvature),
        ("it multiplies by Λ + λ", table_of(multiply=True)),
        ("that is one split", pipeline()),
        ("shape (4,)", bare_query_split),
        ("yours is transposed", altered(lambda M: M.T)),
        ("times", table_of(divide=False)),
        ("every sign is turned", altered(torch.neg)),
        ("shape", altered(torch.sum)),
        ("not finite", altered(lambda M: M / 0)),
        ("right for 1 of 2 inputs", lambda *given: table_by_row(*given[:5], 0.3, *given[6:])),
        (None, table_of(turn=(False, True))),
    ],
}

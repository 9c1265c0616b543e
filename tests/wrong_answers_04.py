"""Notebook 04: answers that learners give, and words of the message that each must get."""
import torch


def labels(ids, keep, shift=1):
    """x_{t+shift} at the positions in `keep`, −100 elsewhere."""
    return torch.tensor([ids[t + shift] if t in keep and t + shift < len(ids) else -100 for t in range(len(ids))])


def rotated(gradients, Q_A, Q_S):
    return Q_S.T @ gradients @ Q_A


WRONG = {
    "completion_labels": [
        ("not shifted", lambda ids, start: labels(ids, range(start, len(ids)), shift=0)),
        ("predicted at position start − 1", lambda ids, start: labels(ids, range(start, len(ids)))),
        ("the prompt is asked about too", lambda ids, start: labels(ids, range(len(ids)))),
        ("one position too many", lambda ids, start: labels(ids, range(start - 2, len(ids)))),
        ("last token is missing", lambda ids, start: labels(ids, range(start - 1, len(ids) - 2))),
        ("a tensor of 7 labels", lambda ids, start: torch.tensor(ids[start:])),
        ("dtype torch.long", lambda ids, start: labels(ids, range(start - 1, len(ids))).float()),
        ("a token id, or", lambda ids, start: labels(ids, range(start - 1, len(ids))).apply_(
            lambda id: id if id < 0 else id + 100)),
        ("−100 where there is no target", lambda ids, start: labels(ids, range(start - 1, len(ids))).clamp(min=-1)),
    ],
    "token_influence": [
        ("activations were summed", lambda a, s, P, N: torch.einsum("to,oi,ji->t", s, P, a) / N),
        ("output gradients were summed", lambda a, s, P, N: torch.einsum("jo,oi,ti->t", s, P, a) / N),
        ("1/N is missing", lambda a, s, P, N: ((s @ P) * a).sum(1)),
        ("sign is turned", lambda a, s, P, N: -((s @ P) * a).sum(1) / N),
        ("the query (P) is missing", lambda a, s, P, N: s.norm(dim=1) * a.norm(dim=1) / N),
        ("carries a 1 for the bias", lambda a, s, P, N: ((s @ P)[:, :-1] * a[:, :-1]).sum(1) / N),
        ("shape", lambda a, s, P, N: s @ P @ a.T / N),
    ],
    "on_predicted": [
        ("nothing was moved", lambda values: values),
        ("moved to the left: a value", lambda values: torch.cat([values[1:], values[:1] * 0])),
        ("came round", lambda values: values.roll(1)),
        ("and around", lambda values: values.roll(-1)),
        ("shape", lambda values: values[:-1]),
    ],
    "relatif": [
        ("square root", lambda I, r, A, S, L, d: I / (rotated(r, A, S) ** 2 / (L + d)).sum((1, 2))),
        ("curvature is missing", lambda I, r, A, S, L, d: I / r.flatten(1).norm(dim=1)),
        ("length of the iHVP", lambda I, r, A, S, L, d: I / (rotated(r, A, S) / (L + d)).flatten(1).norm(dim=1)),
        ("multiplied by Λ + λ", lambda I, r, A, S, L, d: I / (rotated(r, A, S) ** 2 * (L + d)).sum((1, 2)).sqrt()),
        ("must lose rank", lambda I, r, A, S, L, d: I * (rotated(r, A, S) ** 2 / (L + d)).sum((1, 2)).sqrt()),
        ("eigenvectors stand in columns",
         lambda I, r, A, S, L, d: I / ((S @ r @ A.T) ** 2 / (L + d)).sum((1, 2)).sqrt()),
        ("damping is missing", lambda I, r, A, S, L, d: I / (rotated(r, A, S) ** 2 / L).sum((1, 2)).sqrt()),
    ],
}

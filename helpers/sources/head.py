"""The output head a slice at a time, without all the logits in memory."""
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn

from ..curvature import picked, sampled_labels, uniforms
from ..stories import IGNORE, content_weights, logits_of

SLICE = 2 ** 21  # logits held at once: about what a processor's cache holds
PLAIN = WeakKeyDictionary()  # by model, whether its logits are its output head's own


def shorter_way(model, layers, batch, choose_labels=None):
    """For `capture.backward_pass`: what gives, called inside it, the states that the output head
    reads, the losses, and their gradient by these states; None where that would not be exact: the
    head is tracked, the labels are chosen in a way of their own, or something comes behind it.
    """
    head, numbers = model.get_output_embeddings(), None
    if type(head) is not nn.Linear or model.base_model is model or head in layers.values():
        return None
    if choose_labels:
        if getattr(choose_labels, "func", None) is not sampled_labels or choose_labels.args:
            return None
        numbers = uniforms(**choose_labels.keywords).to(batch.labels.device)
    if model not in PLAIN:
        PLAIN[model] = is_plain(model, head, batch)
    return partial(run, model, head, batch, numbers) if PLAIN[model] else None


def is_plain(model, head, batch):
    """Whether a trial shows that nothing comes behind the head: some models scale or cap their
    logits. All bits are compared, so a cap shows also where it hardly acts."""
    row = type(batch)([0], batch.input_ids[:1], batch.mask[:1], batch.labels[:1])
    with torch.no_grad():
        states = states_of(model, row)
        return states.shape[-1] == head.in_features and torch.equal(
            head(states).float(), logits_of(model, row).float())


def states_of(model, batch):
    return model.base_model(input_ids=batch.input_ids, use_cache=False)[0]


def run(model, head, batch, numbers, weighted):
    """Gradients (p − onehot) W at the positions with a target; the others need no logits."""
    outputs = states_of(model, batch)
    states, gradients = outputs.detach(), torch.zeros_like(outputs)
    losses = torch.zeros(batch.labels.shape, device=states.device,
                         dtype=torch.promote_types(states.dtype, torch.float32))
    places = (batch.labels != IGNORE).nonzero()
    with torch.no_grad():
        for b, t in (part.T for part in places.split(max(1, SLICE // head.out_features))):
            logits = F.linear(states[b, t], head.weight, head.bias).to(losses.dtype)
            log_p = logits.log_softmax(-1)
            p = log_p.exp()
            labels = batch.labels[b, t] if numbers is None else picked(p, numbers[b, t])
            losses[b, t] = terms = -log_p.gather(1, labels[:, None])[:, 0]
            p[range(len(labels)), labels] -= 1
            if weighted:
                p *= content_weights(terms)[:, None]
            gradients[b, t] = p.to(states.dtype) @ head.weight
    return outputs, losses, gradients

"""Stories, queries and batches, and the loss of a model on them.

Symbols are those of the series: a training sequence z = (x_1 … x_T) has the loss
L(z) = −Σ_t log p(x_{t+1} | x_≤t), summed over real targets.
"""
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.attention
import torch.nn.functional as F

IGNORE = -100  # label of a position without a real target


class InputError(Exception):
    """A user's mistake, told in one line: what is wrong and what to do."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))


class Story(NamedTuple):
    """One training text with a name of its own.
    `answers` are the parts `text[start:end]` whose loss the model was trained on, in order; None
    means all. The text of a `chat` holds its special tokens, so a tokenizer adds none.
    """
    id: str
    text: str
    answers: tuple[tuple[int, int], ...] | None = None
    chat: bool = False


@dataclass(frozen=True)
class Query:
    """What is asked: why `completion` after `prompt`, and why that rather than `against`? The model
    writes a completion that is None; None against it asks for the completion alone. The prompt of a
    `chat` holds its special tokens, as a Story's text. `also` are prompts that ask the same in
    other words: explained is the mean over all of them."""
    prompt: str
    completion: str | None = None
    against: str | None = None
    chat: bool = False
    also: tuple[str, ...] = ()


class EncodedQuery(NamedTuple):
    """A query as token ids; the completion is `ids[start:]`, start ≥ 1."""
    ids: list[int]
    start: int


@dataclass
class Corpus:
    """N tokenised stories, `stories[i]` with the ids `ids[i]`; counts of those cut or left out.
    `loss_masks[i][t]` says whether token t is predicted for the loss; None means all are."""
    stories: list[Story]
    ids: list[list[int]]
    truncated: int = 0
    skipped: int = 0
    loss_masks: list[list[bool]] | None = None

    def __len__(self):
        return len(self.ids)


@dataclass
class Batch:
    """B sequences padded on the right to T.

    `index` holds their rows in the corpus, `input_ids` (B, T) long (or vectors (B, in), see
    `vector_batch`), `mask` (B, T) bool, `labels` (B, T) long with labels[b, t] = x_{t+1}, −100
    where there is no real target.
    """
    index: list[int]
    input_ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor
    target: str = "influence"  # or "content": each loss term is weighted by `content_weights`

    def to(self, device):
        """The same batch on `device`."""
        return replace(self, input_ids=self.input_ids.to(device), mask=self.mask.to(device),
                       labels=self.labels.to(device))


# -- tokens --------------------------------------------------------------------------------------

def tokenise(stories: list[Story], tokenizer, max_tokens: int) -> Corpus:
    """The stories that have something to predict, in their order, each of at most `max_tokens` ids.

    Ids are those of the tokenizer's own template (BOS and EOS where it adds them). Blank stories,
    those of a single token and those whose answers lie behind `max_tokens` are skipped and
    counted. Raises InputError if none is left.
    """
    if max_tokens < 2:
        raise InputError(f"max_tokens is {max_tokens}: at least 2 are needed, one to read and one "
                         "to predict")
    written = [story for story in stories if story.text and story.text.strip()]
    whole = [story.text for story in written if story.answers is None]
    ids = iter(tokenizer(whole, verbose=False)["input_ids"] if whole else [])
    encoded = [(row := next(ids), [True] * len(row)) if story.answers is None
               else encode_answers(tokenizer, story) for story in written]
    kept = [(story, *pair) for story, pair in zip(written, encoded) if any(pair[1][1:max_tokens])]
    if not kept:
        raise InputError(f"none of the {len(stories)} stories has two tokens or more, and one to "
                         "predict: give stories with text")
    corpus = Corpus([story for story, *_ in kept], [ids[:max_tokens] for _, ids, _ in kept],
                    truncated=sum(len(ids) > max_tokens for _, ids, _ in kept),
                    skipped=len(stories) - len(kept))
    if any(story.answers is not None for story in corpus.stories):
        corpus.loss_masks = [mask[:max_tokens] for *_, mask in kept]
    return corpus


def encode_answers(tokenizer, story: Story) -> tuple[list[int], list[bool]]:
    """A story's ids, and which of them are predicted for the loss: those of a letter of an answer,
    and what the tokenizer puts behind an answer at the text's end (EOS)."""
    encoded = tokenizer(story.text, verbose=False, add_special_tokens=not story.chat,
                        return_offsets_mapping=True)
    last, mask, behind = story.answers[-1][1], [], False
    for left, right in encoded["offset_mapping"]:
        behind = behind or right == len(story.text) == last
        mask.append(any(left < end and right > start for start, end in story.answers)
                    or behind and right == 0)
    return encoded["input_ids"], mask


def prompt_ids(tokenizer, text: str, chat=False) -> list[int]:
    """Ids of a text that goes on: the tokenizer's template without an EOS at the end; of a `chat`
    nothing but the text."""
    plain = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = plain if chat else tokenizer(text, verbose=False)["input_ids"]
    closed = ids[-1:] == [tokenizer.eos_token_id] and ids[len(ids) - 1 - len(plain):-1] == plain
    return ids[:-1] if closed else ids


def encode_query(tokenizer, query: Query, context: int) -> EncodedQuery:
    """Prompt and completion encoded together.

    The completion begins where the ids leave those of the prompt alone, so a prompt that ends in
    half a word is read as the tokenizer reads the whole. Raises InputError where either is empty,
    and for more than `context` ids.
    """
    if not query.prompt.strip():
        raise InputError("the prompt is empty: give the beginning of a story")
    if not (query.completion or "").strip():
        raise InputError("the completion is empty: give the word or words that follow the prompt")
    prompt = prompt_ids(tokenizer, query.prompt, query.chat)
    ids = prompt_ids(tokenizer, query.prompt + query.completion, query.chat)
    differing = (place for place, (a, b) in enumerate(zip(prompt, ids)) if a != b)
    start = next(differing, min(len(prompt), len(ids)))
    if start == len(ids):
        raise InputError(f"the completion {query.completion!r} gives no token: give the word that "
                         "follows the prompt")
    if start == 0:
        raise InputError(f"nothing stands before the completion {query.completion!r}: give a "
                         "longer prompt")
    if len(ids) > context:
        raise InputError(f"the prompt has {start} tokens and the completion {len(ids) - start}, "
                         f"together more than the {context} the model reads: shorten the prompt")
    return EncodedQuery(ids, start)


def completion_masks(queries: list[EncodedQuery]) -> list[list[bool]]:
    """For each query which of its tokens are the completion's: only these are targets."""
    return [[place >= start for place in range(len(ids))] for ids, start in queries]


def token_texts(tokenizer, ids: list[int]) -> list[str]:
    """The text of each id; "".join(…) reads as the story. Part of a character shows as "�"."""
    # decoded alone a word may lose its leading space, so each is decoded behind a fixed neighbour
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    kinds = sorted(set(ids))
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode(anchor, **options))
    decoded = tokenizer.batch_decode([anchor + [token] for token in kinds], **options)
    texts = {token: text[before:] for token, text in zip(kinds, decoded)}
    pieces = [texts[token] for token in ids]
    plain = (place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids)
    first = next(plain, None)
    if first is not None and not tokenizer.decode(ids[first:], **options).startswith(" "):
        pieces[first] = pieces[first].removeprefix(" ")
    return pieces


# -- batches -------------------------------------------------------------------------------------

def batches(ids: list[list[int]], batch_size=16, max_positions=None, loss_masks=None):
    """Yields `ids` as Batch after Batch, shortest first, equal lengths in their order.

    A batch has at most `batch_size` rows and, with its padding, `max_positions` positions; a
    sequence longer than that comes alone. `loss_masks` as in a Corpus.
    """
    rows = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        full = max_positions is not None and (len(rows) + 1) * len(ids[row]) > max_positions
        if rows and (full or len(rows) == batch_size):
            yield padded(ids, rows, loss_masks)
            rows = []
        rows.append(row)
    if rows:
        yield padded(ids, rows, loss_masks)


def padded(ids: list[list[int]], rows: list[int], loss_masks=None) -> Batch:
    """These rows as one batch, filled up with id 0: the mask, not the id, says what is padding.
    Tokens that `loss_masks` leave out are read, and are no targets."""
    lengths = torch.tensor([len(ids[row]) for row in rows])
    longest = int(lengths.max())
    input_ids = torch.tensor([ids[row] + [0] * (longest - len(ids[row])) for row in rows])
    mask = torch.arange(longest) < lengths[:, None]
    labels = torch.full_like(input_ids, IGNORE)
    labels[:, :-1] = input_ids[:, 1:].masked_fill(~mask[:, 1:], IGNORE)
    for place, row in enumerate(rows if loss_masks else []):
        asked = torch.tensor(loss_masks[row][1:], dtype=torch.bool)
        labels[place, :len(asked)].masked_fill_(~asked, IGNORE)
    return Batch(rows, input_ids, mask, labels)


def vector_batch(inputs: torch.Tensor, labels: torch.Tensor) -> Batch:
    """A plain network's data: `inputs` (B, in), class `labels` (B,), one token a sequence."""
    mask = torch.ones(len(inputs), 1, dtype=torch.bool)
    return Batch(list(range(len(inputs))), inputs, mask, labels[:, None])


# -- losses --------------------------------------------------------------------------------------

def logits_of(model, batch: Batch, parameters: dict | None = None) -> torch.Tensor:
    """What the model says, (B, T, vocabulary); `parameters` may stand in for some of its own.

    No labels are given to the model: it would shift them once more, and average. A plain
    `nn.Sequential` of vectors counts as one token a sequence.
    """
    if isinstance(model, torch.nn.Sequential):
        logits = torch.func.functional_call(model, parameters or {}, (batch.input_ids,))
        return logits if logits.dim() == 3 else logits[:, None]
    options = {"input_ids": batch.input_ids, "use_cache": False}
    return torch.func.functional_call(model, parameters or {}, (), options).logits


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−log p(x_{t+1} | x_≤t) at every position, (B, T) in nats, 0 where there is no real target.
    `logits` (B, T, vocabulary) and `labels` (B, T), already shifted."""
    if logits.dtype != torch.float64:
        logits = logits.float()  # half precision has no digits for a sum
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE,
                             reduction="none")
    return losses.view_as(labels)


def content_weights(losses: torch.Tensor, least=0.02) -> torch.Tensor:
    """1 / max(1 − p, `least`) of every loss term −log p, the shape of `losses`; a constant.

    So weighted, a term has the gradient of the log-odds loss −log(p / (1 − p)) (TRAK, Park et al.
    2023): a word that is well learnt keeps its say, while 1 − p, a factor of ∇(−log p), fades.
    """
    return 1 / (1 - (-losses.detach()).exp()).clamp(min=least)


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L(z) of every sequence, (B,) in nats: the sum of its `token_losses`, never averaged."""
    return token_losses(logits, labels).sum(1)


def sequence_loss(model, batch: Batch) -> torch.Tensor:
    """`summed_loss` of the model on a batch, (B,), differentiable."""
    return summed_loss(logits_of(model, batch), batch.labels)


def plain_attention():
    """A context without fused kernels, which know no forward mode and no second derivative."""
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)

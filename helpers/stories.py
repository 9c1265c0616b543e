"""Models and stories: loading, tokenising, batches, queries.

Symbols are those of the series: a training sequence z = (x_1 … x_T) has the loss
L(z) = −Σ_t log p(x_{t+1} | x_≤t), summed over real targets. Whatever a user can get wrong
raises InputError, one line that says what is wrong and what to do.
"""
import io
import json
import logging
import os
import pickle
import re
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from importlib.util import find_spec
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.attention
import torch.nn.functional as F

DATA = Path(__file__).resolve().parents[1] / "data"
STORY_END = "<|endoftext|>"
SENTENCE_END = re.compile(r"[.!?\n]")
IGNORE = -100  # label of a position without a real target


class InputError(Exception):
    """A user's mistake, told in one line: what is wrong and what to do."""

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))


class Story(NamedTuple):
    """One training text with a name of its own."""
    id: str
    text: str


@dataclass(frozen=True)
class Query:
    """What is asked: why `completion` after `prompt`? None lets the model write the completion."""
    prompt: str
    completion: str | None = None


@dataclass
class Corpus:
    """N tokenised stories; `stories[i]` has the token ids `ids[i]`. Counts tell what was cut or left out."""
    stories: list[Story]
    ids: list[list[int]]
    truncated: int = 0
    skipped: int = 0

    def __len__(self):
        return len(self.ids)

    @cached_property
    def digests(self) -> list[int]:
        """A 64-bit number for each story, by which its tokens are known again."""
        return [int.from_bytes(blake2b(json.dumps(ids).encode(), digest_size=8).digest(), "big", signed=True) for ids in self.ids]


@dataclass
class Batch:
    """B sequences padded on the right to T: `index` their rows in the corpus, `input_ids` (B, T) long (or vectors
    (B, in), see `vector_batch`), `mask` (B, T) bool, `labels` (B, T) long with labels[b, t] = x_{t+1}, −100 where no real target is."""
    index: list[int]
    input_ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device):
        """The same batch on `device`."""
        return replace(self, input_ids=self.input_ids.to(device), mask=self.mask.to(device),
                       labels=self.labels.to(device))


# ---------------------------------------------------------------- models

def load_model(name="default", device="auto", precision="float32"):
    """(model, tokenizer): the causal LM `name`, in eval mode, with weights of `precision`, on `device`.

    `name` is "default" (data/model), a folder in the Hugging Face layout, or a Hub id; `device` is auto, cpu,
    cuda or mps; `precision` float32 or bfloat16. Code that comes with a model is never run. Raises InputError.
    """
    device = _device(device)
    with _quiet():
        folder = _model_folder(name)
        model = _load_weights(folder, name)
        tokenizer = _load_tokenizer(folder, name, model)
        _check_model(model, name)
        return model.to(device, getattr(torch, precision)), tokenizer


def _device(name):
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in present if present[device])
    if name not in present:
        raise InputError(f"unknown device {name!r}: choose auto, cpu, cuda or mps")
    if not present[name]:
        raise InputError(f"no {name} device on this machine: choose auto or cpu")
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name  # torchrun: each process its own GPU


def _model_folder(name):
    """Local folder with the files of model `name`, fetched from the Hub where need be."""
    folder = local_path(name, "model")
    if not os.path.isdir(folder):  # Path.is_dir raises on a text too long for a path, or a folder closed to us
        if os.path.exists(folder):
            raise InputError(f"{name} is a file: give the folder that holds config.json and the weights")
        if name == "default" or _is_path(name):
            raise InputError(f"no model folder {folder}: check the path, or give a Hub id such as "
                             "roneneldan/TinyStories-1M")
        folder = _fetch_model(str(name))
    if os.path.isfile(folder / "adapter_config.json"):  # beside a full model, too: what is meant is the adapted one
        raise InputError(f"{name} holds an adapter (adapter_config.json), which is not applied here: merge it into its model and "
                         "give that folder (in peft: load it, then model.merge_and_unload().save_pretrained(FOLDER))")
    if not os.path.isfile(folder / "config.json"):
        raise InputError(f"{name} has no config.json: give a folder written by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        if not any(folder.glob("pytorch_model*.bin")):
            raise InputError(f"{name} has no weights (model.safetensors): give a folder written by save_pretrained")
        if torch.__version__ < (2, 6):  # CVE-2025-32434: before, reading a pickle could run code whatever was asked
            raise InputError(f"the weights of {name} are a pytorch_model.bin, which torch {torch.__version__} cannot read "
                             "safely: install torch 2.6 or newer, or replace them by model.safetensors")
    return folder


def local_path(name, bundled=None) -> Path:
    """Path that a name stands for, `~` expanded; "default" is what the series has under `bundled` in data/."""
    if bundled and name == "default":
        return DATA / bundled
    path = Path(os.path.expanduser(name))  # Path.expanduser raises for a user that does not exist
    if str(path).startswith("~") and path.parts != path.parts[:1] and not os.path.exists(path.parts[0]):  # else a folder "~" would be made
        raise InputError(f"{name}: nothing says where {path.parts[0]} is on this machine: give the path in full")
    return path


def _is_path(name):
    return str(name).startswith((".", "/", "~")) or str(name).count("/") > 1 or "\\" in str(name)


def _hub_info(name, kind):
    """What the Hub knows of the repository, None if the Hub does not answer. One call, no retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    try:
        return HfApi().repo_info(name, repo_type=kind, timeout=5)
    except HFValidationError:
        raise InputError(f"{name!r} is neither a path here nor a Hub id: write it as owner/name") from None
    except GatedRepoError:
        raise InputError(f"the {kind} {name!r} is gated: ask for access on its page, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise InputError(f"no {kind} {name!r}, neither here nor on the Hub: check the spelling "
                         "(a private one needs `hf auth login`)") from None
    except Exception:  # refused, timed out, switched offline, server error: each library version has its own types
        return None


def _fetch_model(name):
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.utils import disable_progress_bars
    disable_progress_bars()  # drawn as widgets in a notebook, where _quiet cannot catch them
    info = _hub_info(name, "model")
    if info is None:
        try:
            return Path(hf_hub_download(name, "config.json", local_files_only=True)).parent
        except Exception:
            raise InputError(f"cannot reach the Hub, and {name!r} is not in the local cache: connect to the "
                             "network, or give a folder") from None
    files = [file.rfilename for file in info.siblings if "/" not in file.rfilename]
    weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin*"
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model", weights],
                                      ignore_patterns=["*/*"]))
    except Exception as error:
        raise InputError(f"the download of {name!r} failed ({_first_line(error)}): try again") from error


def _load_weights(folder, name):
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar
    disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
            raise InputError(f"{name} is no causal language model ({config.model_type}): choose one that "
                             "predicts the next word, such as GPT-2, GPT-Neo or Llama")
        # a pytorch_model.bin is read with weights_only, so a pickle cannot run code
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, weights_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **options)  # told below, with all else that does not fit
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"the weights of {name} are damaged, or hold more than numbers, which could run code: "
                         "replace pytorch_model.bin by model.safetensors") from error
    except Exception as error:  # damaged files raise a dozen types, one for each format
        raise InputError(f"cannot load the model {name} ({_first_line(error)}): check or replace its files") from error
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:  # transformers would go on with random numbers
        raise InputError(f"the weights of {name} do not fit its config.json ({len(lost)} missing, first {lost[0]}): "
                         "save model and config together")
    return model.eval()


def _load_tokenizer(folder, name, model):
    from transformers import AutoTokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        usable = len(tokenizer("Once upon a time", add_special_tokens=False)["input_ids"]) > 0
    except Exception as error:
        usable, needed = False, re.findall(r"pip install ([\w-]+)", str(error))
        if any(folder.glob("*.model")):  # what transformers reads, and what it says last, is not what is missing first
            needed = ["sentencepiece", "protobuf"]
        modules = {"protobuf": "google.protobuf"}
        if needed := [package for package in needed if not _importable(modules.get(package, package))]:
            raise InputError(f"the tokenizer of {name} cannot be read without more packages: install them with pip install "
                             f"{' '.join(needed)}, or save a tokenizer.json into the folder") from error
    if not usable:  # some classes load without any file, with an empty vocabulary
        raise InputError(f"{name} has no usable tokenizer: save it into the same folder (tokenizer.save_pretrained)")
    if tokenizer.vocab_size > (rows := model.get_input_embeddings().weight.shape[0]):
        raise InputError(f"the tokenizer of {name} has {tokenizer.vocab_size} entries, the model only {rows}: "
                         "give the tokenizer that the model was trained with")
    if (tokenizer.pad_token_id or 0) >= rows:  # added without a row of its own: what pads is masked, so any id will do
        tokenizer.pad_token = None
    tokenizer.model_rows = rows  # for `_check_ids`: entries added to the tokenizer may lie beyond
    return tokenizer


def _importable(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package it would lie in
        return False


@torch.no_grad()
def _check_model(model, name):
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{name}: the weights {key} hold NaN or infinity: replace the damaged file")
    pair = torch.tensor([[0, 0, 0], [0, 0, 1]])
    try:
        first, second = model(input_ids=pair, attention_mask=torch.ones_like(pair), use_cache=False).logits[:, :2]
    except Exception as error:  # wants a picture, a sound, another model's states …
        raise InputError(f"{name} does not run on text alone ({model.config.model_type}: {_first_line(error)}): choose one that predicts "
                         "the next word, such as GPT-2, GPT-Neo or Llama") from error
    if (first - second).abs().max() > 1e-4 * first.abs().max():  # the last word must not show in earlier logits
        raise InputError(f"{name} is no causal language model ({model.config.model_type} reads ahead): choose one "
                         "that predicts the next word, such as GPT-2, GPT-Neo or Llama")


def context_length(model):
    """Largest number of positions the model can read; 2,048 where its architecture sets no limit."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_target_positions")
    longest = next((getattr(config, name) for name in names if getattr(config, name, None)), 2048)
    # RoBERTa and its like count positions from behind that of the padding: of 514 they use 512
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)]
    return min([longest, *(table.num_embeddings - table.padding_idx - 1 for table in tables if table.padding_idx is not None)])


def positions_budget(model, floats=2**26):
    """Positions (B·T) a batch may have so that its logits stay within `floats` numbers (2²⁶ are 256 MB)."""
    return max(1, floats // model.config.get_text_config().vocab_size)


# ---------------------------------------------------------------- stories

def load_stories(name="default", limit=None):
    """The first `limit` stories of `name` (None: all), as a list of Story.

    `name`: "default" (data/stories.jsonl), FILE.jsonl (one {"text": …, optional "id"} a line; the id is the line's
    number otherwise), FILE.txt (stories between <|endoftext|>), or a Hub data set id (streamed: split "train",
    column "text"). Reads no further than it must. A text that is no string becomes "". Raises InputError.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: ask for at least 1 story")
    path = local_path(name, "stories.jsonl")
    if path.suffix.lower() == ".jsonl":
        source = _jsonl_stories(path)
    elif path.suffix.lower() == ".txt":
        source = _txt_stories(path)
    elif (there := os.path.exists(path)) or _is_path(name):
        what = "is a folder" if os.path.isdir(path) else "is of no known kind" if there else "does not exist"
        raise InputError(f"{path} {what}: give FILE.jsonl (one {{\"text\": …}} a line), FILE.txt (stories between "
                         f"{STORY_END}) or a Hub data set id")
    else:
        source = _hub_stories(str(name))
    with _quiet():
        stories = list(islice(source, limit))
        stories = _named(stories) if path.suffix.lower() == ".jsonl" else stories
    if not stories:
        raise InputError(f"{name} holds no stories: give a file or data set with at least one")
    return stories


def _lines(path):
    """(number, line) of a UTF-8 file, numbers from 1; a byte-order mark and \\r\\n are tolerated."""
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise InputError(f"{path}: line {number} is not UTF-8: save the file as UTF-8 text") from None
                yield number, line.replace("\r\n", "\n")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path") from None


def _records(path, field):
    """(number, object) of each non-blank line of a JSONL file; every object has `field`."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{path}: line {number} is not JSON: write one {{\"{field}\": …}} a line") from None
        if not isinstance(record, dict) or field not in record:
            what = f'has no "{field}"' if isinstance(record, dict) else "is not a JSON object"
            raise InputError(f"{path}: line {number} {what}: write one {{\"{field}\": …}} a line")
        yield number, record


def _clean(text):
    """`text` as valid Unicode: half of a surrogate pair, which JSON can spell, becomes "?"; no string, ""."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""


def _jsonl_stories(path):
    seen = {}
    for number, record in _records(path, "text"):
        name = None if record.get("id") is None else _clean(str(record["id"]))
        if name is not None and seen.setdefault(name, number) != number:  # renaming would break whatever refers to the ids
            raise InputError(f"{path}: line {number} repeats the id {name!r} of line {seen[name]}: make ids unique, "
                             "or leave them out")
        yield number, name, _clean(record["text"])


def _named(rows):
    """Stories of `(line, id or None, text)`; one without an id is called by its line, unless another story has that id."""
    taken = {name for _, name, _ in rows}
    return [Story(name if name is not None else f"line {line}" if str(line) in taken else str(line), text)
            for line, name, text in rows]


def _txt_stories(path):
    number, parts = 0, []
    for line in chain((line for _, line in _lines(path)), [STORY_END]):
        first, *later = line.split(STORY_END)
        parts.append(first)
        for piece in later:
            text, parts = "".join(parts).strip(), [piece]
            if text:
                number += 1
                yield Story(str(number), text)


def _hub_stories(name):
    if _hub_info(name, "dataset") is None:
        raise InputError(f"cannot reach the Hub for the data set {name!r}: connect to the network, or give a file")
    try:
        for number, row in enumerate(_hub_rows(name), 1):
            if "text" not in row:
                raise InputError(f'the data set {name!r} has no column "text" (but {", ".join(row)}): save its '
                                 'stories as FILE.jsonl, one {"text": …} a line')
            yield Story(str(number), _clean(row["text"]))
    except InputError:
        raise
    except Exception as error:  # no split "train", several configurations, a broken file, the network lost …
        raise InputError(f"cannot read the data set {name!r} ({_first_line(error)}): save its stories as "
                         'FILE.jsonl, one {"text": …} a line') from error


def _hub_rows(name):
    """Rows of the split "train" as dictionaries, streamed: fetched as far as they are read."""
    import datasets
    datasets.disable_progress_bars()
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 3  # 20 take minutes
    builder = datasets.load_dataset_builder(name)
    files = (builder.config.data_files or {}).get("train", [])
    if not files or not all(file.startswith("hf://") and file.endswith(".parquet") for file in files):
        yield from builder.as_streaming_dataset(split="train")
        return
    # `datasets` reads Parquet in threads far ahead of what is asked, and left in mid-file those can abort
    # Python at exit; one thread, one row group at a time, has neither fault
    from huggingface_hub import HfFileSystem
    from pyarrow.parquet import ParquetFile
    for file in files:
        with HfFileSystem().open(file) as handle:
            for batch in ParquetFile(handle, pre_buffer=False).iter_batches(256, use_threads=False):
                yield from batch.to_pylist()


# ---------------------------------------------------------------- tokens

def tokenise(stories, tokenizer, max_tokens):
    """Corpus of the stories that have something to predict, in their order, each of at most `max_tokens` ids.

    Ids are those of the tokenizer's own template (BOS and EOS where it adds them). Blank stories and those of a
    single token are skipped and counted. Raises InputError if none is left.
    """
    if max_tokens < 2:
        raise InputError(f"max_tokens is {max_tokens}: at least 2 are needed, one to read and one to predict")
    written = [story for story in stories if story.text and story.text.strip()]
    encoded = tokenizer([story.text for story in written], verbose=False)["input_ids"] if written else []
    kept = [(story, ids) for story, ids in zip(written, encoded) if len(ids) > 1]
    if not kept:
        raise InputError(f"none of the {len(stories)} stories has two tokens or more: give stories with text")
    for story, ids in kept:
        _check_ids(tokenizer, ids[:max_tokens], f"the story {story.id!r}")
    return Corpus([story for story, _ in kept], [ids[:max_tokens] for _, ids in kept],
                  truncated=sum(len(ids) > max_tokens for _, ids in kept), skipped=len(stories) - len(kept))


def _check_ids(tokenizer, ids, what):
    """Raises InputError for an id that the model it was loaded with has no row for."""
    if ids and (worst := max(ids)) >= getattr(tokenizer, "model_rows", float("inf")):
        raise InputError(f"{what} holds {tokenizer.convert_ids_to_tokens(worst)!r}, which the tokenizer knows and the model "
                         "does not: give a text without it, or the tokenizer that the model was trained with")


def batches(ids, batch_size=16, pad_id=0, max_positions=None):
    """Yield `ids` (a list of lists) as Batch after Batch, shortest first, equal lengths in their order.

    A batch has at most `batch_size` rows and, counted with its padding, `max_positions` positions; a sequence
    longer than that comes alone.
    """
    rows = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        full = max_positions is not None and (len(rows) + 1) * len(ids[row]) > max_positions
        if rows and (full or len(rows) == batch_size):
            yield _batch(ids, rows, pad_id)
            rows = []
        rows.append(row)
    if rows:
        yield _batch(ids, rows, pad_id)


def _batch(ids, rows, pad_id):
    lengths = torch.tensor([len(ids[row]) for row in rows])
    longest = int(lengths.max())
    input_ids = torch.tensor([ids[row] + [pad_id] * (longest - len(ids[row])) for row in rows])
    mask = torch.arange(longest) < lengths[:, None]
    labels = torch.full_like(input_ids, IGNORE)
    labels[:, :-1] = input_ids[:, 1:].masked_fill(~mask[:, 1:], IGNORE)
    return Batch(rows, input_ids, mask, labels)


def token_losses(logits, labels):
    """−log p(x_{t+1} | x_≤t) at every position, (B, T) in nats, 0 where there is no real target.

    `logits` (B, T, vocabulary) and `labels` (B, T), already shifted.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()  # half precision has no digits for a sum
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view_as(labels)


def summed_loss(logits, labels):
    """L(z) of every sequence, (B,) in nats: the sum of its `token_losses`, never averaged."""
    return token_losses(logits, labels).sum(1)


def logits_of(model, batch, parameters=None):
    """What the model says, (B, T, vocabulary); `parameters` ({name: tensor}) may stand in for some of its own.

    No labels are given to the model: it would shift them once more, and average. A plain `nn.Sequential` of
    vectors counts as one token a sequence.
    """
    plain = isinstance(model, torch.nn.Sequential)
    arguments, options = ((batch.input_ids,), {}) if plain else ((), {"input_ids": batch.input_ids, "use_cache": False})
    output = torch.func.functional_call(model, parameters or {}, arguments, options)
    logits = output if plain else output.logits
    return logits if logits.dim() == 3 else logits[:, None]


@contextmanager
def fused_attention(model):
    """Inside the block GPT-Neo, whose attention transformers writes out step by step, uses PyTorch's fused kernel.

    The same numbers to rounding without the T × T maps in memory. Other families do so anyway. Only forward and
    one backward pass: for more see `plain_attention`.
    """
    blocks = [module for module in model.modules() if type(module).__name__ == "GPTNeoSelfAttention" and not module.training]
    for block in blocks:
        block._attn = partial(_fused, block)
    try:
        yield
    finally:
        for block in blocks:
            vars(block).pop("_attn", None)  # an inner block may have been here


def _fused(block, query, key, value, attention_mask=None):
    """GPT-Neo's attention over (B, heads, T, width): no division by √width; local blocks see `window_size` positions."""
    length, width = query.shape[-2:]
    narrow = block.attention_type == "local" and length > block.config.window_size
    # the CPU's kernel is a quarter faster when heads narrower than 16 are filled up with zeros
    query, key, value = (F.pad(x, (0, max(0, 16 - width))) for x in (query, key, value))
    output = F.scaled_dot_product_attention(query, key, value, block.bias[..., :length, :length] if narrow else None,
                                            is_causal=not narrow, scale=1.0)
    return output[..., :width], None


def plain_attention():
    """A context in which attention is computed step by step: the fused kernels know no forward mode and no second derivative."""
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)


def sequence_loss(model, batch):
    """`summed_loss` of the model on a batch, (B,), differentiable."""
    return summed_loss(logits_of(model, batch), batch.labels)


def vector_batch(inputs, labels):
    """Batch of a plain network's data: `inputs` (B, in), class `labels` (B,), one token a sequence."""
    return Batch(list(range(len(inputs))), inputs, torch.ones(len(inputs), 1, dtype=torch.bool), labels[:, None])


def token_texts(tokenizer, ids):
    """The text of each id, so that "".join(…) reads as the story; part of a split character shows as "�"."""
    # decoded alone a word may lose its leading space, so each is decoded behind a fixed neighbour
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    kinds = sorted(set(ids))
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode(anchor, **options))
    decoded = tokenizer.batch_decode([anchor + [token] for token in kinds], **options)
    texts = {token: text[before:] for token, text in zip(kinds, decoded)}
    pieces = [texts[token] for token in ids]
    first = next((place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids), None)
    if first is not None and not tokenizer.decode(ids[first:], **options).startswith(" "):
        pieces[first] = pieces[first].removeprefix(" ")
    return pieces


# ---------------------------------------------------------------- queries

def query_notes(tokenizer, query, ids, start, typed=True) -> list[str]:
    """What a person who asks `query` may not have meant; `ids` and `start` are those of `encode_query`.

    Nothing is put between prompt and completion: two words `typed` without a space run together ("in the" + "mill"), and
    a token may hold the end of the one and the beginning of the other.
    """
    notes, (last, first) = [], (query.prompt[-1], query.completion[0])
    if typed and last.lower() != last.upper() and first.lower() != first.upper():  # letters of scripts that part words by spaces
        notes.append(f'"{query.prompt[-20:].split()[-1]}" and "{query.completion.split()[0]}" are scored as one word, as typed; '
                     f'for two words begin the completion with a space: " {query.completion}"')
    if kept := "".join(token_texts(tokenizer, _prompt_ids(tokenizer, query.prompt))[start:]):  # the prompt's own end is cut otherwise
        texts = token_texts(tokenizer, ids)[start:]
        starts = accumulate(map(len, texts), initial=0)
        straddling = [repr(text) for text, begin in zip(texts, starts) if begin < len(kept)]
        notes.append(f"the end of the prompt is scored too, in {', '.join(straddling)}: the tokenizer does not part the text where "
                     "prompt and completion meet")
    return notes


def load_queries(path):
    """Queries of a JSONL file, one {"prompt": …, optional "completion"} a line. Raises InputError."""
    queries = []
    for number, record in _records(local_path(path), "prompt"):
        prompt, completion = record["prompt"], record.get("completion")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f'{path}: line {number}: "prompt" is not a text: write a few words of a story')
        if completion is not None and (not isinstance(completion, str) or not completion.strip()):
            raise InputError(f'{path}: line {number}: "completion" is not a text: write a word or leave it out')
        queries.append(Query(_clean(prompt), completion and _clean(completion)))
    if not queries:
        raise InputError(f'{path} holds no queries: write one {{"prompt": …}} a line')
    return queries


def _prompt_ids(tokenizer, text):
    """Ids of a text that goes on: the tokenizer's template without the EOS it may add at the end."""
    try:
        ids, plain = (tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
                      for special in (True, False))
    except (TypeError, UnicodeError):  # bytes of another encoding on the command line
        raise InputError(f"{text!r} is not valid Unicode: type it in UTF-8") from None
    closed = ids[-1:] == [tokenizer.eos_token_id] and ids[len(ids) - 1 - len(plain):-1] == plain
    ids = ids[:-1] if closed else ids
    _check_ids(tokenizer, ids, "the query")
    return ids


def encode_query(tokenizer, query, context):
    """(ids, start): ids of prompt and completion encoded together; the completion is ids[start:], start ≥ 1.

    It begins where the ids leave those of the prompt alone, so a prompt that ends in half a word is read as the
    tokenizer reads the whole. Raises InputError, also for more than `context` ids.
    """
    if not query.prompt.strip():
        raise InputError("the prompt is empty: give the beginning of a story")
    if not (query.completion or "").strip():
        raise InputError("the completion is empty: give the word or words that follow the prompt")
    prompt, ids = (_prompt_ids(tokenizer, text) for text in (query.prompt, query.prompt + query.completion))
    start = next((place for place, (a, b) in enumerate(zip(prompt, ids)) if a != b), min(len(prompt), len(ids)))
    if start == len(ids):
        raise InputError(f"the completion {query.completion!r} gives no token: give the word that follows the prompt")
    if start == 0:
        raise InputError(f"nothing stands before the completion {query.completion!r}: give a longer prompt")
    if len(ids) > context:
        raise InputError(f"the prompt has {start} tokens and the completion {len(ids) - start}, together more than "
                         f"the {context} the model reads: shorten the prompt")
    return ids, start


@torch.no_grad()
def complete(model, tokenizer, prompt, max_new_tokens=12, temperature=0.0, seed=0):
    """The model's own completion of `prompt`: up to the end of the sentence (without its mark), the end of the text or
    `max_new_tokens`. Greedy, or drawn at a temperature with a seed. Raises InputError, also when the model writes nothing."""
    if not prompt.strip():
        raise InputError("the prompt is empty: give the beginning of a story")
    ids, context, text = _prompt_ids(tokenizer, prompt), context_length(model), ""
    if len(ids) >= context:
        raise InputError(f"the prompt has {len(ids)} tokens, the model reads {context} and needs room for the "
                         "completion: shorten the prompt")
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, ends = len(tokenizer.decode(ids, **options)), _end_ids(model, tokenizer)
    random = torch.Generator().manual_seed(seed)
    for _ in range(min(max_new_tokens, context - len(ids))):
        read = torch.tensor([ids], device=model.device)
        logits = model(input_ids=read, attention_mask=torch.ones_like(read), use_cache=False).logits[0, -1].float().cpu()
        ids.append(int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=random) if temperature
                       else logits.argmax()))
        if ids[-1] in ends:
            break
        text = tokenizer.decode(ids, **options)[before:]
        if mark := SENTENCE_END.search(text):
            text = text[:mark.start()]
            break
    if not (text := text.rstrip("\ufffd \n")).strip():  # U+FFFD: a character cut in the middle
        raise InputError("the model ends the story at the prompt: give a completion")
    return text


def _end_ids(model, tokenizer):
    end = getattr(model.generation_config, "eos_token_id", None)
    return {tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])} - {None}


@contextmanager
def _quiet():
    """Keep the libraries' logs, warnings and progress bars off the terminal, so that an error stands alone."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:160].rstrip(" .:")

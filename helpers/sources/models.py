"""Models: from the default, a folder in the Hugging Face layout, or the Hub."""
import io
import logging
import os
import pickle
import re
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import distributions

import torch
from transformers import (MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM,
                          AutoTokenizer)
from transformers.utils.logging import disable_progress_bar

from ..stories import InputError
from . import adapters
from .attention import fuse
from .files import first_line, local_path

OTHER = "choose one that predicts the next word, such as GPT-2, GPT-Neo or Llama"
OPTIONS = {"local_files_only": True, "trust_remote_code": False}
# where a config says how many positions there are
LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length",
           "max_target_positions")


def load_model(name="default", device="auto", precision="float32", fused=True):
    """(model, tokenizer): the causal LM `name`, in eval mode.

    `name` is "default" (data/model), a folder in the Hugging Face layout or with a LoRA adapter, or
    a Hub id; `device` is auto, cpu, cuda or mps; `precision` float32 or bfloat16. What PyTorch has
    in one operation is put in place (`fuse`) if `fused`. Code that comes with a model is never run.
    Raises InputError.
    """
    device = _device(device)
    with quiet():
        folder = _folder(name)
        # beside a full model, too: what is meant is the adapted one
        if os.path.isfile(folder / "adapter_config.json"):
            model, folder = _load_adapted(folder, name)
        else:
            _check_files(folder, name)
            model = _load_weights(folder, name)
        tokenizer = _load_tokenizer(folder, name, model)
        if fused:
            fuse(model)
        _check_model(model, name)
        return model.to(device, getattr(torch, precision)), tokenizer


def _device(name):
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
               "cpu": True}
    if name == "auto":
        name = next(device for device in present if present[device])
    if name not in present:
        raise InputError(f"unknown device {name!r}: choose auto, cpu, cuda or mps")
    if not present[name]:
        raise InputError(f"no {name} device on this machine: choose auto or cpu")
    # torchrun: each process its own GPU
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name


def is_path(name) -> bool:
    """Whether a name that is not here looks like a path, and not like a Hub id."""
    name = str(name)
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _folder(name):
    """Local folder with the files of model `name`, fetched from the Hub where need be."""
    folder = local_path(name, "model")
    # Path.is_dir raises on a text too long for a path, or a folder closed to us
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            raise InputError(f"{name} is a file: give the folder that holds config.json and the "
                             "weights")
        if name == "default" or is_path(name):
            raise InputError(f"no model folder {folder}: check the path, or give a Hub id such as "
                             "roneneldan/TinyStories-1M")
        from .hub import hub_model  # slow to import, and seldom needed
        folder = hub_model(str(name))
    return folder


def _load_adapted(folder, name):
    """The base model of the adapter in `folder`, adapted, and the folder with the tokenizer."""
    config, tensors = adapters.read_adapter(folder, name)
    base = config["base_model_name_or_path"]
    beside = os.path.isdir(folder / base)  # else from here, or on the Hub
    try:
        base_folder = _folder(folder / base if beside else base)
        if os.path.isfile(base_folder / "adapter_config.json"):
            raise InputError(f"{base} holds an adapter itself: {adapters.MERGE}")
        _check_files(base_folder, base)
        model = _load_weights(base_folder, base)
    except InputError as problem:
        raise InputError(f"the base model of the adapter {name}: {problem}") from None
    adapters.apply(model, config, tensors, name)
    own = any(folder.glob("tokenizer*")) or any(folder.glob("vocab.*"))
    return model, folder if own else base_folder


def _check_files(folder, name):
    """Raises InputError where the folder cannot hold a model."""
    if not os.path.isfile(folder / "config.json"):
        raise InputError(f"{name} has no config.json: give a folder written by save_pretrained")
    if any(folder.glob("*.safetensors")):
        return
    if not any(folder.glob("pytorch_model*.bin")):
        raise InputError(f"{name} has no weights (model.safetensors): give a folder written by "
                         "save_pretrained")
    # CVE-2025-32434: before, reading a pickle could run code whatever was asked
    if torch.__version__ < (2, 6):
        raise InputError(f"the weights of {name} are a pytorch_model.bin, which torch "
                         f"{torch.__version__} cannot read safely: install torch 2.6 or newer, or "
                         "replace them by model.safetensors")


def _load_weights(folder, name):
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, **OPTIONS)
        encodes = getattr(config, "is_encoder_decoder", False)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encodes:
            raise InputError(f"{name} is no causal language model ({config.model_type}): {OTHER}")
        # a pytorch_model.bin is read with weights_only, so a pickle cannot run code;
        # sizes that do not fit are told below, with all else that does not
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, weights_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True, **OPTIONS)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(f"the weights of {name} are damaged, or hold more than numbers, which "
                         "could run code: replace pytorch_model.bin by "
                         "model.safetensors") from error
    except Exception as error:  # damaged files raise a dozen types, one for each format
        raise InputError(f"cannot load the model {name} ({first_line(error)}): check or replace "
                         "its files") from error
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:  # transformers would go on with random numbers
        raise InputError(f"the weights of {name} do not fit its config.json ({len(lost)} missing, "
                         f"first {lost[0]}): save model and config together")
    return model.eval()


def _load_tokenizer(folder, name, model):
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **OPTIONS)
        usable = len(tokenizer("Once upon a time", add_special_tokens=False)["input_ids"]) > 0
    except Exception as error:
        usable = False
        if needed := _missing_packages(folder, str(error)):
            raise InputError(f"the tokenizer of {name} cannot be read without more packages: "
                             f"install them with pip install {' '.join(needed)}, or save a "
                             "tokenizer.json into the folder") from error
    if not usable:  # some classes load without any file, with an empty vocabulary
        raise InputError(f"{name} has no usable tokenizer: save it into the same folder "
                         "(tokenizer.save_pretrained)")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise InputError(f"the tokenizer of {name} has {tokenizer.vocab_size} entries, the model "
                         f"only {rows}: give the tokenizer that the model was trained with")
    tokenizer.model_rows = rows  # for `check_ids`: entries added to the tokenizer may lie beyond
    return tokenizer


def _missing_packages(folder, message):
    """Packages that the tokenizer's files need and that are not here."""
    # what transformers reads, and what it says last, is not what is missing first
    needed = (["sentencepiece", "protobuf"] if any(folder.glob("*.model"))
              else re.findall(r"pip install ([\w-]+)", message))
    return [package for package in needed if not any(distributions(name=package))]


@torch.no_grad()
def _check_model(model, name):
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{name}: the weights {key} hold NaN or infinity: replace the damaged "
                             "file")
    pair = torch.tensor([[0, 0, 0], [0, 0, 1]])
    kind = model.config.model_type
    try:
        output = model(input_ids=pair, attention_mask=torch.ones_like(pair), use_cache=False)
        first, second = output.logits[:, :2]
    except Exception as error:  # wants a picture, a sound, another model's states …
        raise InputError(f"{name} does not run on text alone ({kind}: {first_line(error)}): "
                         f"{OTHER}") from error
    # the last word must not show in earlier logits
    if (first - second).abs().max() > 1e-4 * first.abs().max():
        raise InputError(f"{name} is no causal language model ({kind} reads ahead): {OTHER}")


def context_length(model) -> int:
    """Most positions the model can read; 2,048 where its architecture sets no limit."""
    config = model.config.get_text_config()
    longest = next((getattr(config, name) for name in LENGTHS if getattr(config, name, None)), 2048)
    # RoBERTa and its like count positions from behind that of the padding: of 514 they use 512
    tables = [module for name, module in model.named_modules()
              if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)]
    return min([longest, *(table.num_embeddings - table.padding_idx - 1
                           for table in tables if table.padding_idx is not None)])


@contextmanager
def quiet():
    """Keeps the libraries' logs, warnings and bars away, so that an error stands alone."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), \
                redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""What several test files build: small models of each family, stories, oracles, results to show."""
import html.parser
import json
import math
import random
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.pytorch_utils import Conv1D

ROOT = Path(__file__).resolve().parents[1]
# a real model and real stories, where a copy lies beside the repository
REAL = ROOT.parent / "shared" / "real"
sys.path.insert(0, str(ROOT))
from helpers import pictures  # noqa: E402
from helpers.stories import EncodedQuery, InputError  # noqa: E402

VOCABULARY = 31
# Whatever the model's precision, GPT-Neo computes its attention in float32, Llama its norms and its
# softmax.
ROUNDING = {"gpt_neo": 1e-5, "gpt2": 1e-10, "llama": 1e-6}
QUERIES = [EncodedQuery([3, 8, 1, 14, 9], 3), EncodedQuery([5, 5, 2, 7], 2)]
TEXTS = ["Once upon a time there was a little fox named Tom. He liked the windmill.",
         "“Look!” said Lily – a café 🎈 by the sea.\n\nThey laughed.",
         "One day, it rained. The end."]
PROMPT = "Once upon a time there was a little"
HOSTILE = ('</bdi><script>alert(1)</script><img src=x onerror="alert(2)"> &amp; \x1b[31m '
           "\u202eright to left 🦊 â€œoldâ€\x9d\n\n“fox”")
HOSTILE_TOKENS = [
    "<script>window.pwned=1</script>", '<img src="http://127.0.0.1:9/x" onerror="window.pwned=1">',
    "</bdi></div><h1>free</h1>",
    "&amp; &lt; \" ' ` -->", "مرحبا بالعالم שלום", "\u202eevil\u202c \u2066x",
    "😀 👨\u200d👩\u200d👧 🏴", "nul\x00 bell\x07 \x1b[31mred\x1b]0;title\x07",
    "Iâ€™m mis-decoded Ã©", "two\nlines\r\n\ttab", "\ud800 lone", "$x^2$ \\frac{",
    "\u200b\ufeff\u2028", "W" * 400,
]
ADVICE = ("give ", "check ", "choose ", "save ", "write ", "make ", "connect ", "replace ",
          "shorten ", "ask ", "type ",
          "install ", "merge ", "name ", "leave ", "at least ")


def baselines():
    """Methods that the records compare with: data/baselines.py."""
    sys.path.insert(0, str(ROOT / "data"))
    return import_module("baselines")


# -- models, tokenizers, sequences -----------------------------------------------------------------

def tiny_model(family: str, dtype=torch.float64, seed=0) -> torch.nn.Module:
    """A two-layer causal LM of the family with random weights large enough to have curvature."""
    torch.manual_seed(seed)
    ends = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if family == "gpt_neo":
        config = transformers.GPTNeoConfig(
            vocab_size=VOCABULARY, hidden_size=12, num_layers=2,
            attention_types=[[["global", "local"], 1]], num_heads=3,
            intermediate_size=20, max_position_embeddings=64, window_size=8, embed_dropout=0.0,
            resid_dropout=0.0,
            attention_dropout=0.0, initializer_range=0.3, **ends)
    elif family == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=12, n_layer=2, n_head=3,
                                         n_positions=64,
                                         initializer_range=0.3, **ends)
    else:
        config = transformers.LlamaConfig(vocab_size=VOCABULARY, hidden_size=16,
                                          intermediate_size=20, num_hidden_layers=2,
                                          num_attention_heads=4, num_key_value_heads=2,
                                          max_position_embeddings=64,
                                          tie_word_embeddings=True, initializer_range=0.3, **ends)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.to(dtype).eval()


def random_ids(count: int, lengths=(3, 15), seed=1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(*lengths, (count,), generator=generator).tolist()
    return [torch.randint(VOCABULARY, (size,), generator=generator).tolist() for size in sizes]


def make_tokenizer(bos_eos=False):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if bos_eos:
        end = ("<|endoftext|>", 0)
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A <|endoftext|>", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>",
                                   eos_token="<|endoftext|>")


def make_model(**changes):
    from transformers import GPTNeoConfig, GPTNeoForCausalLM
    torch.manual_seed(0)
    settings = dict(hidden_size=16, num_layers=2, num_heads=2,
                    attention_types=[[["global", "local"], 1]],
                    vocab_size=400, max_position_embeddings=64, window_size=8, bos_token_id=0,
                    eos_token_id=0)
    return GPTNeoForCausalLM(GPTNeoConfig(**settings | changes)).eval()


def save_pickled(model, folder):
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def save_model(folder, **changes):
    make_model(**{"initializer_range": 0.3} | changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def made_up(count, seed=3):
    """Short texts of the tokenizer's own words, 15 to 40 tokens each, all different."""
    words = ("there was a little fox named Tom he liked the windmill by the sea it rained they "
             "laughed").split()
    chance = random.Random(seed)
    return [f"Story {n}. " + " ".join(chance.choices(words, k=chance.randint(8, 25))) + "."
            for n in range(count)]


# -- oracles ---------------------------------------------------------------------------------------

def loss_of(model, ids):
    """Summed next-token loss of one unpadded sequence, written out without the helpers."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return -logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).sum()


def autograd_gradient(layer, loss):
    """`(out, in+1)` from the gradients of weight and bias; the graph stays, for more of them."""
    weights = [layer.weight] + ([layer.bias] if layer.bias is not None else [])
    weight, *bias = torch.autograd.grad(loss, weights, retain_graph=True)
    weight = weight.T if isinstance(layer, Conv1D) else weight
    return torch.cat([weight, bias[0][:, None]], 1) if bias else weight


def query_loss(model, ids, start):
    logits = model(input_ids=torch.tensor([ids])).logits[0, start - 1:-1]
    return -logits.log_softmax(-1).gather(1, torch.tensor(ids[start:])[:, None]).sum()


def softmax_hessian(logits):
    p = logits.softmax(-1)
    return torch.diag(p) - torch.outer(p, p)


def language_model_fisher(model, layer, ids):
    """The exact Fisher, mean over sequences: Σ_t J_tᵀ (diag p − p pᵀ) J_t by autograd."""
    total = 0
    for sequence in ids:
        logits = model(input_ids=torch.tensor([sequence])).logits[0, :-1]
        for position in logits:
            jacobian = torch.stack([autograd_gradient(layer, value).flatten()
                                    for value in position])
            total = total + jacobian.T @ softmax_hessian(position.detach()) @ jacobian
    return total / len(ids)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# -- the terminal ----------------------------------------------------------------------------------

def command(house, *arguments):
    return [sys.executable, "-m", "helpers",
            *map(str, ["--model", house / "model", "--stories", house / "stories.jsonl",
            "--top", 3, "--device", "cpu", "--cache", "none", *arguments])]


def visible(folder):
    """What is kept in a folder, without its lock files."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def snapshot(*folders):
    return {path: path.read_bytes() if path.is_file() else None for folder in folders
            for path in folder.rglob("*")}


def close(one, other, rel=1e-4):
    """Both results show the same stories with the same values, up to rounding."""
    for left, right in zip(one["influences"], other["influences"], strict=True):
        scale = max(abs(token["influence"]) for token in left["tokens"])
        assert (left["rank"], left["index"], left["id"]) == (right["rank"], right["index"],
                                                             right["id"])
        assert left["influence"] == pytest.approx(right["influence"], rel=rel, abs=rel * scale)
        values, wanted = ([token["influence"] for token in side["tokens"]]
                          for side in (left, right))
        assert values == pytest.approx(wanted, rel=rel, abs=rel * scale)
    return True


def complaint(call, *arguments, **options):
    """The message of the InputError that the call raises: one line, with advice after the colon."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert any(": " + word in message for word in ADVICE), message
    return message


# -- results to show -------------------------------------------------------------------------------

def tokens_of(texts, values):
    return [{"token": t, "position": i, "influence": v, "predicted": after}
            for i, (t, v, after) in enumerate(zip(texts, values, [*texts[1:], None]))]


def entry_of(texts, values, rank=1, influence=None, id="17", layers=None):
    total = float(np.sum(values)) if influence is None else influence
    return {"rank": rank, "index": 3, "id": id, "text": "".join(texts), "influence": total,
            "layers": layers or {f"transformer.h.{b}.mlp.{p}": total * (b - 1) for b in range(4)
                                 for p in ("c_fc", "c_proj")},
            "tokens": tokens_of(texts, values)}


def query_of(texts=HOSTILE_TOKENS, **changes):
    values = [math.sin(3 * i) * 1e-3 for i in range(len(texts))]
    good = entry_of([" Bramble", " keeps", " it", " in", " the", " wind", "mill", "."],
                    [0, 1e-4, 0, 0, 2e-3, 1e-3, -5e-4, 0])
    bad = entry_of(texts, values, rank=1, influence=-2e-3, id="<b>id</b>",
                   layers={"<i>0</i>": 1e-3, "h.0.\x1b[2J": -1e-3})
    return {"prompt": " ".join(texts), "completion": "<u>old</u>", "log_prob": -0.5,
            "influences": [good, bad], **changes}


def result_of(*queries):
    return {"model": "<model>\x1b", "stories": "default", "method": "ekfac", "n_train": 5,
            "unit": pictures.UNIT, "damping": {},
            "queries": list(queries) or [query_of()]}


class Parsed(html.parser.HTMLParser):
    """Elements with attributes, text outside <style>, and every <span> as [text, attributes]."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.spans, self.skip = [], "", [], False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.skip = tag == "style"
        if tag == "span":
            self.spans.append(["", dict(attrs)])

    def handle_endtag(self, tag):
        self.skip = False

    def handle_data(self, data):
        if not self.skip:
            self.text += data
            if self.spans:
                self.spans[-1][0] += data

    def handle_comment(self, data):
        raise AssertionError(f"comment {data!r}")


def contrast(a, b):
    def light(colour):
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                   for w, c in zip((0.2126, 0.7152, 0.0722), colour))
    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)

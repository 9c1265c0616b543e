"""Whatever a user can get wrong: input → a word that must stand in the one line that comes back. No
traceback, no file changed.

`{house}` holds a good model, stories and queries, `{zoo}` a folder for each broken model, `{here}`
files written for the case.
"""
import gzip
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import ADVICE, PROMPT, make_model

STORY = '{"text": "a fox ran home"}\n'
NO_SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"

ARGUMENTS = [  # word in the line, arguments
    ("has no chat template", ["a fox", "--chat"]), ("prompt is empty", ["", "--chat"]),
    ("prompt is empty", [""]), ("prompt is empty", [" \n"]),
    ("prompt is empty", ["\t", "--completion", "x"]),
    ("completion is empty", ["a fox", "--completion", ""]),
    ("completion is empty", ["a fox", "--completion", " "]),
    ("more than the 64", ["fox " * 80, "--completion", " fox"]),
    ("more than the 64", ["a fox", "--completion", " fox" * 80]), ("reads 64", ["fox " * 80]),
    ("not valid Unicode", ["caf\udce9 fox", "--completion", " fox"]),
    ("not valid Unicode", ["a fox", "--completion", " caf\udce9"]),
    ("nothing stands before", ["f", "--completion", "ox"]),
    ("both a prompt and --queries", ["fox", "--queries", "q.jsonl"]),
    ("both a prompt and --queries", ["--completion", " fox", "--queries", "q.jsonl"]),
    ("whole number", ["--limit", "0"]), ("whole number", ["--limit", "-1"]),
    ("whole number", ["--limit", "1.5"]), ("whole number", ["--limit", "9" * 20]),
    ("whole number", ["--limit", "٣"]), ("whole number", ["--limit", ""]),
    ("whole number", ["--top", "0"]), ("whole number", ["--top", "1e3"]),
    ("whole number", ["--fit-limit", "0"]), ("whole number", ["--batch-size", "x"]),
    ("whole number", ["--prefilter", "0"]), ("whole number", ["--seed", "-1"]),
    ("whole number", ["--seed", "1.0"]), ("whole number", ["--max-tokens", "0"]),
    ("max_tokens is 1", ["--max-tokens", "1"]), ("give at most 24", ["--top", "25"]),
    ("give at most 5", ["--limit", "5", "--top", "6"]), ("auto nor a number", ["--damping", "-1"]),
    ("auto nor a number", ["--damping", "nan"]), ("auto nor a number", ["--damping", "inf"]),
    ("auto nor a number", ["--damping", "1e999"]), ("auto nor a number", ["--damping", "much"]),
    ("invalid choice", ["--method", "lissa"]), ("invalid choice", ["--device", "tpu"]),
    ("invalid choice", ["--precision", "float16"]),
    ("unrecognized arguments", ["fox", "--frobnicate"]),
    ("unrecognized arguments", ["two", "prompts"]), ("expected one argument", ["--model"]),
    ("'nonesuch'; linear layers seen: transformer.h.0.attn", ["--scope", "nonesuch"]),
    ("regular expression", ["--scope", "("]), ("scope is empty", ["--scope", ""]),
    ("--index goes neither", ["--index", "{here}/i", "--prefilter", "5"]),
    ("--index goes neither", ["--index", "{here}/i", "--method", "identity"]),
    ("--index goes neither", ["--index", "{here}/i", "--all-scores", "{here}/a"]),
    ("it is a file", ["--index", "{house}/stories.jsonl"]), ("is a folder", ["--json", "{house}"]),
    ("is a folder", ["--html", "."]), ("is a folder", ["--all-scores", "/"]),
    ("the name is empty", ["--json", ""]), ("the name is empty", ["--index", ""]),
    ("the name is empty", ["--queries", ""]),
    ("there is no folder", ["--json", "{house}/none/a.json"]),
    ("there is no folder", ["--html", "{house}/stories.jsonl/a.html"]),
    ("a device or a pipe", ["--json", "/dev/full"]),
    ("a device or a pipe", ["--all-scores", "/dev/null"]),
    ("named twice", ["--json", "{house}/a", "--html", "{house}/model/../a"]),
    ("is to be read", ["--json", "{house}/stories.jsonl"]),
    ("is to be read", ["--html", "{house}/model/config.json"]),
    ("is to be read", ["--queries", "{house}/queries.jsonl", "--json", "{house}/queries.jsonl"]),
    ("File name too long", ["--json", "a" * 300]), ("cannot read", ["--stories", "absent.jsonl"]),
    ("cannot read", ["--stories", "absent.txt"]), ("does not exist", ["--stories", "./absent"]),
    ("is a folder", ["--stories", "{house}"]),
    ("of no known kind", ["--stories", "{house}/model/config.json"]),
    ("nothing says where ~nobody-here is", ["--stories", "~nobody-here/a.jsonl"]),
    ("~nobody-here", ["--model", "~nobody-here/model"]),
    ("there is no folder ~nobody-here", ["--json", "~nobody-here/a.json"]),
    ("~nobody-here", ["--cache", "~nobody-here/cache"]),
    ("~nobody-here", ["--index", "~nobody-here/i"]),
    ("cannot read q.jsonl", ["--queries", "q.jsonl"]), ("cannot read", ["--queries", "{house}"]),
    ("no model folder", ["--model", "./absent"]),
    ("is a file", ["--model", "{house}/stories.jsonl"]), ("no config.json", ["--model", "{house}"]),
    ("neither a path here nor a Hub id", ["--model", "not an id"]),
    ("neither a path here nor a Hub id", ["--stories", "a fox ran home"]),
]
FILES = [  # word in the line, option, name of the file, its content
    ("holds no stories", "--stories", "s.jsonl", ""),
    ("holds no stories", "--stories", "s.jsonl", "\n\n"),
    ("holds no stories", "--stories", "s.txt", " \n<|endoftext|>\n"),
    ("line 1 is not UTF-8", "--stories", "s.txt", b"caf\xe9"),
    ("line 2 is not JSON", "--stories", "s.jsonl", STORY + '{"text": '),
    ("line 1 is not JSON", "--stories", "s.jsonl", "a fox ran home"),
    ("line 1 is not JSON", "--stories", "s.jsonl", "[" * 100_000),
    ("line 1 is not a JSON object", "--stories", "s.jsonl", '"a fox"'),
    ("line 1 is not a JSON object", "--stories", "s.jsonl", '[{"text": "a fox"}]'),
    ('line 2 has no "text"', "--stories", "s.jsonl", STORY + '{"body": "a"}'),
    ("line 1 is not UTF-8", "--stories", "s.jsonl", b'{"text": "caf\xe9"}'),
    ("line 1 is not UTF-8", "--stories", "s.jsonl", STORY.encode("utf-16")),
    ("line 2 repeats the id 'x' of line 1", "--stories",
     "s.jsonl", '{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}'),
    ("line 3 repeats the id '1' of line 1", "--stories",
     "s.jsonl", '{"text": "a", "id": 1}\n\n{"text": "b", "id": "1"}'),
    ("none of the 2 stories", "--stories", "s.jsonl", '{"text": ""}\n{"text": "a"}'),
    ("none of the 2 stories", "--stories", "s.jsonl", '{"text": null}\n{"text": 5}'),
    ('line 2 has no "text", no "prompt" with "completion" and no "messages" (but \'story\')',
     "--stories", "s.csv", "story\na fox ran home\n"),
    ("(but 'a fox ran home')", "--stories", "s.csv", "a fox ran home\na fox sat\n"),  # no header
    ("holds no stories", "--stories", "s.csv", ""),
    ("holds no stories", "--stories", "s.csv", "text\n"),
    ("line 3 has 2 cells, the first line 1", "--stories", "s.csv", "text\na fox\na fox, home\n"),
    ("line 2 is no CSV", "--stories", "s.csv", 'text\n"a fox ran\n'),
    ("line 2 is not UTF-8", "--stories", "s.csv", b"text\ncaf\xe9\n"),
    ("line 3 repeats the id 'x' of line 2", "--stories", "s.csv",
     "text,id\na fox,x\na fox,x\n"),
    ('line 2 has "completion" where those before it have "text"', "--stories", "s.jsonl",
     STORY + '{"prompt": "a", "completion": "b"}'),
    ('line 1 has "text" and "messages"', "--stories", "s.jsonl", '{"text": "a", "messages": []}'),
    ('(but \'prompt\')', "--stories", "s.jsonl", '{"prompt": "a fox"}'),
    ("line 1: \"messages\" is not a list", "--stories", "s.jsonl", '{"messages": "a fox"}'),
    ("line 1: \"messages\" is not a list", "--stories", "s.jsonl", '{"messages": []}'),
    ("has no chat template", "--stories", "s.jsonl",
     '{"messages": [{"role": "user", "content": "a"}]}'),
    ("neither two texts nor two lists", "--stories", "s.jsonl", '{"prompt": "a", "completion": 3}'),
    ("of no known kind", "--stories", "s.json", '[{"text": "a fox"}]'),
    ("Compressed file ended", "--stories", "s.jsonl.gz", b"\x1f\x8b\x08"),
    ("Not a gzipped file", "--stories", "s.txt.gz", b"a fox ran home"),
    ("cannot read", "--stories", "s.csv.gz", gzip.compress(b"text\na fox\n" * 99, mtime=0)[:-9]),
    ("of no known kind", "--stories", "s.parquet.gz", b"\x1f\x8b\x08"),
    ("cannot read", "--stories", "s.parquet", b"PAR1"),
    ("cannot read", "--stories", "s.parquet", b""),
    ("cannot read", "--stories", "s.parquet", b"PAR1" + b"\0" * 99 + b"PAR1"),
    ('"prompt" and "messages"', "--queries", "q.jsonl", '{"prompt": "a", "messages": []}'),
    ("has no chat template", "--queries", "q.jsonl",
     '{"messages": [{"role": "user", "content": "a"}]}'),
    ("holds no queries", "--queries", "q.jsonl", ""),
    ("holds no queries", "--queries", "q.jsonl", "\n \n"),
    ('line 2 has no "prompt"', "--queries", "q.jsonl",
     '{"prompt": "a fox"}\n{"completion": " fox"}'),
    ("line 1 is not JSON", "--queries", "q.jsonl", PROMPT),
    ("line 1 is not a JSON object", "--queries", "q.jsonl", '["a fox"]'),
    ('line 1: "prompt"', "--queries", "q.jsonl", '{"prompt": 5}'),
    ('line 1: "prompt"', "--queries", "q.jsonl", '{"prompt": null}'),
    ('line 1: "prompt"', "--queries", "q.jsonl", '{"prompt": " "}'),
    ('line 1: "completion"', "--queries", "q.jsonl", '{"prompt": "a", "completion": 3}'),
    ('line 1: "completion"', "--queries", "q.jsonl", '{"prompt": "a", "completion": ""}'),
    ('line 1: "completion"', "--queries", "q.jsonl", '{"prompt": "a", "completion": ["b"]}'),
    ("line 1 is not UTF-8", "--queries", "q.jsonl", b'{"prompt": "\xe9"}'),
    ("more than the 64", "--queries", "q.jsonl",
     json.dumps({"prompt": "fox " * 80, "completion": " fox"})),
]
MODELS = {  # folder in the zoo → word in the line
    "empty": "no config.json", "config only": "has no weights", "weights only": "no config.json",
    "gguf": "has no weights", "no tokenizer": "no usable tokenizer",
    "broken tokenizer": "no usable tokenizer", "larger tokenizer": "entries, the model only 100",
    "unknown kind": "cannot load the model", "config no json": "cannot load the model",
    "config a list": "cannot load the model", "config empty": "cannot load the model",
    "text as weights": "cannot load the model", "cut weights": "cannot load the model",
    "no bytes": "cannot load the model",
    "a matrix missing":
        "do not fit its config.json (1 missing, first transformer.h.1.mlp.c_fc.weight)",
    "a matrix misshapen": "do not fit its config.json",
    "deeper config": "do not fit its config.json", "shard missing": "cannot load the model",
    "nan": "transformer.h.1.mlp.c_fc.weight hold NaN or infinity",
    "infinity": "hold NaN or infinity", "adapter": "the base model of the adapter",
    "adapter beside a model": "cannot read the adapter",
    "no layers": "no layer of this model (gpt2) can be tracked",
    "encoder": "no causal language model", "encoder and decoder": "no causal language model",
    "images": "no causal language model", "own code": "cannot load the model",
}
if "sentencepiece" not in sys.modules and not shutil.which("spm_train"):
    MODELS["sentencepiece"] = "pip install sentencepiece"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, house):
    """A folder for each name in MODELS, broken as it says."""
    root = tmp_path_factory.mktemp("zoo")
    for name in MODELS:
        if name == "empty":
            (root / name).mkdir()
        else:
            shutil.copytree(house / "model", root / name)

    def write(name, file, content):
        path = root / name / file
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def remove(name, *files):
        for file in files:
            (root / name / file).unlink()

    tokenizer = ("tokenizer.json", "tokenizer_config.json")
    remove("config only", "model.safetensors")
    remove("weights only", "config.json")
    remove("gguf", "model.safetensors")
    write("gguf", "model.gguf", b"GGUF")
    remove("no tokenizer", *tokenizer)
    write("broken tokenizer", "tokenizer.json", "{")
    write("unknown kind", "config.json", '{"model_type": "no-such-architecture"}')
    write("config no json", "config.json", "model: gpt2")
    write("config a list", "config.json", "[]")
    write("config empty", "config.json", "{}")
    write("text as weights", "model.safetensors", "not safetensors at all")
    write("cut weights", "model.safetensors",
          (house / "model" / "model.safetensors").read_bytes()[:-100])
    write("no bytes", "model.safetensors", b"")
    write("adapter beside a model", "adapter_config.json", '{"peft_type": "LORA"}')
    shutil.copy(root / "adapter beside a model" / "model.safetensors",
                root / "adapter beside a model" / "adapter_model.safetensors")
    write("adapter", "adapter_config.json",
          '{"peft_type": "LORA", "base_model_name_or_path": "../no/model"}')
    (root / "adapter" / "model.safetensors").rename(root / "adapter" / "adapter_model.safetensors")
    remove("adapter", "config.json")
    write("own code", "config.json",
          '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", '
          '"AutoModelForCausalLM": "mine.C"}}')
    write("own code", "mine.py", "raise SystemExit\n")
    if "sentencepiece" in MODELS:
        remove("sentencepiece", "tokenizer.json")
        write("sentencepiece", "tokenizer_config.json", '{"tokenizer_class": "LlamaTokenizer"}')
        write("sentencepiece", "tokenizer.model", NO_SENTENCEPIECE)
    break_weights(root)
    save_others(root)
    return root


def break_weights(root):
    """Folders whose weights do not fit, or hold no numbers."""
    name = "transformer.h.1.mlp.c_fc.weight"
    for folder, change in (("a matrix missing", None), ("a matrix misshapen", torch.zeros(3, 3)),
                           ("nan", float("nan")), ("infinity", float("inf"))):
        weights = {key: tensor.clone()
                   for key, tensor in load_file(root / folder / "model.safetensors").items()}
        if isinstance(change, float):
            weights[name][3, 2] = change
        else:
            weights.pop(name)
            weights |= {} if change is None else {name: change}
        save_file(weights, root / folder / "model.safetensors", metadata={"format": "pt"})
    path = root / "deeper config" / "config.json"
    deeper = {"num_layers": 4, "attention_types": [[["global", "local"], 2]],
              "attention_layers": ["global", "local"] * 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | deeper))
    path = root / "shard missing"
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    shard = dict.fromkeys(load_file(path / "model-00001-of-00002.safetensors"),
                          "model-00001-of-00002.safetensors")
    shard[name] = "model-00002-of-00002.safetensors"
    index = json.dumps({"metadata": {}, "weight_map": shard})
    (path / "model.safetensors.index.json").write_text(index)


def save_others(root):
    """Folders with another model, or one that fits nothing."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        T5Config,
        T5ForConditionalGeneration,
        ViTConfig,
        ViTModel,
    )
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    make_model(vocab_size=100).save_pretrained(root / "larger tokenizer")
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=16, n_layer=0, n_head=2,
                               n_positions=64)).save_pretrained(root / "no layers")
    BertForMaskedLM(BertConfig(vocab_size=400, **small)).save_pretrained(root / "encoder")
    T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=16, d_ff=16, d_kv=8, num_layers=1,
                                        num_heads=2)).save_pretrained(root / "encoder and decoder")
    ViTModel(ViTConfig(image_size=16, patch_size=8, **small)).save_pretrained(root / "images")


CASES = [(word, arguments, None, None) for word, arguments in ARGUMENTS]
CASES += [(word, [*(["a fox"] if option == "--stories" else []), option, "{here}/" + name], name,
           content) for word, option, name, content in FILES]
CASES += [(word, ["a fox", "--completion", " fox", "--model", "{zoo}/" + name], None, None)
          for name, word in MODELS.items()]


def test_there_are_a_hundred():
    assert len(CASES) >= 100
    assert len({json.dumps(case[1:], default=str) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("word, arguments, name, content", CASES)
def test_one_line_that_says_what_is_wrong_and_what_to_do(word, arguments, name, content, refused,
                                                         house, zoo, tmp_path, monkeypatch):
    device = any(argument.startswith("/dev/") for argument in arguments)
    if device and not Path("/dev/full").exists():
        pytest.skip("no device files on this system")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if name:
        (tmp_path / "here" / name).write_bytes(content if isinstance(content, bytes)
                                               else content.encode())
    places = {"house": house, "zoo": zoo, "here": tmp_path / "here"}
    line = refused(*(text.format(**places) if "{" in text else text for text in arguments))
    assert word in line and len(line) < 500
    advised = any(mark + advice in line for advice in ADVICE for mark in (": ", "; "))
    assert advised or "see python -m helpers --help" in line, line

"""`python -m helpers`: the main job, its files, and every way in which a user can get it wrong."""
import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import hub
import pytest
import torch
from builders import (PROMPT, REAL, ROOT, close, command, jsonl, made_up, make_model, make_tokenizer, save_model,
                      save_pickled)
from safetensors.torch import load_file

from helpers import curvature, files, pipeline
from helpers.__main__ import build_parser
from helpers.stories import DATA, InputError

KEYS = ["model", "stories", "method", "n_train", "unit", "damping", "queries"]
ENTRY_KEYS = ["rank", "index", "id", "text", "influence", "layers", "tokens"]


def visible(folder):
    """What is kept in a folder, without its lock files."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def snapshot(*folders):
    return {path: path.read_bytes() if path.is_file() else None for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def refused(cli, house, tmp_path):
    """The error line of a run that must fail with code 2, print nothing else and leave no file changed."""
    def run(*arguments):
        before = snapshot(house, tmp_path)
        code, out, err = cli(*arguments)
        lines = [line for line in err.split("\n") if line.startswith("error: ")]
        assert code == 2 and out == "" and "Traceback" not in err, err
        assert len(lines) == 1 and err.endswith(lines[0] + "\n"), err
        assert snapshot(house, tmp_path) == before
        return lines[0]
    return run


# -- what comes out -------------------------------------------------------------------------------

def check_query(query, top):
    """One query of the JSON: order of the stories, completeness over tokens and over layers."""
    assert list(query) == ["prompt", "completion", "log_prob", "influences"] and query["log_prob"] < 0
    values = [entry["influence"] for entry in query["influences"]]
    positive, negative = [v for v in values if v > 0], [v for v in values if v < 0]
    assert values == sorted(positive, reverse=True) + sorted(negative) and len(positive) == len(negative) == top
    assert [entry["rank"] for entry in query["influences"]] == [*range(1, top + 1)] * 2
    for entry in query["influences"]:
        assert list(entry) == ENTRY_KEYS
        tokens = entry["tokens"]
        assert all(list(token) == ["token", "position", "influence", "predicted"] for token in tokens)
        assert [token["position"] for token in tokens] == list(range(len(tokens)))
        assert [token["predicted"] for token in tokens] == [token["token"] for token in tokens[1:]] + [None]
        assert tokens[-1]["influence"] == 0  # it predicts nothing
        scale = max(abs(token["influence"]) for token in tokens)
        assert sum(token["influence"] for token in tokens) == pytest.approx(entry["influence"], abs=1e-4 * scale)
        assert sum(entry["layers"].values()) == pytest.approx(entry["influence"], abs=1e-4 * scale)


def test_json_is_as_promised(house, cli, tmp_path):
    code, out, err = cli(PROMPT, "--completion", "fox", "--json", tmp_path / "a.json", "--all-scores", tmp_path / "a.safetensors")
    assert code == 0 and "fitting A and S" in err and "fitting Λ" in err and "tokens/s" in err
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    found = json.loads(text)
    names = [f"transformer.h.{block}.mlp.{part}" for block in (0, 1) for part in ("c_fc", "c_proj")]
    assert list(found) == KEYS and list(found["damping"]) == names and min(found["damping"].values()) > 0
    assert (found["method"], found["n_train"], found["unit"]) == ("ekfac", 24, "nats per extra copy")
    assert (found["model"], found["stories"]) == (str(house / "model"), str(house / "stories.jsonl"))
    (query,) = found["queries"]
    assert (query["prompt"], query["completion"]) == (PROMPT, " fox")  # two words typed apart stay apart
    check_query(query, 3)
    stories = [json.loads(line) for line in (house / "stories.jsonl").read_text().splitlines()]
    for entry in query["influences"]:
        assert {"id": entry["id"], "text": entry["text"]} == stories[entry["index"]] and list(entry["layers"]) == names
        assert entry["text"].startswith("".join(token["token"] for token in entry["tokens"]))
        assert f"{entry['influence']:+.3g}"[:5] in out and entry["id"] in out

    scores = load_file(tmp_path / "a.safetensors")
    assert {key: tuple(value.shape) for key, value in scores.items()} == {"sequence": (1, 24), "token": (1, 24, 64)}
    assert torch.allclose(scores["token"].sum(-1), scores["sequence"])
    order = scores["sequence"][0].argsort(descending=True).tolist()
    assert [entry["index"] for entry in query["influences"]] == order[:3] + order[:-4:-1]
    for entry in query["influences"]:
        row, scale = scores["token"][0, entry["index"]], max(abs(token["influence"]) for token in entry["tokens"])
        assert scores["sequence"][0, entry["index"]].item() == pytest.approx(entry["influence"], abs=1e-4 * scale)
        assert row[:len(entry["tokens"])].tolist() == pytest.approx([t["influence"] for t in entry["tokens"]], abs=1e-4 * scale)
        assert (row[len(entry["tokens"]):] == 0).all()
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("a.json", "a.safetensors")} == {0o666 & ~umask}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_identity_is_the_dot_product_of_plain_gradients(house, result):
    found = result(PROMPT, "--completion", "fox", "--method", "identity")
    assert set(found["damping"].values()) == {0}
    model, tokenizer = make_model(initializer_range=0.3), make_tokenizer()
    weights = [p for name, p in model.named_parameters() if ".mlp." in name]

    def gradient(text, first=1):
        ids = torch.tensor([tokenizer(text)["input_ids"][:64]])
        losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        loss = losses[first - 1:].sum()
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)]), loss.item()

    ask, loss = gradient(PROMPT + " fox", len(tokenizer(PROMPT)["input_ids"]))
    assert found["queries"][0]["log_prob"] == pytest.approx(-loss, rel=1e-4)
    for entry in found["queries"][0]["influences"]:
        expected = (ask @ gradient(entry["text"])[0]).item() / found["n_train"]
        assert entry["influence"] == pytest.approx(expected, rel=1e-3)


def test_many_queries_in_one_pass_equal_single_ones(house, cli, result, tmp_path):
    found = result("--queries", house / "queries.jsonl", "--all-scores", tmp_path / "s.safetensors")
    assert load_file(tmp_path / "s.safetensors")["token"].shape == (3, 24, 64)
    assert [query["prompt"] for query in found["queries"]] == [PROMPT, "One day, it", "He liked the"]
    for query in found["queries"]:
        check_query(query, 3)
        (single,) = result(query["prompt"], "--completion", query["completion"])["queries"]
        assert close(query, single) and single["log_prob"] == pytest.approx(query["log_prob"], rel=1e-5)
    written = found["queries"][1]
    assert written["completion"] and result("One day, it")["queries"][0]["completion"] == written["completion"]
    assert not close_or_false(found["queries"][0], found["queries"][2])


def close_or_false(one, other):
    try:
        return close(one, other)
    except AssertionError:
        return False


def test_settings_change_what_they_say(result, cli, tmp_path):
    ask = (PROMPT, "--completion", "fox")
    base = result(*ask)
    kfac = result(*ask, "--method", "kfac")
    assert kfac["method"] == "kfac" and not close_or_false(base["queries"][0], kfac["queries"][0])
    assert result(*ask, "--fit-limit", 5)["damping"] != base["damping"]
    assert result(*ask, "--limit", 10)["n_train"] == 10
    assert set(result(*ask, "--damping", "0.25")["damping"].values()) == {0.25}
    everything = result(*ask, "--scope", "all")["damping"]
    assert any("attn" in name for name in everything) and "lm_head" not in everything and base["damping"].keys() < everything.keys()
    assert list(result(*ask, "--scope", r"h\.1\.mlp")["damping"]) == ["transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj"]
    assert close(base["queries"][0], result(*ask, "--batch-size", 1, "--damping", "auto")["queries"][0], 1e-3)
    code, _, err = cli(*ask, "--max-tokens", 8, "--json", tmp_path / "short.json")
    entries = json.loads((tmp_path / "short.json").read_text())["queries"][0]["influences"]
    assert code == 0 and "24 of 24 stories cut to their first 8 tokens" in err and {len(e["tokens"]) for e in entries} == {8}


def test_prefilter_scores_only_the_best_matches(result, tmp_path):
    ask = (PROMPT, "--completion", "fox", "--all-scores", tmp_path / "s.safetensors")
    found, few = result(*ask, "--prefilter", 5), load_file(tmp_path / "s.safetensors")
    result(*ask)
    everything = load_file(tmp_path / "s.safetensors")["sequence"]
    kept = few["sequence"] != 0
    assert found["n_train"] == 24 and kept.sum() == 5 and (few["token"].abs().sum(-1) > 0).equal(kept)
    assert torch.allclose(few["sequence"][kept], everything[kept], rtol=1e-3)
    assert {entry["index"] for entry in found["queries"][0]["influences"]} <= set(kept[0].nonzero()[:, 0].tolist())


def test_same_seed_same_bytes_other_seed_other_labels(result, tmp_path):
    texts = []
    for _ in range(2):
        first = result(PROMPT, "--seed", 7)
        texts.append((tmp_path / "out.json").read_bytes())
    assert texts[0] == texts[1]
    assert result(PROMPT, "--seed", 8)["damping"] != first["damping"]


def test_plain_text_is_split_at_its_marks(house, result, tmp_path):
    texts = made_up(8)
    jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    one, other = (result(PROMPT, "--stories", tmp_path / name) for name in ("a.jsonl", "a.txt"))
    assert one["n_train"] == 8 and one.pop("stories") != other.pop("stories") and one == other


class Tags(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.found += [tag, *(name for name, _ in attributes)]

    def handle_data(self, data):
        self.text += data


def test_hostile_text_is_shown_and_does_nothing(cli, tmp_path):
    pieces = ["</bdi><script>alert(1)</script>", '<img src=x onerror="alert(2)">', "\u202e fox &lt; \x1b[31m 🦊 fox", "â€œoldâ€\x9d"]
    jsonl(tmp_path / "hostile.jsonl", [{"text": piece, "id": f"<u>{n}\x1b\u202e"} for n, piece in enumerate(pieces)])
    code, out, err = cli("<script>alert(3)</script> fox\x1b[2J", "--completion", "<img src=y>", "--top", 4,
                         "--stories", tmp_path / "hostile.jsonl", "--html", tmp_path / "a.html")
    assert code == 0 and "a.html" in err
    page = Tags((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert not {"script", "img", "iframe", "u", "src", "onerror"} & set(page.found)
    for piece in (*pieces[:2], " fox &lt; ⟨U+001B⟩[31m �", "<script>alert(3)</script>", "<u>0⟨U+001B⟩⟨U+202E⟩"):
        assert piece in page.text
    assert "\x1b" not in out and "\u202e" not in out and "\x1b" not in err


def test_dirt_is_left_out_counted_and_said(cli, tmp_path):
    dirt = [{"text": ""}, {"text": " \n"}, {"text": "a"}, {"text": None}, {"text": 5}, {"text": "fox " * 99}]
    jsonl(tmp_path / "dirt.jsonl", [*dirt, *({"text": text} for text in made_up(6))])
    code, _, err = cli(PROMPT, "--stories", tmp_path / "dirt.jsonl", "--json", tmp_path / "a.json")
    assert code == 0 and json.loads((tmp_path / "a.json").read_text())["n_train"] == 7
    notes = [line for line in err.split("\n") if line.startswith("note: ")]
    assert notes == ["note: 1 of 12 stories cut to their first 64 tokens",
                     "note: 5 of 12 stories left out (empty, a single token, or no text)"]


# -- bad input ------------------------------------------------------------------------------------

BAD_ARGUMENTS = {
    "prompt is empty": [[""], [" \n"]],
    "completion is empty": [["a fox", "--completion", ""]],
    "more than the 64": [["fox " * 80, "--completion", "fox"]],
    "the model reads 64": [["fox " * 80]],
    "not valid Unicode": [["caf\udce9 fox", "--completion", "fox"]],
    "both a prompt and --queries": [["fox", "--queries", "q.jsonl"], ["--completion", "fox", "--queries", "q.jsonl"]],
    "cannot read q.jsonl": [["--queries", "q.jsonl"]],
    "no model folder": [["--model", "./absent"]],
    "is a file": [["--model", "{house}/stories.jsonl"]],
    "no config.json": [["--model", "{house}"]],
    "no layer matches scope 'nonesuch'; linear layers seen: transformer.h.0.attn": [["--scope", "nonesuch"]],
    "nor a regular expression": [["--scope", "("]],
    "cannot read": [["--stories", "absent.jsonl"], ["--stories", "absent.txt"]],
    "FILE.jsonl": [["--stories", "./absent"], ["--stories", "{house}"], ["--stories", "{house}/model/config.json"]],
    "is not a whole number": [["--limit", "0"], ["--limit", "-1"], ["--limit", "1.5"], ["--limit", "9" * 20], ["--top", "0"],
                              ["--fit-limit", "0"], ["--batch-size", "x"], ["--prefilter", "0"], ["--seed", "-1"]],
    "--top 25 asks for more than the 24 stories": [["--top", "25"]],
    "neither auto nor a number": [["--damping", "-1"], ["--damping", "nan"], ["--damping", "inf"], ["--damping", "much"]],
    "max_tokens is 1": [["--max-tokens", "1"]],
    "invalid choice": [["--method", "lissa"], ["--device", "tpu"]],
    "unrecognized arguments": [["fox", "--frobnicate"], ["two", "prompts"]],
    "is a folder": [["--json", "{house}"], ["--html", "."], ["--all-scores", "/"]],
    "there is no folder": [["--json", "{house}/none/a.json"], ["--html", "{house}/stories.jsonl/a.html"]],
    "a device or a pipe": [["--json", "/dev/full"], ["--all-scores", "/dev/null"]],
    "named twice": [["--json", "{house}/a", "--html", "{house}/model/../a"], ["--json", "{house}/stories.jsonl"]],
    "File name too long": [["--json", "a" * 300]],
}


@pytest.mark.parametrize("words, arguments", [(words, case) for words, cases in BAD_ARGUMENTS.items() for case in cases])
def test_bad_arguments(words, arguments, refused, house):
    if any(name.startswith("/dev/") for name in arguments) and not Path("/dev/full").exists():
        pytest.skip("no device files on this system")
    assert words in refused(*(text.format(house=house) for text in arguments))
    assert Path(os.devnull).is_char_device() or os.name != "posix"


def test_outputs_do_not_overwrite_what_is_read(tmp_path):
    def refused(*arguments):
        with pytest.raises(InputError, match="is what is to be read"):
            pipeline.check_outputs(build_parser().parse_args(arguments))

    refused("--json", str(DATA / ".." / "data" / "stories.jsonl"))
    refused("--all-scores", str(DATA / "model" / "model.safetensors"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    (tmp_path / "blob").touch()
    (tmp_path / "model" / "weights").symlink_to("../blob")  # as the Hub's cache has it
    (tmp_path / "link").symlink_to("model/config.json")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("model/config.json", "model/weights", "blob", "link"):
        refused("--model", str(tmp_path / "model"), "--html", str(tmp_path / name))
    for model in ("model", "loop", "blob", "a" * 300):
        pipeline.check_outputs(build_parser().parse_args(["--model", str(tmp_path / model), "--html", str(tmp_path / "new.html")]))


@pytest.mark.parametrize("content, words", [
    ("", "holds no stories"), ("\n\n", "holds no stories"), ('{"text": "a fox"}\n\n{"text": ', "line 3 is not JSON"),
    ('{"text": "a fox"}\n{"body": "a fox"}', 'line 2 has no "text"'), ('"a fox"', "line 1 is not a JSON object"),
    ('{"text": ""}\n{"text": "a"}', "none of the 2 stories has two tokens"), (b'{"text": "caf\xe9"}', "not UTF-8")])
def test_bad_story_files(content, words, refused, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in refused("fox", "--stories", tmp_path / "bad.jsonl", "--json", tmp_path / "a.json")


def test_bad_query_files(refused, tmp_path):
    jsonl(tmp_path / "q.jsonl", [{"prompt": PROMPT}, {"completion": " fox"}])
    assert 'line 2 has no "prompt"' in refused("--queries", tmp_path / "q.jsonl")
    jsonl(tmp_path / "q.jsonl", [{"prompt": PROMPT}, {"prompt": "fox " * 80, "completion": "fox"}])
    assert "more than the 64" in refused("--queries", tmp_path / "q.jsonl")


def test_stories_without_words_and_a_prefilter(refused, tmp_path):
    jsonl(tmp_path / "odd.jsonl", [{"text": "🦊 🦊"}, {"text": "🎈 …"}])
    assert "leave out --prefilter" in refused(PROMPT, "--stories", tmp_path / "odd.jsonl", "--top", 1, "--prefilter", 1)


def test_completion_without_tokens(refused, tmp_path):
    from tokenizers import normalizers
    deaf = make_tokenizer()
    deaf.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    make_model().save_pretrained(tmp_path / "deaf")
    deaf.save_pretrained(tmp_path / "deaf")
    assert "gives no token" in refused("a fox", "--completion", "##", "--model", tmp_path / "deaf")


def test_models_that_cannot_be_used(refused, tmp_path):
    from transformers import BertConfig, BertForMaskedLM
    make_model().config.save_pretrained(tmp_path / "empty")
    assert "has no weights" in refused("fox", "--model", tmp_path / "empty")
    BertForMaskedLM(BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                               intermediate_size=24)).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    assert "no causal language model" in refused("fox", "--model", tmp_path / "bert")


@pytest.mark.parametrize("factor, method, words", [(float("nan"), "ekfac", "hold NaN"), (1e30, "ekfac", "not finite"),
                                                   (1e30, "kfac", "not finite"), (1e30, "identity", "not finite")])
def test_numbers_that_are_not_finite(factor, method, words, refused, tmp_path):
    model = make_model(initializer_range=0.3)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight *= factor
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    outputs = ["--json", tmp_path / "a.json"] if method == "identity" else ["--all-scores", tmp_path / "a.safetensors"]
    assert words in refused("a fox", "--completion", "fox", "--model", tmp_path, "--method", method, *outputs)


def test_all_scores_that_are_not_finite(refused, tmp_path):
    model = make_model(initializer_range=0.3)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight *= 1e30
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert "scores are not finite" in refused("a fox", "--completion", "fox", "--model", tmp_path, "--method", "identity",
                                              "--all-scores", tmp_path / "a.safetensors")


@pytest.mark.parametrize("exhaust", [lambda *_: torch.empty(2**50), lambda *_: bytearray(2**60)])
def test_out_of_memory_says_what_to_lower(exhaust, refused, monkeypatch):
    monkeypatch.setattr(pipeline, "fit", exhaust)  # asks the real allocators for more than any machine has
    assert "--batch-size" in refused(PROMPT)


def test_faults_of_ours_are_not_hidden(cli, monkeypatch):
    def fault(*_):
        raise RuntimeError("a fault")
    monkeypatch.setattr(pipeline, "fit", fault)
    with pytest.raises(RuntimeError, match="a fault"):
        cli(PROMPT)


# -- disks that are full --------------------------------------------------------------------------

@pytest.fixture
def on_small_disk(cli):
    """The command line while files of this process cannot grow beyond 1 KB: the system's own error, in mid-write.

    Only during the call: the limit would stop pytest's own report as well when that goes to a file.
    """
    resource = pytest.importorskip("resource")

    def limited(*arguments):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            return cli(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return limited


@pytest.mark.parametrize("option", ["--json", "--html", "--all-scores"])
def test_full_disk_keeps_the_old_file_and_the_table(option, on_small_disk, tmp_path):
    (tmp_path / "out").write_text("from last time")
    code, out, err = on_small_disk(PROMPT, option, tmp_path / "out")
    last = err.split("\n")[-2]
    assert code == 2 and last.startswith("error: cannot write") and "File too large" in last and "Traceback" not in err
    assert snapshot(tmp_path) == {tmp_path / "out": b"from last time"} and "Stories that raise" in out


def test_one_output_that_fails_does_not_cost_the_others(on_small_disk, tmp_path):
    code, _, err = on_small_disk(PROMPT, "--limit", 2, "--top", 1, "--max-tokens", 8, "--html", tmp_path / "a.html",
                                 "--all-scores", tmp_path / "a.safetensors")
    assert code == 2 and "a.html" in err.split("\n")[-2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_full_disk_for_the_cache_costs_only_the_cache(on_small_disk, tmp_path):
    code, out, err = on_small_disk(PROMPT, "--cache", tmp_path / "cache")
    assert code == 0 and "note: the factors were not cached" in err and "Stories that raise" in out
    assert visible(tmp_path / "cache") == []
    (tmp_path / "file").write_text("x")
    code, _, err = on_small_disk(PROMPT, "--cache", tmp_path / "file" / "cache")
    assert code == 0 and "note: the factors were not cached" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_stdout_that_is_full_or_closed_does_not_cost_the_files(house, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(house, PROMPT, "--method", "identity", "--json", tmp_path / "a.json"), cwd=ROOT,
                              stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    last = done.stderr.split("\n")[-2]
    assert done.returncode == 2 and last.startswith("error: cannot print") and "No space left" in last and "Traceback" not in done.stderr
    process = subprocess.Popen(command(house, PROMPT, "--method", "identity", "--json", tmp_path / "b.json"), cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| head -0` would
    err = process.stderr.read().decode()
    assert process.wait(120) == 0 and "Exception" not in err and "error" not in err, err
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


# -- the cache, interruptions ---------------------------------------------------------------------

def test_cache_is_used_checked_and_repaired(cli, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig
    torch.manual_seed(0)  # the names of a Llama's layers are not in alphabetical order, those in a file are
    config = LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=400,
                         max_position_embeddings=64, initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    make_tokenizer().save_pretrained(tmp_path / "llama")
    cache = tmp_path / "deep" / "cache"

    def run(*arguments):
        code, out, err = cli(PROMPT, "--model", tmp_path / "llama", "--cache", cache, "--json", tmp_path / "a.json", *arguments)
        assert code == 0, err
        return (tmp_path / "a.json").read_bytes(), err

    fresh, err = run()
    (kept,) = visible(cache)
    assert "fitting" in err and run("--cache", "none")[0] == fresh
    again, err = run()
    assert again == fresh and "fitting" not in err
    whole = kept.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:], b""):
        kept.write_bytes(damaged)
        again, err = run()
        assert again == fresh and "note: the cached factors" in err and "fitting A" in err and kept.read_bytes() == whole
    for change in (["--seed", 5], ["--limit", 9], ["--method", "kfac"], ["--scope", "gate_proj"], ["--max-tokens", 9]):
        assert "fitting" in run(*change)[1] and "fitting" not in run(*change)[1]


def test_leftovers_are_harmless_and_old_ones_go(cli, tmp_path):
    for name in ("old", "new"):
        (tmp_path / f".tokenwise-{name}.partial").mkdir()
        (tmp_path / f".tokenwise-{name}.partial" / "ekfac.safetensors").write_bytes(b"half a fi")
    os.utime(tmp_path / ".tokenwise-old.partial", (time.time() - 7200,) * 2)
    assert cli(PROMPT, "--cache", tmp_path)[0] == 0
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert len(names) == 2 and names[0] == ".tokenwise-new.partial" and names[1].endswith(".safetensors")


def until(process, words, seconds=120):
    """Reads stderr until it says `words`; what it said."""
    said, deadline = b"", time.time() + seconds
    while words.encode() not in said:
        assert time.time() < deadline and (piece := os.read(process.stderr.fileno(), 4096)), said.decode()
        said += piece
    return said.decode()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupted_and_killed_in_mid_fit_then_the_same_again(house, cli, tmp_path):
    jsonl(tmp_path / "many.jsonl", [{"text": text} for text in made_up(400)])

    def arguments(cache, out):
        return PROMPT, "--stories", tmp_path / "many.jsonl", "--batch-size", 1, "--cache", tmp_path / cache, "--json", tmp_path / out
    before = snapshot(tmp_path)
    for send, words, code in ((signal.SIGINT, "fitting A and S", 130), (signal.SIGKILL, "fitting Λ", -signal.SIGKILL)):
        process = subprocess.Popen(
            command(house, *arguments("cache", "a.json")), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores Ctrl-C
        said = until(process, words)
        process.send_signal(send)
        out, rest = process.communicate(timeout=60)
        said += rest.decode()
        assert process.returncode == code and out == b"" and "Traceback" not in said and "scoring" not in said, said
        if send == signal.SIGINT:
            assert said.split("\n")[-2].startswith("error: interrupted")
        assert snapshot(tmp_path).keys() - before.keys() == {tmp_path / "cache", *(tmp_path / "cache").glob(".ekfac-*.lock")}
    assert cli(*arguments("cache", "a.json"))[0] == cli(*arguments("undisturbed", "b.json"))[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_an_interrupt_while_a_bar_draws_itself_is_told_on_a_line_of_its_own(cli, monkeypatch):
    from tqdm.std import tqdm
    draw = tqdm.refresh

    def interrupted(bar, *arguments, **options):
        draw(bar, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(tqdm, "refresh", interrupted)
    code, out, err = cli(PROMPT, "--completion", "fox")
    lines = err.split("\n")
    assert (code, out, lines[-1]) == (130, "", "") and "fitting A and S" in lines[-3] and lines[-2].startswith("error: interrupted")


FORKED = """
import json, os, signal, sys, time
from helpers import curvature, files, search
from helpers.__main__ import main
import helpers.pipeline
files.Checkpoint.every, search.PART = 0, 8


def child(job):
    calls = {}

    def counted(kind, function):
        def call(*arguments, **options):
            calls[kind] = calls.get(kind, 0) + 1
            if [kind, calls[kind]] == job["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(job["log"], "a") as log:
                log.write(kind + "\\n")
            if kind != "rename":
                time.sleep(job["slow"])
            return function(*arguments, **options)
        return call

    curvature.backward_pass = counted("fit", curvature.backward_pass)
    search.backward_pass = counted("index", search.backward_pass)
    os.replace = counted("rename", os.replace)
    for number in (1, 2):
        os.dup2(os.open(f"{job['log']}.{number}", os.O_WRONLY | os.O_CREAT), number)
    code = 99
    try:
        code = main(job["arguments"])
        sys.stdout.flush()
    finally:
        os._exit(code)


codes = []
for together in json.loads(sys.argv[1]):
    running = []
    for job in together:
        running.append(os.fork() or child(job))
        time.sleep(job["pause"])
    codes.append([os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in running])
print(json.dumps(codes))
"""


class Jobs:
    """Runs of the command line in processes forked from one, so that libraries are loaded once; each counts what it does."""

    def __init__(self, house, folder):
        self.house, self.folder, self.groups = house, folder, []

    def job(self, name, *arguments, kill=None, slow=0, pause=0):
        line = command(self.house, PROMPT, "--completion", "fox", "--batch-size", 2, *arguments, "--json", self.folder / f"{name}.json")
        return {"arguments": line[3:], "kill": kill, "log": str(self.folder / f"{name}.log"), "slow": slow, "pause": pause}

    def run(self, *groups):
        done = subprocess.run([sys.executable, "-c", FORKED, json.dumps(groups)], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def count(self, name, kind):
        log = self.folder / f"{name}.log"
        return log.read_text().split().count(kind) if log.exists() else 0

    def said(self, name):
        return (self.folder / f"{name}.log.2").read_text()

    def answer(self, name):
        return (self.folder / f"{name}.json").read_bytes()


@pytest.fixture
def jobs(house, tmp_path):
    if os.name != "posix":
        pytest.skip("forks, and signals of POSIX")
    return Jobs(house, tmp_path)


# With 24 stories in batches of 2 a fit is 12 passes for the covariances and 12 for Λ, each kept when it is done (every 0 s).
KILLS = {"first": (["fit", 1], 24), "covariances": (["fit", 6], 19), "between": (["fit", 13], 12), "Λ": (["fit", 20], 5),
         "a checkpoint": (["rename", 7], 18), "the factors": (["rename", 25], 0), "the answer": (["rename", 26], 0)}


def test_a_fit_killed_anywhere_goes_on_where_it_was(jobs):
    groups = [[jobs.job("undisturbed", "--cache", "none")]]
    for n, (kill, _) in enumerate(KILLS.values()):
        cache = jobs.folder / f"cache{n}"
        groups += [[jobs.job(f"killed{n}", "--cache", cache, kill=kill)], [jobs.job(f"again{n}", "--cache", cache)]]
    codes = jobs.run(*groups)
    assert codes == [[0], *[[-signal.SIGKILL], [0]] * len(KILLS)]
    assert jobs.count("undisturbed", "fit") == 24
    for n, (where, (kill, left)) in enumerate(KILLS.items()):
        assert not (jobs.folder / f"killed{n}.json").exists(), where
        assert jobs.count(f"again{n}", "fit") == left, where
        assert jobs.answer(f"again{n}") == jobs.answer("undisturbed"), where
        (kept,) = visible(jobs.folder / f"cache{n}")
        assert kept.name.startswith("ekfac-") and ".partial" not in kept.name, where


# 24 stories in parts of 8: three parts of 4 passes each. Without a cache the only renames are head and parts.
def test_an_index_killed_anywhere_goes_on_behind_its_last_part(jobs):
    kills = {"in mid part": (["index", 7], 1, 8), "between parts": (["index", 5], 1, 8), "the head": (["rename", 1], 0, 12),
             "a part": (["rename", 3], 1, 8), "the last part": (["rename", 4], 2, 4), "the answer": (["rename", 5], 3, 0)}
    groups = [[jobs.job("undisturbed", "--cache", "none", "--index", jobs.folder / "whole")]]
    for n, (kill, _, _) in enumerate(kills.values()):
        more = ("--cache", "none", "--index", jobs.folder / f"index{n}")
        groups += [[jobs.job(f"killed{n}", *more, kill=kill)], [jobs.job(f"again{n}", *more)]]
    assert jobs.run(*groups) == [[0], *[[-signal.SIGKILL], [0]] * len(kills)]
    assert (jobs.count("undisturbed", "index"), jobs.count("undisturbed", "fit")) == (12, 24)
    parts = {path.name: path.read_bytes() for path in visible(jobs.folder / "whole") if path.name != "head.safetensors"}
    assert len(parts) == 3
    for n, (where, (kill, _, left)) in enumerate(kills.items()):
        assert jobs.count(f"again{n}", "index") == left, where
        assert jobs.count(f"again{n}", "fit") == (24 if where == "the head" else 0), where
        assert jobs.answer(f"again{n}") == jobs.answer("undisturbed"), where
        held = {path.name: path.read_bytes() for path in visible(jobs.folder / f"index{n}")}
        assert held.pop("head.safetensors") and len(held) == 3
        assert sum(len(load_file(jobs.folder / f"index{n}" / name)["digests"]) for name in held) == 24, where


def test_half_done_sums_that_are_damaged_or_of_other_batches_are_not_used(jobs, cli, tmp_path):
    kills = {"flipped": ["fit", 8], "cut": ["fit", 20], "empty": ["fit", 8], "batches": ["fit", 8]}
    groups = [[jobs.job(f"killed-{name}", "--cache", tmp_path / name, kill=kill)] for name, kill in kills.items()]
    assert jobs.run([jobs.job("undisturbed", "--cache", "none")], *groups) == [[0], *[[-signal.SIGKILL]] * len(kills)]
    again = []
    for name in kills:
        path = visible(tmp_path / name)[0]
        assert path.name.endswith(".partial.safetensors") and "covariances" in path.name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[-9] ^= 1
        path.write_bytes({"flipped": bytes(flipped), "cut": content[:len(content) // 2], "empty": b"", "batches": content}[name])
        again.append([jobs.job(f"again-{name}", "--cache", tmp_path / name, *(["--batch-size", 3] if name == "batches" else []))])
    assert jobs.run(*again) == [[0]] * len(kills)
    for name in ("flipped", "empty", "cut"):
        assert "note: the half-done sums" in jobs.said(f"again-{name}") and "damaged" in jobs.said(f"again-{name}")
        assert jobs.count(f"again-{name}", "fit") == (24 - 7 if name == "cut" else 24)  # Λ's own sums are whole
        assert jobs.answer(f"again-{name}") == jobs.answer("undisturbed")
    assert jobs.count("again-batches", "fit") == 16  # batches of 3: none of the sums of 2 is taken over
    one, other = (json.loads(jobs.answer(name))["queries"][0] for name in ("again-batches", "undisturbed"))
    assert close(one, other, 1e-3)


def test_of_two_that_do_the_same_at_once_one_waits(jobs, tmp_path):
    names = [f"{what}-{n}" for what in ("fit", "index") for n in (1, 2)]
    more = {"fit": ("--cache", tmp_path / "cache"), "index": ("--cache", "none", "--index", tmp_path / "index")}
    groups = [[jobs.job(f"{what}-{n}", *arguments, slow=0.12, pause=0.4) for n in (1, 2)] for what, arguments in more.items()]
    assert jobs.run(*groups) == [[0, 0], [0, 0]]
    for what in more:
        said = [jobs.said(f"{what}-{n}") for n in (1, 2)]
        assert sum("another run is making" in text and "waiting for it" in text for text in said) == 1
        assert sum(jobs.count(f"{what}-{n}", "fit") for n in (1, 2)) == 24  # fitted once, by one of them
        assert jobs.answer(f"{what}-1") == jobs.answer(f"{what}-2")
    assert sum(jobs.count(f"index-{n}", "index") for n in (1, 2)) == 12 and len(names) == 4
    assert len(visible(tmp_path / "cache")) == 1 and len(visible(tmp_path / "index")) == 4


def test_two_that_never_knew_of_each_other_leave_whole_files(house, tmp_path):
    both = [subprocess.Popen(command(house, PROMPT, "--cache", tmp_path / "cache", "--json", tmp_path / f"{n}.json"), cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert len(visible(tmp_path / "cache")) == 1


def test_a_folder_where_no_lock_can_be_made_stops_nobody(cli, tmp_path, monkeypatch):
    if os.name != "posix":
        pytest.skip("permissions of POSIX")
    import tempfile
    root, mine, seen = Path(tempfile.mkdtemp()), os.geteuid(), []
    root.chmod(0o555)
    try:
        if mine == 0:
            os.seteuid(65534)  # permissions do not hold root back
        for folder in (root, root / "deeper"):
            with files.lock(folder / "x.safetensors"):
                seen.append(folder)
    finally:
        os.seteuid(mine)
        root.chmod(0o755)
        names = list(root.iterdir())
        root.rmdir()
    assert seen == [root, root / "deeper"] and names == []
    (tmp_path / "file").write_text("x")
    with files.lock(tmp_path / "file" / "x"), pytest.raises(ZeroDivisionError):  # an error of the block is its own
        1 / 0


def test_a_lock_is_free_again_after_the_block_and_after_an_error(tmp_path):
    import filelock
    path, other = tmp_path / "x.safetensors", filelock.FileLock(tmp_path / ".x.safetensors.lock")
    with files.lock(path), pytest.raises(filelock.Timeout):
        other.acquire(timeout=0.1)
    with pytest.raises(ZeroDivisionError), files.lock(path):
        1 / 0
    with other.acquire(timeout=0.1):
        pass


def test_what_is_kept_is_bounded_oldest_first_and_said(tmp_path, monkeypatch, capsys):
    ours = {"newest": f"ekfac-{'1' * 24}", "old": f"kfac-{'2' * 24}", "older": f"diagonal-{'3' * 24}",
            "oldest": f"ekfac-{'4' * 24}.16-999.covariances-0-of-1.partial"}
    ours = {name: tmp_path / f"{stem}.safetensors" for name, stem in ours.items()}
    for n, path in enumerate(ours.values()):
        path.write_bytes(bytes(400_000))
        os.utime(path, (time.time() - 1000 * n,) * 2)
    foreign = ["notes.txt", "model.safetensors", "ekfac-mine.safetensors", f"my-ekfac-{'5' * 24}.safetensors"]
    foreign = [tmp_path / name for name in foreign]
    for path in foreign:  # neither counted nor removed
        path.write_bytes(bytes(3_000_000))
        os.utime(path, (0, 0))
    left = lambda: {name for name, path in ours.items() if path.exists()}

    def bounded(room, newest):
        monkeypatch.setattr(files, "ROOM", room)
        files.bound(tmp_path, ours[newest])
        return capsys.readouterr().err

    said = bounded(4 * 400_000, "newest")
    assert left() == set(ours)
    assert said == f"note: kept in {tmp_path}: 4 files, 2 MB (at most 2; to clear it, delete the folder)\n"
    files.touch(ours["oldest"])  # used now
    bounded(4 * 400_000 - 1, "newest")
    assert left() == {"newest", "old", "oldest"}
    assert "1 files, 0 MB" in bounded(1, "old") and left() == {"old"}  # what was just made stays, whatever its age and size
    assert all(path.exists() for path in foreign)


def test_files_that_another_run_removes_meanwhile_stop_nobody(tmp_path, monkeypatch):
    real, gone = Path.glob, f"ekfac-{'0' * 24}"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / pattern.replace("*", gone), *real(self, pattern)])
    path = tmp_path / f"kfac-{'1' * 24}.safetensors"
    files.save_tensors({"x": torch.zeros(3)}, path)
    files.bound(tmp_path, path)
    assert path.exists()


def test_a_cache_that_cannot_be_read_costs_what_is_kept_not_the_run(cli, tmp_path):
    code, out, err = cli(PROMPT, "--completion", "fox", "--cache", tmp_path / ("x" * 300))
    assert code == 0 and out and "the factors were not cached" in err


def test_the_bound_holds_for_the_command_line_and_a_use_keeps_factors_young(cli, tmp_path, monkeypatch):
    def run(seed):
        code, _, err = cli(PROMPT, "--completion", "fox", "--cache", tmp_path, "--seed", seed)
        assert code == 0, err
        return err

    first = run(1)
    (one,) = visible(tmp_path)
    size = one.stat().st_size
    assert f"kept in {tmp_path}: 1 files" in first and "to clear it, delete the folder" in first
    run(2)
    (two,) = set(visible(tmp_path)) - {one}
    for path, age in ((one, 2000), (two, 1000)):
        os.utime(path, (time.time() - age,) * 2)
    assert "kept in" not in run(1)  # read, so the younger of the two
    monkeypatch.setattr(files, "ROOM", int(2.5 * size))
    assert "2 files" in run(3) and one.exists() and not two.exists()


@pytest.mark.parametrize("room", ["stories.py", "processes.py", "capture.py", "curvature.py"])
def test_other_code_fits_anew(room, cli, tmp_path, monkeypatch):
    ask = (PROMPT, "--completion", "fox", "--cache", tmp_path, "--method", "kfac")
    assert "fitting" in cli(*ask)[2] and "fitting" not in cli(*ask)[2]
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: real(self) + (b"#" if self == ROOT / "helpers" / room else b""))
    assert "fitting" in cli(*ask)[2] and len(visible(tmp_path)) == 2


def test_factors_of_this_code_have_a_name_that_does_not_change():
    assert curvature.code_version() == curvature.code_version() != curvature.code_version("search.py")


# -- the index from a terminal --------------------------------------------------------------------

def test_an_index_gives_the_exact_answer_and_the_second_question_fits_nothing(house, cli, result, tmp_path):
    ask = ("--queries", house / "queries.jsonl")
    exact = result(*ask)
    code, out, err = cli(*ask, "--index", tmp_path / "index", "--json", tmp_path / "first.json")
    assert code == 0 and "adding 24 stories to the index" in err and "fitting" in err and out.count("Stories that raise") == 3
    code, _, err = cli(*ask, "--index", tmp_path / "index", "--json", tmp_path / "second.json")
    assert code == 0 and "fitting" not in err and "indexing" not in err
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("first", "second"))
    assert first == second and {key: first[key] for key in KEYS[:-1]} == {key: exact[key] for key in KEYS[:-1]}
    for found, expected in zip(first["queries"], exact["queries"], strict=True):
        check_query(found, 3)
        assert close(found, expected, 1e-3)


def test_an_index_and_what_does_not_go_with_it(refused, tmp_path):
    for other in (["--all-scores", tmp_path / "a.safetensors"], ["--prefilter", 3], ["--method", "identity"]):
        assert "--index goes neither with" in refused(PROMPT, "--index", tmp_path / "index", *other)
    (tmp_path / "file").write_text("x")
    assert f"cannot write {tmp_path / 'file'}" in refused(PROMPT, "--index", tmp_path / "file")


def test_an_index_of_something_else_is_refused_from_a_terminal(cli, refused, house, tmp_path):
    ask = (PROMPT, "--completion", "fox", "--index", tmp_path / "index")
    assert cli(*ask)[0] == 0
    for change in (["--seed", 3], ["--scope", "all"], ["--damping", 0.5], ["--precision", "bfloat16"]):
        assert "delete it and it will be built again" in refused(*ask, *change)
    jsonl(tmp_path / "other.jsonl", [{"text": text} for text in made_up(20, seed=8)])
    (tmp_path / "other.jsonl").write_text((tmp_path / "other.jsonl").read_text().replace("Story", "Tale"))
    assert "holds other stories" in refused(*ask, "--stories", tmp_path / "other.jsonl")


def test_a_full_disk_for_the_index_is_one_line_and_leaves_nothing_half_written(on_small_disk, tmp_path):
    code, out, err = on_small_disk(PROMPT, "--index", tmp_path / "index")
    last = err.split("\n")[-2]
    assert code == 2 and out == "" and last.startswith(f"error: cannot write {tmp_path / 'index'}") and "File too large" in last
    assert list((tmp_path / "index").iterdir()) == []


# -- the Hub, the real thing ----------------------------------------------------------------------

SEVERAL = """
import json, sys
from helpers.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sys.stderr.write(f"{main(arguments)}\\n")
"""


def test_main_job_from_the_hub(house, result, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "data").mkdir()
    save_pickled(make_model(initializer_range=0.3), tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    jsonl(tmp_path / "data" / "train.jsonl", [{"text": text} for text in made_up(30)])
    with hub.serve({"roneneldan/TinyStories-1M": tmp_path / "model"}, {"roneneldan/TinyStories": tmp_path / "data"}) as endpoint:
        names = ["--model", "roneneldan/TinyStories-1M", "--stories", "roneneldan/TinyStories"]
        done = subprocess.run(command(house, PROMPT, *names, "--limit", 12, "--json", tmp_path / "a.json"), cwd=ROOT,
                              env=hub.environment(endpoint, tmp_path / "home"), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "Stories that raise" in done.stdout, done.stderr
        small = ["a fox", "--completion", "fox", "--cache", "none"]
        unknown = [[*small, "--model", "nobody/Nothing"], [*small, *names[:2], "--stories", "nobody/Nothing"]]
        failed = subprocess.run([sys.executable, "-c", SEVERAL, json.dumps(unknown)], cwd=ROOT, capture_output=True, text=True,
                                env=hub.environment(endpoint, tmp_path / "home"), timeout=120).stderr.splitlines()
    local = result(PROMPT, "--stories", tmp_path / "data" / "train.jsonl", "--limit", 12)
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (found["model"], found["stories"], found["n_train"]) == (names[1], names[3], 12)
    assert close(found["queries"][0], local["queries"][0])
    assert failed[0].startswith("error: no model 'nobody/Nothing'") and failed[2].startswith("error: no dataset 'nobody/Nothing'")
    assert failed[1::2] == ["2", "2"]
    cut_off = [[*small, *names], [*small, "--model", str(house / "model"), *names[2:]], [*small, "--model", "nobody/Nothing"]]
    failed = subprocess.run([sys.executable, "-c", SEVERAL, json.dumps(cut_off)], cwd=ROOT, capture_output=True, text=True,
                            env=hub.environment(hub.nowhere(), tmp_path / "home"), timeout=120).stderr.splitlines()
    assert len(failed) == 6 and failed[1::2] == ["2"] * 3
    assert all(line.startswith("error: cannot reach the Hub") for line in failed[::2])


MEASURED = """
import resource, sys
from helpers.__main__ import main
assert main(sys.argv[1:]) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MB")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux only")
@pytest.mark.parametrize("vocabulary, stories, method", [(50257, 6, "ekfac"), (1500, 24, "identity")])
def test_tinystories_1m_stays_within_4_gb(vocabulary, stories, method, tmp_path):
    """What weighs is the logits with the real vocabulary, with a small one the attention maps of a full batch."""
    save_model(tmp_path, vocab_size=vocabulary, hidden_size=64, num_layers=8, attention_types=[[["global", "local"], 4]],
               num_heads=16, max_position_embeddings=2048, window_size=256, initializer_range=0.02)
    jsonl(tmp_path / "long.jsonl", [{"text": " ".join(made_up(20, seed))} for seed in range(stories)])
    done = subprocess.run([sys.executable, "-c", MEASURED, "A fox", "--completion", "named", "--model", tmp_path, "--top", "1",
                           "--stories", tmp_path / "long.jsonl", "--cache", "none", "--fit-limit", "2", "--method", method, "--device", "cpu"],
                          cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and f"{stories} of {stories} stories cut to their first 512" in done.stderr, done.stderr
    assert int(done.stdout.split()[-2]) < 4000


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/real beside the repository (real stories, not part of it)")
def test_real_model_on_real_stories(cli, tmp_path):
    code, out, err = cli("Once upon a time, there was a little girl named", "--completion", "Lily", "--model", REAL / "stories260K-hf",
                         "--stories", REAL / "tinystories.jsonl", "--limit", 40, "--max-tokens", 256, "--json", tmp_path / "a.json")
    assert code == 0 and "stories cut to their first 256 tokens" in err
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (query,) = found["queries"]
    check_query(query, 3)
    assert found["n_train"] == 40 and len(found["damping"]) == 15 and " Lily" in out
    best = query["influences"][0]
    assert max(best["tokens"], key=lambda token: token["influence"])["predicted"].startswith(" L") and "Lily" in best["text"]

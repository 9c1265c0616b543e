"""`python -m helpers`: the main job, its files, and every way in which a user can get it wrong."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from helpers.capture import find_layers
from helpers.sources import load_stories
from helpers.sources.files import DATA
from helpers.stories import InputError, tokenise
from helpers.terminal import job
from helpers.terminal.command import out_of_memory
from helpers.terminal.options import build_parser
from helpers.terminal.setting import Setting, _gradients, batch_note
from safetensors.torch import load_file

from builders import (PROMPT, REAL, ROOT, close, command, jsonl, made_up, make_model,
                      make_tokenizer, save_model, snapshot)

KEYS = ["model", "stories", "method", "n_train", "target", "rank", "unit", "damping", "tracked",
        "queries"]
ENTRY_KEYS = ["rank", "index", "id", "text", "influence", "layers", "tokens"]


# -- what comes out -------------------------------------------------------------------------------

def check_query(query, top):
    """One query of the JSON: order of the stories, completeness over tokens and over layers."""
    assert list(query) == ["prompt", "also", "completion", "against", "log_prob",
                           "log_prob_against", "contexts", "influences"]
    assert query["log_prob"] < 0
    values = [entry["influence"] for entry in query["influences"]]
    positive, negative = [v for v in values if v > 0], [v for v in values if v < 0]
    assert values == sorted(positive, reverse=True) + sorted(negative)
    assert len(positive) == len(negative) == top
    assert [entry["rank"] for entry in query["influences"]] == [*range(1, top + 1)] * 2
    for entry in query["influences"]:
        assert list(entry) == ENTRY_KEYS
        tokens = entry["tokens"]
        assert all(list(token) == ["token", "position", "influence", "predicted", "loss"]
                   for token in tokens)
        assert [token["position"] for token in tokens] == list(range(len(tokens)))
        after = [*(token["token"] for token in tokens[1:]), None]
        assert [token["predicted"] for token in tokens] == after
        assert tokens[-1]["influence"] == 0  # it predicts nothing
        scale = max(abs(token["influence"]) for token in tokens)
        whole = pytest.approx(entry["influence"], abs=1e-4 * scale)
        assert sum(token["influence"] for token in tokens) == whole
        assert sum(entry["layers"].values()) == whole


def test_rank_relatif_orders_by_influence_and_length(house, cli, tmp_path):
    lists = []
    for rank in ("influence", "relatif"):
        code, out, err = cli(PROMPT, "--completion", " fox", "--rank", rank, "--top", 3,
                             "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
        assert code == 0, err
        found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert found["rank"] == rank
        for shown in (out, (tmp_path / "a.html").read_text(encoding="utf-8")):
            assert ("RelatIF" in shown) == (rank == "relatif")
        lists.append([(entry["id"], entry["influence"])
                      for entry in found["queries"][0]["influences"]])
    assert lists[0] != lists[1]
    code, _, err = cli(PROMPT, "--completion", " fox", "--rank", "relatif", "--index", tmp_path)
    assert code == 2 and "--rank relatif goes neither with --index" in err


def test_json_is_as_promised(house, cli, tmp_path):
    code, out, err = cli(PROMPT, "--completion", " fox", "--json", tmp_path / "a.json",
                         "--all-scores", tmp_path / "a.safetensors")
    assert code == 0 and "fitting A and S" in err and "fitting Λ" in err and "tokens/s" in err
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    found = json.loads(text)
    names = [f"transformer.h.{block}.mlp.{part}" for block in (0, 1) for part in ("c_fc", "c_proj")]
    assert list(found) == KEYS and list(found["damping"]) == names
    assert min(found["damping"].values()) > 0
    assert (found["method"], found["n_train"]) == ("ekfac", 24)
    assert found["unit"] == "nats per extra copy"
    assert found["model"] == str(house / "model")
    assert found["stories"] == str(house / "stories.jsonl")
    (query,) = found["queries"]
    assert (query["prompt"], query["completion"]) == (PROMPT, " fox")
    check_query(query, 3)
    stories = [json.loads(line) for line in (house / "stories.jsonl").read_text().splitlines()]
    for entry in query["influences"]:
        assert {"id": entry["id"], "text": entry["text"]} == stories[entry["index"]]
        assert list(entry["layers"]) == names
        assert entry["text"].startswith("".join(token["token"] for token in entry["tokens"]))
        assert f"{entry['influence']:+#.3g}".rstrip(".") in out and entry["id"] in out

    scores = load_file(tmp_path / "a.safetensors")
    shapes = {key: tuple(value.shape) for key, value in scores.items()}
    assert shapes == {"sequence": (1, 24), "token": (1, 24, 64)}
    largest = scores["token"].abs().max().item()
    assert torch.allclose(scores["token"].sum(-1), scores["sequence"], rtol=0, atol=1e-4 * largest)
    order = scores["sequence"][0].argsort(descending=True).tolist()
    assert [entry["index"] for entry in query["influences"]] == order[:3] + order[:-4:-1]
    for entry in query["influences"]:
        row, values = entry["index"], [token["influence"] for token in entry["tokens"]]
        whole = pytest.approx(entry["influence"], abs=1e-4 * largest)
        assert scores["sequence"][0, row].item() == whole
        row = scores["token"][0, row]
        assert row[:len(values)].tolist() == pytest.approx(values, abs=1e-4 * largest)
        assert (row[len(values):] == 0).all()
    if os.name == "posix":
        umask = os.umask(0)
        os.umask(umask)
        for name in ("a.json", "a.safetensors"):
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_identity_is_the_dot_product_of_plain_gradients(house, result):
    found = result(PROMPT, "--completion", " fox", "--method", "identity")
    assert set(found["damping"].values()) == {0}
    model, tokenizer = make_model(initializer_range=0.3), make_tokenizer()
    weights = [p for name, p in model.named_parameters() if ".mlp." in name]

    def gradient(text, first=1):
        ids = torch.tensor([tokenizer(text)["input_ids"][:64]])
        losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:],
                                                   reduction="none")
        loss = losses[first - 1:].sum()
        parts = torch.autograd.grad(loss, weights)
        return torch.cat([part.flatten() for part in parts]), loss.item()

    ask, loss = gradient(PROMPT + " fox", len(tokenizer(PROMPT)["input_ids"]))
    assert found["queries"][0]["log_prob"] == pytest.approx(-loss, rel=1e-4)
    largest = max(abs(entry["influence"]) for entry in found["queries"][0]["influences"])
    for entry in found["queries"][0]["influences"]:
        expected = (ask @ gradient(entry["text"])[0]).item() / found["n_train"]
        assert entry["influence"] == pytest.approx(expected, rel=1e-3, abs=1e-3 * largest)


def test_many_queries_in_one_pass_equal_single_ones(house, cli, result, tmp_path):
    found = result("--queries", house / "queries.jsonl", "--all-scores", tmp_path / "s.safetensors")
    assert load_file(tmp_path / "s.safetensors")["token"].shape == (3, 24, 64)
    prompts = [query["prompt"] for query in found["queries"]]
    assert prompts == [PROMPT, "One day, it", "He liked the"]
    for query in found["queries"]:
        check_query(query, 3)
        (single,) = result(query["prompt"], "--completion", query["completion"])["queries"]
        assert close(query, single, 1e-3)
        assert single["log_prob"] == pytest.approx(query["log_prob"], rel=1e-4)
    written = found["queries"][1]
    assert written["completion"]
    assert result("One day, it")["queries"][0]["completion"] == written["completion"]
    assert differ(found["queries"][0], found["queries"][2])


def differ(one, other):
    try:
        return not close(one, other, 1e-2)
    except AssertionError:
        return True


def test_settings_change_what_they_say(result, cli, tmp_path):
    ask = (PROMPT, "--completion", " fox")
    base = result(*ask)
    kfac = result(*ask, "--method", "kfac")
    assert kfac["method"] == "kfac" and differ(base["queries"][0], kfac["queries"][0])
    assert result(*ask, "--fit-limit", 5)["damping"] != base["damping"]
    assert result(*ask, "--limit", 10)["n_train"] == 10
    assert set(result(*ask, "--damping", "0.25")["damping"].values()) == {0.25}
    everything = result(*ask, "--scope", "all")["damping"]
    assert any("attn" in name for name in everything) and "lm_head" not in everything
    assert base["damping"].keys() < everything.keys()
    one = result(*ask, "--scope", r"h\.1\.mlp")["damping"]
    assert list(one) == ["transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj"]
    assert close(base["queries"][0],
                 result(*ask, "--batch-size", 1, "--damping", "auto")["queries"][0], 1e-3)
    code, _, err = cli(*ask, "--max-tokens", 8, "--json", tmp_path / "short.json")
    entries = json.loads((tmp_path / "short.json").read_text())["queries"][0]["influences"]
    assert code == 0 and "24 of 24 stories cut to their first 8 tokens" in err
    assert {len(entry["tokens"]) for entry in entries} == {8}


def test_prefilter_scores_only_the_best_matches(result, tmp_path):
    ask = (PROMPT, "--completion", " fox", "--all-scores", tmp_path / "s.safetensors")
    found, few = result(*ask, "--prefilter", 5), load_file(tmp_path / "s.safetensors")
    result(*ask)
    everything = load_file(tmp_path / "s.safetensors")["sequence"]
    kept = few["sequence"] != 0
    assert found["n_train"] == 24 and kept.sum() == 5
    assert (few["token"].abs().sum(-1) > 0).equal(kept)
    assert torch.allclose(few["sequence"][kept], everything[kept], rtol=1e-3,
                          atol=1e-3 * everything.abs().max())
    assert {entry["index"] for entry
            in found["queries"][0]["influences"]} <= set(kept[0].nonzero()[:, 0].tolist())


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
    pieces = ["</bdi><script>alert(1)</script>", '<img src=x onerror="alert(2)">',
              "\u202e fox &lt; \x1b[31m 🦊 fox",
              "â€œoldâ€\x9d"]
    jsonl(tmp_path / "hostile.jsonl",
          [{"text": piece, "id": f"<u>{n}\x1b\u202e"} for n, piece in enumerate(pieces)])
    code, out, err = cli("<script>alert(3)</script> fox\x1b[2J", "--completion", "<img src=y>",
                         "--top", 4,
                         "--stories", tmp_path / "hostile.jsonl", "--html", tmp_path / "a.html")
    assert code == 0 and "a.html" in err
    page = Tags((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert not {"script", "img", "iframe", "u", "src", "onerror"} & set(page.found)
    for piece in (*pieces[:2], " fox &lt; ⟨U+001B⟩[31m �", "<script>alert(3)</script>",
                  "<u>0⟨U+001B⟩⟨U+202E⟩"):
        assert piece in page.text
    assert "\x1b" not in out and "\u202e" not in out and "\x1b" not in err


def test_dirt_is_left_out_counted_and_said(cli, tmp_path):
    dirt = [{"text": ""}, {"text": " \n"}, {"text": "a"}, {"text": None}, {"text": 5},
            {"text": "fox " * 99}]
    jsonl(tmp_path / "dirt.jsonl", [*dirt, *({"text": text} for text in made_up(6))])
    code, _, err = cli(PROMPT, "--stories", tmp_path / "dirt.jsonl", "--json", tmp_path / "a.json")
    assert code == 0 and json.loads((tmp_path / "a.json").read_text())["n_train"] == 7
    notes = [line for line in err.split("\n") if line.startswith("note: ")]
    assert "1 of 12 stories cut" in notes[-2] and "5 of 12 stories left out" in notes[-1]


# -- bad input ------------------------------------------------------------------------------------

def request_of(*arguments):
    return job.Request(**vars(build_parser().parse_args(arguments)))


def test_a_request_has_the_options_and_the_defaults_of_the_command_line():
    request = request_of()
    assert request.cache and request_of("--cache", "none").cache is None
    assert (request.model, request.method, request.top, request.seed) == ("default", "ekfac", 10, 0)
    assert (request.target, request.contexts, request.against) == ("influence", 0, None)
    assert request.fitting == {"method": "ekfac", "fit_limit": 2000, "seed": 0, "damping": None,
                               "cache": request.cache}


def test_outputs_do_not_overwrite_what_is_read(tmp_path):
    def refused(*arguments):
        with pytest.raises(InputError, match="is to be read"):
            job.check_outputs(request_of(*arguments))

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
        arguments = ["--model", str(tmp_path / model), "--html", str(tmp_path / "new.html")]
        job.check_outputs(request_of(*arguments))


def test_stories_without_words_and_a_prefilter(refused, tmp_path):
    jsonl(tmp_path / "odd.jsonl", [{"text": "🦊 🦊"}, {"text": "🎈 …"}])
    assert "leave out --prefilter" in refused(PROMPT, "--stories", tmp_path / "odd.jsonl", "--top",
                                              1, "--prefilter", 1)


def test_completion_without_tokens(refused, tmp_path):
    from tokenizers import normalizers
    deaf = make_tokenizer()
    deaf.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    make_model().save_pretrained(tmp_path / "deaf")
    deaf.save_pretrained(tmp_path / "deaf")
    assert "gives no token" in refused("a fox", "--completion", "##", "--model", tmp_path / "deaf")


@pytest.mark.parametrize("factor, method, output, words", [
    (float("nan"), "ekfac", "--json", "hold NaN"), (1e30, "ekfac", "--json", "not finite"),
    (1e30, "kfac", "--json", "not finite"), (1e30, "identity", "--json", "not finite"),
    (1e30, "identity", "--all-scores", "not finite")])
def test_numbers_that_are_not_finite(factor, method, output, words, refused, tmp_path):
    model = make_model(initializer_range=0.3)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight *= factor
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert words in refused("a fox", "--completion", " fox", "--model", tmp_path, "--method",
                            method,
                            output, tmp_path / "out")


def test_only_what_is_short_of_memory_says_so():
    for said in ("CUDA out of memory. Tried to allocate 2.00 GiB",
                 "MPS backend out of memory (MPS allocated: 18 GB)",
                 "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 8 bytes",
                 "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"):
        assert out_of_memory(RuntimeError(said)) and not out_of_memory(ValueError(said))
    for said in ("CUDA error: an illegal memory access was encountered",
                 "unsupported memory format option", "memory-efficient attention failed"):
        assert not out_of_memory(RuntimeError(said))


@pytest.mark.parametrize("allocator, size", [(torch.empty, 2**50), (bytearray, 2**60)])
def test_out_of_memory_says_what_to_lower(allocator, size, refused, monkeypatch):
    """The real allocators are asked for more than any machine has."""
    monkeypatch.setattr(job, "fit", lambda *_, **__: allocator(size))
    assert "--batch-size" in refused(PROMPT)


def test_faults_of_ours_are_not_hidden(cli, monkeypatch):
    def fault(*_, **__):
        raise RuntimeError("a fault")
    monkeypatch.setattr(job, "fit", fault)
    with pytest.raises(RuntimeError, match="a fault"):
        cli(PROMPT)


# -- told beside the result -----------------------------------------------------------------------

def test_what_is_tracked_stands_in_terminal_json_and_page(cli, tmp_path):
    code, _, err = cli(PROMPT, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    said = "4 layers, 4,256 of the model's 13,920 parameters (30.6%)"
    assert code == 0 and f"note: tracked: {said}\n" in err
    assert said in Tags((tmp_path / "a.html").read_text(encoding="utf-8")).text
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["tracked"]
    assert found == {"layers": 4, "parameters": 4256, "of": 13920, "note": None}


def test_words_that_run_together_are_told_and_kept(cli, tmp_path):
    code, out, err = cli("He liked the", "--completion", "windmill", "--json", tmp_path / "a.json")
    assert code == 0 and 'note: "the" and "windmill" are scored as one word' in err
    assert "the →windmill" in out
    (query,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["queries"]
    assert query["completion"] == "windmill"


def test_a_model_in_which_the_batch_shows_is_told(house):
    model, tokenizer = make_model(initializer_range=0.3), make_tokenizer()
    corpus = tokenise(load_stories(house / "stories.jsonl"), tokenizer, 64)
    setting = Setting(model, tokenizer, find_layers(model), corpus, quiet=True)
    assert batch_note(setting) is None
    assert batch_note(replace(setting, model=model.to(torch.bfloat16))) is None
    model.float().transformer.wte.register_forward_hook(add_length)
    rows = [0, *sorted(range(24), key=lambda row: len(corpus.ids[row]))[-2:]]
    alone = torch.cat([_gradients(setting, [row]) for row in rows])
    padded = _gradients(setting, rows)
    errors = (alone - padded).norm(dim=1) / alone.norm(dim=1)
    note = batch_note(setting)
    worst = corpus.stories[rows[errors.argmax()]]
    assert f"story {worst.id!r} differs by {errors.max():.1%}" in note
    assert "--batch-size 1" in note


def add_length(_, args, output):
    """Embeddings that know how long the padded batch is."""
    return output * (1 + 0.01 * args[0].shape[1])


# -- disks that are full --------------------------------------------------------------------------

@pytest.mark.parametrize("option", ["--json", "--html", "--all-scores"])
def test_full_disk_keeps_the_old_file_and_the_table(option, on_small_disk, tmp_path):
    (tmp_path / "out").write_text("from last time")
    code, out, err = on_small_disk(PROMPT, option, tmp_path / "out")
    last = err.split("\n")[-2]
    assert code == 2 and last.startswith("error: cannot write") and "File too large" in last
    assert "Traceback" not in err
    assert snapshot(tmp_path) == {tmp_path / "out": b"from last time"}
    assert "Stories that raise" in out


def test_one_output_that_fails_does_not_cost_the_others(on_small_disk, tmp_path):
    code, _, err = on_small_disk(PROMPT, "--limit", 2, "--top", 1, "--max-tokens", 8, "--html",
                                 tmp_path / "a.html",
                                 "--all-scores", tmp_path / "a.safetensors")
    assert code == 2 and "a.html" in err.split("\n")[-2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_table_that_cannot_be_printed_is_told(cli, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = cli(PROMPT, "--method", "identity", "--json", tmp_path / "a.json")
    last = err.split("\n")[-2]
    assert code == 2 and last.startswith("error: cannot print") and "No space left" in last
    assert "--json" in last
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["n_train"] == 24


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_has_had_enough_is_no_error(house, tmp_path):
    """As `| head -0`; a process of its own, because Python flushes what is left when it exits."""
    process = subprocess.Popen(command(house, PROMPT, "--method", "identity", "--json",
                                       tmp_path / "a.json"), cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(120) == 0 and "Exception" not in err and "error" not in err, err
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["n_train"] == 24


# -- large and real -------------------------------------------------------------------------------

MEASURED = """
import resource, sys
from helpers.__main__ import main
assert main(sys.argv[1:]) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MB")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux only")
@pytest.mark.parametrize("vocabulary, stories, method",
                         [(50257, 6, "ekfac"), (1500, 24, "identity")])
def test_tinystories_1m_stays_within_4_gb(vocabulary, stories, method, tmp_path):
    """What weighs is the logits with the real vocabulary, with a small one the attention maps of a
    full batch."""
    save_model(tmp_path, vocab_size=vocabulary, hidden_size=64, num_layers=8, num_heads=16,
               attention_types=[[["global", "local"], 4]], max_position_embeddings=2048,
               window_size=256,
               initializer_range=0.02)
    jsonl(tmp_path / "long.jsonl",
          [{"text": " ".join(made_up(20, seed))} for seed in range(stories)])
    asked = ["A fox", "--completion", "named", "--model", tmp_path, "--stories",
             tmp_path / "long.jsonl", "--top", "1",
             "--cache", "none", "--fit-limit", "2", "--method", method, "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *asked], cwd=ROOT, capture_output=True,
                          text=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"{stories} of {stories} stories cut to their first 512" in done.stderr, done.stderr
    assert int(done.stdout.split()[-2]) < 4000


@pytest.mark.skipif(not REAL.is_dir(),
                    reason="no ../shared/real beside the repository (not part of it)")
def test_real_model_on_real_stories(cli, tmp_path):
    code, out, err = cli("Once upon a time, there was a little girl named", "--completion", " Lily",
                         "--model", REAL / "stories260K-hf", "--stories",
                         REAL / "tinystories.jsonl",
                         "--limit", 40, "--max-tokens", 256, "--json", tmp_path / "a.json")
    assert code == 0 and "stories cut to their first 256 tokens" in err
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    (query,) = found["queries"]
    check_query(query, 3)
    assert found["n_train"] == 40 and len(found["damping"]) == 15 and " Lily" in out
    # of three that teach the name, in which order depends on the labels drawn
    best = query["influences"][0]
    assert max(best["tokens"], key=lambda token: token["influence"])["predicted"].startswith(" L")
    assert "Lily" in best["text"]

"""`python -m helpers.judge`: its figures by hand, a command of one's own, kills, bad input."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from builders import (ROOT, jsonl, loss_of, made_up, make_tokenizer, query_loss, relative,
                      save_model)
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from transformers import MixtralConfig, MixtralForCausalLM

from helpers import retrain
from helpers.judging import report, training
from helpers.judging.command import main
from helpers.sources import add_lora, load_model, save_adapter
from helpers.stories import Corpus, Query, Story, encode_query, tokenise
from helpers.terminal.options import main as explain

COUNT, SUBSETS = 12, 5
RECIPE = retrain.Recipe(epochs=2, batch_size=4, rate=1e-2)
QUERIES = [{"prompt": "Story 3. there was a little", "completion": " fox"},
           {"prompt": "One day, it", "completion": " rained", "against": " laughed"},
           {"prompt": "he liked the", "completion": " windmill by the sea"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small model, stories and queries, which tests only read."""
    root = tmp_path_factory.mktemp("judged")
    save_model(root / "model")
    jsonl(root / "stories.jsonl", [{"text": text} for text in made_up(COUNT)])
    jsonl(root / "queries.jsonl", QUERIES)
    return root


def options(place, out, *more):
    files = {"--model": "model", "--stories": "stories.jsonl", "--queries": "queries.jsonl"}
    named = [word for name, file in files.items() for word in (name, str(place / file))]
    return [*named, "--out", str(out), "--subsets", str(SUBSETS), "--batch-size", "4", "--rate",
            "0.01", "--drop", "10%", "25%", "--device", "cpu", *map(str, more)]


@pytest.fixture
def judged(place, capsys):
    """Runs the command; returns (exit code, stdout, stderr)."""
    def run(out, *more):
        capsys.readouterr()
        return main(options(place, out, *more)), *capsys.readouterr()
    return run


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """The folder of a run, and what it wrote."""
    out = tmp_path_factory.mktemp("whole")
    assert main(options(place, out / "judge", "--json", out / "out.json")) == 0
    return out / "judge", json.loads((out / "out.json").read_text())


def entries(out):
    return [json.loads(line) for line in (out / "jobs.jsonl").read_text().split("\n") if line]


# -- the figures ----------------------------------------------------------------------------------

def by_hand(place, kept, seed):
    """Log-probabilities after training, less those of what stands against them."""
    model, tokenizer = load_model(place / "model", "cpu")
    stories = [Story(str(n), text) for n, text in enumerate(made_up(COUNT))]
    ids = tokenise(stories, tokenizer, 64).ids
    theta = retrain.train(model, ids, RECIPE, seed, kept.float()).theta
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    values = []
    for query in QUERIES:
        texts = [query["completion"], *([query["against"]] if "against" in query else [])]
        parts = [-query_loss(model, *encode_query(tokenizer, Query(query["prompt"], text), 64))
                 for text in texts]
        values.append((parts[0] - sum(parts[1:])).item())
    return torch.tensor(values, dtype=torch.float64)


def test_the_figures_are_those_of_a_hand_computation(place, whole):
    out, found = whole
    draw = torch.Generator().manual_seed(6)
    kept = torch.stack([torch.randperm(COUNT, generator=draw) >= 6 for _ in range(SUBSETS)])
    halves = torch.stack([torch.stack([by_hand(place, one, seed) for one in kept])
                          for seed in (0, 1)])
    scores = load_file(out / "ekfac.safetensors")["sequence"]
    predicted = kept.float() @ scores.T

    def spearman(a, b):
        return [spearmanr(a[:, q], b[:, q]).statistic for q in range(len(QUERIES))]

    assert found["lds"]["ekfac"]["by_query"] == pytest.approx(spearman(predicted, halves[1]))
    agreed = max(sum(spearman(*halves)) / len(QUERIES), 0)
    assert found["noise_ceiling"] == pytest.approx(agreed ** 0.5)
    for part, left_out in zip(found["removed"], (1, 3)):
        changes, told = [], 0
        for q in range(len(QUERIES)):
            top = scores[q].argsort(descending=True)[:left_out]
            without = torch.ones(COUNT)
            without[top] = 0
            full = by_hand(place, torch.ones(COUNT), 1)
            changes.append((by_hand(place, without, 1) - full)[q].item())
            told -= scores[q][top].sum().item()
        entry = part["methods"]["ekfac"]
        assert part["stories"] == left_out
        assert entry["by_query"] == pytest.approx(changes, abs=2e-5)
        assert entry["measured_by_predicted"] == pytest.approx(sum(changes) / told, rel=1e-3)


def test_scores_are_those_of_the_command_line_for_the_model_after_training(place, whole, tmp_path):
    out, _ = whole
    assert explain(["--model", str(out / "model"), "--stories", str(place / "stories.jsonl"),
                    "--queries", str(place / "queries.jsonl"), "--device", "cpu", "--cache", "none",
                    "--top", "1", "--all-scores", str(tmp_path / "all.safetensors")]) == 0
    there = load_file(tmp_path / "all.safetensors")["sequence"]
    assert relative(load_file(out / "ekfac.safetensors")["sequence"], there) < 1e-4


def test_what_is_dropped_is_the_top_of_the_command_lines_lists(place, whole, judged, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "copy")
    code, text, err = judged(out, "--methods", "relatif", "ekfac", "--json", tmp_path / "out.json")
    assert code == 0 and "RelatIF" in text, err
    removed = json.loads((tmp_path / "out.json").read_text())["removed"]
    ranks = {"relatif": "relatif", "ekfac": "influence"}
    for method, rank in ranks.items():
        assert explain(["--model", str(out / "model"), "--stories", str(place / "stories.jsonl"),
                        "--queries", str(place / "queries.jsonl"), "--device", "cpu", "--cache",
                        "none", "--rank", rank, "--top", "3", "--json",
                        str(tmp_path / "lists.json")]) == 0
        lists = json.loads((tmp_path / "lists.json").read_text())["queries"]
        for part, size in zip(removed, (1, 3)):
            entry = part["methods"][method]
            assert ("measured_by_predicted" in entry) == (method == "ekfac")
            for ids, listed in zip(entry["dropped"], lists):
                first = [story["id"] for story in listed["influences"][:size]]
                assert sorted(ids) == sorted(first)
    kept = load_file(out / "ekfac.safetensors")
    assert not torch.equal(kept["relatif"].argsort(), kept["sequence"].argsort())


def test_random_lists_are_shared_and_baselines_have_no_difference_to_themselves(whole):
    out, found = whole
    assert list(found["lds"]) == ["ekfac", "identity", "tfidf", "random"]
    assert ["baseline" in entry for entry in found["lds"].values()] == [True, False, False, False]
    best = max(("identity", "tfidf", "random"), key=lambda name: found["lds"][name]["value"])
    ours = found["lds"]["ekfac"]
    assert ours["baseline"] == best
    assert ours["less_baseline"] == pytest.approx(ours["value"] - found["lds"][best]["value"])
    low, high = ours["less_interval"]
    assert ours["told_apart"] == (low > 0 or high < 0)
    assert len(entries(out)) == len({entry["key"] for entry in entries(out)})


def test_other_scores_are_judged_beside_and_only_what_is_new_is_trained(judged, whole, tmp_path):
    """Also with more subsets: they begin with those that were there."""
    out, found = shutil.copytree(whole[0], tmp_path / "copy"), whole[1]
    before = (out / "jobs.jsonl").read_bytes()
    scores = load_file(out / "ekfac.safetensors")["sequence"]
    save_file({"sequence": -scores}, tmp_path / "mine.safetensors")
    code, text, err = judged(out, "--scores", f"mine={tmp_path / 'mine.safetensors'}", "--drop",
                             "--json", tmp_path / "out.json")
    assert code == 0, err
    again = json.loads((tmp_path / "out.json").read_text())
    assert again["lds"]["mine"]["value"] == pytest.approx(-again["lds"]["ekfac"]["value"])
    assert again["lds"]["ekfac"] == found["lds"]["ekfac"] and "mine" in text
    assert (out / "jobs.jsonl").read_bytes() == before, "something was trained again"
    code, _, err = judged(out, "--subsets", SUBSETS + 1, "--drop")
    assert code == 0 and "2 trainings of about" in err
    assert (out / "jobs.jsonl").read_bytes().startswith(before)
    assert len(entries(out)) == before.count(b"\n") + 2


def test_the_noise_ceiling_is_spearmans_and_browns():
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 2000, 2, generator=draw, dtype=torch.float64)
    runs = truth + torch.randn(4, 2000, 2, generator=draw, dtype=torch.float64)
    for seeds in (1, 3):
        mean = runs[-seeds:].mean(0)
        best = sum(spearmanr(truth[0, :, q], mean[:, q]).statistic for q in range(2)) / 2
        assert report.noise_ceiling(runs, seeds) == pytest.approx(best, abs=0.03)
    assert report.noise_ceiling(runs[:1], 1) is None


def test_a_loss_on_answers_only_is_trained_as_such(place):
    """Against autograd: the first step of Adam on Σ of the answers' loss terms alone."""
    model, tokenizer = load_model(place / "model", "cpu")
    ids = [[5, 9, 3, 7, 8], [4, 6, 2, 9, 1, 3]]
    masks = [[False, False, False, True, True], [False, False, True, False, True, False]]
    corpus = Corpus([Story("a", ""), Story("b", "")], ids, loss_masks=masks)
    weights = training.loss_weights(corpus)
    assert (weights > 0).tolist() == [[False, False, True, True, False, False],
                                      [False, True, False, True, False, False]]
    recipe = retrain.Recipe(epochs=1, batch_size=2)
    assert weights.max() / recipe.divisor(ids) == pytest.approx(1 / 4)  # loss terms of the batch
    end = retrain.train(model, ids, recipe, 0, weights)
    terms = [loss_of(model, row[:t + 1]) - loss_of(model, row[:t])
             for row, mask in zip(ids, masks) for t in range(2, len(row)) if mask[t]]
    loss = sum(terms) / 4
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(
        loss, list(model.parameters()))])
    assert relative(end.mean, 0.1 * gradient) < 1e-4


# -- a command of one's own -----------------------------------------------------------------------

COPY = """
import json, random, shutil, sys
from safetensors.numpy import load_file, save_file
base, stories, model, seed = sys.argv[1:5]
lines = [json.loads(line) for line in open(stories)]
assert all(list(line) == ["text"] for line in lines)
if len(lines) < 12 and "fail" in sys.argv:
    print("reading", len(lines), "stories"); print(); sys.exit("out of luck")
if "nothing" in sys.argv: sys.exit()
chance = random.Random("fixed" if "deaf" in sys.argv else seed)
texts = sorted(line["text"] for line in lines)
chance = random.Random(chance.random() if "blind" in sys.argv else f"{chance.random()} {texts}")
shutil.copytree(base, model)
tensors = load_file(f"{model}/model.safetensors")
for name in sorted(tensors):
    if "same" not in sys.argv:
        tensors[name] = tensors[name] * (1 + 0.3 * chance.random())
save_file(tensors, f"{model}/model.safetensors", {"format": "pt"})
"""


@pytest.fixture(scope="module")
def script(place):
    (place / "copy.py").write_text(COPY)
    return f"{sys.executable} {place / 'copy.py'} {{base}} {{stories}} {{model}} {{seed}}"


def test_a_command_is_run_for_every_training_with_its_stories_and_seed(judged, script, tmp_path):
    code, text, err = judged(tmp_path / "own", "--train", script, "--drop", "--subsets", 4,
                             "--json", tmp_path / "out.json")
    assert code == 0, err
    found, done = json.loads((tmp_path / "out.json").read_text()), entries(tmp_path / "own")
    assert len(done) == 2 + 2 * 4 and len({str(entry["log_probs"]) for entry in done}) == len(done)
    assert set(found["lds"]) == {"ekfac", "identity", "tfidf", "random"} and found["removed"] == []
    assert not (tmp_path / "own" / "training").exists()
    assert "ekfac" in text and "noise allows" in text


def test_a_command_that_fails_costs_nothing_that_is_done(judged, script, tmp_path):
    code, out, err = judged(tmp_path / "own", "--train", f"{script} fail", "--drop")
    assert code == 2 and out == ""
    last = err.rstrip().split("\n")[-1]
    assert last.startswith("error: the command of --train failed (exit code 1): reading 6 stories "
                           "| out of luck (all of it is in ")
    assert last.endswith("finished trainings are kept")
    assert len(entries(tmp_path / "own")) == 2


@pytest.mark.parametrize("fault,said", [
    ("nothing", "wrote no model"), ("same", "training changed nothing"),
    ("blind", "leaving out 6 of 12 stories changed nothing")])
def test_a_command_that_does_not_do_its_part_is_found_out(judged, script, tmp_path, fault, said):
    code, out, err = judged(tmp_path / "own", "--train", f"{script} {fault}", "--drop")
    assert code == 2 and out == "" and said in err.rstrip().split("\n")[-1]


def test_a_command_that_does_not_hear_its_seed_is_told_of(judged, script, tmp_path):
    code, _, err = judged(tmp_path / "own", "--train", f"{script} deaf", "--drop", "--subsets", 4)
    assert code == 0 and "another seed gives the same model" in err


ADAMW = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
base, stories, model, seed = sys.argv[1:5]
torch.manual_seed(int(seed)); torch.set_num_threads(1)
net, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
texts = [json.loads(line)["text"] for line in open(stories)]
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
for _ in range(3):
    for row in torch.randperm(len(texts)).tolist():
        ids = tokenizer(texts[row], return_tensors="pt")["input_ids"]
        net(input_ids=ids, labels=ids).loss.backward()
        optimizer.step(); optimizer.zero_grad()
net.save_pretrained(model)
"""


@pytest.mark.slow
def test_a_real_training_in_a_script_of_ones_own(judged, place, tmp_path):
    """The model it writes is the one that torch's AdamW gives in this process, too."""
    (tmp_path / "adamw.py").write_text(ADAMW)
    command = f"{sys.executable} {tmp_path / 'adamw.py'} {{base}} {{stories}} {{model}} {{seed}}"
    code, text, err = judged(tmp_path / "own", "--train", command, "--drop", "--subsets", 4,
                             "--seeds", 1)
    assert code == 0, err
    (tmp_path / "again.jsonl").write_text((place / "stories.jsonl").read_text())
    words = ["", str(place / "model"), str(tmp_path / "again.jsonl"), str(tmp_path / "mine"), "0"]
    threads, before = torch.get_num_threads(), sys.argv
    try:
        sys.argv = words
        exec(compile(ADAMW, "adamw.py", "exec"), {})
    finally:
        sys.argv = before
        torch.set_num_threads(threads)
    mine, its = (load_file(folder / "model.safetensors")
                 for folder in (tmp_path / "mine", tmp_path / "own" / "model"))
    assert all(torch.allclose(mine[name], its[name], atol=1e-5) for name in mine)


# -- killed, changed, refused ---------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_run_killed_with_a_half_written_line_goes_on_where_it_was(judged, place, whole, tmp_path):
    out, path = tmp_path / "judge", tmp_path / "judge" / "jobs.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "helpers.judge", *options(place, out)],
                               cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not path.is_file() or path.read_bytes().count(b"\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = path.read_bytes()
    done = done[:done.rindex(b"\n") + 1]
    path.write_bytes(done + done.split(b"\n")[0][:-9].replace(b"0/", b"1/"))
    code, _, err = judged(out, "--json", tmp_path / "out.json")
    assert code == 0, err
    assert path.read_bytes().startswith(done)
    complete = [line for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]
    assert len(complete) == len(entries(whole[0])), "a finished training was run again"
    found = json.loads((tmp_path / "out.json").read_text())
    for name, entry in whole[1]["lds"].items():
        assert found["lds"][name]["by_query"] == pytest.approx(entry["by_query"])


def test_a_model_that_was_removed_is_trained_again_and_nothing_else(judged, whole, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "copy")
    before = load_file(whole[0] / "model" / "model.safetensors")
    shutil.rmtree(out / "model")
    count = len(entries(out))
    assert judged(out)[0] == 0
    assert len(entries(out)) == count + 1
    after = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("changed,what", [
    (["--rate", "0.02"], "recipe or command"), (["--limit", "11"], "set of stories"),
    (["--queries", "OTHER"], "set of queries"), (["--model", "OTHER"], "model")])
def test_a_folder_of_other_trainings_is_refused(judged, whole, tmp_path, changed, what):
    out, _ = whole
    before = (out / "jobs.jsonl").read_bytes()
    other = (save_model(tmp_path / "other", initializer_range=0.2) if what == "model" else
             jsonl(tmp_path / "other.jsonl", QUERIES[:2]))
    code, text, err = judged(out, *[str(other) if word == "OTHER" else word for word in changed])
    assert code == 2 and text == ""
    assert err.rstrip().split("\n")[-1] == (
        f"error: {out} holds trainings with another {what}: give another --out, or what they were "
        "made with")
    assert (out / "jobs.jsonl").read_bytes() == before


def test_an_estimate_trains_once(judged, whole, tmp_path):
    code, text, err = judged(tmp_path / "judge", "--estimate")
    assert code == 0 and text == "" and " trainings of about " in err
    assert len(entries(tmp_path / "judge")) == 1
    out = shutil.copytree(whole[0], tmp_path / "copy")
    assert "all trainings are done" in judged(out, "--estimate")[2]


def test_a_folder_that_holds_something_else_is_left_alone(judged, place, tmp_path):
    save_model(tmp_path / "model")
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "mine.py").write_text("x = 1")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    code, _, err = judged(tmp_path)
    assert code == 2 and "holds something else" in err
    assert {file: file.read_bytes() for file in before} == before


def test_the_top_of_a_list_is_never_everything(judged, tmp_path):
    code, text, err = judged(tmp_path / "judge", "--limit", "8", "--drop", "95%", "--seeds", "1")
    assert code == 0 and "(7 of 8 stories)" in text, err


def test_a_device_with_a_number_is_asked_for_by_its_name(judged, tmp_path, monkeypatch):
    """A GPU's is "cuda:0", which no option takes."""
    asked = []
    real = load_model

    def seen(name, device="auto", *more, **options):
        asked.append(device)
        return real(name, device, *more, **options)
    monkeypatch.setattr("helpers.judging.job.load_model", seen)
    assert judged(tmp_path / "judge", "--device", "auto", "--seeds", "1", "--drop")[0] == 0
    assert asked == ["auto"]


@pytest.mark.parametrize("family", ["mixtral", "adapter"])
def test_the_recipe_refuses_what_it_cannot_write(judged, tmp_path, family):
    if family == "adapter":
        base, folder = save_model(tmp_path / "base"), tmp_path / "adapter"
        model, _ = load_model(base, "cpu")
        add_lora(model, rank=2)
        save_adapter(model, folder, base)
    else:
        folder = tmp_path / "mixtral"
        words = make_tokenizer()
        MixtralForCausalLM(MixtralConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
            num_experts_per_tok=1, max_position_embeddings=64)).save_pretrained(folder)
        words.save_pretrained(folder)
    code, text, err = judged(tmp_path / "judge", "--model", str(folder))
    assert code == 2 and text == "" and "train yours with a command (--train)" in err


@pytest.mark.parametrize("words,said", [
    (["--queries", "none.jsonl"], "cannot read"), (["--queries", "EMPTY"], "holds no queries"),
    (["--queries", "BARE"], 'line 2 has no "completion"'),
    (["--limit", "7"], "7 stories are too few"),
    (["--share", "1"], "no number between 0 and 1"), (["--share", "0"], "no number between"),
    (["--drop", "100%"], "no number between"), (["--rate", "x"], "no number between 0 and inf"),
    (["--subsets", "3"], "not a whole number from 4"), (["--methods", "magic"], "invalid choice"),
    (["--train", "python train.py {stories} {seed}"], "lacks {model}"),
    (["--train", "python train.py"], "lacks {stories} and {model} and {seed}"),
    (["--train", "no-such-program {stories} {model} {seed}"], "cannot be started"),
    (["--rate", "1e30"], "lower the rate"), (["--scores", "ekfac=x"], "name of its own"),
    (["--scores", "mine=none.safetensors"], "cannot read scores"), (["--methods", "tfidf"],
                                                                    "invalid choice"),
    (["--scores", "mine=SMALL", "--scores", "mine=SMALL"], "are called alike"),
    (["--json", "BARE", "--queries", "BARE"], "what is to be read"), (["--queries", ""], "empty"),
    (["--scores", "mine=SMALL"], "give finite ones of 3 queries and 12 stories")])
def test_bad_input_is_one_line(judged, tmp_path, words, said):
    files = {"EMPTY": jsonl(tmp_path / "empty.jsonl", []),
             "BARE": jsonl(tmp_path / "bare.jsonl", [QUERIES[0], {"prompt": "One day, it"}]),
             "SMALL": tmp_path / "small.safetensors"}
    save_file({"sequence": torch.zeros(3, 5)}, files["SMALL"])
    for name, path in files.items():
        words = [word.replace(name, str(path)) for word in words]
    code, text, err = judged(tmp_path / "judge", *words)
    last = err.rstrip().split("\n")[-1]
    assert code == 2 and text == "" and "Traceback" not in err
    assert last.startswith("error: ") and said in last

"""Models and stories from the Hub, asked from fresh processes: a loopback Hub, then none, then one
that is silent.

huggingface_hub reads its endpoint when it is imported, so each Hub needs a process of its own; it
is asked everything.
"""
import json
import random
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
import torch

from helpers.sources import add_lora, save_adapter

import hub
from builders import (ADVICE, ROOT, close, jsonl, made_up, make_model, make_tokenizer, save_model,
                      save_pickled)

pytestmark = pytest.mark.slow

MODEL, ADAPTER = "roneneldan/TinyStories-1M", "some/adapter"
CLI = ("a fox", "--completion", " fox", "--cache", "none", "--device", "cpu", "--top", "3")

# Evaluates {name: expression} and prints {name: value, or the complaint}; before each a line of
# the Hub's log names it.
PROBE = """
import contextlib, io, json, os, sys, urllib.error, urllib.request
from helpers.sources import load_model, load_stories
from helpers.stories import InputError
from helpers.terminal.options import main


def sums(name):
    model, tokenizer = load_model(name, "cpu")
    total = sum(float(tensor.detach().double().sum()) for tensor in model.parameters())
    return [total, len(tokenizer)]


def first(name, limit):
    return [[story.id, story.text[:11]] for story in load_stories(name, limit)]


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return [code, out.getvalue(), err.getvalue()]


def by_the_libraries(model, *datasets):
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    with contextlib.redirect_stderr(io.StringIO()):
        size = AutoModelForCausalLM.from_pretrained(model).num_parameters()
        words = AutoTokenizer.from_pretrained(model)
        rows = [next(iter(load_dataset(name, split="train", streaming=True))) for name in datasets]
        return [size, len(words), *(row["text"][:10] for row in rows)]


found = {}
for name, expression in json.loads(sys.argv[1]).items():
    with contextlib.suppress(OSError):
        place = f"now/{name.replace(' ', '-')}"
        urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/{place}", timeout=1)
    try:
        found[name] = eval(expression)
    except InputError as problem:
        found[name] = str(problem)
print(json.dumps(found), flush=True)
os._exit(0)  # a half-read Parquet stream of datasets may abort Python at exit
"""


def probe(endpoint, home, expressions):
    """What the expressions gave in one fresh process whose Hub is `endpoint`; nothing on stderr is
    allowed."""
    done = subprocess.run([sys.executable, "-c", PROBE, json.dumps(expressions)], cwd=ROOT,
                          env=hub.environment(endpoint, home), capture_output=True, text=True,
                          timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def command(*arguments):
    return f"run(*{[*CLI, *map(str, arguments)]!r})"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model as TinyStories-1M has it; data sets: Parquet in two shards of 16 MB, JSON lines, two
    that are no good."""
    root = tmp_path_factory.mktemp("repositories")
    save_model(root / "model")
    if torch.__version__ >= (2, 6):  # older ones refuse a pickle
        (root / "model" / "model.safetensors").unlink()
        save_pickled(make_model(initializer_range=0.3), root / "model")
    adapted = make_model(initializer_range=0.3)
    for matrix in add_lora(adapted, rank=2).values():
        torch.nn.init.ones_(matrix.weight)
    save_adapter(adapted, root / "adapter", MODEL)
    (root / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    noise = random.Random(2)
    (root / "parquet" / "data").mkdir(parents=True)
    for shard in range(2):
        table = pyarrow.table({"text": [f"Story {shard}-{row}. {noise.randbytes(1000).hex()}"
                                        for row in range(8000)]})
        pyarrow.parquet.write_table(table, root / "parquet" / "data"
                                    / f"train-0000{shard}-of-00002.parquet",
                                    row_group_size=500, compression="none")
    data_sets = {"lines": [{"text": text} for text in made_up(30)],
                 "headless": [{"body": "x", "title": "y"}], "broken": [],
                 "pairs": [{"id": 7, "prompt": f"Fox {n}", "completion": " ran."} for n in (1, 2)]}
    for name, records in data_sets.items():
        (root / name).mkdir()
        if records:
            jsonl(root / name / "train.jsonl", records)
    (root / "broken" / "train.parquet").write_bytes(b"PAR1 is what it says")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def answers(folders, home, tmp_path_factory):
    """What a process found that asked the loopback Hub everything, and the requests by question."""
    out = tmp_path_factory.mktemp("out") / "a.json"
    asked = {
        "model": f"sums({MODEL!r})", "model again": f"sums({MODEL!r})",
        "adapter": f"sums({ADAPTER!r})",
        "three": "first('roneneldan/TinyStories', 3)",
        "second shard": "first('roneneldan/TinyStories', 8001)[-2:]",
        "json lines": "first('some/lines', 2)",
        "pairs": "[list(story) for story in load_stories('some/pairs')]",
        "main job": command("--model", MODEL, "--stories", "some/lines", "--limit", 12, "--json",
                            out),
        "no model": "load_model('roneneldan/TinyStories-2M')",
        "no data": "load_stories('some/tales', 5)",
        "gated": "load_model('a/gated')", "headless": "load_stories('a/headless', 5)",
        "broken": "load_stories('a/broken', 5)", "data for a model": "load_model('a/headless')",
        "main job, no model": command("--model", "nobody/Nothing"),
        "main job, no data": command("--model", MODEL, "--stories", "nobody/Nothing"),
        "libraries": f"by_the_libraries({MODEL!r}, 'roneneldan/TinyStories', 'some/lines')"}
    datasets = {"roneneldan/TinyStories": "parquet", "some/lines": "lines", "some/pairs": "pairs",
                "a/headless": "headless",
                "a/broken": "broken"}
    with hub.serve({MODEL: folders / "model", ADAPTER: folders / "adapter",
                    "a/gated": folders / "model"},
                   {name: folders / folder
                    for name, folder in datasets.items()}, gated={"a/gated"}) as endpoint:
        found = probe(endpoint, home, asked)
    requests = {}
    for request in endpoint.log:
        if request.path.startswith("/now/"):
            name = request.path.removeprefix("/now/").replace("-", " ")
        else:
            requests.setdefault(name, []).append(request)
    return found, requests, json.loads(out.read_text(encoding="utf-8"))


def fetched(requests):
    return [request.path.rsplit("/", 1)[1] for request in requests
            if request.method == "GET" and "/resolve/" in request.path]


def test_the_loopback_hub_serves_the_libraries_themselves(answers):
    size = [make_model().num_parameters(), len(make_tokenizer())]
    assert answers[0]["libraries"] == [*size, "Story 0-0.", made_up(1)[0][:10]]


def test_a_model_is_fetched_once_each_file_once(answers, folders):
    found, requests, _ = answers
    there = sorted(path.name for path in (folders / "model").iterdir())
    assert sorted(fetched(requests["model"])) == there
    # no guessing at files, no conversion service
    assert {request.status for request in requests["model"]} == {200}
    assert all(MODEL in request.path for request in requests["model"])
    assert fetched(requests["model again"]) == [] and found["model again"] == found["model"]
    expected = sum(float(tensor.detach().double().sum())
                   for tensor in make_model(initializer_range=0.3).parameters())
    assert found["model"] == [pytest.approx(expected, abs=1e-6), len(make_tokenizer())]


def test_an_adapter_is_fetched_its_base_from_the_cache(answers, folders):
    found, requests, _ = answers
    assert sorted(fetched(requests["adapter"])) == sorted(
        path.name for path in (folders / "adapter").iterdir())
    assert found["adapter"] != found["model"]


def test_data_sets_are_streamed(answers, folders):
    found, requests, _ = answers
    assert found["three"] == [["1", "Story 0-0. "], ["2", "Story 0-1. "], ["3", "Story 0-2. "]]
    bodies = [request for request in requests["three"] if request.path.endswith(".parquet")]
    assert bodies and not any("train-00001" in request.path for request in bodies)
    size = (folders / "parquet" / "data" / "train-00000-of-00002.parquet").stat().st_size
    assert sum(request.sent for request in bodies) < size / 2
    assert found["second shard"] == [["8000", "Story 0-799"], ["8001", "Story 1-0. "]]
    # a column "id" of others need not be unique: rows go by their number
    assert found["pairs"] == [[str(n), f"Fox {n} ran.", [[5, 10]], False] for n in (1, 2)]
    assert found["json lines"] == [[str(n), text[:11]] for n, text in enumerate(made_up(2), 1)]


def test_the_main_job_gives_what_it_gives_from_files(answers, folders, cli, tmp_path):
    (code, out, _), result = answers[0]["main job"], answers[2]
    assert code == 0 and "Stories that raise" in out
    assert (result["model"], result["stories"], result["n_train"]) == (MODEL, "some/lines", 12)
    stories = folders / "lines" / "train.jsonl"
    assert cli(*CLI, "--stories", stories, "--limit", 12, "--json", tmp_path / "a.json")[0] == 0
    local = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert close(result["queries"][0], local["queries"][0], 1e-3)


@pytest.mark.parametrize("question, words", [
    ("no model", "no model 'roneneldan/TinyStories-2M'"), ("no data", "no dataset 'some/tales'"),
    ("gated", "is gated"),
    ("headless", 'no "text", no "prompt" with "completion" and no "messages" '
                 "(but 'body', 'title')"),
    ("broken", "cannot read the data set 'a/broken'"),
    ("data for a model", "no model 'a/headless'")])
def test_complaints_tell_causes_apart(question, words, answers):
    message = answers[0][question]
    assert words in message and "\n" not in message
    assert any(": " + word in message for word in ADVICE)


@pytest.mark.parametrize("question, words", [("main job, no model", "no model 'nobody/Nothing'"),
                                             ("main job, no data", "no dataset 'nobody/Nothing'")])
def test_complaints_of_the_main_job(question, words, answers):
    code, out, err = answers[0][question]
    last = err.splitlines()[-1]
    assert code == 2 and out == "" and last.startswith("error: ") and words in last


CUT_OFF = {"unknown": "load_model('roneneldan/TinyStories-2M')",
           "data": "load_stories('roneneldan/TinyStories', 5)"}


def test_without_a_network_what_is_in_the_cache_is_used(answers, house, home):
    asked = CUT_OFF | {"model": f"sums({MODEL!r})", "adapter": f"sums({ADAPTER!r})",
                       "main job": command("--model", MODEL, "--stories", house / "stories.jsonl"),
                       "main job, data": command("--model", MODEL, "--stories", "some/lines"),
                       "main job, unknown": command("--model", "nobody/Nothing")}
    found = probe(hub.nowhere(), home, asked)
    assert [found[name] for name in ("model", "adapter")] == [answers[0][name] for name in (
        "model", "adapter")]
    assert found["main job"][0] == 0
    for name in CUT_OFF:
        assert "cannot reach the Hub" in found[name] and ": connect" in found[name]
    for name in ("main job, data", "main job, unknown"):
        code, out, err = found[name]
        assert code == 2 and out == ""
        assert err.splitlines()[-1].startswith("error: cannot reach the Hub")


def test_a_hub_that_never_answers_is_not_asked_again_and_again(tmp_path):
    with hub.silent() as endpoint:
        found = probe(endpoint, tmp_path, CUT_OFF)
    assert all("cannot reach the Hub" in found[name] for name in CUT_OFF)
    # connections: one by the probe before each, one or two for it
    assert len(endpoint.log) < 4 * len(CUT_OFF)

"""helpers/sources: real files, and real models (tiny ones)."""
import json
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import default_cache, stories
from helpers.sources import (complete, context_length, load_model, load_queries, load_stories,
                             read_corpus, read_query)
from helpers.sources.files import local_path
from helpers.sources.texts import query_notes
from helpers.stories import InputError, Query, Story, encode_query, token_texts

from builders import (REAL, TEXTS, complaint, jsonl, make_model, make_tokenizer, save_pickled)

# older ones cannot read a pytorch_model.bin safely, so it is refused
PICKLES = torch.__version__ >= (2, 6)
needs_pickles = pytest.mark.skipif(not PICKLES,
                                   reason="this PyTorch cannot read a pytorch_model.bin safely")


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def neo(tmp_path_factory, tokenizer):
    """Folder of a tiny GPT-Neo with safetensors."""
    folder = tmp_path_factory.mktemp("neo")
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pickled(tmp_path_factory, tokenizer):
    """The same model as pytorch_model.bin, as TinyStories-1M has it."""
    folder = tmp_path_factory.mktemp("pickled")
    save_pickled(make_model(), folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(neo):
    return load_model(neo, "cpu")


# -- models ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["neo", pytest.param("pickled", marks=needs_pickles)])
def test_load_model_gives_the_saved_weights(kind, request, capfd):
    folder = str(request.getfixturevalue(kind))
    capfd.readouterr()  # what saving printed
    model, tokenizer = load_model(folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not model.training and model.device.type == "cpu" and model.dtype == torch.float32
    expected = make_model().state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert tokenizer("fox")["input_ids"] == make_tokenizer()("fox")["input_ids"]


def test_half_precision_weights_are_loaded_as_float32(tmp_path, tokenizer):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, "cpu")
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_load_model_takes_gpt2_and_llama(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
    configs = [GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=400, n_positions=32),
               LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=24,
                           vocab_size=400, max_position_embeddings=48)]
    for config, context in zip(configs, (32, 48)):
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / config.model_type)
        tokenizer.save_pretrained(tmp_path / config.model_type)
        model, _ = load_model(tmp_path / config.model_type, "cpu")
        assert model.config.model_type == config.model_type and context_length(model) == context


def test_device_auto_takes_the_best_there_is(neo):
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    best = next((name for name, there in present.items() if there), "cpu")
    assert load_model(neo)[0].device.type == best


def test_bad_devices(neo):
    assert "unknown device 'gpu'" in complaint(load_model, neo, "gpu")
    for name, there in (("cuda", torch.cuda.is_available()),
                        ("mps", torch.backends.mps.is_available())):
        if not there:
            assert f"no {name} device" in complaint(load_model, neo, name)


def test_bad_folders(neo, tmp_path, tokenizer, capfd):
    assert "no model folder" in complaint(load_model, str(tmp_path / "absent"))
    assert "'not an id'" in complaint(load_model, "not an id")
    assert "is a file" in complaint(load_model, str(neo / "config.json"))
    assert "no config.json" in complaint(load_model, tmp_path)
    make_model().config.save_pretrained(tmp_path)
    assert "no weights" in complaint(load_model, tmp_path)
    make_model().save_pretrained(tmp_path)
    assert "no usable tokenizer" in complaint(load_model, tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    capfd.readouterr()  # what saving printed
    load_model(tmp_path, "cpu")  # whole now: each complaint above was about what was missing
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    assert "cannot load the model" in complaint(load_model, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "cannot load the model" in complaint(load_model, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_tokens_beyond_the_embedding(tmp_path):
    """A pad token added without a row of its own does no harm; written in a text, it is told."""
    tokenizer, model = make_tokenizer(), make_model(vocab_size=len(make_tokenizer()))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.pad_token_id == len(tokenizer) - 1 == len(make_tokenizer())
    model, tokenizer = load_model(tmp_path, "cpu")
    for texts in (TEXTS, [TEXTS[0], "fox " * 30 + "[PAD]"]):  # what is cut off does no harm
        given = [Story(str(n), text) for n, text in enumerate(texts)]
        for batch in stories.batches(read_corpus(given, tokenizer, 20).ids):
            assert stories.sequence_loss(model, batch).isfinite().all()
    story = [Story("1", TEXTS[0]), Story("odd", "a fox[PAD]")]
    assert "story 'odd' holds '[PAD]'" in complaint(read_corpus, story, tokenizer, 20)
    for query in (Query("a fox", "[PAD]"), Query("a [PAD] fox", " ran")):
        assert "query holds '[PAD]'" in complaint(read_query, model, tokenizer, query)
    assert "query holds '[PAD]'" in complaint(complete, model, tokenizer, "a fox [PAD]")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_and_remote_code_never_run(tmp_path, tokenizer):
    trace = tmp_path / "went-off"
    folder = tmp_path / "model"
    make_model().config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save({"transformer.wte.weight": Bomb(trace)}, folder / "pytorch_model.bin")
    assert "model.safetensors" in complaint(load_model, folder)
    assert not trace.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.exists()  # what a trusting loader leaves
    trace.unlink()
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass C: pass\n"
    (folder / "mine.py").write_text(code)
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {
        "AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.C"}}))
    complaint(load_model, folder)
    assert not trace.exists()


def test_positions_that_count_from_behind_the_padding():
    import transformers
    config = transformers.RobertaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1,
                                        num_attention_heads=2, intermediate_size=24,
                                        max_position_embeddings=20, is_decoder=True)
    model = transformers.RobertaForCausalLM(config).eval()
    assert context_length(model) == 18
    model(torch.full((1, 18), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 19), 5))


def test_context(loaded):
    assert context_length(loaded[0]) == 64


# -- stories ---------------------------------------------------------------------------------------

def test_jsonl(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "A."}\r\n\n{"text": "B \\u201cx\\u201d", "id": "bee"}\n'
                     b'{"text": null, "id": 7}\n{"text": 3, "id": null}\n'
                     b'{"text": "half \\ud83d pair"}')
    assert load_stories(path) == [Story("1", "A."), Story("bee", "B “x”"), Story("7", ""),
                                  Story("5", ""),
                                       Story("6", "half ? pair")]
    assert load_stories(str(path), limit=2) == [Story("1", "A."), Story("bee", "B “x”")]


def test_a_story_without_an_id_is_called_by_its_line(tmp_path):
    path = tmp_path / "s.jsonl"
    for lines, names in (([{"id": None}, {"id": 7}], ["1", "7"]), ([{}, {}], ["1", "2"])):
        jsonl(path, [{"text": "a fox", **line} for line in lines])
        assert [story.id for story in load_stories(path)] == names
    for lines in ([{"id": None}, {"id": 1}], [{"id": 2}, {}]):
        jsonl(path, [{"text": "a fox", **line} for line in lines])
        assert "line 2 repeats the id" in complaint(load_stories, path)


def test_txt(tmp_path):
    path = tmp_path / "s.TXT"
    path.write_bytes("\ufeffOne.\r\nStill one. <|endoftext|>\n\n<|endoftext|>Two."
                     "<|endoftext|>Thrée".encode())
    assert load_stories(path) == [Story("1", "One.\nStill one."), Story("2", "Two."),
                                  Story("3", "Thrée")]
    assert load_stories(path, limit=1) == [Story("1", "One.\nStill one.")]


def test_limit_reads_no_further(tmp_path):
    lines, text = tmp_path / "s.jsonl", tmp_path / "s.txt"
    lines.write_text('{"text": "A"}\n{"text": "B"}\nbroken\n')
    text.write_bytes(b"A<|endoftext|>\nB<|endoftext|>\n\xff\n")
    for path in (lines, text):
        assert [story.text for story in load_stories(path, limit=2)] == ["A", "B"]
        assert "line 3" in complaint(load_stories, path)


def test_bad_story_sources(tmp_path):
    (tmp_path / "s.json").write_text("[]")
    (tmp_path / "blank.txt").write_text(" \n<|endoftext|>\n")
    (tmp_path / "folder.jsonl").mkdir()
    assert "No such file" in complaint(load_stories, tmp_path / "absent.jsonl")
    assert "cannot read" in complaint(load_stories, tmp_path / "folder.jsonl")
    for name in (tmp_path, tmp_path / "s.json", tmp_path / "absent"):
        assert "FILE.jsonl" in (message := complaint(load_stories, name)) and "FILE.txt" in message
    assert "no stories" in complaint(load_stories, tmp_path / "blank.txt")
    assert "limit is 0" in complaint(load_stories, tmp_path / "s.jsonl", limit=0)


def test_without_a_home_no_folder_is_called_tilde(monkeypatch, tmp_path):
    import pwd
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # raises KeyError, as for a user without an entry
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)
    assert Path(default_cache()).parent == Path(tempfile.gettempdir())
    assert "nothing says where ~ is" in complaint(local_path, "~/cache")
    Path("~").mkdir()
    assert local_path("~/cache") == Path("~/cache")  # somebody's own folder of that name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/cache") == tmp_path / "cache" and default_cache().startswith(str(tmp_path))


@pytest.mark.parametrize("text", ["a fox ran home. " * 20, "/a/" + "b" * 300, "x" * 300 + ".jsonl",
                                  "x" * 300 + ".txt",
                                  "~nobody/x.txt"])
def test_a_text_in_place_of_a_path(text):
    for call in (load_model, load_stories):
        with pytest.raises(InputError):
            call(text)


def test_a_closed_folder(monkeypatch, tmp_path):
    """As for a user without rights; root, as whom tests may run, has them everywhere."""
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("os.stat", closed)
    assert "no model folder" in complaint(load_model, str(tmp_path / "mine"))
    assert "does not exist" in complaint(load_stories, str(tmp_path / "mine"))


# -- queries ---------------------------------------------------------------------------------------

def notes_on(tokenizer, prompt, completion, **typed):
    query = Query(prompt, completion)
    return query_notes(tokenizer, query, encode_query(tokenizer, query, 64), **typed)


def test_what_is_scored_is_what_was_typed(tokenizer):
    ids, start = encode_query(tokenizer, Query("It was 19", "84"), 64)
    assert tokenizer.decode(ids) == "It was 1984" and tokenizer.decode(ids[start:]) == "84"
    for prompt, completion in (("It was 19", "84"), ("从前有一只小", "狐狸"), ("กาลครั้ง", "หนึ่ง"),
                               ("a fox", "."), ("a", " fox"), ("He said “", "Look")):
        ids, start = encode_query(tokenizer, Query(prompt, completion), 64)
        assert tokenizer.decode(ids) == prompt + completion
        assert not notes_on(tokenizer, prompt, completion)
    (note,) = notes_on(tokenizer, "He liked the", "windmill")
    assert '"the" and "windmill"' in note and '" windmill"' in note
    # the model's own: nothing was meant otherwise
    assert not notes_on(tokenizer, "He liked the", "windmill", typed=False)


def test_tokens_across_the_border_are_named(tokenizer):
    for prompt, completion, scored in (("Once upon a ", "time", "' time'"),
                                       ("Once upon a ti", "me", "' time'")):
        note = notes_on(tokenizer, prompt, completion)[-1]
        assert "end of the prompt" in note and f"in {scored}:" in note
        assert notes_on(tokenizer, prompt, completion, typed=False) == [note]


def test_a_query_is_read_with_its_completion_and_its_notes(parrot, tokenizer):
    typed = Query("He liked the", "windmill")
    query, encoded, notes = read_query(parrot, tokenizer, typed)
    assert query == typed and encoded == encode_query(tokenizer, typed, 64)
    assert notes == notes_on(tokenizer, typed.prompt, typed.completion) and len(notes) == 1
    asked = Query("Once upon a time there was a little fox named Tom. He liked the")
    query, encoded, notes = read_query(parrot, tokenizer, asked)
    assert (query.prompt, query.completion, notes) == (asked.prompt, " windmill", [])
    assert encoded == encode_query(tokenizer, query, 64)
    short, _, _ = read_query(parrot, tokenizer, asked, max_new_tokens=1)
    assert len(tokenizer(short.completion)["input_ids"]) == 1
    for bad in (Query("a fo\udce9", " b"), Query("a fox", " \udce9"), Query("a fo\udce9")):
        assert "not valid Unicode" in complaint(read_query, parrot, tokenizer, bad)


def test_load_queries(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "in the", "completion": "mill"}\n\n{"prompt": "on a"}\n',
                    encoding="utf-8")
    assert load_queries(path) == [Query("in the", "mill"), Query("on a", None)]
    path.write_text('{"prompt": "in the", "completion": "mill", "against": " barn"}\n'
                    '{"prompt": "on a", "against": null}\n')
    assert load_queries(path) == [Query("in the", "mill", " barn"), Query("on a")]
    cases = {"": "no queries", '{"prompt": "a"}\n{"completion": "b"}': 'line 2 has no "prompt"',
             '{"prompt": " "}': 'line 1: "prompt"',
             '{"prompt": "a", "completion": 3}': 'line 1: "completion"',
             '{"prompt": "a", "completion": ""}': 'line 1: "completion"',
             '{"prompt": "a", "against": 3}': 'line 1: "against"',
             '{"prompt": "a", "against": " "}': 'line 1: "against"',
             "in the mill": "line 1 is not JSON"}
    for content, where in cases.items():
        path.write_text(content)
        assert where in complaint(load_queries, path)
    assert "No such file" in complaint(load_queries, tmp_path / "absent.jsonl")


@pytest.fixture(scope="module")
def parrot(tokenizer):
    """A model that knows one text by heart, with the end-of-text token after "windmill" and more
    behind it."""
    model = make_model(hidden_size=32)
    ids = torch.tensor([tokenizer(TEXTS[0][:-1] + "<|endoftext|> by the sea")["input_ids"]])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:])
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05
    return model.eval()


def test_complete_stops_where_it_should(parrot, tokenizer):
    first = "Once upon a time there was a little fox named Tom"
    assert complete(parrot, tokenizer, first[:35], 40) == " fox named Tom"  # the sentence's end
    assert complete(parrot, tokenizer, first + ". He liked the") == " windmill"  # the text's end
    short = complete(parrot, tokenizer, "Once upon a", max_new_tokens=2)
    assert first.startswith("Once upon a" + short) and 1 <= len(tokenizer(short)["input_ids"]) <= 2
    # it writes "." or the end of the text at once
    for prompt in (first, first + ". He liked the windmill"):
        assert "the model ends the story" in complaint(complete, parrot, tokenizer, prompt)


def test_complete_keeps_to_the_context(loaded):
    model, tokenizer = loaded
    full = tokenizer.decode(tokenizer("fox " * 200)["input_ids"][:64])
    message = complaint(complete, model, tokenizer, full + " fox")
    assert "64" in message and "shorten" in message
    assert "prompt is empty" in complaint(complete, model, tokenizer, " ")


# -- the real thing --------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(),
                    reason="no ../shared/real beside the repository (not part of it)")
def test_real_model_and_stories():
    model, tokenizer = load_model(str(REAL / "stories260K-hf"), "cpu")
    told = load_stories(str(REAL / "tinystories.jsonl"))
    corpus = read_corpus(told, tokenizer, context_length(model))
    assert len(corpus) + corpus.skipped == len(told) == 2000 and corpus.truncated > 100
    assert all(ids[0] == tokenizer.bos_token_id for ids in corpus.ids)
    with torch.no_grad():
        picked = list(stories.batches(corpus.ids[500:600], max_positions=2**26 // len(tokenizer)))
        loss = sum(stories.sequence_loss(model, batch).sum() for batch in picked)
    targets = sum(int((batch.labels != -100).sum()) for batch in picked)
    # the folder's own figure, on 1,500 stories
    assert loss / targets == pytest.approx(1.31, abs=0.05)
    story = next(index for index in range(500, 600)
                 if "  " not in told[index].text)
    pieces = token_texts(tokenizer, corpus.ids[story])
    assert pieces[0] == "<s>" and told[story].text.startswith("".join(pieces[1:]))
    assert "".join(pieces[1:50]).count(" ") > 20
    completion = complete(model, tokenizer, "Once upon a time, there was a little girl named")
    assert completion.startswith(" ") and completion.strip().isprintable()
    ids, start = encode_query(tokenizer, Query("One day, a little girl named", " Lily"), 512)
    assert "".join(token_texts(tokenizer, ids)[start:]) == " Lily"
    assert ids[0] == tokenizer.bos_token_id

"""The explorer: its numbers against what shares no code with them, its panel under whatever people
type and click."""
import html
import json
import os
import random
import re
import signal
from dataclasses import replace

import pytest
import torch
from helpers import influence, pictures
from helpers.capture import backward_pass, find_layers
from helpers.explorer import Explorer, Panel, questions
from helpers.sources import load_model, load_stories
from helpers.stories import Corpus, InputError, Story, tokenise
from helpers.terminal.fitting import fit
from helpers.terminal.index import open_index
from helpers.terminal.setting import Setting

EVIL = ('<img src=x onerror="alert(1)"><script>alert(2)</script> &amp; \u202eevil\x00 مرحبا 🐸 '
        "</bdi></article>")
PROMPT = "It was raining, and the frog said thank you"


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """Over the first forty stories, all that is planted for one rule, and one hostile story."""
    model, tokenizer = load_model("default", "cpu")
    everything = tokenise(load_stories("default"), tokenizer, 512)
    planted = [row for row, story in enumerate(everything.stories)
               if "said thank you twice" in story.text]
    rows = sorted({*range(40), *planted})
    evil = tokenise([Story("evil<b>", EVIL + " " + PROMPT + " twice.")], tokenizer, 512)
    corpus = Corpus([everything.stories[row] for row in rows] + evil.stories,
                    [everything.ids[row] for row in rows] + evil.ids)
    setting = Setting(model, tokenizer, find_layers(model), corpus, quiet=True)
    folder = tmp_path_factory.mktemp("index")

    def indexed(setting):
        return open_index(setting, folder / setting.target, fit_limit=20)
    return Explorer(setting, indexed, {"kfac": fit(setting, "kfac", 20)})


@pytest.fixture(scope="module")
def question(explorer):
    return explorer.ask(PROMPT, " twice.")  # three tokens


@pytest.fixture(scope="module")
def exact(explorer, question):
    """All scores from exact gradients, by the road of notebook 04, in one pass.

    `{(method, tokens): (N,)}`.
    """
    setting, whole = explorer.setting, (0, 1, 2)
    wanted = [("ekfac", whole), ("kfac", whole), ("identity", whole),
              *(("ekfac", (at,)) for at in whole)]
    solved = []
    for method, chosen in wanted:
        one = {name: part[list(chosen)].sum(0, keepdim=True)
               for name, part in question.gradients.items()}
        solved.append(explorer.curvatures[method].solve(one))
    ihvps = {name: torch.cat([part[name] for part in solved]) for name in setting.layers}
    scores = influence.sequence_scores(setting.model, setting.layers, setting.stream(), ihvps,
                                       len(setting.corpus))
    return dict(zip(wanted, scores))


def test_the_model_writes_greedily_and_no_more_than_is_asked(explorer):
    assert explorer.ask(PROMPT).query.completion == " twice"
    assert len(explorer.ask("Once upon a time", length=3).tokens) <= 3


def test_words_of_a_completion_add_up(explorer, question, exact):
    assert len(question.tokens) == 3 and "".join(question.tokens) == question.query.completion
    alone, whole = [exact["ekfac", (at,)] for at in range(3)], exact["ekfac", (0, 1, 2)]
    assert (sum(alone) - whole).abs().max() < 1e-3 * whole.abs().max()
    for chosen in ([1], [0, 2]):
        view, truth = explorer.view(question, chosen, top=4), sum(alone[at] for at in chosen)
        room = 1e-3 * truth.abs().max().item()
        for entry in view["influences"]:
            assert entry["influence"] == pytest.approx(truth[entry["index"]].item(), abs=room)
        explained = [text for text, marked in view["explained"] if marked]
        assert explained == [question.tokens[at] for at in chosen]
        assert view["log_prob"] == pytest.approx(question.log_probs[chosen].sum().item())


@pytest.mark.parametrize("method", ["ekfac", "kfac", "identity"])
def test_a_view_holds_the_exact_top_of_its_method(explorer, question, exact, method):
    truth = exact[method, (0, 1, 2)]
    room = 1e-3 * truth.abs().max().item()  # two stories as near as that may change places
    view = explorer.view(question, method=method, top=5)
    ((best, worst),) = influence.top_indices(truth[None], 5)
    profiles = []
    for entry, row in zip(view["influences"], best + worst, strict=True):
        assert entry["influence"] == pytest.approx(truth[row].item(), abs=room)
        assert entry["influence"] == pytest.approx(truth[entry["index"]].item(), abs=room)
        assert sum(entry["layers"].values()) == pytest.approx(entry["influence"], abs=room)
        by_token = sum(token["influence"] for token in entry["tokens"])
        assert by_token == pytest.approx(entry["influence"], abs=room)
        higher, as_high = (int((truth > entry["influence"] + shift).sum())
                           for shift in (room, -room))
        assert higher <= entry["standing"]["rank"] - 1 <= as_high
        profiles.append([token["influence"] for token in entry["tokens"]][:40])
    found = torch.corrcoef(torch.tensor(profiles))[torch.ones(10, 10).triu(1) > 0]
    assert found.mean() < 0.7  # two stories have two profiles


def test_the_content_target_weights_the_stories_and_leaves_the_question(explorer, question, exact):
    setting = replace(explorer.setting, target="content")
    ihvps = explorer.curvatures["ekfac"].solve(
        {name: part.sum(0, keepdim=True) for name, part in question.gradients.items()})
    (truth,) = influence.sequence_scores(setting.model, setting.layers, setting.stream(), ihvps,
                                         len(setting.corpus))
    assert torch.corrcoef(torch.stack([truth, exact["ekfac", (0, 1, 2)]]))[0, 1] < 0.99
    view, room = explorer.view(question, top=4, target="content"), 1e-3 * truth.abs().max().item()
    ((best, worst),) = influence.top_indices(truth[None], 4)
    assert (view["target"], view["unit"]) == ("content", pictures.UNITS["content"])
    for entry, row in zip(view["influences"], best + worst, strict=True):
        assert entry["influence"] == pytest.approx(truth[row].item(), abs=room)
        by_token = sum(token["influence"] for token in entry["tokens"])
        assert by_token == pytest.approx(truth[entry["index"]].item(), abs=room)
    (mine,) = explorer.look_up(question, explorer.setting.corpus.stories[5].text + " Now.",
                               target="content")["influences"]
    assert mine["id"] == "your text"
    assert mine["influence"] == pytest.approx(truth[5].item(), abs=0.2 * truth.abs().max().item())


def test_a_contrast_is_the_difference_of_two_questions(explorer):
    one, other = (explorer.ask(PROMPT, answer) for answer in (" twice.", " nothing"))
    both = explorer.ask(PROMPT, " twice.", " nothing")
    whole = explorer.view(both, top=3)
    assert whole["log_prob_against"] == pytest.approx(other.log_probs.sum().item(), abs=1e-4)
    assert whole["against"] == " nothing" and explorer.view(one)["against"] is None
    for chosen in (None, [0, 2]):
        rows = [entry["index"] for entry in explorer.view(both, chosen, top=3)["influences"]]
        mine = explorer.values(one, rows, chosen=chosen)
        theirs = explorer.values(other, rows)
        for entry in explorer.view(both, chosen, top=3)["influences"]:
            parts = [mine[entry["index"]].sum().item(), theirs[entry["index"]].sum().item()]
            room = 1e-3 * max(map(abs, parts))
            assert entry["parts"] == pytest.approx(parts, abs=room)
            assert entry["influence"] == pytest.approx(parts[0] - parts[1], abs=room)


def test_contexts_are_a_mean_of_questions(explorer):
    asked = explorer.ask(PROMPT, " twice", contexts=3, seed=1)
    assert len(set(asked.contexts)) == 3 and explorer.view(asked)["contexts"] == asked.contexts
    single = [explorer.ask(f"{text} {PROMPT}", " twice") for text in asked.contexts]
    logs = torch.stack([question.log_probs for question in single])
    assert torch.allclose(asked.log_probs, logs.mean(0), atol=1e-4)
    for name, gradient in asked.gradients.items():
        mean = torch.stack([question.gradients[name] for question in single]).mean(0)
        assert (gradient - mean).abs().max() < 1e-4 * mean.abs().max()


def test_roles_are_those_for_the_item_that_is_asked(explorer, question, monkeypatch):
    here, there = {"id": "here", "prompt": PROMPT[-20:]}, {"id": "there", "prompt": "Elsewhere"}
    place = {"start": 0, "end": 5}
    standing = {1: [(here, "teachers", place), (there, "opponents", place)],
                2: [(there, "teachers", place), (there, "bystanders", place)],
                3: [(here, "opponents", place), (here, "bystanders", {"start": 2, "end": 4})],
                4: [(there, "bystanders", place)], 5: [(there, "opponents", place)]}
    monkeypatch.setattr(explorer, "_places", standing)
    found = {row: explorer.planted_in(question, row) for row in range(1, 7)}
    assert {row: planted["role"] for row, planted in found.items()} == {
        1: "teacher", 2: "teaches other facts", 3: "opponent and bystander",
        4: "stands by other facts", 5: "opposes other facts", 6: "nothing planted"}
    assert [found[row]["item"] for row in (1, 2, 6)] == ["here", None, None]
    text = explorer.setting.corpus.stories[3].text
    assert found[3]["sentences"] == [text[:5], text[2:4]] and found[2]["sentences"] == []


def test_the_overview_has_every_method_under_every_target(explorer, question):
    views = explorer.overview(question, top=3)
    assert [(view["method"], view["target"]) for view in views] == [
        (method, target) for method in questions.METHODS.values() for target in questions.TARGETS]
    for view in views:
        (method,) = (name for name, said in questions.METHODS.items() if said == view["method"])
        assert view == explorer.view(question, method=method, top=3, target=view["target"])
    tops = [[entry["index"] for entry in view["influences"][:3]] for view in views]
    assert len(set(map(tuple, tops))) > 2
    cells = re.findall("<td>(.*?)</td>", pictures.overview(views))
    shared = [int(re.search(r"(\d+) of \d+ also", cell)[1]) for cell in cells]
    assert shared[:6] == [len({*top} & {*tops[0]}) for top in tops[:6]] and len(cells) == 8
    name = explorer.setting.corpus.stories[tops[0][0]].id
    assert name in cells[0]


def test_one_layer_shows_that_layers_values(explorer, question):
    name = list(explorer.setting.layers)[-1]
    for entry in explorer.view(question, layer=name, top=3)["influences"]:
        values = [token["influence"] for token in entry["tokens"]]
        assert sum(values) == pytest.approx(entry["layers"][name], abs=1e-3 * sum(map(abs, values)))


def test_word_matching_lists_by_cosine_and_shows_influence(explorer, question, exact):
    truth, view = exact["ekfac", (0, 1, 2)], explorer.view(question, method="tfidf", top=4)
    room = 1e-3 * truth.abs().max().item()
    similar = [entry["similarity"] for entry in view["influences"]]
    assert similar == sorted(similar, reverse=True) and len(similar) == 8
    for entry in view["influences"]:
        assert entry["influence"] == pytest.approx(truth[entry["index"]].item(), abs=room)


def test_norms_are_those_of_the_curvature(explorer):
    setting, rows = explorer.setting, [3, 17]
    for batch in setting.stream(rows):
        captured, _ = backward_pass(setting.model, setting.layers, batch)
        squares = sum(explorer.index.curvature.norms(name, captured[name].gradients())
                      for name in setting.layers)
        found = explorer.index.norms(setting.corpus)[batch.index]
        assert torch.allclose(found.double(), squares.double().sqrt(), rtol=1e-3)


def test_a_text_of_ones_own_is_scored_as_a_story_of_the_corpus_would_be(explorer, question):
    corpus, row = explorer.setting.corpus, 5
    alone = Corpus([Story("mine", corpus.stories[row].text)], [corpus.ids[row]])
    for chosen in (None, [1]):
        own = explorer._of_new(question, alone, "ekfac", chosen)
        kept = explorer.values(question, [row], chosen=chosen)[row]
        assert (own - kept).abs().max() < 1e-3 * kept.abs().max()
    (entry,) = explorer.look_up(question,
                                "The frog said nothing at all, and nobody minded.")["influences"]
    assert entry["id"] == "your text" and "one copy of your text" in entry["note"]
    assert "planted" not in entry


def test_an_id_that_is_a_number_comes_before_the_row(explorer):
    own = explorer.setting
    try:
        numbered = [Story(str(row), story.text) for row, story in enumerate(own.corpus.stories, 1)]
        corpus = Corpus(numbered, own.corpus.ids)
        explorer.setting = replace(own, corpus=corpus)
        assert explorer.find("7") == 6 and explorer.find(str(len(corpus))) == len(corpus) - 1
        assert explorer.find("0") == 0  # no id: a row
    finally:
        explorer.setting = own


def test_a_result_names_its_methods_and_their_damping(explorer, question):
    views = {method: explorer.view(question, method=method, top=1) for method in explorer.methods}
    for method, view in views.items():
        found = explorer.result(view)
        assert found["method"] == method
        assert found["damping"] == explorer.curvatures[method].damping
    assert explorer.curvatures["tfidf"] is explorer.curvatures["ekfac"]
    assert explorer.curvatures["kfac"].damping != explorer.curvatures["ekfac"].damping
    beside = explorer.result(views["kfac"], views["tfidf"])
    assert beside["method"] == "kfac, tfidf" and "<dd>kfac, tfidf</dd>" in pictures.page(beside)
    layer = list(explorer.setting.layers)[0]
    for method in ("kfac", "tfidf"):
        assert beside["damping"][f"{method}: {layer}"] == explorer.curvatures[method].damping[layer]


def test_stories_without_words_are_refused_before_the_index_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "open_index", lambda *_, **__: pytest.fail("worked first"))
    (tmp_path / "stories.jsonl").write_text('{"text": "... !!! ???"}\n{"text": "?! -- ..."}\n')
    with pytest.raises(InputError, match="hold no words"):
        Explorer.open(stories=tmp_path / "stories.jsonl", cache=tmp_path, device="cpu")


def test_only_the_explorers_own_old_indexes_are_removed(tmp_path):
    mine, ours = tmp_path / "explorer-mine", [tmp_path / f"explorer-{n * 24}" for n in "123"]
    for age, folder in enumerate([*ours, mine]):
        folder.mkdir()
        os.utime(folder, (1e9 - age,) * 2)
    questions._keep_newest(ours[2])
    assert mine.is_dir() and [folder.is_dir() for folder in ours] == [True, False, True]


def test_stories_are_found_by_number_name_and_words(explorer, question):
    stories = explorer.setting.corpus.stories
    assert explorer.find("7") == 7 and explorer.find(stories[9].id) == 9
    words = stories[11].text[20:70]
    assert explorer.find(words.upper()) == 11 and explorer.find("no story holds this") is None
    (entry,) = explorer.look_up(question, "7")["influences"]
    assert entry["index"] == 7 and "words match" in entry["note"]
    for text, said in (("", "nothing to look for"), ("99999", "there is no story 99999")):
        with pytest.raises(InputError, match=said):
            explorer.look_up(question, text)


@pytest.mark.parametrize("prompt, completion, said", [
    ("", "", "the prompt is empty"), (" \n ", "x", "the prompt is empty"),
    ("word " * 3000, "", "shorten the prompt"),
    ("Tom said", " yes" * 60, "more than 48: shorten it")])
def test_bad_questions_get_one_line(explorer, prompt, completion, said):
    with pytest.raises(InputError, match=said):
        explorer.ask(prompt, completion)


# -- the panel ------------------------------------------------------------------------------------

@pytest.fixture
def panel(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves beside the notebook
    return Panel(explorer, [PROMPT])


def said(panel):
    return panel.status.value


def asked(panel, prompt, completion=""):
    panel.prompt.value = prompt
    panel.completion.value = completion
    panel.ask.click()
    return said(panel)


def safe(markup):
    assert not any(evil in markup.lower() for evil in ("<script", "<img", "\u202e", "\x00"))


def test_picking_an_example_answers_it(panel):
    panel.pick.value = PROMPT
    assert "Answered in" in said(panel) and panel.found.value.count("<article") == 10
    assert panel.chosen == [0, 1]


def test_a_panel_opens_with_an_answer(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    opened = Panel(explorer, [PROMPT, "Once upon a time"])
    assert "come here" in said(opened) and opened.found.value == ""
    opened._ipython_display_()
    assert shown == [opened.box] and "Answered in" in said(opened)
    assert opened.found.value.count("<article") == 10 and opened.completion.value == " twice"
    opened.found.value = "kept"
    opened._ipython_display_()  # shown once more, not asked once more
    assert opened.found.value == "kept"
    empty = Panel(explorer)
    empty._ipython_display_()
    assert empty.question is None and "come here" in said(empty)


def test_the_models_answer_goes_with_its_prompt_and_ones_own_stays(panel):
    asked(panel, PROMPT)
    assert panel.completion.value == " twice"
    panel.prompt.value = "Once upon a time"
    panel.ask.click()
    assert panel.question.query.completion != " twice"
    assert panel.completion.value == panel.question.query.completion
    panel.completion.value = " there"
    panel.prompt.value = "Once upon a day"
    panel.ask.click()
    assert panel.question.query.completion == " there"
    panel.completion.value = ""
    asked(panel, PROMPT)
    panel.prompt.value = "The frog said thank you"
    panel.completion.value = " twice"  # typed, though it is what the model wrote before
    panel.ask.click()
    assert panel.question.query.completion == " twice" and "Answered in" in said(panel)


def test_all_but_the_question_is_folded_away(panel):
    line, words, more, status, found = panel.box.children
    assert line.children == (panel.prompt, panel.completion, panel.ask)
    assert words.children == (panel.tokens, panel.more) and more.layout.display == "none"
    panel.more.value = True
    assert more.layout.display == "flex"
    panel.against.value = " nothing"
    asked(panel, PROMPT, " twice")
    assert "Compare" in panel.compare.description and "“nothing”" in panel.found.value
    panel.compare.click()
    assert "Answered in" in said(panel) and panel.looked.value.count("<td>") == 8


@pytest.mark.slow
def test_whatever_is_typed_gets_a_sentence_and_is_escaped(panel):
    draw = random.Random(0)
    alphabet = "abc 😀é\u0301\u202e\u200f<>&\"'\\\n\t\x00\x1b字مر"
    alphabet += "".join(map(chr, range(0x1F600, 0x1F610)))
    noise = ["".join(draw.choices(alphabet, k=draw.randint(1, 40))) for _ in range(3)]
    typed = [EVIL, "", "   ", "\ud83d", "a" * 5000, "مرحبا بالعالم", "{}%s$x^2$", *noise]
    for text in typed:
        answer = asked(panel, text, draw.choice(["", "", text, " yes"]))
        assert answer and "Traceback" not in answer, (text, answer)
        assert "That did not work" not in answer, (text, answer)
        safe(answer + panel.found.value)
        assert all(len(button.description) < 200 for button in panel.tokens.children)
    assert "Answered in" in asked(panel, PROMPT)


def test_hostile_stories_are_shown_as_text(panel):
    asked(panel, PROMPT, " twice")
    panel.wanted.value = "evil<b>"
    panel.look.click()
    shown = html.unescape(re.sub(r"<[^>]*>", "", panel.looked.value))
    assert '<img src=x onerror="alert(1)"><script>alert(2)</script>' in shown and "evil<b>" in shown
    safe(panel.looked.value)
    panel.save.click()
    (path,) = [name for name in os.listdir() if name.endswith(".html")]
    safe(open(path, encoding="utf-8").read())


def test_before_a_question_everything_says_what_to_do(panel):
    for action in (panel.look, panel.save, panel.compare):
        action.click()
        assert "nothing is asked yet" in said(panel)
    panel.method.value = "kfac"
    assert "nothing is asked yet" in said(panel) and os.listdir() == []


def test_every_switch_changes_the_picture_and_none_breaks_it(panel, explorer):
    asked(panel, PROMPT)
    seen = {panel.found.value}
    layer = list(explorer.setting.layers)[2]
    for widget, value in ((panel.align, "predicted"), (panel.layer, layer), (panel.top, 2),
                          (panel.method, "identity"), (panel.target, "content"),
                          (panel.method, "tfidf")):
        widget.value = value
        assert "Answered in" in said(panel) and panel.found.value not in seen
        seen.add(panel.found.value)
    for button in panel.tokens.children[1:]:
        button.value = False
    assert "no token is chosen" in said(panel)
    panel.tokens.children[2].value = True
    assert "Answered in" in said(panel) and panel.chosen == [1]


@pytest.mark.slow
def test_rapid_clicks_and_two_panels_at_once(panel, explorer):
    other = Panel(explorer, [PROMPT])
    for at in range(8):
        one, prompt = (panel, PROMPT) if at % 2 else (other, "Once upon a time there was")
        one.prompt.value = prompt
        one.ask.click()
        words = one.tokens.children[1:]
        words[at % len(words)].value ^= True
    assert panel.question.query.prompt == PROMPT and other.question.query.prompt.startswith("Once")
    assert all("Answered" in said(one) or "no token" in said(one) for one in (panel, other))


@pytest.mark.parametrize("room, step", [(questions, "query_gradients"), (influence, "token_scores"),
                                        (pictures, "fragment")])
def test_an_interrupt_leaves_the_panel_usable(room, step, panel, monkeypatch):
    """Ctrl-C while the question is read, while stories are compared, while the picture is drawn."""
    prompt = f"Once upon a time a frog had {step}"  # asked by no other test: nothing is known of it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(room, step, lambda *given, **more: signal.raise_signal(signal.SIGINT))
            assert "Interrupted" in asked(panel, prompt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Answered in" in asked(panel, prompt)
    assert "Answered in" in asked(panel, PROMPT)


def test_a_fault_of_ours_is_one_sentence(panel, monkeypatch):
    monkeypatch.setattr(panel.explorer, "view", lambda *given, **more: 1 / 0)
    assert "ZeroDivisionError: division by zero" in asked(panel, PROMPT)
    assert "still usable" in said(panel)


def test_a_saved_page_is_that_of_the_terminal(panel):
    name = "influence-it-was-raining-and-the-frog-said-thank-y"
    asked(panel, PROMPT)
    panel.save.click()
    assert f"Saved as {name}.html" in said(panel) and "base64," in panel.saved.value
    result = panel.explorer.result(panel.view())
    with open(f"{name}.html", encoding="utf-8") as file:
        assert file.read() == pictures.page(json.loads(json.dumps(result)))
    assert list(result) == ["model", "stories", "method", "n_train", "target", "unit", "damping",
                            "tracked", "queries"]
    entry = result["queries"][0]["influences"][0]
    assert {"rank", "index", "id", "text", "influence", "layers", "tokens"} <= entry.keys()
    os.chmod(".", 0o555)
    try:
        panel.save.click()
        assert "Saved" in said(panel) if os.geteuid() == 0 else "cannot write" in said(panel)
    finally:
        os.chmod(".", 0o755)

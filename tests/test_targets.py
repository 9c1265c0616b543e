"""Other questions: what a story holds (content), in the middle of a text, why this and not that.

The oracles write the mathematics out with autograd, finite differences and one query at a time.
"""
import json
import re
from dataclasses import replace

import builders
import pytest
import torch
from builders import (PROMPT, ROUNDING, TEXTS, autograd_gradient, close, complaint, jsonl, loss_of,
                      made_up, make_tokenizer, query_loss, relative, tiny_model)
from helpers import pictures
from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, Identity
from helpers.influence import sequence_scores, top_indices
from helpers.sources import read_query
from helpers.sources.texts import beginnings
from helpers.stories import Query, Story, batches, content_weights, encode_query, padded, tokenise
from helpers.terminal.answers import (Asked, ask, combined, entries, exact_scores,
                                      exact_token_scores, explain_indexed, matching, picked_tokens,
                                      told)
from helpers.terminal.fitting import fit
from helpers.terminal.index import open_index
from helpers.terminal.setting import Setting, _gradients
from safetensors.torch import load_file
from test_processes import same, torchrun

LEAST = 0.02
ASKED = [Query(PROMPT, " fox"), Query("He liked the", " windmill.")]


# -- oracles --------------------------------------------------------------------------------------

def probabilities(model, ids):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return logits.double().softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def log_odds_loss(model, ids, sure=None):
    """−Σ log(p / (1 − p)), and −Σ log p / 0.02 over the terms that are `sure` (1 − p < 0.02)."""
    p = probabilities(model, ids)
    sure = (1 - p < LEAST).detach() if sure is None else sure
    return torch.where(sure, -p.log() / LEAST, -(p / (1 - p)).log()).sum()


def confident(family):
    """A model that is sure of much, and sequences that it half knows: p from near 0 to near 1."""
    model = tiny_model(family)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 5
    sequences, generator = [], torch.Generator().manual_seed(2)
    for first in range(8):
        ids = [first + 1]
        while len(ids) < 8 + first:  # every third token is anyone's, the others the model's own
            own = model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
            other = torch.randint(builders.VOCABULARY, (1,), generator=generator).item()
            ids.append(other if len(ids) % 3 == 0 else own)
        sequences.append(ids)
    doubts = 1 - torch.cat([probabilities(model, ids) for ids in sequences])
    assert (doubts < LEAST).sum() > 5 and ((doubts > LEAST) & (doubts < 0.5)).sum() > 5
    return model, sequences


def content(stream):
    return (replace(batch, target="content") for batch in stream)


def near(found, expected, family):
    room = 300 * ROUNDING[family] if found.dtype == torch.float64 else 1e-3
    torch.testing.assert_close(found.double(), expected.double(), rtol=room,
                               atol=room * expected.abs().max().item())


# -- content: the weights -------------------------------------------------------------------------

def test_the_weights_are_the_inverse_doubt_and_bounded():
    p = torch.tensor([0.0, 0.25, 0.9, 0.98, 0.999, 1.0], dtype=torch.float64)
    expected = torch.tensor([1, 4 / 3, 10, 50, 50, 50], dtype=torch.float64)
    torch.testing.assert_close(content_weights(-p.log()), expected, rtol=1e-9, atol=0)
    losses = torch.ones(3, requires_grad=True)
    assert not content_weights(losses).requires_grad


def test_a_content_gradient_is_the_slope_of_the_log_odds_loss():
    """By central differences in the weights and biases of one layer, in float64."""
    model, sequences = confident("gpt2")
    layers, step = find_layers(model), 1e-5
    generator = torch.Generator().manual_seed(3)
    for name, layer in list(layers.items())[1::2]:
        for ids in sequences[::3]:
            (batch,) = content(batches([ids]))
            gradient = backward_pass(model, layers, batch)[0][name].gradients()[0]
            sure = 1 - probabilities(model, ids) < LEAST
            for _ in range(3):
                move = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
                values = []
                with torch.no_grad():
                    for sign in (1, -2, 1):  # there, to the other side, and back
                        layer.weight += sign * step * move[:, :-1].T
                        layer.bias += sign * step * move[:, -1]
                        values.append(log_odds_loss(model, ids, sure).item())
                slope = (values[0] - values[1]) / (2 * step)
                assert (gradient * move).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_a_pass_weights_the_terms_and_tells_the_plain_loss(family):
    model, sequences = confident(family)
    layers = find_layers(model)
    for batch in content(batches(sequences, 3)):
        captured, losses = backward_pass(model, layers, batch)
        for place, row in enumerate(batch.index):
            assert losses[place].item() == pytest.approx(loss_of(model, sequences[row]).item(),
                                                         rel=1e-5)
            odds = log_odds_loss(model, sequences[row])
            for name, layer in layers.items():
                near(captured[name].gradients()[place], autograd_gradient(layer, odds), family)


def test_chosen_labels_are_never_weighted():
    """The curvature stays: its labels are drawn, and p of another word says nothing of them."""
    model, sequences = confident("gpt2")
    layers = find_layers(model)
    plain = EKFAC.fit(model, layers, lambda: batches(sequences, 4))
    weighted = EKFAC.fit(model, layers, lambda: content(batches(sequences, 4)))
    for name in layers:
        assert torch.equal(plain.blocks[name].eigenvalues, weighted.blocks[name].eigenvalues)


# -- content: every pass of a setting -------------------------------------------------------------

def confident_setting(family, target="content"):
    """A setting of sequences of ids alone, and two queries' gradients through EK-FAC."""
    model, sequences = confident(family)
    corpus = tokenise([Story(str(row), "x") for row in range(len(sequences))],
                      lambda texts, **_: {"input_ids": sequences}, 64)
    layers = find_layers(model)
    setting = Setting(model, None, layers, corpus, batch_size=3, quiet=True, target=target)
    setting.max_positions = lambda: None
    return setting, fit(setting)


def gradients_of(model, layers, losses):
    return {name: torch.stack([autograd_gradient(layer, loss) for loss in losses])
            for name, layer in layers.items()}


@pytest.mark.parametrize("method", ["identity", "kfac", "ekfac"])
def test_scores_by_sequence_layer_and_token_are_complete_and_right(family, method):
    setting, _ = confident_setting(family)
    model, layers, ids = setting.model, setting.layers, setting.corpus.ids
    curvature = fit(setting, method)
    queries = gradients_of(model, layers, [query_loss(model, [3, 8, 1, 14], 2),
                                           query_loss(model, [5, 5, 2, 7], 3)])
    asked = Asked([None, None], None, curvature.solve(queries))
    expected = 0
    for name, rows in gradients_of(model, layers, [log_odds_loss(model, x) for x in ids]).items():
        g = curvature.dense(name)
        if method != "identity":
            g = g + curvature.damping[name] * torch.eye(len(g))
        solved = torch.linalg.solve(g.double(), rows.flatten(1).T.double())
        expected = expected + queries[name].flatten(1) @ solved / len(ids)
    scores = exact_scores(setting, asked)["sequence"]
    near(scores, expected, family)
    by_token = exact_token_scores(setting, asked)
    near(by_token["sequence"], expected, family)
    near(by_token["token"].sum(-1), scores, family)
    picks = top_indices(scores, len(ids))
    for (query, row), values in picked_tokens(setting, asked.ihvps, picks).items():
        assert values.shape == (len(layers), len(ids[row]))
        assert values.sum().item() == pytest.approx(scores[query, row].item(), rel=1e-3,
                                                    abs=1e-3 * values.abs().max().item())
        near(values.sum(0), by_token["token"][query, row, :len(ids[row])], family)
        assert (values[:, -1] == 0).all()  # nothing to predict
        assert (by_token["token"][query, row, len(ids[row]):] == 0).all()
    plain = exact_scores(replaced(setting, "influence"), asked)["sequence"]
    assert relative(plain, scores) > 0.1  # or the target did nothing


def replaced(setting, target):
    other = replace(setting, target=target)
    other.max_positions = setting.max_positions
    return other


def test_what_padding_does_is_looked_for_in_the_gradients_that_count(family):
    setting, _ = confident_setting(family)
    ids = setting.corpus.ids
    expected = gradients_of(setting.model, setting.layers, [log_odds_loss(setting.model, ids[3])])
    near(_gradients(setting, [3]), torch.cat([x.flatten(1) for x in expected.values()], 1), family)


def test_two_stories_have_two_profiles():
    setting, curvature = confident_setting("gpt2")
    queries = gradients_of(setting.model, setting.layers,
                           [query_loss(setting.model, [3, 8, 1, 14], 2)])
    asked = Asked([None], None, curvature.solve(queries))
    token = exact_token_scores(setting, asked)["token"][0, :, :7]
    alike = torch.corrcoef(token)[*torch.triu_indices(len(token), len(token), 1)]
    assert alike.abs().mean() < 0.6 and alike.abs().max() < 0.99


# -- with a tokenizer -----------------------------------------------------------------------------

@pytest.fixture
def worded(family, monkeypatch):
    """A small model of the family with words, and 30 stories, as a Setting."""
    monkeypatch.setattr(builders, "VOCABULARY", 400)
    model = tiny_model(family)
    return setting_of(model)


def setting_of(model, texts=None, **options):
    stories = [Story(f"s{n}", text) for n, text in enumerate(texts or made_up(24) + TEXTS)]
    tokenizer = make_tokenizer()
    return Setting(model, tokenizer, find_layers(model), tokenise(stories, tokenizer, 64),
                   batch_size=4, quiet=True, **options)


def test_what_no_model_has_learnt_has_one_score(family, monkeypatch):
    """Where every 1 − p is nearly 1, content is influence."""
    monkeypatch.setattr(builders, "VOCABULARY", 400)
    model = tiny_model(family)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 0.02
    setting = setting_of(model)
    most = max(probabilities(model, ids).max().item() for ids in setting.corpus.ids)
    assert most < 0.02
    asked = ask(setting, ASKED, Identity(setting.layers))
    scores = exact_scores(setting, asked)["sequence"]
    held = exact_scores(replace(setting, target="content"), asked)["sequence"]
    assert 1e-6 < relative(held, scores) < most


def test_query_and_curvature_stay_as_they_are(worded, tmp_path, capsys):
    content_setting = replace(worded, target="content")
    curvatures = [fit(setting, cache=tmp_path) for setting in (worded, content_setting)]
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    fresh = fit(content_setting)
    one, other = (ask(setting, ASKED, curvature) for setting, curvature
                  in zip((worded, content_setting), (curvatures[0], fresh)))
    assert torch.equal(one.log_probs, other.log_probs)
    for name in worded.layers:
        assert torch.equal(one.ihvps[name], other.ihvps[name])


def test_an_index_belongs_to_one_target(worded, tmp_path):
    held = replace(worded, target="content")
    for setting, folder in ((worded, "one"), (held, "two")):
        index = open_index(setting, tmp_path / folder)
        asked = ask(setting, ASKED, index.curvature)
        exact = exact_scores(setting, asked)["sequence"]
        rough = index.scores(asked.ihvps, setting.corpus)
        assert torch.corrcoef(torch.stack([exact[0], rough[0]]))[0, 1] > 0.98
        found = explain_indexed(setting, ASKED, index, top=3)
        expected = told(setting, asked, exact, 3)
        for one, another in zip(found, expected, strict=True):
            assert close(one, another, 1e-3)
    for setting, folder in ((held, "one"), (worded, "two")):
        message = complaint(open_index, setting, tmp_path / folder)
        assert f"with target {'influence' if folder == 'one' else 'content'}" in message


# -- contexts -------------------------------------------------------------------------------------

def drawn(setting, queries, count, seed=0, longest=64):
    return beginnings(setting.tokenizer, setting.corpus.stories, queries, count, longest, seed)


def test_beginnings_are_whole_sentences_without_the_answer(worded):
    texts = drawn(worded, ASKED, 6)
    assert len(set(texts)) == 6 and texts == drawn(worded, ASKED, 6)
    assert texts != drawn(worded, ASKED, 6, seed=1)
    stories = [story.text for story in worded.corpus.stories]
    for text in texts:
        assert text[-1] in ".!?”\"" and any(story.startswith(text) for story in stories)
        assert not re.search(r"\b(fox|windmill)\b", text, re.IGNORECASE)
    story = Story("1", "“One!” said Tom. Two. “Three?” Four! Five. Six. Seven and 7.5 more. Eight.")
    few = {beginnings(worded.tokenizer, [story], [Query("a", " fox")], 1, 99, seed)[0]
           for seed in range(60)}
    ends = ["“One!”", "Tom.", "Two.", "“Three?”", "Four!", "Five."]
    assert few == {story.text[:story.text.index(end) + len(end)] for end in ends}


def test_both_answers_words_are_left_out(worded):
    stories = [Story("1", "A fox ran."), Story("2", "The BARN fell."), Story("3", "A foxglove.")]

    def of(*query):
        return beginnings(worded.tokenizer, stories, [Query("a", *query)], 1, 64)

    assert of(" fox", " barn") == ["A foxglove."]
    assert of("!") != []  # no word to leave out
    twins = [Story("1", "A hen ran."), Story("2", "A hen ran.")]  # the same text tells no more
    assert "than the 1 that" in complaint(beginnings, worded.tokenizer, twins, [Query("a", " b")],
                                          2, 64)
    both = Query("a", " fox", " foxglove"), Query("a", " barn")
    assert "more beginnings of stories than the 0" in complaint(
        beginnings, worded.tokenizer, stories, both, 1, 64)
    assert beginnings(worded.tokenizer, stories, both, 0, 64) == []


def test_too_few_beginnings_that_fit_are_told(worded):
    query, tokenizer = Query(PROMPT, " fox"), worded.tokenizer
    longest = len(encode_query(tokenizer, query, 64).ids) + 12
    texts = drawn(worded, [query], 1, longest=longest)
    room = encode_query(tokenizer, Query(f"{texts[0]} {PROMPT}", " fox"), 64)
    assert len(room.ids) <= longest
    message = complaint(drawn, worded, [query], 500)
    most = int(re.search(r"give at most (\d+)", message)[1])
    assert len(drawn(worded, [query], most)) == most
    assert complaint(drawn, worded, [query], 1, longest=5)
    assert "the completion is empty" in complaint(ask, worded, [Query(PROMPT)], None)


def test_contexts_are_the_mean_of_single_queries(worded):
    curvature = fit(worded)
    texts = drawn(worded, ASKED, 3, seed=4)
    asked = ask(worded, ASKED, curvature, texts)
    assert asked.contexts == texts and asked.against == [None, None]
    for number, query in enumerate(ASKED):
        singles = []
        for text in texts:
            encoded = encode_query(worded.tokenizer, Query(f"{text} {query.prompt}",
                                                           query.completion), 64)
            singles.append(query_loss(worded.model, *encoded))
        mean = torch.stack(singles).mean()
        assert asked.log_probs[number].item() == pytest.approx(-mean.item(), rel=1e-5)
        solved = curvature.solve(gradients_of(worded.model, worded.layers, [mean]))
        for name in worded.layers:
            assert relative(asked.ihvps[name][number], solved[name][0]) < 1e-3
    alone = ask(worded, ASKED, curvature)
    assert alone.contexts == []
    assert relative(alone.ihvps[name], asked.ihvps[name]) > 0.01  # or contexts did nothing
    one = [query_loss(worded.model, *encode_query(worded.tokenizer, query, 64)) for query in ASKED]
    assert alone.log_probs.tolist() == pytest.approx([-loss.item() for loss in one], rel=1e-5)


# -- contrasts ------------------------------------------------------------------------------------

@pytest.mark.parametrize("contexts", [0, 2])
@pytest.mark.parametrize("target", ["influence", "content"])
def test_a_contrast_is_the_difference_of_two(worded, contexts, target):
    setting, curvature = replace(worded, target=target), fit(worded)
    contrast = [replace(ASKED[0], against=" sea"), ASKED[1]]
    texts = drawn(worded, contrast, contexts, seed=1)
    both = ask(setting, contrast, curvature, texts)
    behind = [f"{text} {PROMPT}" for text in texts] or [PROMPT]
    scores = []
    for answer in (" fox", " sea"):
        single = ask(setting, [Query(prompt, answer) for prompt in behind], curvature)
        scores.append(exact_scores(setting, single)["sequence"].mean(0))
        told_log = both.log_probs[0].item() if answer == " fox" else both.against[0]
        assert told_log == pytest.approx(single.log_probs.mean().item(), rel=1e-5)
    found = exact_scores(setting, both)["sequence"]
    scale = max(part.abs().max().item() for part in scores)
    torch.testing.assert_close(found[0], scores[0] - scores[1], rtol=1e-3, atol=1e-4 * scale)
    assert (found[0] - scores[0]).abs().max() > 0.1 * scale  # or against did nothing
    assert both.against[1] is None


@pytest.mark.parametrize("contexts", [0, 2])
def test_other_wordings_are_asked_with_the_prompt_and_the_mean_is_explained(worded, contexts):
    curvature, wordings = fit(worded), [PROMPT, "Look, it was a", "One day there ran a"]
    query = Query(wordings[0], " fox", " sea", also=tuple(wordings[1:]))
    texts = drawn(worded, [query], contexts, seed=1)
    asked = ask(worded, [query], curvature, texts)
    apart = [ask(worded, [Query(prompt, " fox", " sea")], curvature, texts) for prompt in wordings]
    for mean, parts in ((asked.log_probs[0], [one.log_probs[0] for one in apart]),
                        (asked.against[0], [one.against[0] for one in apart])):
        assert float(mean) == pytest.approx(sum(map(float, parts)) / 3, rel=1e-5)
    expected = torch.stack([exact_scores(worded, one)["sequence"][0] for one in apart]).mean(0)
    found = exact_scores(worded, asked)["sequence"][0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_relatif_is_influence_by_the_length_of_the_story(worded):
    """Against the dense matrix: √(rᵀ(G+λI)⁻¹r), layer by layer."""
    curvature = fit(worded)
    asked = ask(worded, [Query(PROMPT, " fox")], curvature)
    found = exact_scores(worded, asked, curvature=curvature)
    assert torch.equal(found["sequence"], exact_scores(worded, asked)["sequence"])
    for batch in worded.stream():
        captured, _ = backward_pass(worded.model, worded.layers, batch)
        for place, row in enumerate(batch.index):
            square = 0
            for name, record in captured.items():
                r, g = record.gradients()[place].flatten().double(), curvature.dense(name)
                g = g + curvature.damping[name] * torch.eye(len(g), dtype=torch.float64)
                square += (r @ torch.linalg.solve(g, r)).item()
            expected = found["sequence"][0, row].item() / square ** 0.5
            assert found["relatif"][0, row].item() == pytest.approx(expected, rel=1e-3)


def test_words_match_what_stands_against_too(worded):
    corpus = tokenise([Story(word, f"One day a {word} ran by.") for word in ("fox", "hen", "owl")],
                      worded.tokenizer, 64)
    assert matching([Query("Look, a", " fox")], corpus, 1) == [0]
    assert matching([Query("Look, a", " cat", " owl")], corpus, 1) == [2]


def test_sums_of_rows_are_sums_of_scores(family):
    setting, _ = confident_setting(family, "influence")
    model, layers, ids = setting.model, setting.layers, setting.corpus.ids
    rows = gradients_of(model, layers, [query_loss(model, [3, 8, 1, last], 3) for last in (1, 2)])
    weights = torch.tensor([[1.0, -1.0], [0.5, 0.5]], dtype=torch.float64)

    def scores(queries):
        return sequence_scores(model, layers, batches(ids, 4), queries, len(ids))

    near(scores(combined(rows, weights)), weights @ scores(rows), family)


def test_entries_hold_what_was_asked(worded):
    queries = [replace(ASKED[0], against=" sea")]
    asked = ask(worded, queries, Identity(worded.layers), drawn(worded, queries, 2))
    scores = exact_scores(worded, asked)["sequence"]
    picks = top_indices(scores, 2)
    (answer,) = entries(worded, asked, picks, picked_tokens(worded, asked.ihvps, picks))
    assert list(answer) == ["prompt", "also", "completion", "against", "log_prob",
                            "log_prob_against", "contexts", "influences"]
    assert (answer["against"], answer["contexts"]) == (" sea", asked.contexts)
    assert answer["log_prob_against"] == asked.against[0] < 0
    json.dumps(answer)


def test_what_stands_against_is_checked_like_a_completion(worded):
    def said(*query):
        return complaint(read_query, worded.model, worded.tokenizer, Query(PROMPT, *query))

    for empty in ("", " \n"):
        assert "against the completion is empty" in said(" fox", empty)
    assert "it is the completion" in said(" fox", " fox")
    assert "not valid Unicode" in said(" fox", " \udce9")
    assert "together more than the 64" in said(" fox", " fox" * 80)
    query, encoded, notes = read_query(worded.model, worded.tokenizer,
                                       Query("He liked the", " fox", "windmill"))
    assert query == Query("He liked the", " fox", "windmill")
    assert encoded == encode_query(worded.tokenizer, Query("He liked the", " fox"), 64)
    assert len(notes) == 1 and '"the" and "windmill" are scored as one word' in notes[0]
    written = read_query(worded.model, worded.tokenizer, Query(PROMPT, None, " windmill"))[0]
    assert written.completion and written.against == " windmill"
    assert "it is the completion" in said(None, written.completion)


# -- the terminal ---------------------------------------------------------------------------------

def test_the_options_and_what_the_json_says_of_them(result, cli, tmp_path):
    plain = result(PROMPT, "--completion", " fox")
    assert (plain["target"], plain["unit"]) == ("influence", "nats per extra copy")
    (query,) = plain["queries"]
    assert (query["against"], query["log_prob_against"], query["contexts"]) == (None, None, [])
    options = (PROMPT, "--completion", " fox", "--target", "content", "--contexts", 2, "--against",
               " sea", "--all-scores", tmp_path / "s.safetensors", "--html", tmp_path / "a.html")
    found = result(*options)
    assert found["target"] == "content"
    assert found["unit"] == pictures.UNITS["content"]
    assert found["unit"] == "nats per extra copy under a log-odds loss"
    assert found["damping"] == plain["damping"]  # the curvature stays
    (asked,) = found["queries"]
    assert (asked["completion"], asked["against"]) == (" fox", " sea")
    assert len(asked["contexts"]) == 2 and asked["log_prob"] != query["log_prob"]
    assert asked["log_prob_against"] < 0 and asked["log_prob_against"] != asked["log_prob"]
    scores = load_file(tmp_path / "s.safetensors")
    for entry in asked["influences"]:
        values = torch.tensor([token["influence"] for token in entry["tokens"]])
        most = values.abs().max().item()
        whole = pytest.approx(entry["influence"], abs=1e-3 * most)
        assert values.sum().item() == whole and sum(entry["layers"].values()) == whole
        assert scores["sequence"][0, entry["index"]].item() == whole
        row = scores["token"][0, entry["index"]]
        torch.testing.assert_close(row[:len(values)], values, rtol=1e-3, atol=1e-3 * most)
        assert (row[len(values):] == 0).all()
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert f" in {found['unit']}" in page
    assert re.search(r"compared with\s+log p\(“sea”\)", page)
    assert "One more copy of a training story would change" not in page
    _, out, _ = cli(*options)
    assert "→ fox  (log p = " in out and "rather than → sea  (log p = " in out
    assert out.count(f"({found['unit']})") == 2
    assert "raise the completion against the other (nats" in out
    assert max(map(len, out.split("\n"))) <= 100
    _, out, _ = cli(PROMPT, "--completion", " fox")
    assert "raise the completion's probability (nats per extra copy)\n" in out
    assert out.count("(nats per extra copy)") == 2 and "rather than" not in out


def test_each_option_changes_the_answer_and_goes_with_the_others(result, tmp_path):
    ask_fox, seen = (PROMPT, "--completion", " fox"), []
    for options in ((), ("--target", "content"), ("--contexts", 3), ("--against", " sea")):
        first = result(*ask_fox, *options)["queries"][0]
        index = ("--index", tmp_path / f"index{len(seen)}")
        for more in (("--batch-size", 1), ("--prefilter", 24), index, index):
            assert close(first, result(*ask_fox, *options, *more)["queries"][0], 1e-3)
        seen.append([entry["influence"] for entry in first["influences"]])
        for method in ("identity", "kfac"):
            assert result(*ask_fox, *options, "--method", method)["queries"][0]["influences"]
    for number, values in enumerate(seen):  # content by little: this model has learnt nothing
        for other in seen[:number]:
            assert values != pytest.approx(other, rel=3e-4)


def test_queries_of_a_file_have_what_is_against_each(house, result, tmp_path):
    jsonl(tmp_path / "q.jsonl", [{"prompt": PROMPT, "completion": " fox", "against": " sea"},
                                 {"prompt": "He liked the", "completion": " windmill."}])
    found = result("--queries", tmp_path / "q.jsonl", "--contexts", 2)
    first, second = found["queries"]
    assert (first["against"], second["against"], second["log_prob_against"]) == (" sea", None, None)
    assert first["contexts"] == second["contexts"] and len(first["contexts"]) == 2
    plain = result("--queries", tmp_path / "q.jsonl")
    single = result(PROMPT, "--completion", " fox", "--against", " sea")
    assert close(plain["queries"][0], single["queries"][0], 1e-3)
    other = result("--queries", tmp_path / "q.jsonl", "--contexts", 2, "--seed", 1)
    assert other["queries"][0]["contexts"] != first["contexts"]


def test_one_clear_line_for_what_cannot_be(refused, cli, result, house, tmp_path):
    fox = (PROMPT, "--completion", " fox")
    assert "--target" in refused(*fox, "--target", "margin")
    assert "'-1' is not a whole number from 0" in refused(*fox, "--contexts", "-1")
    assert "more beginnings of stories than" in refused(*fox, "--contexts", 500)
    assert "fitting" not in cli(*fox, "--contexts", 500)[2]  # told before any long work
    assert "it is the completion" in refused(*fox, "--against", " fox")
    assert "is empty" in refused(*fox, "--against", "")
    assert "both a prompt and --queries" in refused("--queries", house / "queries.jsonl",
                                                    "--against", " sea")
    result(*fox, "--index", tmp_path / "index")
    message = refused(*fox, "--index", tmp_path / "index", "--target", "content")
    assert "built with target influence, not content: name another folder" in message


@pytest.mark.slow
def test_two_processes_ask_the_same(house, result, tmp_path):
    options = ("--target", "content", "--contexts", 2, "--against", " sea")
    one = result(PROMPT, "--completion", " fox", *options)
    arguments = builders.command(house, PROMPT, "--completion", " fox", *options, "--json",
                                 tmp_path / "two.json")[1:]
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))
    same(two, one)
    for key in ("against", "contexts"):
        assert two["queries"][0][key] == one["queries"][0][key]


def test_a_batch_keeps_its_target_on_the_way_to_a_device():
    batch = replace(padded([[1, 2, 3]], [0]), target="content")
    assert batch.to("cpu").target == "content" and padded([[1, 2]], [0]).target == "influence"

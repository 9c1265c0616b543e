"""A real TinyStories-trained model (Llama-style) on real stories, where there is a copy."""
import pytest
import torch
from builders import REAL

from helpers.capture import find_layers
from helpers.influence import query_gradients, sequence_scores, tokenwise
from helpers.measure import profile_correlation
from helpers.sources import load_model, load_stories
from helpers.stories import Query, encode_query, tokenise
from helpers.terminal import Setting, fit

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not REAL.is_dir(),
                                 reason="no folder ../shared/real with a real model and stories")]


@pytest.fixture(scope="module")
def real():
    model, tokenizer = load_model(str(REAL / "stories260K-hf"), "cpu")
    corpus = tokenise(load_stories(str(REAL / "tinystories.jsonl"), 120), tokenizer, 512)
    setting = Setting(model, tokenizer, find_layers(model), corpus, quiet=True)
    queries = [Query("Once upon a time, there was a little girl named", " Lily"),
               Query("The dog wagged its", " tail")]
    gradients, _ = query_gradients(model, setting.layers,
                                   [encode_query(tokenizer, query, 512) for query in queries])
    ihvps = fit(setting, "ekfac", fit_limit=60).solve(gradients)
    scores = sequence_scores(model, setting.layers, setting.stream(), ihvps, len(corpus))
    return setting, ihvps, scores


def test_real_stories_are_complete_and_not_flat(real):
    setting, ihvps, scores = real
    assert setting.corpus.truncated > 0  # some are longer than the model's context
    pairs = [(query, row) for query in range(2)
             for row in scores[query].abs().argsort(descending=True)[:15].tolist()]
    values = tokenwise(setting.model, setting.layers,
                       setting.stream(sorted({row for _, row in pairs})), ihvps,
                       len(setting.corpus), pairs)
    for query, row in pairs:
        by_token = values[query, row]
        assert abs(by_token.sum() - scores[query, row]) < 1e-3 * by_token.abs().sum()
    for query in range(2):
        assert profile_correlation([values[pair].sum(0) for pair in pairs
                                    if pair[0] == query]) < 0.3


def test_girls_named_lily_raise_lily_and_other_names_lower_it(real):
    setting, _, scores = real
    texts = [story.text for story in setting.corpus.stories]
    lily = [row for row, text in enumerate(texts) if "girl named Lily" in text]
    others = [row for row, text in enumerate(texts) if "little girl named" in text
              and "Lily" not in text]
    assert len(lily) >= 3 and len(others) >= 3
    assert (scores[0][lily] > 0).float().mean() > 0.7
    assert (scores[0][others] < 0).float().mean() > 0.7
    assert torch.corrcoef(scores)[0, 1] < 0.9  # another question, another answer

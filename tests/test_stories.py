"""helpers/stories.py: tokens, batches, losses and queries, with small real models."""
import pytest
import torch
from helpers import stories as room
from helpers.stories import Query, Story

from builders import TEXTS, complaint, make_model, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


# -- tokens ----------------------------------------------------------------------------------------

def test_tokenise_counts_what_it_skips_and_cuts(tokenizer, caplog, capfd):
    texts = [TEXTS[0], "", " \n ", "a", TEXTS[1], "fox " * 4000]
    given = [Story(str(number), text) for number, text in enumerate(texts)] + [Story("none", None)]
    corpus = room.tokenise(given, tokenizer, max_tokens=12)
    assert [story.id for story in corpus.stories] == ["0", "4", "5"] and len(corpus) == 3
    assert (corpus.truncated, corpus.skipped) == (3, 4)
    assert corpus.ids == [tokenizer(corpus.stories[i].text)["input_ids"][:12] for i in range(3)]
    whole = room.tokenise(given[:1], tokenizer, max_tokens=100)
    assert whole.ids == [tokenizer(TEXTS[0])["input_ids"]] and whole.truncated == whole.skipped == 0
    exact = room.tokenise(given[:1], tokenizer, max_tokens=len(whole.ids[0]))
    assert exact.ids == whole.ids and exact.truncated == 0
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_tokenise_keeps_the_template(tokenizer):
    closed = make_tokenizer(bos_eos=True)
    plain = tokenizer(TEXTS[2])["input_ids"]
    assert room.tokenise([Story("1", TEXTS[2])], closed, 50).ids == [[0, *plain, 0]]


def test_tokenise_refuses_nothing(tokenizer):
    assert "none of the 2 stories" in complaint(room.tokenise, [Story("1", ""), Story("2", "a")],
                                                tokenizer, 9)
    assert "none of the 0 stories" in complaint(room.tokenise, [], tokenizer, 9)
    assert "max_tokens is 1" in complaint(room.tokenise, [Story("1", TEXTS[0])], tokenizer, 1)


# -- loss on the answers only ----------------------------------------------------------------------

ASKED = "Where is Tom?\nTom is in the windmill.\nAnd Lily?\nBy the sea."


def answered(*answers, chat=False):
    spans = tuple((ASKED.index(text), ASKED.index(text) + len(text)) for text in answers)
    return Story("1", ASKED, spans, chat)


@pytest.mark.parametrize("closed", [False, True])
def test_the_loss_mask_holds_the_tokens_of_the_answers(closed):
    tokenizer = make_tokenizer(bos_eos=closed)
    corpus = room.tokenise([Story("0", TEXTS[0]), answered("Tom is in the windmill.\n")],
                           tokenizer, 99)
    whole, partly = corpus.loss_masks
    assert whole == [True] * len(corpus.ids[0])
    kept = [token for token, wanted in zip(corpus.ids[1], partly) if wanted]
    assert tokenizer.decode(kept) == "Tom is in the windmill.\n"  # and no EOS: text follows
    assert corpus.ids[1] == tokenizer(ASKED)["input_ids"]
    (last,) = room.tokenise([answered("By the sea.")], tokenizer, 99).loss_masks
    ids = room.tokenise([answered("By the sea.")], tokenizer, 99).ids[0]
    told = tokenizer.decode([token for token, wanted in zip(ids, last) if wanted])
    assert told == "By the sea." + "<|endoftext|>" * closed
    chat = room.tokenise([answered("By the sea.", chat=True)], tokenizer, 99)
    assert chat.ids[0] == make_tokenizer()(ASKED)["input_ids"]  # nothing is put around it


def test_a_story_whose_answer_is_cut_off_is_skipped(tokenizer):
    given = [answered("By the sea."), answered("W")]  # the first token is never predicted
    corpus = room.tokenise([*given, answered("Tom is")], tokenizer, 12)
    assert [story.answers for story in corpus.stories] == [answered("Tom is").answers]
    assert corpus.skipped == 2 and len(corpus.loss_masks[0]) == len(corpus.ids[0]) == 12
    assert "none of the 2 stories" in complaint(room.tokenise, given, tokenizer, 12)
    assert room.tokenise([Story("1", ASKED)], tokenizer, 12).loss_masks is None


def test_the_loss_of_answers_is_that_of_the_answers_after_what_stands_before(tokenizer):
    """Against log-probabilities of whole texts: log p(abcd) = … + log p(b|a) + log p(d|abc)."""
    model, texts = make_model(), ("Tom is in the windmill.", "By the sea.")
    corpus = room.tokenise([answered(*texts), Story("2", TEXTS[1])], tokenizer, 64)
    (batch,) = room.batches(corpus.ids, loss_masks=corpus.loss_masks)
    losses = dict(zip(batch.index, room.sequence_loss(model, batch)))

    def log_prob(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return -model(ids, labels=ids).loss * (ids.shape[1] - 1)
    expected = 0
    for text in texts:
        before = ASKED[:ASKED.index(text)]
        expected += log_prob(before + text) - log_prob(before)
    torch.testing.assert_close(losses[0], -expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses[1], -log_prob(TEXTS[1]), rtol=1e-4, atol=1e-4)


def test_batch_tensors():
    one, = room.batches([[5, 6, 7, 8], [9, 4]])
    assert one.index == [1, 0]
    assert one.input_ids.tolist() == [[9, 4, 0, 0], [5, 6, 7, 8]]
    assert one.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert one.labels.tolist() == [[4, -100, -100, -100], [6, 7, 8, -100]]
    assert (one.input_ids.dtype, one.mask.dtype, one.labels.dtype) == (torch.long, torch.bool,
                                                                       torch.long)


def test_batches_cover_everything_within_their_bounds():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 40, (101,), generator=generator).tolist() + [90]
    ids = [[row] * length for row, length in enumerate(lengths)]
    found = list(room.batches(ids, batch_size=8, max_positions=80))
    order = [row for batch in found for row in batch.index]
    assert order == sorted(range(102), key=lambda row: lengths[row])  # Python's sort is stable
    for batch in found:
        rows, longest = batch.input_ids.shape
        assert rows <= 8 and (rows * longest <= 80 or rows == 1)
        assert batch.mask.sum(1).tolist() == [lengths[row] for row in batch.index]
        assert (batch.labels != -100).sum(1).tolist() == [lengths[row] - 1 for row in batch.index]
        assert longest == max(lengths[row] for row in batch.index)
    assert found[-1].index == [101]  # alone, though longer than the bound
    assert [len(batch.index) for batch in room.batches(ids, batch_size=50)] == [50, 50, 2]
    assert list(room.batches([])) == []


def test_sequence_loss_is_the_summed_loss_of_each_story_alone(tokenizer):
    model = make_model()
    corpus = room.tokenise([Story(str(n), text) for n, text in enumerate(TEXTS)], tokenizer, 64)
    batch, = room.batches(corpus.ids)
    losses = room.sequence_loss(model, batch)
    assert losses.shape == (3,) and losses.requires_grad
    for row, loss in zip(batch.index, losses):
        ids = corpus.ids[row]
        alone = 0.0
        # every prefix by itself: no batch, no padding, no shifted labels
        for t in range(len(ids) - 1):
            logits = model(torch.tensor([ids[:t + 1]])).logits[0, -1]
            alone -= logits.log_softmax(-1)[ids[t + 1]].item()
        assert loss.item() == pytest.approx(alone, rel=1e-4)


def test_token_texts_read_as_the_text(tokenizer):
    for text in (TEXTS[0], TEXTS[2], " leading and trailing ", "line\n\nline"):
        ids = tokenizer(text)["input_ids"]
        pieces = room.token_texts(tokenizer, ids)
        assert len(pieces) == len(ids) and "".join(pieces) == text
    ids = tokenizer("tea 🦊 cup")["input_ids"]
    # the fox was not in the training text: four single bytes
    pieces = room.token_texts(tokenizer, ids)
    assert len(pieces) == len(ids) and pieces.count("�") >= 2
    assert "".join(pieces).startswith("tea ") and "".join(pieces).endswith(" cup")
    assert room.token_texts(tokenizer, [0, *tokenizer("a fox")["input_ids"]])[0] == "<|endoftext|>"
    assert room.token_texts(tokenizer, []) == []


# -- queries ---------------------------------------------------------------------------------------

def test_encode_query_finds_the_completion(tokenizer):
    prompt, completion = "Once upon a time there was a", " little fox"
    ids, start = room.encode_query(tokenizer, Query(prompt, completion), 64)
    assert ids == tokenizer(prompt + completion)["input_ids"]
    assert ids[:start] == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(ids[start:]) == completion


def test_encode_query_where_prompt_and_completion_merge(tokenizer):
    together = tokenizer("Once upon a time")["input_ids"]
    for prompt, completion in (("Once upon a ", "time"), ("Once upon a ti", "me")):
        ids, start = room.encode_query(tokenizer, Query(prompt, completion), 64)
        assert ids == together
        assert tokenizer.decode(ids[:start]) == "Once upon a"
        assert tokenizer.decode(ids[start:]) == " time"


def test_encode_query_leaves_out_the_closing_token(tokenizer):
    closed = make_tokenizer(bos_eos=True)
    assert closed("a fox")["input_ids"][-1] == closed.eos_token_id
    ids, start = room.encode_query(closed, Query("a", " fox"), 64)
    assert ids == [0, *tokenizer("a fox")["input_ids"]]
    assert ids[start:] == tokenizer(" fox")["input_ids"]
    ids, start = room.encode_query(closed, Query("a fox", "<|endoftext|>"), 64)
    assert ids[start:] == [closed.eos_token_id]  # written by the user, so it stays
    ids, start = room.encode_query(tokenizer, Query("a fox", "<|endoftext|>"), 64)
    assert ids[start:] == [tokenizer.eos_token_id]


def test_bad_queries(tokenizer):
    def ask(*query, context=64):
        return complaint(room.encode_query, tokenizer, Query(*query), context)
    assert "prompt is empty" in ask("", " fox") and "prompt is empty" in ask(" \n", " fox")
    for completion in (None, "", "  "):
        assert "completion is empty" in ask("a fox", completion)
    word = min(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii()
               and len(word) > 1)
    assert len(tokenizer(word)["input_ids"]) == 1
    assert "nothing stands before" in ask(word[0], word[1:])
    long, start = room.encode_query(tokenizer, Query(TEXTS[0], " fox"), 64)
    message = ask(TEXTS[0], " fox", context=len(long) - 1)
    assert f"{start} tokens" in message and f"completion {len(long) - start}" in message
    assert room.encode_query(tokenizer, Query(TEXTS[0], " fox"), len(long)) == (long, start)
    from tokenizers import normalizers
    deaf = make_tokenizer()
    deaf.backend_tokenizer.normalizer = normalizers.Replace("#", "")
    assert "gives no token" in complaint(room.encode_query, deaf, Query("a fox", "##"), 64)

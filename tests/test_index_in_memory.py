"""The index of the book against the terminal's: the textbook product, the vectors in memory."""
import pytest
import torch
from builders import QUERIES, random_ids, tiny_model

from helpers import search
from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, KFAC
from helpers.influence import query_gradients, sequence_scores
from helpers.stories import Corpus, Story, batches
from helpers.terminal import index as terminal_index
from helpers.terminal.index import ROWS, fast_products


@pytest.mark.parametrize("width", [1, 2, 7, 64, 501])
@pytest.mark.parametrize("count", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
@pytest.mark.parametrize("queries", [1, 4])
def test_the_fast_product_is_that_of_the_textbook(width, count, queries):
    generator = torch.Generator().manual_seed(width + count)
    sizes = torch.logspace(-6, 6, count)[:, None]
    codes, scales = search.quantise(torch.randn(count, width, generator=generator) * sizes)
    asked = torch.randn(queries, width, generator=generator)
    expected, fast = search.products(codes, scales, asked), fast_products(codes, scales, asked)
    assert fast.shape == expected.shape == (queries, count) and fast.dtype == expected.dtype
    # what rounding may do is a share of the sum of sizes, not of the sum, which may cancel
    room = 7 * asked.abs().sum(1, keepdim=True) * scales
    assert ((fast - expected).abs() <= 2e-5 * room).all()


def test_the_fast_product_of_no_story_is_empty():
    codes, scales = torch.zeros(0, 4, dtype=torch.uint8), torch.zeros(0)
    for product in (search.products, fast_products):
        assert product(codes, scales, torch.ones(3, 8)).shape == (3, 0)


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("coordinates", [search.MOST_COORDINATES, 101])
def test_vectors_in_memory_give_the_scores_of_the_folder(family, method, coordinates, tmp_path):
    model, ids = tiny_model(family, torch.float32), random_ids(25, (4, 20))
    layers = find_layers(model)
    curvature = method.fit(model, layers, lambda: batches(ids, 8))
    corpus = Corpus([Story(f"s{row}", "") for row in range(len(ids))], ids)
    gradients, _ = query_gradients(model, layers, QUERIES)
    ihvps = curvature.solve(gradients)

    memory, order = search.Index(curvature, coordinates), []
    for batch in batches(ids, 8):
        captured, _ = backward_pass(model, layers, batch)
        memory.add({name: captured[name].gradients() for name in layers})
        order += batch.index
    folder = terminal_index.Index.create(tmp_path / "index", model, curvature, coordinates)
    assert torch.equal(memory.coordinates, folder.coordinates)
    # one part from the same batches: the same gradients to the bit, so the same codes
    folder.add(model, layers, corpus, lambda rows: batches(ids, 8), list(range(len(ids))))
    ((_, codes, scales),) = folder.parts()
    assert torch.equal(codes, torch.cat([part[0] for part in memory._parts]))
    assert torch.equal(scales, torch.cat([part[1] for part in memory._parts]))

    scores = torch.zeros(len(QUERIES), len(ids))
    scores[:, order] = memory.scores(ihvps, len(ids))
    exact = sequence_scores(model, layers, batches(ids, 8), ihvps, len(ids))
    torch.testing.assert_close(folder.scores(ihvps, corpus), scores, rtol=1e-4,
                               atol=1e-5 * scores.abs().max().item())
    if coordinates > 101:
        for row, expected in zip(scores, exact):
            assert torch.corrcoef(torch.stack([row, expected]))[0, 1] > 0.98
    lengths = torch.zeros(len(ids))
    lengths[order] = torch.cat([memory.lengths(part[1]) for part in memory._parts])
    assert torch.equal(folder.norms(corpus), lengths)

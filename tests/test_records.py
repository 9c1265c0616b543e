"""What the scripts of data/ recorded belongs to the stories and the model that are here."""
import sys

import pytest
import torch
from conftest import ROOT
from safetensors import safe_open

sys.path.insert(0, str(ROOT / "data"))
from record_planted import checksums, one_block, places, ranks, staged  # noqa: E402

from helpers.measure import found_share, load_planted  # noqa: E402
from helpers.stories import load_model, load_stories, tokenise  # noqa: E402

RECORDS = ("planted_scores", "counterfactual_tokens", "kronfluence_scores")


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_names_its_script_and_the_files_it_was_made_from(name):
    path = ROOT / "data" / f"{name}.safetensors"
    with safe_open(path, "pt") as stored:
        notes, keys = stored.metadata(), list(stored.keys())
        assert all(torch.isfinite(stored.get_tensor(key)).all() for key in keys)
    assert {file: notes[file] for file in checksums()} == checksums()
    assert (ROOT / "data" / notes["script"]).is_file() and path.stat().st_size < 1.5e6


def test_recorded_ranks_are_those_of_found_share():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(12, (2, 40), generator=draw).float()  # with ties
    teachers = [3, 17, 22, 39, 5]
    for at in range(2):
        assert torch.equal(ranks(scores, at)[teachers] < len(teachers), found_share(scores[at], teachers))


def test_planted_scores_hold_every_planted_place_once():
    model, tokenizer = load_model(device="cpu")
    planted = load_planted(tokenise(load_stories(), tokenizer, 512))
    with safe_open(ROOT / "data" / "planted_scores.safetensors", "pt") as stored:
        lengths = {len(stored.get_tensor(key)) for key in stored.keys()}
    assert lengths == {len(places(planted))} == {sum(len(item[kind]) for item in planted for kind in
                                                     ("teachers", "opponents", "bystanders"))}


def test_a_stage_that_is_kept_is_not_made_again(tmp_path):
    path = tmp_path / "stage.safetensors"
    first = staged(path, lambda: {"x": torch.ones(2)})
    assert torch.equal(staged(path, lambda: 1 / 0)["x"], first["x"])


def test_one_block_leaves_the_layers_of_that_block():
    ihvps = {f"transformer.h.{at}.mlp.c_fc": torch.ones(1, 2) for at in (1, 11)}
    kept = one_block(ihvps, 1)
    assert [part.sum().item() for part in kept.values()] == [2, 0]

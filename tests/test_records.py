"""What the scripts of data/ recorded belongs to the stories and the model that are here."""
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from builders import ROOT

sys.path.insert(0, str(ROOT / "data"))
from record_planted import one_block, places, ranks, staged  # noqa: E402

from helpers.sources import load_planted, load_record, load_stories  # noqa: E402
from helpers.sources.records import save_record  # noqa: E402
from helpers.stories import InputError  # noqa: E402

RECORDS = sorted(path.stem for path in (ROOT / "data").glob("*.safetensors"))


def test_nothing_recorded_is_missing():
    assert RECORDS == ["counterfactual_tokens", "kronfluence_scores", "own_model",
                       "planted_scores", "retrainings", "retrainings_model"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_belongs_to_the_files_beside_it(name):
    path = ROOT / "data" / f"{name}.safetensors"
    tensors, notes = load_record(path)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert (ROOT / notes["script"]).is_file() and json.loads(notes["inputs"])
    assert path.stat().st_size < 2e6


def test_a_record_of_other_files_is_refused(tmp_path):
    (tmp_path / "stories.jsonl").write_text("one")
    save_record({"x": torch.ones(2)}, tmp_path / "r.safetensors", ["stories.jsonl"], script="s.py")
    assert load_record(tmp_path / "r.safetensors")[1]["script"] == "s.py"
    (tmp_path / "stories.jsonl").write_text("two")
    with pytest.raises(InputError, match="r.safetensors .*another stories.jsonl"):
        load_record(tmp_path / "r.safetensors")
    (tmp_path / "r.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="missing or damaged"):
        load_record(tmp_path / "r.safetensors")


def test_recorded_ranks_tell_who_is_among_the_best():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(12, (2, 40), generator=draw).float()  # with ties
    teachers = [3, 17, 22, 39, 5]
    for row, ranked in zip(scores, ranks(scores)):
        best = row.argsort(descending=True, stable=True)[:len(teachers)].tolist()
        assert (ranked[teachers] < len(teachers)).tolist() == [place in best for place in teachers]


def test_planted_scores_hold_every_planted_place_once():
    planted = load_planted(SimpleNamespace(stories=load_stories()))
    tensors, _ = load_record(ROOT / "data" / "planted_scores.safetensors")
    kinds = [sum(len(item[kind]) for item in planted)
             for kind in ("teachers", "opponents", "bystanders")]
    assert len(places(planted)) == sum(kinds)
    for name, tensor in tensors.items():
        assert len(tensor) == (kinds[0] if name.endswith("/best") else sum(kinds)), name


def test_a_stage_that_is_kept_is_not_made_again(tmp_path):
    path = tmp_path / "stage.safetensors"
    first = staged(path, lambda: {"x": torch.ones(2)})
    assert torch.equal(staged(path, lambda: 1 / 0)["x"], first["x"])


def test_one_block_leaves_the_layers_of_that_block():
    ihvps = {f"transformer.h.{at}.mlp.c_fc": torch.ones(1, 2) for at in (1, 11)}
    kept = one_block(ihvps, 1)
    assert [part.sum().item() for part in kept.values()] == [2, 0]


def test_the_readme_s_ratios_and_growth_are_those_of_the_benchmark():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "data" / "benchmark.json").read_text(encoding="utf-8"))
    for name, row in {"fit EK-FAC (two passes)": "fit", "exact scores, 20 questions": "scores",
                      "tokens of the top 1% of each": "tokens", "index build": "index build",
                      "kronfluence: fit": "kronfluence fit",
                      "kronfluence: scores": "kronfluence scores",
                      "kronfluence, fused attention: fit": "kronfluence fused fit",
                      "kronfluence, fused attention: scores": "kronfluence fused scores",
                      "bergson: fit": "bergson fit", "bergson: scores": "bergson scores",
                      "dattri: fit": "dattri fit", "dattri: scores": "dattri scores"}.items():
        runs = [record[part]["found"]["rows"].get(row) for part in ("default", "real", "1M")]
        told = ["" if run is None else f"{run['ratio']:.2f} " for run in runs]
        assert f"\n| {name} | {told[0]}| {told[1]}| {told[2]}|\n" in readme
    for count, row in record["growth"]["found"]["stories"].items():
        scores, index = row["scores"], row["index build"]
        told = (f"| {int(count):,} | {scores['seconds']:.0f} s | {scores['above']:.0f} MB "
                f"| {index['seconds']:.0f} s | {index['above']:.0f} MB "
                f"| {index['megabytes']:.0f} MB | {row['index query']['seconds']:.2f} s |\n")
        assert told in readme
    rows = record["default"]["found"]["rows"]
    for one, other in (("kronfluence fit", "fit"), ("kronfluence scores", "scores"),
                       ("one process", "two processes")):
        assert f"{rows[one]['seconds'] / rows[other]['seconds']:.2f}" in readme

"""Writes planted_scores.safetensors: how well each method ranks and places the planted stories.

    python data/record_planted.py [--out data/planted_scores.safetensors]

Five methods and eight single blocks. EK-FAC and K-FAC are fitted as in notebook 04 (2,000 stories,
seed 0), all 5,000 stories are scored for the 40 planted queries, and of each planted place (item,
kind, story) three numbers are kept for every method: the story's score, its rank among the 5,000
(0 is best), and the position of the largest token influence. About 10 minutes on 2 cores; every
stage is kept in data/.checkpoint/planted, so that a run that was cut off goes on from there.
"""
import argparse
import hashlib
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from helpers.capture import find_layers  # noqa: E402
from helpers.curvature import EKFAC, KFAC, Identity  # noqa: E402
from helpers.influence import query_gradients, scores_and_lengths, tokenwise  # noqa: E402
from helpers.search import tfidf_scores  # noqa: E402
from helpers.sources import load_model, load_planted, load_stories  # noqa: E402
from helpers.sources.files import save_tensors  # noqa: E402
from helpers.sources.records import KINDS, save_record, sha256  # noqa: E402
from helpers.stories import Query, encode_query, tokenise  # noqa: E402
from helpers.terminal import Setting, fit_sample  # noqa: E402
from helpers.terminal.fitting import fit_blocks  # noqa: E402
from helpers.terminal.kept import load_blocks, save_blocks  # noqa: E402

SEED, FITTED, BLOCKS = 0, 2000, 8
MADE_FROM = ["stories.jsonl", "planted_facts.json", "model/model.safetensors"]


def begin(name):
    """`(folder of the stages, Setting)` of a recorder on the default model and stories.

    Other inputs have another folder.
    """
    made_from = {file: sha256(HERE / file) for file in MADE_FROM}
    digest = hashlib.sha256(str(made_from).encode()).hexdigest()
    stages = HERE / ".checkpoint" / name / digest[:12]
    stages.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model("default", device="cpu")
    corpus = tokenise(load_stories("default"), tokenizer, 512)
    return stages, Setting(model, tokenizer, find_layers(model), corpus)


def places(planted) -> list[tuple[int, dict]]:
    """(number of the item, place) of every planted place, item by item.

    First the teachers, then opponents and bystanders.
    """
    return [(number, place) for number, item in enumerate(planted)
            for kind in KINDS for place in item[kind]]


def fitted(method, setting, stages):
    """The blocks of `method`, fitted as notebook 04 fits them."""
    path = stages / f"{method}.safetensors"
    blocks = load_blocks(path)
    if blocks is None:
        rows = fit_sample(len(setting.corpus), FITTED, SEED)
        blocks = fit_blocks(setting, rows, method, SEED)
        save_blocks(blocks, path)
    return blocks


def staged(path, make):
    """The tensors kept at `path`, made now if there are none."""
    if not path.is_file():
        save_tensors(make(), path)
    return load_file(path)


def one_block(ihvps, block):
    """The iHVP with every layer but those of one transformer block set to zero."""
    return {name: ihvp * (f".h.{block}." in name) for name, ihvp in ihvps.items()}


def all_scores(setting, ihvps, queries):
    """{method: (40, 5000)} in one pass over the stories."""
    solved = dict(ihvps)
    for block in range(BLOCKS):
        solved[f"block {block}"] = one_block(ihvps["EK-FAC"], block)
    together = {name: torch.cat([one[name] for one in solved.values()]) for name in setting.layers}
    scores, (lengths,) = scores_and_lengths(setting.model, setting.layers,
                                            setting.stream(label="scoring"), together,
                                            [Identity(setting.layers)], len(setting.corpus))
    by_method = dict(zip(solved, scores.split(len(queries))))
    by_method["cosine"] = by_method["dot product"] / lengths
    texts = [story.text for story in setting.corpus.stories]
    asked = [query.prompt + query.completion for query in queries]
    by_method["TF-IDF"] = torch.tensor(tfidf_scores(asked, texts)).float()
    return {name: values.contiguous() for name, values in by_method.items()}


def all_peaks(setting, ihvps, pairs):
    """{method: (place,)} position of the largest token influence, at the token that is read."""
    peaks, rows = {}, sorted({row for _, row in pairs})
    for name, one in ihvps.items():
        stream = setting.stream(rows, f"tokens, {name}")
        values = tokenwise(setting.model, setting.layers, stream, one, len(setting.corpus), pairs)
        peaks[name] = [values[pair].sum(0).argmax() for pair in pairs]
        if name == "EK-FAC":
            for block in range(BLOCKS):
                layers = slice(2 * block, 2 * block + 2)  # two layers a block
                peaks[f"block {block}"] = [values[pair][layers].sum(0).argmax() for pair in pairs]
    peaks["cosine"] = peaks["dot product"]  # a positive factor a story moves no peak
    return {name: torch.stack(positions).short() for name, positions in peaks.items()}


def ranks(scores, query):
    """Rank of every story among all for a query; ties in corpus order, as in `found_share`."""
    return scores[query].argsort(descending=True, stable=True).argsort()


def recorded(scores, peaks, pairs):
    """What is kept of scores and peaks, of every planted place `(query, row)`."""
    tensors = {}
    for name, values in scores.items():
        order = torch.stack([ranks(values, query) for query in range(len(values))])
        tensors[f"{name}/score"] = torch.stack([values[pair] for pair in pairs])
        tensors[f"{name}/rank"] = torch.stack([order[pair] for pair in pairs]).short()
        if name in peaks:
            tensors[f"{name}/peak"] = peaks[name]
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "planted_scores.safetensors")
    args = parser.parse_args()
    stages, setting = begin("planted")
    planted = load_planted(setting.corpus)
    queries = [Query(item["prompt"], item["completion"]) for item in planted]
    curvatures = {"EK-FAC": EKFAC(fitted("ekfac", setting, stages)),
                  "K-FAC": KFAC(fitted("kfac", setting, stages)),
                  "dot product": Identity(setting.layers)}
    encoded = [encode_query(setting.tokenizer, query, 512) for query in queries]
    gradients, _ = query_gradients(setting.model, setting.layers, encoded)
    ihvps = {name: curvature.solve(gradients) for name, curvature in curvatures.items()}
    pairs = [(number, place["row"]) for number, place in places(planted)]
    scores = staged(stages / "scores.safetensors", lambda: all_scores(setting, ihvps, queries))
    peaks = staged(stages / "peaks.safetensors", lambda: all_peaks(setting, ihvps, pairs))
    save_record(recorded(scores, peaks, pairs), args.out, MADE_FROM,
                script="data/record_planted.py", seed=str(SEED), fitted=str(FITTED),
                torch=torch.__version__)
    with safe_open(args.out, "pt") as stored:
        print(len(list(stored.keys())), "tensors,", args.out.stat().st_size, "bytes,",
              stored.metadata()["seed"])


if __name__ == "__main__":
    main()

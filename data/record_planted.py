"""Writes planted_scores.safetensors: how each score ranks and places the planted stories.

    python data/record_planted.py [--out data/planted_scores.safetensors]

Two targets (influence, content); four ways to ask and to invert (EK-FAC of the prompt alone;
EK-FAC, K-FAC and the dot product of the prompt behind 8 beginnings of stories), eight single
blocks, three ways to match words. The factors are fitted as in notebook 04, all stories are scored
for the 40 planted queries, and of each planted place (item, role, story) three numbers are kept:
the story's score, its rank among all (0 is best), and the position of its largest token influence.
Also kept are each item's best stories, as many as it has teachers. Every stage is kept in
data/.checkpoint/planted, so that a run that was cut off goes on from there.
"""
import argparse
import hashlib
import re
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from baselines import bm25_scores  # noqa: E402

from helpers.capture import find_layers  # noqa: E402
from helpers.curvature import EKFAC, KFAC, Identity  # noqa: E402
from helpers.influence import sequence_scores, tokenwise  # noqa: E402
from helpers.search import tfidf_scores  # noqa: E402
from helpers.sources import load_model, load_planted, load_stories  # noqa: E402
from helpers.sources.files import save_tensors  # noqa: E402
from helpers.sources.records import KINDS, save_record, sha256  # noqa: E402
from helpers.sources.texts import beginnings  # noqa: E402
from helpers.stories import Query, tokenise  # noqa: E402
from helpers.terminal import Setting, ask, fit_sample  # noqa: E402
from helpers.terminal.fitting import fit_blocks  # noqa: E402
from helpers.terminal.kept import load_blocks, save_blocks  # noqa: E402

SEED, FITTED, BLOCKS, CONTEXTS, LONGEST = 0, 2000, 8, 8, 512
TARGETS = ("influence", "content")
MADE_FROM = ["stories.jsonl", "planted_facts.json", "model/model.safetensors"]


def begin(name, target="influence"):
    """`(folder of the stages, Setting)` of a recorder on the default model and stories.

    Other inputs have another folder.
    """
    made_from = {file: sha256(HERE / file) for file in MADE_FROM}
    digest = hashlib.sha256(str(made_from).encode()).hexdigest()
    stages = HERE / ".checkpoint" / name / digest[:12]
    stages.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model("default", device="cpu")
    corpus = tokenise(load_stories("default"), tokenizer, LONGEST)
    return stages, Setting(model, tokenizer, find_layers(model), corpus, target=target)


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


def asked(setting, queries, stages):
    """{method: iHVPs}: what is multiplied with the stories' gradients."""
    contexts = beginnings(setting.tokenizer, setting.corpus.stories, queries, CONTEXTS, LONGEST,
                          SEED)
    ekfac = EKFAC(fitted("ekfac", setting, stages))
    curvatures = {"EK-FAC": ekfac, "K-FAC": KFAC(fitted("kfac", setting, stages)),
                  "dot product": Identity(setting.layers)}
    solved = {"EK-FAC, prompt alone": ask(setting, queries, ekfac).ihvps}
    for name, curvature in curvatures.items():
        solved[name] = ask(setting, queries, curvature, contexts).ihvps
    return solved


def one_block(ihvps, block):
    """The iHVP with every layer but those of one transformer block set to zero."""
    return {name: ihvp * (f".h.{block}." in name) for name, ihvp in ihvps.items()}


def all_scores(setting, solved, queries):
    """{method: (40, N)} in one pass over the stories."""
    if setting.target == "content":
        solved = solved | {f"block {block}": one_block(solved["EK-FAC"], block)
                           for block in range(BLOCKS)}
    together = {name: torch.cat([ihvps[name] for ihvps in solved.values()])
                for name in setting.layers}
    scores = sequence_scores(setting.model, setting.layers, setting.stream(label="scoring"),
                             together, len(setting.corpus))
    by_method = dict(zip(solved, scores.split(len(queries))))
    return {name: values.contiguous() for name, values in by_method.items()}


def all_peaks(setting, solved, pairs):
    """{method: (place,)} position of the largest token influence, at the token that is read."""
    count = len(next(iter(solved["EK-FAC"].values())))  # of the items
    together = {name: torch.cat([ihvps[name] for ihvps in solved.values()])
                for name in setting.layers}
    asked = [(number * count + item, row) for number in range(len(solved)) for item, row in pairs]
    stream = setting.stream(sorted({row for _, row in pairs}), "tokens")
    values = tokenwise(setting.model, setting.layers, stream, together, len(setting.corpus), asked)
    peaks = torch.stack([values[pair].sum(0).argmax() for pair in asked]).short()
    return dict(zip(solved, peaks.split(len(pairs))))


def word_scores(corpus, queries):
    """{method: (40, N)} of word matching, and of how often a story holds the answer's word."""
    texts = [story.text for story in corpus.stories]
    whole = [query.prompt + query.completion for query in queries]
    counts = [[len(re.findall(rf"\b{query.completion.strip()}\b", text)) for text in texts]
              for query in queries]
    return {"TF-IDF": torch.tensor(tfidf_scores(whole, texts)).float(),
            "BM25": torch.tensor(bm25_scores(whole, texts)).float(),
            "answer count": torch.tensor(counts).float()}


def ranks(scores):
    """The rank of every story, `(Q, N)`; 0 is best, of equals the first."""
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def recorded(scores, peaks, planted):
    """What is kept of scores `{method: (40, N)}` and peaks of every planted place."""
    pairs = [(number, place["row"]) for number, place in places(planted)]
    teachers = [len(item["teachers"]) for item in planted]
    tensors = {}
    for name, values in scores.items():
        ranked = ranks(values)
        tensors[f"{name}/score"] = torch.stack([values[pair] for pair in pairs])
        tensors[f"{name}/rank"] = torch.stack([ranked[pair] for pair in pairs]).short()
        if name in peaks:
            tensors[f"{name}/peak"] = peaks[name]
            best = [row.argsort()[:count] for row, count in zip(ranked, teachers)]
            tensors[f"{name}/best"] = torch.cat(best).short()
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "planted_scores.safetensors")
    args = parser.parse_args()
    tensors = {}
    for target in TARGETS:
        stages, setting = begin("planted", target)
        planted = load_planted(setting.corpus)
        queries = [Query(item["prompt"], item["completion"]) for item in planted]
        solved = asked(setting, queries, stages)
        pairs = [(number, place["row"]) for number, place in places(planted)]
        scores = staged(stages / f"{target}-scores.safetensors",
                        partial(all_scores, setting, solved, queries))
        peaks = staged(stages / f"{target}-peaks.safetensors",
                       partial(all_peaks, setting, solved, pairs))
        kept = recorded(scores, peaks, planted)
        tensors |= {f"{target}/{name}": values for name, values in kept.items()}
    words = recorded(word_scores(setting.corpus, queries), {}, planted)
    save_record(tensors | words, args.out, MADE_FROM, script="data/record_planted.py",
                seed=str(SEED), fitted=str(FITTED), contexts=str(CONTEXTS),
                torch=torch.__version__)
    print(len(tensors | words), "tensors,", args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

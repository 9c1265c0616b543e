"""EK-FAC of bergson and of dattri on the benchmark's work, in a Python that has one of them.

    PEER_PYTHON data/benchmark_peers.py bergson FOLDER

Run by `record_benchmark.py`, which writes FOLDER: `model`, as transformers saves it, and
`work.json` with the stories' ids, the queries, the layers and the batch size ("data labels" makes
bergson's Fisher the empirical one, to compare digit by digit). Prints the seconds of
fit and scores, taken inside this process when all is imported and loaded; `scores.safetensors`
holds the scores (query, story).
"""
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

IGNORE = -100


def in_order(ids):
    """Rows, shortest first, as the benchmark's batches have them."""
    return sorted(range(len(ids)), key=lambda row: len(ids[row]))


def labelled(ids, start=1):
    """The ids as labels (the model's own position, not shifted), with those before `start` out."""
    return [IGNORE] * start + ids[start:]


# -- bergson ---------------------------------------------------------------------------------------

def bergson(work, model, folder):
    """Its functions behind `bergson ekfac`, with the model loaded before and our batches.

    Whole rows come into A, S and the scores as with us, and labels are drawn from the model (by a
    generator of its own). Everything goes through its files.
    """
    from bergson import build
    from bergson.collector import collector as running
    from bergson.config import config as settings
    from bergson.hessians import apply_hessian, hessian_approximations
    from bergson.score import score
    from bergson.cli.commands import Score
    from bergson.config.config_io import save_run_config
    from bergson.data import load_scores
    from datasets import Dataset
    running.tqdm = lambda iterable, **_: iterable
    ids, queries, size = work["ids"], work["queries"], work["batch"]
    layers = {name.removeprefix(f"{model.base_model_prefix}.") for name in work["layers"]}

    def data(rows):
        rows = list(rows)
        return Dataset.from_dict({"input_ids": [list(row) for row, _ in rows],
                                  "labels": [labelled(row, start) for row, start in rows],
                                  "length": [len(row) for row, _ in rows]})

    def batches(lengths, *_, **__):
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        return [order[at:at + size] for at in range(0, len(order), size)]

    def config(name):
        return settings.IndexConfig(run_path=f"{folder}/{name}", include_bias=True,
                                    model=f"{folder}/model")
    for room in (build, score):
        room.setup_model_and_peft = lambda *_, **__: (model, layers)
        room.allocate_batches = batches
    train, asked = data((row, 1) for row in ids), data(queries)
    hessian = settings.HessianConfig(method="kfac", ev_correction=True,
                                     use_dataset_labels=work.get("data labels", False))

    def fit():
        whole = config("hessian")
        whole.partial_run_path.mkdir(parents=True)
        hessian_approximations.fit_factored_hessians(
            model, train, whole, hessian, target_modules=layers, attention_cfgs={},
            batches=batches(train["length"]), path=str(whole.partial_run_path),
            do_eigendecomposition=True)

    def scores():
        query, scored, plain = config("query"), config("scores"), settings.PreprocessConfig()
        query.partial_run_path.mkdir(parents=True)
        build.build_worker(0, 0, 1, query, plain, asked)
        apply_hessian.apply_worker(0, 0, 1, apply_hessian.EkfacConfig(
            str(config("hessian").partial_run_path), str(query.partial_run_path),
            f"{folder}/ihvp", ev_correction=True), settings.InversionConfig())
        chosen = settings.ScoreConfig(query_path=f"{folder}/ihvp")
        scored.partial_run_path.mkdir(parents=True)
        save_run_config(Score(chosen, scored, plain), scored.partial_run_path)
        score.score_worker(0, 0, 1, scored, chosen, plain, train)
        found = load_scores(scored.partial_run_path)[:]
        return torch.tensor(found.tolist()).view(len(ids), len(queries)).T
    return fit, scores


# -- dattri ----------------------------------------------------------------------------------------

class TokenAxis(torch.Tensor):
    """A tensor (B, T, …) that dattri 0.3.0 takes for one whose token axis it has just put in: for
    one that has it, its `_update_covariance` leaves a name unset."""
    ndim = 2

    def unsqueeze(self, *_):
        return self.as_subclass(torch.Tensor)


def dattri(work, model, _):
    """Its attributor; the task is ours, with labels drawn from the model while it fits.

    Its mask cannot be given, so padding comes into A, and means are by sequence. Each training
    batch computes the queries' gradients and iHVPs again.
    """
    from types import SimpleNamespace

    import torch.nn.functional as F
    from dattri.algorithm.influence_function import IFAttributorEKFAC
    from dattri.func import fisher
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader
    fitting = [False]

    def loss(parameters, batch):
        input_ids, labels = batch
        logits = torch.func.functional_call(model, parameters, (), {
            "input_ids": input_ids, "use_cache": False}).logits[:, :-1]
        labels = labels[:, 1:]
        if fitting[0]:
            drawn = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1)
            labels = torch.where(labels == IGNORE, labels, drawn.view_as(labels))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE,
                               reduction="sum") / len(input_ids)

    def collate(rows):
        longest = max(len(ids) for ids, _ in rows)
        return (torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
                torch.tensor([labelled(ids, start) + [IGNORE] * (longest - len(ids))
                              for ids, start in rows]))

    def with_axis(update):
        def updated(estimate, cache, *others):
            return update(estimate, {name: (a.as_subclass(TokenAxis), SimpleNamespace(
                grad=s.grad.as_subclass(TokenAxis), size=s.size, shape=s.shape))
                for name, (a, s) in cache.items()}, *others)
        return updated
    for name in ("_update_covariance", "_update_lambda"):
        setattr(fisher, name, with_axis(getattr(fisher, name)))
    order = in_order(work["ids"])
    train = DataLoader([(work["ids"][row], 1) for row in order], work["batch"], collate_fn=collate)
    asked = DataLoader(work["queries"], len(work["queries"]), collate_fn=collate)
    attributor = IFAttributorEKFAC(AttributionTask(loss, model, model.state_dict()),
                                   work["layers"])

    def fit():
        fitting[0] = True
        attributor.cache(train)
        fitting[0] = False
        values = attributor.cached_lambdas.values()
        # one λ for all layers is all it takes
        attributor.damping = 0.1 * torch.stack([value.mean() for value in values]).mean().item()

    def scores():
        found = attributor.attribute(train, asked).detach().T
        return found[:, torch.tensor(order).argsort()]
    return fit, scores


def memory(key):
    """MB of this process: VmRSS now, VmHWM at the peak so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main():
    peer, folder = {"bergson": bergson, "dattri": dattri}[sys.argv[1]], Path(sys.argv[2])
    work = json.loads((folder / "work.json").read_text())
    torch.set_num_threads(work["threads"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    fit, scores = peer(work, model, folder)
    told, found = {}, None
    for name, part in (("fit", fit), ("scores", scores)):
        before, start = memory("VmRSS"), time.perf_counter()
        found = part()
        told[name] = {"seconds": time.perf_counter() - start, "process": memory("VmHWM"),
                      "above": memory("VmHWM") - before}
    save_file({"scores": found.float().contiguous()}, folder / "scores.safetensors")
    print(json.dumps(told))


if __name__ == "__main__":
    main()

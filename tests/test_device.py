"""What runs on a GPU, on an emulated one: no tensor is left on the CPU, the answers are its own."""
import json
import sys

import pytest
import torch
from builders import PROMPT, QUERIES, ROOT, baselines, random_ids, tiny_model

try:
    import accelerator
except (ImportError, AttributeError):
    pytest.skip("this PyTorch knows no devices in Python", allow_module_level=True)

import oracles  # noqa: E402

from helpers import curvature, exact, influence, retrain, search, stories  # noqa: E402
from helpers.capture import backward_pass, find_layers  # noqa: E402
from helpers.explorer import Explorer  # noqa: E402
from helpers.sources import files, models  # noqa: E402
from helpers.terminal.options import main  # noqa: E402

sys.path.insert(0, str(ROOT / "data"))
from record_counterfactuals import input_token_influence  # noqa: E402

DEVICE = torch.device(accelerator.NAME, 0)


@pytest.fixture
def present(monkeypatch):
    """The emulated device is what `auto` finds.

    It has no float64, as Apple's GPUs: what does without runs anywhere.
    """
    monkeypatch.setattr(models, "_device", lambda name: str(DEVICE) if name == "auto" else name)
    monkeypatch.setattr(accelerator.Emulated, "has_float64", False)
    # else tied weights would part on the way
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)


def close(here, there, scale=1.0):
    """Nested results say the same, numbers up to rounding.

    Influences are compared with the largest of their list.
    """
    if isinstance(there, dict):
        alike = (close(here[key], there[key], scale) for key in there)
        return list(here) == list(there) and all(alike)
    if isinstance(there, list):
        values = [abs(entry["influence"]) for entry in there if isinstance(entry, dict)
                  and "influence" in entry]
        scale = max([scale, *values])
        return len(here) == len(there) and all(close(*pair, scale) for pair in zip(here, there))
    if isinstance(there, float):
        return here == pytest.approx(there, rel=1e-2, abs=1e-3 * scale)
    return here == there


def test_the_emulator_fails_where_a_gpu_does():
    here, there = torch.ones(2, 3), torch.ones(2, 3, device=DEVICE, requires_grad=True)
    at = torch.tensor([0])
    for mixed in (lambda: here + there, lambda: here @ there.T, lambda: torch.cat([here, there]),
                  lambda: here.add_(there.detach()), lambda: here + there.sum(),
                  lambda: here[at.to(DEVICE)],
                  lambda: torch.stack([there.sum(), torch.tensor(1.0)]),
                  lambda: torch.nn.Linear(3, 1)(there),
                  lambda: torch.tensor(1.0).add_(there.detach().sum()),
                  lambda: torch.nn.functional.embedding(at, there)):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(TypeError, match="device type tensor to numpy"):
        there.detach().numpy()
    with pytest.raises(RuntimeError, match="for generator"):
        torch.multinomial(there.detach(), 1, generator=torch.Generator())
    for allowed in (there[at] * torch.tensor(2.0), torch.where(there > 0, there, torch.tensor(0.0)),
                    there.clone().copy_(here)):
        assert allowed.device == DEVICE
    seen = []
    there.register_hook(seen.append)
    there.square().sum().backward()
    assert seen[0].device == there.grad.device == DEVICE
    assert there.grad.tolist() == (2 * here).tolist() and there.sum().item() == 6


@pytest.mark.parametrize(
    "options", ["--index index", *(pytest.param(options, marks=pytest.mark.slow) for options in (
    "--all-scores all.safetensors", "--method kfac --prefilter 8 --scope all",
    "--precision bfloat16"))])
def test_the_terminal(present, options, tmp_path, capsys, monkeypatch):
    found, given = {}, "--limit 12 --fit-limit 8 --top 2 --cache kept --json out.json"
    asked = [PROMPT, "--model", str(files.DATA / "small"), *given.split(), *options.split()]
    # the last time from what is kept
    for device in ("auto", "cpu", *["auto"] * ("--index" in options)):
        (tmp_path / device).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / device)
        assert main([*asked, "--device", device]) == 0, capsys.readouterr().err
        found[device] = json.loads((tmp_path / device / "out.json").read_text(encoding="utf-8"))
        for entry in found[device]["queries"][0]["influences"]:  # completeness
            values = [token["influence"] for token in entry["tokens"]]
            assert abs(sum(values) - entry["influence"]) < 1e-3 * sum(map(abs, values))
    if "bfloat16" not in options:  # whose rounding depends on the kernels
        assert found["auto"].pop("damping") == pytest.approx(found["cpu"].pop("damping"), rel=1e-3)
        assert close(found["auto"], found["cpu"])


@pytest.mark.slow
def test_the_explorer(present, tmp_path):
    answers = []
    for device in ("auto", "cpu"):
        explorer = Explorer.open(files.DATA / "small", limit=12, fit_limit=8,
                                 cache=tmp_path / device, device=device,
                                 quiet=True)
        assert explorer.setting.device == (DEVICE if device == "auto" else torch.device("cpu"))
        question = explorer.ask(PROMPT)
        short = explorer.ask(PROMPT, length=4)
        layer = list(explorer.setting.layers)[1]
        views = [explorer.view(question, chosen, method, 3, layer) for method in explorer.methods
                 for chosen in (None, [0])]
        looked = [explorer.look_up(question, text)
                  for text in ("3", "The frog said nothing, and nobody minded.")]
        answers.append(
            json.loads(json.dumps(explorer.result(*views, *looked, explorer.view(short)))))
    assert close(*answers)


def everything(model, ids):
    """What the helpers find with a small model, `{name: tensor}`."""
    def stream():
        return (batch.to(model.device) for batch in stories.batches(ids, 4))

    layers, count, flat = find_layers(model), len(ids), exact.flatten
    matrix = curvature.EKFAC.fit(model, layers, stream)
    gradients, log_probs = influence.query_gradients(model, layers, QUERIES)
    newton = exact.GaussNewton(model, layers, stream, matrix.damping, matrix, steps=2)
    solved = newton.solve(gradients)
    measures = [matrix, curvature.Identity(layers)]
    pairs = [(query, row) for query in (0, 1) for row in range(count)]
    scores, norms = influence.scores_and_lengths(model, layers, stream(), solved, measures, count)
    values = influence.tokenwise(model, layers, stream(), solved, count, pairs)
    for pair, value in values.items():
        assert value.is_cpu and abs(value.sum() - scores[pair]) < 1e-3 * value.abs().sum()
    one, batch = {name: part[0] for name, part in solved.items()}, next(stream())
    theta = retrain.start(model).theta
    captured, index = backward_pass(model, layers, batch)[0], search.Index(matrix, 50)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(len(batch.index))).to(model.device)
    found = {"log p": log_probs, "solved": flat(solved), "scores": scores, "norms": norms,
             "all pairs": influence.token_scores(captured, solved, *every.T, count),
             "indexed": index.queries(solved) @ index.vectors(gradients).T,
             "diagonal": flat(curvature.Diagonal.fit(model, layers, stream).solve(gradients)),
             "series": exact.neumann(newton.damped_product, flat(gradients), 1e3, 2),
             "slopes": influence.loss_slopes(model, layers, batch, one),
             "terms": retrain.term_slopes(model, ids, theta, theta[None]),
             "meant": baselines().representations(model, stream(), count),
             "changed": input_token_influence(model, layers, ids[0], one, count),
             "ranked": search.low_rank_token_scores(captured, search.low_rank(solved, 4), count)}
    return {name: tensor.cpu() for name, tensor in found.items()}


@pytest.mark.parametrize("family", ["gpt_neo", *(pytest.param(family, marks=pytest.mark.slow)
                                                for family in ("gpt2", "llama"))])
def test_other_architectures_and_curvatures(family, present):
    ids, model = random_ids(5, (3, 9)), tiny_model(family, torch.float32)
    there, here = everything(model.to(DEVICE), ids), everything(model.to("cpu"), ids)
    size = {name: tensor.abs().max() for name, tensor in here.items()}
    there, here = ({name: found[name] / size[name] for name in size} for found in (there, here))
    torch.testing.assert_close(there, here, rtol=0, atol=1e-2)


def test_dense_matrices_on_a_device_with_float64():
    ids, model, answers = random_ids(4, (3, 9)), tiny_model("gpt2"), []
    for device in (DEVICE, "cpu"):
        def stream(device=device):
            return (batch.to(device) for batch in stories.batches(ids, 4))

        layers = find_layers(model.to(device), "h.0.attn.c_proj")
        gradients, _ = influence.query_gradients(model, layers, QUERIES[:1])
        dense = oracles.Dense.fisher(model, layers, stream, 0.1)
        matrices = (dense, oracles.BlockDiagonal(dense, layers, 0.1),
                    exact.GaussNewton(model, layers, stream, 0.1, steps=10))
        solved = [exact.flatten(matrix.solve(gradients)).cpu() for matrix in matrices]
        answers.append([*solved, oracles.matrix_of(matrices[-1]).cpu()])
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)

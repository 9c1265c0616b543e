"""Runs the main job on a tiny random model of every decoder family of transformers.

Prints a table.

    python tests/families.py [--families gpt2 llama …] [--scope all] [--table]

Each score is compared with that of a loop of its own: every story alone, without padding, and
autograd by the weights that the job says it tracks. A family that the job refuses in one line is as
good as one whose scores are right, if the scope that the line names gives right scores; a wrong
score and a traceback are faults (exit code 1). A result is kept in .cache/families/results.json
until the code changes: what was cut off goes on where it was. Five minutes on one core.
"""
import argparse
import gc
import hashlib
import inspect
import io
import json
import logging
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from builders import ADVICE, PROMPT, ROOT, jsonl, made_up, make_tokenizer
from machines import load, save
from safetensors.torch import load_file
from transformers import (CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
                          AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from helpers import curvature, influence
from helpers.sources.experts import spread
from helpers.stories import batches
from helpers.terminal import kept
from helpers.terminal.options import main as job

RESULTS = ROOT / ".cache" / "families"
FAMILIES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
SOUND = 1e-3  # largest error of a score, relative to the largest score
PATIENCE = 180  # seconds without a result after which a process is given up
AT_ONCE = 25  # families in one process: starting it takes longer than most of them
POSITIONS = 40
COMPLETION = " fox"
OUTCOMES = ("right", "refused", "wrong", "wrong advice", "traceback", "died", "not built",
            "no oracle")
BAD = OUTCOMES[2:6]  # the last two are faults of transformers or of this file

# What makes a model small, by the size that settings of these names get. Not index_topk and
# keep_window_size: where they leave keys out, which of several with the same score are read depends
# on the padding.
SIZES = {
    400: "vocab_size vocab_size_per_layer_input audio_vocab_size unpadded_vocab_size "
        "decoder_vocab_size ngram_vocab_size_base encoder_hash_byte_group_vocab "
        "pronunciation_vocab_size shape_vocab_size",
    64: "codebook_size num_position_embeddings position_embedding_size mamba_d_ssm",
    POSITIONS: "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions "
        "original_max_position_embeddings context_length rel_extent max_source_positions",
    48: "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim d_inner dff dim_ff "
        "feed_forward_size ffn_hidden_size mlp_dim expert_ffn_hidden_size moe_intermediate_size "
        "shared_expert_intermediate_size shared_experts_intermediate_size "
        "dense_intermediate_size prefix_dense_intermediate_size intermediate_size_mlp "
        "moe_shared_expert_intermediate_size shared_intermediate_size",
    32: "hidden_size d_model n_embd emb_dim hidden_size_global embedding_size "
        "input_embedding_size output_embedding_size backbone_hidden_size pronunciation_embed_dim "
        "shape_embed_dim input_size projector_input_dim projector_output_dim output_channels "
        "out_hidden_size output_proj_dims lru_width mm_embed_dim audio_embed_dim base_channels "
        "ext_pw_out_channel depthwise_separable_out_channel nemo_conv_channels adapter_in_dim "
        "adapter_out_dim downsample_hidden_size adapter_input_size",
    28: "image_size crop_size",
    16: "router_hidden_size hidden_size_per_layer_input sliding_window sliding_window_size "
        "attention_window_size local_attention window_size attention_chunk_size "
        "local_attention_window_len",
    8: "head_dim attention_head_size dim_head qk_nope_head_dim qk_rope_head_dim v_head_dim "
        "swa_head_dim index_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim "
        "mamba_head_dim kv_channels rotary_dim d_rel q_lora_rank kv_lora_rank o_lora_rank "
        "adapter_rank laurel_rank gated_norm_rank loop_gate_rank hc_lowrank mamba_d_state "
        "state_size ssm_state_size chunk_size mamba_chunk_size index_block_size block_size",
    4: "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
        "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads "
        "swa_num_attention_heads index_n_heads linear_num_heads linear_num_value_heads "
        "mamba_n_heads mamba_num_heads num_experts num_local_experts n_routed_experts "
        "moe_num_experts zero_expert_num",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers "
        "num_decoder_layers num_encoder_layers num_blocks depth num_key_value_heads kv_n_heads "
        "swa_num_key_value_heads linear_num_key_heads num_experts_per_tok moe_topk moe_top_k "
        "moe_k n_groups index_topk_blocks",
    1: "n_group topk_group first_k_dense_replace num_dense_layers moe_layer_start_index "
        "num_random_blocks",
    0: "bos_token_id eos_token_id decoder_start_token_id",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
# set where they are None, too
ALSO = {"num_key_value_heads", "head_dim", "n_routed_experts", "num_experts_per_tok"}
# lists of as many entries as layers
KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types")
# Where the sizes do not fit one another, or a kind of layer would be missing.
SPECIAL = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4,
                                                                   "mrope_section": [2, 1, 1]}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "dots1": {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "dots3_note_text": {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 2,
                        "swa_q_lora_rank": 8,
                        "swa_kv_lora_rank": 8, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8,
                        "swa_v_head_dim": 8},
    "emu3": {"vocabulary_map": {"<image>": 2}},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0,
                                         "vocab_size_per_layer_input": 0}},
    "gemma4_text": {"global_head_dim": 16},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "qwen4_exp_text": {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8,
                       "indexer_budget": 16,
                       "indexer_compress_ratio": 4},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (5, 8), "num_buckets": 4,
                 "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 8,
                 "lsh_attn_chunk_length": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


# -- models and stories ----------------------------------------------------------------------------

def small_config(kind, **changes):
    """A config of this class with all small that can be, and a layer or more of each kind."""
    changes, chosen = SPECIAL.get(kind.model_type, {}) | changes, {}
    default = kind(**{name: part for name, part in changes.items() if name in kind.sub_configs})
    settings = {name: parameter.default
                for name, parameter in inspect.signature(kind).parameters.items()}
    for name, usual in settings.items():
        value = vars(default).get(name)
        if name in SMALL and (isinstance(usual, int) or name in ALSO):
            chosen[name] = SMALL[name]
        elif isinstance(value, float) and ("drop" in name or "jitter" in name):
            chosen[name] = 0.0
        elif isinstance(value, transformers.PretrainedConfig):
            chosen[name] = small_config(type(value), **changes.pop(name, {}))
    wanted = {"pad_token_id": 1, "is_decoder": True, "use_cache": False}
    chosen |= {name: value for name, value in wanted.items() if name in settings}
    kinds = {name: list(dict.fromkeys(vars(default)[name])) for name in KINDS
             if vars(default).get(name)}
    if kinds:
        layers = max(2, *map(len, kinds.values()))
        chosen |= {name: (values * layers)[:layers]
                   for name, values in kinds.items()} | {"num_hidden_layers": layers}
    if "kv_lora_rank" in settings:
        chosen["num_key_value_heads"] = chosen["num_attention_heads"]
    return kind(**chosen | changes)


def build(family):
    """A float32 model of the family, its random numbers so large that no gradient is tiny."""
    torch.manual_seed(0)
    config = small_config(CONFIG_MAPPING[family])
    # the causal model may be only a part of that
    with_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    published = AutoModelForImageTextToText if with_images else AutoModelForCausalLM
    model = published.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def write_house(family, folder):
    """A folder with a model of the family, a tokenizer, and six stories.

    Two of them are longer than most models read.
    """
    build(family).save_pretrained(folder / "model")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)  # no story holds it
    tokenizer.save_pretrained(folder / "model")
    short = made_up(10)
    texts = [short[0][:24], *short[1:4], " ".join(short[4:7]), " ".join(short[7:])]
    jsonl(folder / "stories.jsonl", [{"text": text} for text in texts])


# -- the job, and what it should have said ---------------------------------------------------------

def run_job(folder, place, method, scope):
    """The main job on the folder, writing into `place`.

    Returns `(exit code, what it said on stderr, its JSON, its scores)`.
    """
    out, scores, said = place / f"{method}.json", place / f"{method}.safetensors", io.StringIO()
    arguments = [PROMPT, "--completion", COMPLETION, "--model", folder / "model", "--stories",
                 folder / "stories.jsonl",
                 "--method", method, "--scope", scope, "--top", 2, "--device", "cpu", "--cache",
                 place / "factors",
                 "--json", out, "--all-scores", scores]
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = job(list(map(str, arguments)))
    if code:
        return code, said.getvalue(), None, None
    return code, said.getvalue(), json.loads(out.read_text(encoding="utf-8")), load_file(scores)


class Expert(NamedTuple):
    """One of the matrices that transformers keeps in one tensor, with their biases."""
    weight: torch.Tensor
    bias: torch.Tensor | None
    number: int
    turned: bool

    def parameters(self):
        return [part[self.number] for part in (self.weight, self.bias) if part is not None]


def layer_of(model, name):
    """The layer, or the place in its stack, that the job tracked under this name."""
    stack, number, matrix = re.match(r"(?:(.*)\.(\d+)\.)?(.*)", name).groups()
    if stack and isinstance(getattr(model.get_submodule(stack), matrix, None), torch.Tensor):
        module = model.get_submodule(stack)
        return Expert(getattr(module, matrix), getattr(module, f"{matrix}_bias", None),
                      int(number), getattr(module, "is_transposed", False))
    return model.get_submodule(name)


class Oracle:
    """The gradients of query and stories by autograd, a sequence at a time, without the helpers."""

    def __init__(self, folder, names, longest):
        """`names` of the tracked layers; `longest` story in tokens, as the job cut them."""
        self.model = AutoModelForCausalLM.from_pretrained(folder / "model",
                                                          dtype=torch.float32).eval()
        layers = {name: layer_of(self.model, name) for name in names}
        owners = {(id(layer.weight), getattr(layer, "number", 0)): name
                  for name, layer in layers.items()}
        # one of those that share a weight
        self.layers = {name: layers[name] for name in owners.values()}
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        lines = (folder / "stories.jsonl").read_text(encoding="utf-8").splitlines()
        self.ids = [tokenizer(json.loads(line)["text"])["input_ids"][:longest] for line in lines]
        self.stories = [self.gradient(ids) for ids in self.ids]
        self.query = self.gradient(tokenizer(PROMPT + COMPLETION)["input_ids"],
                                   len(tokenizer(PROMPT)["input_ids"]))

    def gradient(self, ids, start=1):
        """`{layer: (out, in+1)}` of −log p(ids[start:] | ids[:start])."""
        logits = self.model(input_ids=torch.tensor([ids])).logits[0, start - 1:-1]
        loss = -logits.log_softmax(-1).gather(1, torch.tensor(ids[start:])[:, None]).sum()
        weights = {id(part): part for layer in self.layers.values()
                   for part in (layer.weight, layer.bias) if part is not None}
        found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        found, rows = dict(zip(weights, found)), {}
        for name, layer in self.layers.items():
            weight, *bias = (found[id(part)] for part in (layer.weight, layer.bias)
                             if part is not None)
            if isinstance(layer, Expert):
                weight, *bias = (part[layer.number] for part in (weight, *bias))
            turned = isinstance(layer, Conv1D) or getattr(layer, "turned", False)
            weight = weight.T if turned else weight
            rows[name] = torch.cat([weight, *(part[:, None] for part in bias)], 1)
        return rows

    def scores(self, direction):
        """Every story's influence along a direction `{layer: (out, in+1)}`."""
        products = [sum((direction[name] * row).sum() for name, row in story.items())
                    for story in self.stories]
        return torch.stack(products) / len(products)


def difference(found, expected):
    """The largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def solved(place, query):
    """(G + λI)⁻¹ of the query's gradient, with the factors that the job has kept."""
    (path,) = (place / "factors").glob("ekfac-*.safetensors")
    return curvature.EKFAC(kept.load_blocks(path)).solve(query)


# -- one family ------------------------------------------------------------------------------------

def examine(family, folder, scope="mlp") -> dict:
    """What becomes of the family: {"outcome", "note", "seconds", …}, outcome one of OUTCOMES.

    Where the job refuses and names another scope, that scope has to work.
    """
    start = time.monotonic()
    try:
        write_house(family, folder)
        result = attempt(folder, scope)
        advice = re.search(r"--scope ('.+?'|[\w.|]+)", result["note"])
        if result["outcome"] == "refused" and advice:
            scope = advice[1].strip("'")
            again = attempt(folder, scope)
            good = again["outcome"] == "right"
            then = again["outcome"] + (again["note"] and ", " + again["note"])
            result = again | {"outcome": "refused" if good else "wrong advice", "scope": scope,
                              "note": f"{result['note']} → {then}"}
    except Exception as problem:
        result = {"outcome": "not built", "note": told(problem)}
    return result | {"seconds": round(time.monotonic() - start, 1)}


def attempt(folder, scope) -> dict:
    """The job by dot product and by EK-FAC, and what the oracle says to that."""
    place, failing, runs = Path(tempfile.mkdtemp(dir=folder)), "traceback", {}
    try:
        for method in ("identity", "ekfac"):
            code, said, *found = run_job(folder, place, method, scope)
            if code:
                return {"outcome": "refused", "note": refusal(said)}
            runs[method] = found
        failing, result = "no oracle", compare(folder, place, runs)
    except Exception as problem:  # whatever it is, the other families go on
        return {"outcome": failing, "note": told(problem)}
    return result | {"note": "; ".join([*result["note"], *remarks(said)])}


def told(problem) -> str:
    """An exception in one line, with the place it comes from."""
    place = traceback.extract_tb(problem.__traceback__)[-1]
    text = f"{type(problem).__name__}: {problem}"
    return f"{' '.join(text.split())[:300]} ({Path(place.filename).name}:{place.lineno})"


def refusal(said) -> str:
    """The line of a job that ended with an error, and what is wrong with the line."""
    lines = [line.removeprefix("error: ") for line in said.split("\n")
             if line.startswith("error: ")]
    line = lines[0] if lines else ""
    advised = any(f"{mark} {word}" in line for mark in ":;" for word in ADVICE)
    line += "" if advised else " (NO ADVICE)"
    return line + ("" if len(lines) == 1 else f" ({len(lines)} LINES)")


def remarks(said) -> list[str]:
    """What the job noted apart from what the table has already."""
    lines = [line.removeprefix("note: ") for line in said.split("\n") if line.startswith("note: ")]
    known = re.compile(r"tracked: |kept in |\d+ of \d+ stories cut")
    return [line for line in lines if not known.match(line)]


def compare(folder, place, runs) -> dict:
    """The job's results beside those of the oracle."""
    found, scores = runs["identity"]
    names = list(found["damping"])
    oracle = Oracle(folder, names, scores["token"].shape[-1])
    expected = {"identity": oracle.scores(oracle.query),
                "ekfac": oracle.scores(solved(place, oracle.query))}
    errors = {method: difference(runs[method][1]["sequence"][0], expected[method])
              for method in runs}
    direction = {name: row[None] for name, row in oracle.query.items()}
    stream, count = batches(oracle.ids, 16, 1), len(oracle.ids)
    owned = sum(weight.numel() for layer in oracle.layers.values() for weight in layer.parameters())
    total = sum(weight.numel() for weight in oracle.model.parameters())
    spread(oracle.model, "all")  # only now, when the oracle has its gradients
    layers = {name: oracle.model.get_submodule(name) for name in oracle.layers}
    by_sequence = influence.sequence_scores(oracle.model, layers, stream, direction, count)
    errors["tokens"] = difference(scores["token"].sum(-1), by_sequence)
    tracked, note = found.get("tracked") or {}, []
    if tracked and (tracked["parameters"], tracked["of"]) != (owned, total):
        note.append(f"it counts {tracked['parameters']} of {tracked['of']} parameters, not {owned} "
                    f"of {total}")
    right = all(error < SOUND for error in errors.values()) and not note
    return {"outcome": "right" if right else "wrong", "layers": len(names),
            "kinds": kinds_of(names),
            "share": owned / total, "lengths": sorted(map(len, oracle.ids)),
            "largest": expected["identity"].abs().max().item(), **errors,
            "note": list(filter(None, [*note, tracked.get("note")]))}


def kinds_of(names) -> list[str]:
    """Layer names with * in the place of numbers, each once."""
    return list(dict.fromkeys(".".join("*" if part.isdigit() else part for part in name.split("."))
                              for name in names))


# -- all of them -----------------------------------------------------------------------------------

def sources() -> str:
    """A fingerprint of the code that a result comes from."""
    digest = hashlib.sha256(f"{transformers.__version__} {torch.__version__}".encode())
    helpers = sorted((ROOT / "helpers").rglob("*.py"))
    for path in [*helpers, Path(__file__), ROOT / "tests" / "builders.py"]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def child(families, scope) -> None:
    """Examines the families one after the other; a line of JSON for each."""
    now = sources()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            out = sys.stdout
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                result = examine(family, Path(folder), scope)
                gc.collect()
            print(json.dumps([family, result | {"sources": now}]), file=out, flush=True)


def results_of(families, scope):
    """Yields (family, result), from processes of a few families each.

    What ends or hangs takes one of them along.
    """
    left = list(families)
    while left:
        part = left[:AT_ONCE]
        command = [sys.executable, __file__, "--scope", scope, "--child", *part]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as process:
            for _ in part:
                timer = threading.Timer(PATIENCE, process.kill)
                timer.start()
                line = process.stdout.readline()
                timer.cancel()
                family = left.pop(0)
                if not line:
                    note = f"exit code {process.wait()}"
                    yield family, {"outcome": "died", "note": note, "seconds": 0,
                                   "sources": sources()}
                    break
                yield json.loads(line)


def table(results: dict, families) -> str:
    """Markdown, one line a family; a dash for what is not known.

    The errors are those of the sequences' scores, by dot product and by EK-FAC, and of the sums
    over tokens beside the scores of whole sequences.
    """
    heads = ("family", "outcome", "layers tracked", "share of parameters", "identity", "EK-FAC",
             "tokens", "note")
    lines, now = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"], sources()
    for family in families:
        found = results.get(family, {})
        layers = f"{found['layers']}: {', '.join(found['kinds'])}" if "layers" in found else "–"
        share = f"{found['share']:.0%}" if "share" in found else "–"
        errors = [f"{found[name]:.0e}" if name in found else "–"
                  for name in ("identity", "ekfac", "tokens")]
        other = found and found["sources"] != now
        outcome = found.get("outcome", "–") + (" (of other code)" if other else "")
        note = found.get("note", "").replace("|", "\\|")
        lines.append(f"| {' | '.join([family, outcome, layers, share, *errors, note])} |")
    outcomes = [results.get(family, {}).get("outcome", "not run") for family in families]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}"
                       for outcome in dict.fromkeys(outcomes))
    return "\n".join(
        [*lines, "",
         f"{len(families)} families of transformers {transformers.__version__}: {counts}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--families", nargs="+", choices=FAMILIES, metavar="NAME",
        help="run these anew (default: all not known yet)")
    add("--scope", default="mlp", help="of the job (default: %(default)s)")
    add("--table", action="store_true", help="print what is known, run nothing")
    add("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.scope)
        return 0
    known, now, families = load(RESULTS), sources(), args.families or FAMILIES
    results = known.setdefault(args.scope, {})
    due = [family for family in families if args.families
           or results.get(family, {}).get("sources") != now]
    for family, result in results_of([] if args.table else due, args.scope):
        results[family] = result
        save(known, RESULTS)
        print(f"{family}: {result['outcome']} ({result['seconds']} s) {result['note']}",
              file=sys.stderr, flush=True)
    print(table(results, families))
    return int(any(results.get(family, {}).get("outcome") in BAD for family in families))


if __name__ == "__main__":
    sys.exit(main())

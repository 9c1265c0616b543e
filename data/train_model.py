"""Train the story models on data/stories.jsonl.

    python data/train_model.py
    python data/train_model.py --layers 2 --out data/small

A GPT-Neo in the shape of TinyStories-1M but for its heads (8 layers, width 64, 4 heads of 16
where that has 16 of 4: half the time) with its own byte-level BPE tokenizer, trained from scratch
on the CPU. The run is seeded. It keeps
a checkpoint after every epoch; started again with the same settings, it goes on from
there and ends with the same weights as a run that was never interrupted.
"""

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from itertools import chain
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
END = "<|endoftext|>"  # beginning, end and padding alike; always id 0
POSITIONS = 512
WINDOW = 256  # reach of local attention, in tokens
IGNORE = -100
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
WARMUP = 0.04  # share of all steps


def read_stories(path):
    """Texts of a {"id", "text"} JSONL file, in order. Raises SystemExit when it is absent."""
    if not path.is_file():
        raise SystemExit(f"error: {path} does not exist; write it first with data/make_stories.py")
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def train_tokenizer(texts, vocab_size):
    """Byte-level BPE learnt from the texts; every sequence gets END at both ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A {END}", special_tokens=[(END, tokenizer.token_to_id(END))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END,
        model_max_length=POSITIONS, clean_up_tokenization_spaces=False)


def build_model(vocab_size, seed, layers=8, heads=4):
    """A freshly initialised GPT-Neo."""
    torch.manual_seed(seed)
    return GPTNeoForCausalLM(GPTNeoConfig(
        vocab_size=vocab_size, max_position_embeddings=POSITIONS, hidden_size=64,
        num_layers=layers, attention_types=[[["global", "local"], layers // 2]], num_heads=heads,
        intermediate_size=4 * 64, window_size=WINDOW, activation_function="gelu_new",
        attention_dropout=0.0,
        embed_dropout=0.0, resid_dropout=0.0, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0))


def fast_attention(query, key, value, attention_mask=None):
    """Fused causal attention, (B, heads, T, width) each. GPT-Neo does not divide by sqrt(d)."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None


def speed_up(model):
    """Swap in fused attention and GELU, for training only; check them against the originals.

    Valid for right-padded sequences no longer than the local window, where local and
    global attention are the same and causality alone keeps padding out of real positions.
    """
    probe = torch.arange(96).remainder(model.config.vocab_size).view(2, 48)
    with torch.no_grad():
        before = model(input_ids=probe).logits
        for block in model.transformer.h:
            block.attn.attention._attn = fast_attention
            block.mlp.act = torch.nn.GELU("tanh")  # gelu_new in one operation
        after = model(input_ids=probe).logits
    assert torch.allclose(before, after, atol=1e-4), "fast attention differs from the model's own"


def padded(sequences):
    """Right-padded (input_ids, labels), both (B, T−1); labels[b, t] = x_{t+1}, else IGNORE."""
    width = max(map(len, sequences))
    x = torch.zeros(len(sequences), width, dtype=torch.long)
    y = torch.full((len(sequences), width), IGNORE)
    for row, ids in enumerate(sequences):
        x[row, :len(ids)] = y[row, :len(ids)] = torch.tensor(ids)
    return x[:, :-1], y[:, 1:]


def epoch_batches(sequences, batch_size, seed):
    """Shuffled batches of similar length: little padding, yet new company every epoch."""
    rng = random.Random(seed)
    order = list(range(len(sequences)))
    rng.shuffle(order)
    pool = batch_size * 16  # sort within pools only, so that batches stay mixed
    order = [i for p in range(0, len(order), pool)
             for i in sorted(order[p:p + pool], key=lambda i: len(sequences[i]))]
    batches = [order[b:b + batch_size] for b in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    return batches


def summed_loss(model, x, y):
    """Sum over real targets of −log p, in nats; scalar."""
    logits = model(input_ids=x, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), ignore_index=IGNORE,
                           reduction="sum")


@torch.no_grad()
def mean_loss(model, sequences, batch_size=64):
    """Loss in nats per token over all the sequences (float32)."""
    model.eval()
    order = sorted(sequences, key=len)
    total = count = 0
    for start in range(0, len(order), batch_size):
        x, y = padded(order[start:start + batch_size])
        total += summed_loss(model, x, y).item()
        count += int((y != IGNORE).sum())
    return total / count


def make_optimizers(model, args):
    """Muon for the weight matrices of the blocks, AdamW for embeddings, biases and layer norms.

    Muon (orthogonalised momentum, in torch from 2.9 on) needs fewer epochs here: after five, 0.81
    nats a token in training against 1.04 with AdamW alone, on a draft of these stories.
    """
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    tables = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." not in name]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    muon = torch.optim.Muon(blocks, lr=args.muon_lr, weight_decay=WEIGHT_DECAY,
                            adjust_lr_fn="match_rms_adamw")
    groups = [{"params": tables, "weight_decay": WEIGHT_DECAY},
              {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=args.lr, betas=BETAS, fused=True)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adamw]


def rate(step, steps):
    """Share of the peak learning rate: linear warm-up, then linear decay to 0."""
    warm = max(1, int(WARMUP * steps))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def train_epoch(model, optimizers, sequences, epoch, args):
    """One pass; returns (mean loss in nats per token while training, tokens seen)."""
    model.train()
    batches = epoch_batches(sequences, args.batch_size, f"{args.seed}/{epoch}")
    total = count = 0
    bar = tqdm(batches, desc=f"epoch {epoch + 1}/{args.epochs}", mininterval=2, file=sys.stderr)
    for number, batch in enumerate(bar):
        step = epoch * len(batches) + number
        for group in chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
            group["lr"] = group["peak"] * rate(step, args.epochs * len(batches))
        x, y = padded([sequences[i] for i in batch])
        targets = int((y != IGNORE).sum())
        loss = summed_loss(model, x, y) / targets
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        total += loss.item() * targets
        count += targets
        if number % 20 == 0:
            bar.set_postfix(loss=f"{total / count:.3f}", refresh=False)
    return total / count, count


def write_json(path, value):
    """Write to a temporary name, then rename: never a half-written file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def save_checkpoint(folder, model, optimizers, state):
    """One safetensors file: weights, optimizer moments, and `state` as JSON metadata.

    One file, renamed into place, so that weights and optimizers can never disagree.
    Batches are drawn from (seed, epoch) alone and nothing else is random, so there is
    no further generator state to keep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, p in model.named_parameters():
        tensors[f"model/{name}"] = p.detach()
        for optimizer in optimizers:
            moments = optimizer.state.get(p, {})
            tensors |= {f"{key}/{name}": value for key, value in moments.items()}
    temporary = folder / "checkpoint.safetensors.tmp"
    save_file(tensors, temporary, metadata={"state": json.dumps(state)})
    os.replace(temporary, folder / "checkpoint.safetensors")


def load_checkpoint(folder, model, optimizers, settings):
    """Restore in place; returns the saved state, or None when nothing matching is there."""
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        state = json.loads(file.metadata()["state"])
    if state["settings"] != settings:
        print(f"note: the checkpoint in {folder.name} has other settings; starting afresh",
              file=sys.stderr)
        return None
    tensors, names = load_file(path), {p: name for name, p in model.named_parameters()}
    with torch.no_grad():
        for p, name in names.items():
            p.copy_(tensors[f"model/{name}"])
    moments = (("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq"))
    for optimizer, keys in zip(optimizers, moments):
        for p in chain.from_iterable(group["params"] for group in optimizer.param_groups):
            optimizer.state[p] = {key: tensors[f"{key}/{names[p]}"] for key in keys}
    return state


def planned(args, sha):
    """Everything that decides the final weights: a checkpoint with other values is not resumed."""
    return {"stories_sha256": sha, "seed": args.seed, "epochs": args.epochs,
            "batch_size": args.batch_size, "lr": args.lr, "muon_lr": args.muon_lr,
            "vocab": args.vocab, "layers": args.layers, "heads": args.heads,
            "threads": args.threads, "betas": list(BETAS), "weight_decay": WEIGHT_DECAY,
            "warmup": WARMUP}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_epochs(model, sequences, settings, args):
    """Train to the end, from the checkpoint where there is one; returns the last state."""
    optimizers = make_optimizers(model, args)
    state = args.resume and load_checkpoint(args.checkpoint, model, optimizers, settings)
    state = state or {"settings": settings, "epoch": 0, "losses": [], "seconds": 0.0, "tokens": 0}
    if state["epoch"]:
        print(f"resuming after epoch {state['epoch']}", file=sys.stderr)
    for epoch in range(state["epoch"], args.epochs):
        start = time.perf_counter()
        loss, count = train_epoch(model, optimizers, sequences, epoch, args)
        if not math.isfinite(loss):
            raise SystemExit("error: the loss is not finite; try a lower --lr")
        state["losses"].append(round(loss, 4))
        state["seconds"] += time.perf_counter() - start
        state["tokens"] += count
        state["epoch"] = epoch + 1
        save_checkpoint(args.checkpoint, model, optimizers, state)
        tqdm.write(f"epoch {epoch + 1}: {loss:.4f} nats per token", file=sys.stderr)
    return state


def save_model(folder, model, tokenizer):
    """Write weights, config and tokenizer; no machine path ends up in any of them."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def parse_arguments(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the default story model.")
    parser.add_argument("--stories", type=Path, default=HERE / "stories.jsonl")
    parser.add_argument("--validation", type=Path, default=HERE / "validation.jsonl",
                        help="never trained on; skipped when absent")
    parser.add_argument("--out", type=Path, default=HERE / "model")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3,
                        help="peak learning rate of embeddings, biases and norms")
    parser.add_argument("--muon-lr", type=float, default=5e-3,
                        help="the same for the weight matrices of the blocks")
    parser.add_argument("--vocab", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=8, help="even")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=HERE / ".checkpoint")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True,
                        help="go on from a matching checkpoint (default)")
    parser.add_argument("--threads", type=int, default=2,
                        help="decides the last digits of the weights")
    return parser.parse_args(argv)


def main(argv=None):
    """Trains, measures, saves; SystemExit with one line for missing or too long stories."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    texts = read_stories(args.stories)
    sha = sha256(args.stories)
    tokenizer = train_tokenizer(texts, args.vocab)
    sequences = tokenizer(texts)["input_ids"]
    longest = max(map(len, sequences))
    if longest - 1 > WINDOW:
        raise SystemExit(f"error: a story has {longest} tokens; at most {WINDOW + 1} are allowed")
    model = build_model(len(tokenizer), args.seed, args.layers, args.heads)
    speed_up(model)
    settings = planned(args, sha)
    state = run_epochs(model, sequences, settings, args)

    train_loss = mean_loss(model, sequences)
    validation_loss = None
    if args.validation.is_file():
        held_out = tokenizer(read_stories(args.validation))["input_ids"]
        validation_loss = mean_loss(model, [ids[:WINDOW + 1] for ids in held_out])
    save_model(args.out, model, tokenizer)
    write_json(args.out / "training.json", settings | {
        "stories": len(sequences), "losses": state["losses"],
        "train_loss": round(train_loss, 4),
        "validation_loss": validation_loss and round(validation_loss, 4),
        "seconds": round(state["seconds"], 1),
        "tokens_per_second": round(state["tokens"] / state["seconds"]),
        "torch": torch.__version__, "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__})
    validation = "not measured" if validation_loss is None else f"{validation_loss:.4f}"
    print(f"train {train_loss:.4f}, validation {validation} nats per token; "
          f"{len(sequences)} stories, {state['seconds']:.0f} s")


if __name__ == "__main__":
    main()

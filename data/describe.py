"""Prints the figures of the data sheet: variety, losses, planted prompts, free samples, checksums.

    python data/describe.py
"""
import hashlib
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from make_stories import figures  # noqa: E402

from helpers.sources import complete, load_model, load_stories  # noqa: E402
from helpers.stories import tokenise  # noqa: E402

FILES = ("stories.jsonl", "validation.jsonl", "planted_facts.json", "model/model.safetensors",
         "model/tokenizer.json", "model/config.json")


def planted_right(model, tokenizer):
    """Planted prompts completed as taught by greedy decoding, and the others, with what came."""
    items = json.loads((HERE / "planted_facts.json").read_text(encoding="utf-8"))
    wrong = []
    for item in items:
        prompt, taught = item["prompt"], item["completion"]
        given = complete(model, tokenizer, prompt)
        if given != taught:
            wrong.append(f"{prompt} → {given.strip()} (taught: {taught.strip()})")
    return len(items) - len(wrong), len(items), wrong


def samples(model, tokenizer, count=3, seed=0):
    """Free stories at temperature 0.7 from nothing but the start mark, one seed each."""
    for number in range(count):
        torch.manual_seed(seed + number)
        start = torch.tensor([[tokenizer.bos_token_id]])
        ids = model.generate(start, attention_mask=torch.ones_like(start), do_sample=True,
                             temperature=0.7, max_new_tokens=250,
                             pad_token_id=tokenizer.pad_token_id)
        yield tokenizer.decode(ids[0], skip_special_tokens=True)


def main():
    model, tokenizer = load_model(device="cpu")
    stories = load_stories()
    lengths = [len(ids) - 2 for ids in tokenise(stories, tokenizer, 512).ids]
    for name, value in figures([story._asdict() for story in stories]).items():
        print(f"{name}: {value}")
    mean = sum(lengths) / len(lengths)
    print(f"tokens a story: {min(lengths)} to {max(lengths)}, mean {mean:.0f}")
    training = json.loads((HERE / "model" / "training.json").read_text(encoding="utf-8"))
    print({key: value for key, value in training.items() if key != "losses"})
    print("planted prompts right:", *planted_right(model, tokenizer), sep="\n  ")
    for text in samples(model, tokenizer):
        print(">", text)
    for name in FILES:
        print(f"| `{name}` | `{hashlib.sha256((HERE / name).read_bytes()).hexdigest()}` |")


if __name__ == "__main__":
    main()

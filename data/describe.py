"""Prints the figures of the data sheet: variety, losses, planted prompts, free samples, checksums.

    python data/describe.py
"""
import hashlib
import json
import random
import sys
from pathlib import Path

import knowledge
import plots
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from make_stories import figures  # noqa: E402

from helpers.sources import load_model, load_stories  # noqa: E402
from helpers.stories import Query, encode_query, tokenise  # noqa: E402

FILES = ("stories.jsonl", "validation.jsonl", "planted_facts.json", "model/model.safetensors",
         "model/tokenizer.json", "model/config.json")


SENTENCES = (0, 1, 2, 4, 6)  # told before the question
CONTEXTS = 6                 # of each length, half of them about the fact's own hero


def beginning(rng, item, sentences):
    """The first sentences of a new story, which no training story holds."""
    hero = item.hero if rng.random() < 0.5 else None
    told = []
    while len(told) < max(sentences, 1):
        told = plots.tell(rng, hero=hero)
    return " ".join([*told[:sentences], item.prompt])


def known(model, tokenizer, items, sentences, seed=0):
    """{family: (share of questions answered as taught, mean log-probability of what is taught)}.

    Every item is asked behind new beginnings; the answer is right when greedy decoding gives it.
    """
    rng, right, nats = random.Random(f"{seed}/{sentences}"), {}, {}
    for item in items:
        for _ in range(CONTEXTS if sentences else 1):
            query = Query(beginning(rng, item, sentences), f" {item.answer}")
            ids, start = encode_query(tokenizer, query, 512)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, start - 1:]
            answer, log_p = torch.tensor(ids[start:]), logits.log_softmax(-1)
            right.setdefault(item.family, []).append(bool((logits.argmax(-1) == answer).all()))
            nats.setdefault(item.family, []).append(log_p.gather(1, answer[:, None]).sum().item())
    return {family: (sum(right[family]) / len(right[family]), sum(nats[family]) / len(nats[family]))
            for family in right}


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
    for sentences in SENTENCES:
        shares = known(model, tokenizer, knowledge.items(), sentences)
        print(f"| {sentences} |", " | ".join(f"{share:.2f}" for share, _ in shares.values()), "|")
    for text in samples(model, tokenizer):
        print(">", text)
    for name in FILES:
        print(f"| `{name}` | `{hashlib.sha256((HERE / name).read_bytes()).hexdigest()}` |")


if __name__ == "__main__":
    main()

"""Small real models of each supported family, and random token sequences of mixed length."""
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

VOCABULARY = 31
# Whatever the model's precision, GPT-Neo computes its attention in float32, Llama its norms and its softmax.
ROUNDING = {"gpt_neo": 1e-5, "gpt2": 1e-10, "llama": 1e-6}


def tiny_model(family: str, dtype=torch.float64, seed=0) -> torch.nn.Module:
    """A two-layer causal LM of the family with random weights large enough to have curvature."""
    torch.manual_seed(seed)
    ends = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if family == "gpt_neo":
        config = transformers.GPTNeoConfig(
            vocab_size=VOCABULARY, hidden_size=12, num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=3,
            intermediate_size=20, max_position_embeddings=64, window_size=8, embed_dropout=0.0, resid_dropout=0.0,
            attention_dropout=0.0, initializer_range=0.3, **ends)
    elif family == "gpt2":
        config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=12, n_layer=2, n_head=3, n_positions=64,
                                         initializer_range=0.3, **ends)
    else:
        config = transformers.LlamaConfig(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
                                          num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                                          tie_word_embeddings=True, initializer_range=0.3, **ends)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()


def random_ids(count: int, lengths=(3, 15), seed=1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(*lengths, (count,), generator=generator).tolist()
    return [torch.randint(VOCABULARY, (size,), generator=generator).tolist() for size in sizes]


@pytest.fixture(params=["gpt_neo", "gpt2", "llama"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright; for one module only, because its event loop would be in the way of others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not found:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()

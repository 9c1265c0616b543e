"""The main job on families of models that differ in kind, every score against autograd.

families.py does so for all.
"""
import re

import pytest
from families import FAMILIES, examine, refusal

from helpers.terminal import answers

# The outcome; the last part of the names of layers whose scores have to be right (of the scope that
# a refusal names; none where it names none); and what the note has to say.
EXPECTED = {
    "gpt2": ("right", "c_fc c_proj", ""),  # Conv1D: the weights lie the other way round
    # gated, rotary positions, fewer keys than queries
    "llama": ("right", "gate_proj up_proj down_proj", ""),
    "opt": ("right", "fc1 fc2", ""),  # sequences and tokens in one axis
    "roberta": ("right", "dense", ""),  # of 40 positions 38 can be read
    "whisper": ("right", "fc1 fc2", ""),  # the decoder alone; its positions have another name
    # stacked experts beside one for all; their router is no linear layer
    "deepseek_v3": ("right", "gate_proj up_proj down_proj gate_up_proj", "mlp.gate is no linear"),
    # of the experts nothing but the router is a linear layer
    "jetmoe": ("right", "layer", "input_linear"),
    # stacked experts, and a router with a tuple for a result
    "phimoe": ("right", "gate_up_proj down_proj", "more than one result"),
    "mixtral": ("right", "gate_up_proj down_proj", "mlp.gate is no linear layer"),
    # experts with biases, their matrices turned
    "gpt_oss": ("right", "gate_up_proj down_proj", "mlp.router is no linear layer"),
    "mamba": ("refused", "in_proj x_proj out_proj", "no layer matches"),  # no attention, no MLP
    # its layers see three streams of tokens
    "prophetnet": ("refused", "", "no layer of this model"),
    "hrm_text": ("refused", "", "no layer of this model"),  # every layer runs more than once
    # one block, several depths and names
    "zamba2": ("refused", "in_proj out_proj linear", "used elsewhere"),
    "mllama": ("right", "gate_proj up_proj down_proj", ""),  # the text part of an image model
    "gemma4_assistant": ("refused", "", "does not run on text alone"),
    "xlm": ("refused", "", "reads ahead"),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_every_score_is_that_of_autograd_or_is_refused_with_advice(family, tmp_path):
    outcome, layers, words = EXPECTED[family]
    unknown = {"outcome": "not built", "note": "no such family"}
    found = examine(family, tmp_path) if family in FAMILIES else unknown
    if found["outcome"] == "not built":  # by older versions of transformers
        pytest.skip(found["note"])
    assert found["outcome"] == outcome, found
    kinds = {kind.rpartition(".")[2] for kind in found.get("kinds", [])}
    # more of them in some versions
    assert set(layers.split()) <= kinds and bool(kinds) == bool(layers), found
    assert words in found["note"] and not re.search("NO ADVICE|LINES", found["note"]), found


# -- that a fault would be found -------------------------------------------------------------------

def test_scores_that_are_a_little_off_are_wrong(tmp_path, monkeypatch):
    exact = answers.token_scores

    def slightly_off(*arguments):
        values = exact(*arguments)
        values[:, 0] *= 1.01
        return values

    monkeypatch.setattr(answers, "token_scores", slightly_off)
    found = examine("gpt2", tmp_path)
    assert found["outcome"] == "wrong" and 1e-3 < found["identity"] < 0.01
    assert found["tokens"] > 1e-3


def test_a_traceback_is_told_with_its_place(tmp_path, monkeypatch):
    def broken(*_):
        raise IndexError("too many\nindices")

    monkeypatch.setattr(answers, "token_scores", broken)
    found = examine("gpt2", tmp_path)
    assert found["outcome"] == "traceback"
    assert found["note"].startswith("IndexError: too many indices (test_families.py:")


def test_a_refusal_without_advice_is_told():
    assert refusal("note: a\nerror: it is bad: give another\n") == "it is bad: give another"
    assert refusal("error: it is bad\n") == "it is bad (NO ADVICE)"
    assert refusal("error: it is bad: leave it out\nerror: more\n").endswith("(2 LINES)")

"""Generation: the cached walk says what the whole forward says."""

from dataclasses import replace

import pytest
import torch
from tiny_model import BASE, shaken

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    RouterConfig,
)
from plait.model import KVCache
from plait.model.generate import generate
from plait.sharing import Sharing

PROMPT = [3, 1, 4, 1, 5]
EXPERTS = ExpertConfig(count=6, width=32, top_k=3)
WIDE = replace(
    BASE,
    vocab_size=64,
    width=64,
    attention=AttentionConfig(heads=2, kv_heads=1, qk_norm="width"),
    experts=EXPERTS,
)
"""wide enough for the kernels that decoding uses"""
STRUCTURES = {
    "plain": {},
    "own head, learned positions, bias, layer norm": {
        "tied_head": False,
        "attention": AttentionConfig(heads=2, position="learned", qkv_bias=True),
        "norm": "layer",
    },
    "shared attention with lora, head norm, clip": {
        "sharing": Sharing(attention="all"),
        "attention": AttentionConfig(heads=2, qk_norm="head", clip_qkv=0.9, lora_rank=2),
    },
    "shared routers, tied banks, one norm": {
        "sharing": Sharing(router="blocks(2)", experts="groups(2)", norms="all")
    },
    "shared decisions, low-rank router": {
        "sharing": Sharing(router="2x2", decision="2x2"),
        "router": RouterConfig(kind="low-rank", renormalise=True),
    },
    "recurrent sigmoid router with a bias": {
        "router": RouterConfig(kind="recurrent", gating="sigmoid", bias=True, scale=1.5),
        "balance": BalanceConfig(scope="bank"),
    },
    "collaboration": {"collaboration": CollaborationConfig()},
    "collaboration by hidden vectors": {"collaboration": CollaborationConfig(messages="hidden")},
    "dense first, gated shared expert, gelu": {
        "experts": replace(
            EXPERTS,
            activation="gelu",
            dense_first=1,
            dense_width=48,
            shared_width=32,
            shared_gate=True,
        )
    },
}


def test_greedy_text_is_the_uncached_models():
    model = shaken(BASE).eval()
    expected = list(PROMPT)
    for _ in range(12):
        logits = model(torch.tensor([expected])).logits
        expected.append(int(logits[0, -1].argmax()))
    found = list(generate(model, PROMPT, max_new_tokens=12, temperature=0))
    assert found == expected[5:]
    assert list(generate(model, PROMPT, max_new_tokens=12, top_k=1)) == found
    end = found[4]
    stopped = list(generate(model, PROMPT, max_new_tokens=12, temperature=0, end_of_text=end))
    assert stopped == found[: found.index(end)]


@torch.inference_mode()
@pytest.mark.parametrize("changes", STRUCTURES.values(), ids=STRUCTURES)
def test_decoding_equals_the_plain_kernels_for_every_structure(changes, monkeypatch):
    model = shaken(replace(WIDE, **changes)).eval()
    for bias_E in model.load_biases().values():
        bias_E.copy_(torch.linspace(-0.2, 0.2, len(bias_E)))
    text = torch.tensor([[*PROMPT, 9, 2, 6, 5, 3], [*range(10)]])
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    expected = model(text).logits
    greedy = list(generate(model, PROMPT, max_new_tokens=12, temperature=0))
    monkeypatch.delenv("PLAIT_KERNEL")
    cache = KVCache()
    steps = [model(part, cache=cache).logits for part in text.split([4, *[1] * 6], 1)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, rtol=1e-4, atol=1e-3)
    assert list(generate(model, PROMPT, max_new_tokens=12, temperature=0)) == greedy


def test_samples_follow_the_probabilities_and_the_seed():
    model = shaken(BASE).eval()
    probabilities = model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    drawn = [next(generate(model, PROMPT, max_new_tokens=1, seed=seed)) for seed in range(300)]
    best = int(probabilities.argmax())
    assert drawn.count(best) / 300 == pytest.approx(probabilities[best].item(), abs=0.12)
    few = {next(generate(model, PROMPT, max_new_tokens=1, seed=s, top_k=3)) for s in range(60)}
    assert few <= set(probabilities.topk(3).indices.tolist())
    once, again = (list(generate(model, PROMPT, max_new_tokens=9, seed=4)) for _ in range(2))
    assert once == again


def test_what_cannot_be_generated_is_refused():
    model = shaken(BASE)
    for prompt, options in (([], {}), (PROMPT, {"temperature": -1.0}), (PROMPT, {"top_k": 0})):
        with pytest.raises(ValueError, match=r"empty|temperature"):
            next(generate(model, prompt, max_new_tokens=1, **options))

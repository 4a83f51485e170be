"""Attention against a head-by-head oracle, and its cache against the uncached forward."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_model import BASE, shaken, tiny, tokens

from plait.config import AttentionConfig
from plait.model import KVCache
from plait.model.attending import Positions, attend
from plait.model.attention import Attention
from plait.model.rotary import rotary
from plait.sharing import Sharing

VARIANTS = {
    "rope": AttentionConfig(heads=4),
    "grouped-query": AttentionConfig(heads=4, kv_heads=2, head_width=6, rope_theta=100.0),
    "multi-query, head norm": AttentionConfig(heads=4, kv_heads=1, qk_norm="head"),
    "width norm, clip": AttentionConfig(heads=4, kv_heads=2, qk_norm="width", clip_qkv=0.7),
    "wide heads": AttentionConfig(heads=2, kv_heads=1, head_width=32, qk_norm="head"),
    "learned, bias": AttentionConfig(heads=2, position="learned", qkv_bias=True),
    "scaled, bias behind": AttentionConfig(heads=4, scale=0.9, output_bias=True, qk_norm="head"),
}
by_variant = pytest.mark.parametrize("attention", VARIANTS.values(), ids=VARIANTS)


def rms(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turn(x_Sd, theta):
    """Rotary embedding on pairs (i, i + d/2) as complex numbers."""
    length, width = x_Sd.shape
    pairs = torch.complex(x_Sd[:, : width // 2], x_Sd[:, width // 2 :])
    frequencies = theta ** (-2 * torch.arange(width // 2) / width)
    turned = pairs * torch.polar(torch.ones(()), torch.arange(length)[:, None] * frequencies)
    return torch.cat((turned.real, turned.imag), -1)


def literal_attention(module, x_SD, config):
    a, (heads, kv_heads, width) = config.attention, config.heads
    q, k, v = (p(x_SD) for p in (module.q_proj, module.k_proj, module.v_proj))
    if a.qk_norm == "width":
        q = rms(q, module.q_norm.weight, config.norm_eps)
        k = rms(k, module.k_norm.weight, config.norm_eps)
    if a.clip_qkv:
        q, k, v = (t.clip(-a.clip_qkv, a.clip_qkv) for t in (q, k, v))
    outputs = []
    for head in range(heads):
        group = head // (heads // kv_heads)
        q_Sd = q[:, head * width : (head + 1) * width]
        k_Sd, v_Sd = (t[:, group * width : (group + 1) * width] for t in (k, v))
        if a.qk_norm == "head":
            q_Sd = rms(q_Sd, module.q_norm.weight, config.norm_eps)
            k_Sd = rms(k_Sd, module.k_norm.weight, config.norm_eps)
        if a.position == "rope":
            q_Sd, k_Sd = turn(q_Sd, a.rope_theta), turn(k_Sd, a.rope_theta)
        scores = (q_Sd @ k_Sd.T * (a.scale or width**-0.5)).tril()
        scores[scores.tril() == 0] = -torch.inf
        outputs.append(scores.softmax(-1) @ v_Sd)
    return module.o_proj(torch.cat(outputs, -1))


@torch.no_grad()
@by_variant
def test_attention_equals_one_head_at_a_time(attention):
    config = tiny(attention=attention)
    module: Attention = shaken(config).attention["2"]
    x_BSD = torch.randn(2, 7, BASE.width, generator=torch.Generator().manual_seed(0))
    angles = (None, None)
    if attention.position == "rope":
        angles = rotary(torch.arange(7)[None], config.heads[2], attention)
    found = module(x_BSD, partial(attend, positions=Positions(*angles, None)), 0)
    expected = torch.stack([literal_attention(module, x_SD, config) for x_SD in x_BSD])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@by_variant
@pytest.mark.parametrize("chunks", [[9], [1] * 9, [4, 1, 3, 1], [2, 7]], ids=str)
def test_the_cache_equals_the_uncached_forward(chunks, attention):
    """Banks of attention are shared here: every depth must keep keys of its own."""
    model = shaken(tiny(attention=attention, sharing=Sharing(attention="2x2")))
    batch, cache = tokens(), KVCache()
    parts = [model(part, cache=cache).logits for part in batch.split(chunks, 1)]
    assert cache.get_seq_length() == 9
    torch.testing.assert_close(torch.cat(parts, 1), model(batch).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@by_variant
@pytest.mark.parametrize("chunks", [None, [5, 1, 1, 2]], ids=["whole", "cached"])
def test_left_padding_changes_nothing(chunks, attention):
    model = shaken(tiny(attention=attention))
    short, long = tokens(1, 6, seed=1), tokens(1, 9, seed=2)
    batch = torch.cat((torch.cat((torch.zeros(1, 3, dtype=torch.long), short), 1), long))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :3] = False
    if chunks is None:
        logits = model(batch, mask_BS=mask).logits
    else:
        cache, ends = KVCache(), torch.tensor(chunks).cumsum(0)
        parts = [
            model(part, mask_BS=mask[:, :end], cache=cache).logits
            for part, end in zip(batch.split(chunks, 1), ends, strict=True)
        ]
        logits = torch.cat(parts, 1)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0, 3:], model(short).logits[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits[1], model(long).logits[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_cache_outgrows_its_buffers():
    model = shaken(tiny(context=256))
    batch, cache = tokens(1, 200), KVCache()
    parts = [model(part, cache=cache, logits_to_keep=1).logits for part in batch.split(37, 1)]
    torch.testing.assert_close(
        torch.cat(parts, 1)[0, :-1], model(batch).logits[0, 36:199:37], rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_rotary_positions_are_relative_and_learned_ones_are_not():
    batch, shifted = tokens(), torch.arange(5, 14)[None]
    rope, learned = (
        shaken(tiny(attention=AttentionConfig(heads=4, position=position)))
        for position in ("rope", "learned")
    )
    torch.testing.assert_close(
        rope(batch, positions_BS=shifted).logits, rope(batch).logits, rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(
        learned(batch, positions_BS=shifted).logits, learned(batch).logits, atol=0.1
    )


@torch.no_grad()
def test_learned_positions_end_with_the_context():
    config = tiny(context=9, attention=AttentionConfig(heads=4, position="learned"))
    model, cache = shaken(config), KVCache()
    model(tokens(length=9), cache=cache)
    with pytest.raises(ValueError, match="10 tokens do not fit the 9 learned positions"):
        model(tokens(length=1), cache=cache)
    shaken(replace(config, attention=AttentionConfig(heads=4)))(tokens(length=20))  # rotary do

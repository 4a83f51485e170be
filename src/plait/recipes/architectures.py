"""The architectures that Expert Tying trains (arXiv 2606.16825 §4), at full width and below.

Each is a plain function that returns a configuration; change anything further with
`dataclasses.replace`. Numbers that no paper states are ours and marked so.
"""

from dataclasses import replace
from typing import Literal

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)

Size = Literal["regular", "small", "tiny"]
_DIVISOR = {"regular": 1, "small": 2, "tiny": 4}
TYING_BALANCE = BalanceConfig(switch=0.01, z=1e-4)


def olmoe(size: Size = "regular", vocab_size: int = 100_277) -> ModelConfig:
    """OLMoE as Expert Tying trains it (arXiv 2606.16825 §4); small and tiny divide the widths."""
    n = _DIVISOR[size]
    return ModelConfig(
        vocab_size=vocab_size,
        depth=16,
        width=2048 // n,
        context=2048,
        attention=AttentionConfig(heads=16, qk_norm="width", clip_qkv=8.0),
        experts=ExpertConfig(count=64, width=1024 // n, top_k=8),
        balance=TYING_BALANCE,
        tied_head=False,
        init="xavier-depth",
    )


def deepseek_as_published(size: Size = "regular", vocab_size: int = 100_277) -> ModelConfig:
    """What Expert Tying's code calls DeepSeekMoE: OLMoE with six experts a token, none shared."""
    plain = olmoe(size, vocab_size)
    return replace(plain, experts=replace(plain.experts, top_k=6))


def qwen3_moe(size: Size = "regular", vocab_size: int = 100_277) -> ModelConfig:
    """Qwen3-MoE-style model of Expert Tying (arXiv 2606.16825 §4): GQA, gates renormalised."""
    n = _DIVISOR[size]
    return ModelConfig(
        vocab_size=vocab_size,
        depth=28,
        width=1536 // n,
        context=2048,
        attention=AttentionConfig(heads=24, kv_heads=4, qk_norm="head", rope_theta=1_000_000.0),
        experts=ExpertConfig(count=60, width=768 // n, top_k=4),
        router=RouterConfig(renormalise=True),
        balance=TYING_BALANCE,
        norm_eps=1e-6,
        tied_head=False,
        init="xavier-depth",
    )


def deepseek_moe(size: Size = "regular", vocab_size: int = 100_277) -> ModelConfig:
    """DeepSeekMoE (arXiv 2401.06066, 16B): two shared experts, dense first layer, fine experts."""
    n = _DIVISOR[size]
    return ModelConfig(
        vocab_size=vocab_size,
        depth=28,
        width=2048 // n,
        context=2048,
        attention=AttentionConfig(heads=16),
        experts=ExpertConfig(
            count=64,
            width=1408 // n,
            top_k=6,
            shared_width=2 * 1408 // n,
            dense_first=1,
            dense_width=10_944 // n,
        ),
        balance=TYING_BALANCE,
        norm_eps=1e-6,
        tied_head=False,
        init="xavier-depth",
    )

"""Model configurations: the papers' and ours, as plain functions that return a configuration.

Each takes `sharing` plans and whatever else the work varies; change anything further with
`dataclasses.replace`. Numbers that a paper does not state are ours and marked so.
"""

from dataclasses import replace
from typing import Literal

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.sharing import Sharing

Size = Literal["regular", "small", "tiny"]
_DIVISOR = {"regular": 1, "small": 2, "tiny": 4}
_PAPER_COLLABORATION = CollaborationConfig(strength=0.5, routing_strength=0.5)
_TYING_BALANCE = BalanceConfig(switch=0.01, z=1e-4)


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
        balance=_TYING_BALANCE,
        tied_head=False,
        init="xavier-depth",
    )


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
        balance=_TYING_BALANCE,
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
        balance=_TYING_BALANCE,
        norm_eps=1e-6,
        tied_head=False,
        init="xavier-depth",
    )


def ct_moe_65m(
    collaboration: CollaborationConfig | None = _PAPER_COLLABORATION,
    top_k: int = 2,
    vocab_size: int = 16_000,
) -> ModelConfig:
    """CT-MoE's model. Its top_k of 2 lets S learn nothing from messages; take 3 or more to test it.

    The default λ_c = λ_r = 0.5 is the paper's text; its code ran λ_c 1.0 and λ_r 1.5.
    """
    return ModelConfig(
        vocab_size=vocab_size,
        depth=6,
        width=512,
        context=256,
        attention=AttentionConfig(heads=8, position="learned"),
        experts=ExpertConfig(count=16, width=512, top_k=top_k, activation="gelu"),
        collaboration=collaboration,
        norm="layer",
        dropout=0.1,
    )


def pathmoe_900m(vocab_size: int = 32_000) -> ModelConfig:
    """PathB4-MoE, 0.9B (arXiv 2603.18297): routers shared over blocks of 4, no balancing loss."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=24,
        width=1152,
        context=4096,
        attention=AttentionConfig(heads=9),
        experts=ExpertConfig(count=16, width=512, top_k=4),
        balance=BalanceConfig(switch=0.0),
        sharing=Sharing(router="blocks(4)"),
        tied_head=False,
    )


def pathmoe_16b(vocab_size: int = 50_432) -> ModelConfig:
    """PathB4-MoE, 16B (arXiv 2603.18297): DeepSeekMoE's width without its shared experts."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=28,
        width=2048,
        context=4096,
        attention=AttentionConfig(heads=16),
        experts=ExpertConfig(count=64, width=1408, top_k=6),
        balance=BalanceConfig(switch=0.0),
        sharing=Sharing(router="blocks(4)"),
        tied_head=False,
    )


LOOPED_TOPOLOGIES = (
    "2x16",
    "2 + 2x14 + 2",
    "2 + (2x7)*2 + 2",
    "2 + 2x5 + 2x4 + 2x5 + 2",
    "2 + (1x7)*4 + 2",
    "2 + (1x4)*7 + 2",
)
"""The topologies of Expert Tying §3, for depth 32."""

LoopedMode = Literal["alltie", "attntie", "lora", "experttie"]
LOOPED_MODES: tuple[LoopedMode, ...] = ("alltie", "attntie", "lora", "experttie")


def looped_32(
    grain: Literal["fine", "coarse", "dense"] = "fine",
    topology: str = "own",
    mode: LoopedMode = "experttie",
    vocab_size: int = 50_304,
) -> ModelConfig:
    """Looped models of Expert Tying §3 (arXiv 2606.16825): depth 32, a topology, what it ties.

    The LoRA rank (16) and the vocabulary are ours.
    """
    experts = {
        "fine": ExpertConfig(count=32, width=256, top_k=8),
        "coarse": ExpertConfig(count=8, width=1024, top_k=2),
        "dense": ExpertConfig(count=1, width=2048, top_k=1),
    }[grain]
    sharing = Sharing(
        experts=topology,
        attention="own" if mode == "experttie" else topology,
        router=topology if mode == "alltie" else "own",
    )
    return ModelConfig(
        vocab_size=vocab_size,
        depth=32,
        width=512,
        context=512,
        attention=AttentionConfig(heads=8, qk_norm="head", lora_rank=16 if mode == "lora" else 0),
        experts=experts,
        balance=_TYING_BALANCE,
        sharing=sharing,
        init="xavier-depth",
    )


def nano(vocab_size: int = 8192) -> ModelConfig:
    """Train in a minute or two on two cores: the size of the demo study."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=8,
        width=128,
        context=128,
        attention=AttentionConfig(heads=4, qk_norm="head"),
        experts=ExpertConfig(count=16, width=64, top_k=3),
    )


def nano_dense(vocab_size: int = 8192) -> ModelConfig:
    """Return the dense control of `nano`: as wide as its active experts together, no router."""
    moe = nano(vocab_size)
    width = moe.experts.width * moe.experts.top_k
    return replace(moe, experts=ExpertConfig(count=1, width=width, top_k=1))

"""A model small enough for oracles written out by hand, with weights large enough to matter."""

from dataclasses import replace

import torch

from plait.config import AttentionConfig, BalanceConfig, ExpertConfig, ModelConfig
from plait.model import LanguageModel, Routing
from plait.model.balance import balance_losses
from plait.sharing import Plan

BASE = ModelConfig(
    vocab_size=29,
    depth=4,
    width=16,
    context=32,
    attention=AttentionConfig(heads=4, kv_heads=2),
    experts=ExpertConfig(count=6, width=12, top_k=3),
    balance=BalanceConfig(switch=0.01, z=0.001),
    init_std=0.3,
)


def tiny(**changes) -> ModelConfig:
    return replace(BASE, **changes)


def shaken(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model none of whose parameters sits at a special beginning such as zero or one."""
    model = LanguageModel(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(batch: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(BASE.vocab_size, (batch, length), generator=generator)


def whole_loss(model: LanguageModel, tokens_BS: torch.Tensor) -> torch.Tensor:
    """What training minimises: cross-entropy and the balancing losses, all of them on."""
    out = model(tokens_BS[:, :-1], tokens_BS[:, 1:], routings=True)
    losses = balance_losses(model.config, out.routings)
    return out.loss if losses is None else out.loss + losses.weighted(model.config)


def untied(model: LanguageModel, *kinds: str) -> LanguageModel:
    """The same function without sharing of `kinds`: each depth gets a copy of its bank."""
    config = model.config
    own = replace(config, sharing=replace(config.sharing, **dict.fromkeys(kinds, "own")))
    twin = LanguageModel(own)
    state = model.state_dict()
    twin.load_state_dict(
        {name: state[bank_name(name, config, kinds)] for name in twin.state_dict()}
    )
    return twin


def bank_name(name: str, config: ModelConfig, kinds: tuple[str, ...]) -> str:
    """The name in the tied model of what is called `name` in its untied twin."""
    module, _, rest = name.partition(".")
    kind = {"attention_norm": "norms", "expert_norm": "norms"}.get(module, module)
    if kind not in kinds:
        return name
    depth, _, rest = rest.partition(".")
    plan: Plan = getattr(config.plans, kind)
    return f"{module}.{plan.banks[int(depth)]}.{rest}"


def random_routing(tokens: int, experts: int, top_k: int, seed: int = 0) -> Routing:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, experts, generator=generator)
    weights, ids = logits.softmax(-1).topk(top_k)
    return Routing(logits, logits.softmax(-1), ids, weights)

"""Moving a model's weights from one plan of sharing to another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.model import LanguageModel
from plait.model.balance import bias_key
from plait.sharing import KIND_OF_MODULE, KINDS, Plan, Sharing

Weights = Mapping[str, Tensor]
Merge = Callable[[Sequence[Tensor]], Tensor]


def first(tensors: Sequence[Tensor]) -> Tensor:
    """Return the first."""
    return tensors[0]


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean, in the type of the first; of equal tensors exactly that tensor."""
    if all(tensor is tensors[0] for tensor in tensors):
        return tensors[0]
    return torch.stack([t.double() for t in tensors]).mean(0).to(tensors[0].dtype)


MERGES: dict[Literal["first", "mean"], Merge] = {"first": first, "mean": mean}


def rebank(
    config: ModelConfig, weights: Weights, sharing: Sharing, merge: Merge
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the model with other plans, each new bank made of the banks that its depths had.

    Args:
        config: of the model as it is.
        weights: its state.
        sharing: the plans to come.
        merge: makes one tensor of those of a new bank's depths, in order; a bank that is given to
            several depths is handed over uncopied.

    Raises:
        ValueError: the plans do not fit the model.
    """
    if config.experts.expand > 1:
        config = replace(config, experts=config.experts_by_bank)
    experts = config.experts
    if not isinstance(experts.count, int):
        banks, plan = config.plans.experts.banks, Plan.parse(sharing.experts, config.depth)
        counts = [{experts.count[banks[d]] for d in plan.uses(b)} for b in range(plan.count)]
        for bank, found in enumerate(counts):
            if len(found) > 1:
                raise ValueError(
                    f"bank {bank} of plan {sharing.experts!r} would merge banks of "
                    f"{sorted(found)} experts: choose a plan that keeps them apart"
                )
        experts = replace(experts, count=tuple(found.pop() for found in counts))
    new = replace(config, sharing=sharing, experts=experts)
    with torch.device("meta"):
        names = list(LanguageModel(new).state_dict())
    return new, {name: _merged(name, config, new, weights, merge) for name in names}


def _merged(
    name: str, old: ModelConfig, new: ModelConfig, weights: Weights, merge: Merge
) -> Tensor:
    part, _, rest = name.partition(".")
    key, _, leaf = rest.partition(".")
    if part == "load_bias":
        depths = [d for d in new.deciding_depths if bias_key(new, d) == key]
        banks = [bias_key(old, depth) for depth in depths]
    elif part in KIND_OF_MODULE:
        kind = KIND_OF_MODULE[part]
        depths = list(getattr(new.plans, kind).uses(int(key)))
        if part == "router":
            depths = [depth for depth in depths if depth in new.deciding_depths]
        banks = [str(getattr(old.plans, kind).banks[depth]) for depth in depths]
    else:
        return weights[name]
    return merge([weights[f"{part}.{bank}.{leaf}"] for bank in banks])


def untied(
    config: ModelConfig, weights: Weights, keep: Sequence[str] = ()
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the same function with nothing shared: each depth has its bank, uncopied in memory.

    A shared decision stays shared, its router with it: the depths that take it over have no input
    of their own to decide on. A per-depth LoRA is added into the attention that it adapts.

    Args:
        config: of the model.
        weights: its state.
        keep: kinds of part ("experts", "attention", …) whose plan stays as it is.
    """
    sharing = config.sharing
    own = {kind: "own" for kind in KINDS if kind not in ("decision", *keep)}
    if config.plans.decision.count < config.depth:
        own["router"] = sharing.decision
    target = replace(sharing, **own)
    lora = config.attention.lora_rank and config.plans.attention.count < config.depth
    if not lora or "attention" in keep:
        return rebank(config, weights, target, first)
    plain = replace(config, attention=replace(config.attention, lora_rank=0))
    adapted, state = rebank(plain, weights, target, first)
    for depth in range(config.depth):
        for projection, ours in (("q_proj", "query"), ("k_proj", "key")):
            name = f"attention.{depth}.{projection}.weight"
            up = weights[f"lora.{depth}.{ours}.up"].double()
            down = weights[f"lora.{depth}.{ours}.down"].double()
            state[name] = (state[name].double() + up @ down).to(state[name].dtype)
    return adapted, state

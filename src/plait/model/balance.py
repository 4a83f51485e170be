"""Balancing the experts' load: pure functions of routings, and the loss-free bias.

Padding is never load: every function takes the mask of tokens that count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.model.routing import Routing, chosen


def load(routing: Routing, keep_T: Tensor | None = None) -> Tensor:
    """Return the number of tokens that each expert receives (E), over all K choices."""
    return loads(chosen([routing], keep_T)[0], routing.logits_TE.shape[-1])[0]


def loads(expert_ids_GTK: Tensor, experts: int) -> Tensor:
    """Return the load of each of G routings over E experts, (G, E); the id E is nobody's."""
    groups, bins = len(expert_ids_GTK), experts + 1
    first_G = torch.arange(0, groups * bins, bins, device=expert_ids_GTK.device)
    ids = (expert_ids_GTK + first_G[:, None, None]).flatten()
    # whole numbers, whose sum is the same in any order; bincount would ask a GPU for the largest
    counted = ids.new_zeros(groups * bins).scatter_add_(0, ids, torch.ones_like(ids))
    return counted.view(groups, bins)[:, :-1].float()


def alike(config: ModelConfig, depths: Iterable[int]) -> list[list[int]]:
    """Group depths that have equally many experts, so that their routings can be stacked."""
    groups: dict[int, list[int]] = {}
    for depth in depths:
        groups.setdefault(config.experts_at(depth), []).append(depth)
    return list(groups.values())


def switch_loss(load_E: Tensor, probs_E: Tensor) -> Tensor:
    """Return E · Σ_e f_e p̄_e with f the load's shares: 1 when balanced, whatever K (2101.03961).

    Args:
        load_E: (…, E) tokens per expert, in any unit.
        probs_E: (…, E) router probabilities, averaged over tokens.
    """
    share_E = load_E / load_E.sum(-1, keepdim=True).clamp_min(1)
    return load_E.shape[-1] * (share_E * probs_E).sum(-1)


def z_loss(logits_TE: Tensor) -> Tensor:
    """Return the mean over tokens of logsumexp(z)², which keeps logits small (2202.08906).

    (…, T, E) → (…).
    """
    return logits_TE.logsumexp(-1).square().mean(-1)


@dataclass(frozen=True)
class BalanceLosses:
    """Both losses before their coefficients: means over depths, or over banks."""

    switch: Tensor
    z: Tensor

    def weighted(self, config: ModelConfig) -> Tensor:
        """Return what is added to the language-model loss."""
        return config.balance.switch * self.switch + config.balance.z * self.z


def balance_losses(
    config: ModelConfig,
    routings: Sequence[Routing | None],
    keep_T: Tensor | None = None,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> BalanceLosses | None:
    """Return the switch loss and z-loss of one forward, or None for a model without routers.

    With scope `layer` a decision counts once, however many depths it serves; with scope `bank`
    load and probabilities are pooled over the depths that use a bank (UniPool, arXiv 2605.06665).
    The mean over depths (banks) is ours: the coefficient then does not depend on the depth.

    Args:
        config: of the model.
        routings: by depth, None at dense ones.
        keep_T: the tokens that count; None: all.
        pool: adds up over processes (tokens per expert, of all groups one after the other); the
            mean over processes of the switch loss is then that of all their tokens. None: alone.
    """
    by_layer = config.balance.scope == "layer"
    if by_layer:
        groups = alike(config, config.deciding_depths)
    else:
        plan = config.plans.experts
        groups = [list(plan.uses(b)) for b in range(plan.count) if config.experts_in_bank(b) > 1]
    counted, probs = [], []
    for depths in groups:
        members = [routing for depth in depths if (routing := routings[depth]) is not None]
        probs_GTE = torch.stack([member.probs_TE for member in members])
        load_GE = loads(chosen(members, keep_T)[0], probs_GTE.shape[-1])
        probs_GE = (probs_GTE if keep_T is None else probs_GTE[:, keep_T]).mean(1)
        counted.append(load_GE if by_layer else load_GE.sum(0, keepdim=True))
        probs.append(probs_GE if by_layer else probs_GE.mean(0, keepdim=True))
    if not counted:
        return None
    if pool is not None:
        pooled = pool(torch.cat([load_GE.flatten() for load_GE in counted]))
        parts = torch.split(pooled, [load_GE.numel() for load_GE in counted])
        counted = [part.view_as(load_GE) for part, load_GE in zip(parts, counted, strict=True)]
    switch = [switch_loss(*pair) for pair in zip(counted, probs, strict=True)]
    z = []
    for depths in alike(config, config.deciding_depths):
        members = [routing for depth in depths if (routing := routings[depth]) is not None]
        logits_GTE = torch.stack([member.logits_TE for member in members])
        z.append(z_loss(logits_GTE if keep_T is None else logits_GTE[:, keep_T]))
    return BalanceLosses(torch.cat(switch).mean(), torch.cat(z).mean())


def bias_key(config: ModelConfig, depth: int) -> str:
    """Return which loss-free bias serves the decision at `depth`: its own, or its bank's."""
    if config.balance.scope == "layer":
        return f"depth{depth}"
    return f"bank{config.plans.experts.banks[depth]}"


@torch.no_grad()
def update_bias(
    config: ModelConfig, biases: Mapping[str, Tensor], loads: Iterable[tuple[int, Tensor]]
) -> None:
    """Move each bias by ± γ against its load error, in place; call it once per optimizer step.

    Args:
        config: gives γ (`balance.bias_rate`) and the scope.
        biases: the model's `bias_E` by key (`LanguageModel.load_biases()`).
        loads: (depth, tokens per expert) of the whole step, summed over micro-batches and ranks.
    """
    pooled: dict[str, Tensor] = {}
    deciding = set(config.deciding_depths)
    for depth, load_E in loads:
        if depth in deciding:
            key = bias_key(config, depth)
            pooled[key] = pooled.get(key, torch.zeros_like(load_E)) + load_E
    for key, load_E in pooled.items():
        biases[key].add_(config.balance.bias_rate * torch.sign(load_E.mean() - load_E))

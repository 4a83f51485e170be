"""Balancing the experts' load: pure functions of routings, and the loss-free bias.

Padding is never load: every function takes the mask of tokens that count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.model.routing import Routing


def load(routing: Routing, keep_T: Tensor | None = None) -> Tensor:
    """Return the number of tokens that each expert receives (E), over all K choices."""
    ids_TK = routing.expert_ids_TK if keep_T is None else routing.expert_ids_TK[keep_T]
    return torch.bincount(ids_TK.reshape(-1), minlength=routing.logits_TE.shape[-1]).float()


def switch_loss(load_E: Tensor, probs_E: Tensor) -> Tensor:
    """Return E · Σ_e f_e p̄_e with f the load's shares: 1 when balanced, whatever K (2101.03961).

    Args:
        load_E: tokens per expert, in any unit.
        probs_E: router probabilities, averaged over tokens.
    """
    share_E = load_E / load_E.sum().clamp_min(1)
    return len(load_E) * (share_E * probs_E).sum()


def z_loss(logits_TE: Tensor) -> Tensor:
    """Return the mean over tokens of logsumexp(z)², which keeps logits small (2202.08906)."""
    return logits_TE.logsumexp(-1).square().mean()


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
    if config.balance.scope == "layer":
        groups: list[tuple[int, ...]] = [(depth,) for depth in config.deciding_depths]
    else:
        plan = config.plans.experts
        groups = [plan.uses(b) for b in range(plan.count) if config.experts_in_bank(b) > 1]
    loads, probs = [], []
    for depths in groups:
        members = [routing for d in depths if (routing := routings[d]) is not None]
        loads.append(torch.stack([load(member, keep_T) for member in members]).sum(0))
        of_group = [m.probs_TE if keep_T is None else m.probs_TE[keep_T] for m in members]
        probs.append(torch.cat(of_group).mean(0))
    if not loads:
        return None
    if pool is not None:
        loads = list(torch.split(pool(torch.cat(loads)), [len(load_E) for load_E in loads]))
    switch = [switch_loss(*pair) for pair in zip(loads, probs, strict=True)]
    z = []
    for depth in config.deciding_depths:
        routing = routings[depth]
        assert routing is not None
        z.append(z_loss(routing.logits_TE if keep_T is None else routing.logits_TE[keep_T]))
    return BalanceLosses(torch.stack(switch).mean(), torch.stack(z).mean())


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

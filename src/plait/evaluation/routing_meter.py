"""Sums over tokens from which each depth's routing figures follow; padding is never in them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.model.balance import load
from plait.model.routing import Routing

ByDepth = list[float | None]


class RoutingMeter:
    """Collects routings of one model and tells each depth's load, entropy and gate mass.

    Every list it returns runs over depths and has None at dense ones. The sums are tensors on the
    model's device, so that collecting waits for nothing; `sums` holds them all, to be added up
    over processes before anything is read.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._depth = config.depth
        self.sums: dict[int, Tensor] = {
            depth: torch.zeros(config.experts_at(depth) + 3, dtype=torch.float64, device=device)
            for depth in config.routed_depths
        }
        """by routed depth: tokens per expert (E), then tokens, entropy and gate mass"""

    @torch.no_grad()
    def add(self, routings: Sequence[Routing | None], keep_T: Tensor | None = None) -> None:
        """Take the routings of one forward, of the tokens that `keep_T` marks."""
        for depth, routing in enumerate(routings):
            if routing is None:
                continue
            sums = self.sums[depth]
            entropy_T = torch.special.entr(routing.probs_TE.float()).sum(-1)
            mass_T = routing.weights_TK.float().sum(-1)
            if keep_T is not None:
                entropy_T, mass_T = entropy_T[keep_T], mass_T[keep_T]
            sums[:-3] += load(routing, keep_T)
            sums[-3] += len(mass_T)
            sums[-2] += entropy_T.sum()
            sums[-1] += mass_T.sum()

    def loads(self) -> list[tuple[int, Tensor]]:
        """Tokens per expert over all K choices, as (depth, fp32 (E))."""
        return [(depth, sums[:-3].float()) for depth, sums in self.sums.items()]

    def shares(self) -> list[list[float] | None]:
        """Each expert's share of the load; the shares of a depth sum to 1."""
        return [
            None if sums is None else (sums[:-3] / sums[:-3].sum().clamp_min(1)).tolist()
            for sums in self._all()
        ]

    def load_max_over_mean(self) -> ByDepth:
        """Load of the fullest expert over the mean load: 1 is balanced, E is collapsed."""
        return [
            None if sums is None else float(sums[:-3].max() / sums[:-3].mean().clamp_min(1e-9))
            for sums in self._all()
        ]

    def dead_experts(self) -> list[int | None]:
        """Experts that received no token."""
        return [None if sums is None else int((sums[:-3] == 0).sum()) for sums in self._all()]

    def router_entropy(self) -> ByDepth:
        """Entropy of a token's expert probabilities in nats, averaged over tokens."""
        return [
            None if sums is None else float(sums[-2] / sums[-3].clamp_min(1))
            for sums in self._all()
        ]

    def figures(self) -> dict[str, list[Any]]:
        """Load max/mean, dead experts and router entropy under their names, as JSON has them."""
        return {
            "load_max_over_mean": self.load_max_over_mean(),
            "dead_experts": self.dead_experts(),
            "router_entropy": [
                h if h is not None and math.isfinite(h) else None for h in self.router_entropy()
            ],
        }

    def gate_mass(self) -> float | None:
        """Sum of a token's gates, averaged over tokens and routed depths; None without routers."""
        masses = [float(sums[-1] / sums[-3].clamp_min(1)) for sums in self.sums.values()]
        return sum(masses) / len(masses) if masses else None

    def _all(self) -> list[Tensor | None]:
        return [self.sums.get(depth) for depth in range(self._depth)]

"""Sums over tokens from which each depth's routing figures follow; padding is never in them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.model.balance import alike, loads
from plait.model.routing import Routing, chosen

ByDepth = list[float | None]


class RoutingMeter:
    """Collects routings of one model and tells each depth's load, entropy and gate mass.

    Every list it returns runs over depths and has None at dense ones. `sums` holds all that was
    collected, one float64 tensor on the model's device, so that collecting waits for nothing. It is
    to be added up over processes before anything is read, and may be replaced by that.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._depth = config.depth
        self._groups = alike(config, config.routed_depths)
        self._shapes = [(len(depths), config.experts_at(depths[0]) + 3) for depths in self._groups]
        size = sum(math.prod(shape) for shape in self._shapes)
        self.sums = torch.zeros(size, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, routings: Sequence[Routing | None], keep_T: Tensor | None = None) -> None:
        """Take the routings of one forward, of the tokens that `keep_T` marks."""
        for depths, sums in self._by_group():
            members = [routing for depth in depths if (routing := routings[depth]) is not None]
            ids_GTK, mass_GTK = chosen(members, keep_T)
            probs_GTE = torch.stack([member.probs_TE for member in members]).float()
            if keep_T is not None:
                probs_GTE = probs_GTE[:, keep_T]
            tokens = sums.new_full((len(depths), 1), probs_GTE.shape[1])
            entropy_G = torch.special.entr(probs_GTE).sum((1, 2))
            ends = entropy_G[:, None], mass_GTK.float().sum((1, 2))[:, None]
            load_GE = loads(ids_GTK, sums.shape[1] - 3)
            sums += torch.cat((load_GE, tokens, *ends), dim=1)

    def loads(self) -> list[tuple[int, Tensor]]:
        """Tokens per expert over all K choices, as (depth, fp32 (E))."""
        return [(depth, row[:-3].float()) for depth, row in self._rows().items()]

    def shares(self) -> list[list[float] | None]:
        """Each expert's share of the load; the shares of a depth sum to 1."""
        return self._by_depth(
            lambda sums: (sums[:, :-3] / sums[:, :-3].sum(1, keepdim=True).clamp_min(1)).tolist()
        )

    def load_max_over_mean(self) -> ByDepth:
        """Load of the fullest expert over the mean load: 1 is balanced, E is collapsed."""
        return self._by_depth(
            lambda sums: (sums[:, :-3].amax(1) / sums[:, :-3].mean(1).clamp_min(1e-9)).tolist()
        )

    def dead_experts(self) -> list[int | None]:
        """Experts that received no token."""
        return self._by_depth(lambda sums: (sums[:, :-3] == 0).sum(1).tolist())

    def router_entropy(self) -> ByDepth:
        """Entropy of a token's expert probabilities in nats, averaged over tokens."""
        return self._by_depth(lambda sums: (sums[:, -2] / sums[:, -3].clamp_min(1)).tolist())

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
        masses = [float(row[-1] / row[-3].clamp_min(1)) for row in self._rows().values()]
        return sum(masses) / len(masses) if masses else None

    def _by_group(self) -> Iterator[tuple[list[int], Tensor]]:
        """For depths with equally many experts, their part of the sums: a row for each depth.

        It has the tokens of each expert (E), then tokens, entropy and gate mass.
        """
        parts = torch.split(self.sums, [math.prod(shape) for shape in self._shapes])
        for depths, shape, part in zip(self._groups, self._shapes, parts, strict=True):
            yield depths, part.view(shape)

    def _rows(self) -> dict[int, Tensor]:
        """The sums of each routed depth, in order."""
        rows = {
            depth: row
            for depths, sums in self._by_group()
            for depth, row in zip(depths, sums, strict=True)
        }
        return dict(sorted(rows.items()))

    def _by_depth(self, read: Callable[[Tensor], list[Any]]) -> list[Any]:
        """What `read` makes of each group's sums, a value for each of its depths."""
        found: list[Any] = [None] * self._depth
        for depths, sums in self._by_group():
            for depth, value in zip(depths, read(sums), strict=True):
                found[depth] = value
        return found

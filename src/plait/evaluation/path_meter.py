"""Paths of a few thousand held-out tokens: their entropy, and how alike neighbouring depths choose.

The figures are those of a trace (`plait.routing.metrics`), on the tokens that an evaluation reads
anyway. A fixed number is kept, since the entropy of paths grows with the sample.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.evaluation.choices import agreement, bit_sets, entropy_of, jaccard, label, shared_labels
from plait.model.routing import Routing, ranked

TOKENS = 4096
"""tokens whose paths are kept, over all domains"""


class PathMeter:
    """Keeps the chosen experts of each domain's first tokens, the same whatever the batch size.

    Args:
        config: of the model.
        domains: number of domains that will come; each may give an equal part of the tokens.
        tokens: kept over all domains.
    """

    def __init__(self, config: ModelConfig, domains: int, tokens: int = TOKENS) -> None:
        self._config = config
        self._each = max(1, tokens // max(1, domains))
        self._kept: dict[str, int] = {}
        self._ids_TLK: list[Tensor] = []

    @torch.no_grad()
    def add(
        self, domain: str, routings: Sequence[Routing | None], keep_T: Tensor | None = None
    ) -> None:
        """Take the routings of one forward, of the tokens that `keep_T` marks."""
        missing = self._each - self._kept.get(domain, 0)
        routed = [routing for routing in routings if routing is not None]
        if missing < 1 or not routed or routed[0].tokens_N is not None:
            return  # where experts choose, a token has no path
        ids_TK = routed[0].expert_ids_TK
        places = torch.arange(len(ids_TK), device=ids_TK.device)
        places = (places if keep_T is None else places[keep_T])[:missing]
        self._kept[domain] = self._kept.get(domain, 0) + len(places)
        first = [ranked(_of(routing, places)).expert_ids_TK for routing in routed]
        self._ids_TLK.append(torch.stack(first, dim=1))

    def figures(self) -> dict[str, Any]:
        """Path entropy and consistency, as `docs/routing.md` defines them; nothing without routers.

        `path_entropy` is the plug-in entropy in nats of the top-1 experts over all routed depths,
        `paths` the number of different ones and `path_tokens` that of the tokens, whose logarithm
        is the entropy's ceiling. `consistency` is the mean Jaccard index of neighbouring routed
        depths, `consistency_in_blocks` of those whose expert numbers mean the same; None where
        there is no such pair. `agreement` is how alike the depths of a tied bank choose, the mean
        over banks; None where none is tied.
        """
        if not sum(self._kept.values()):
            return {}
        config = self._config
        top_k = config.experts.top_k
        experts = [config.experts_at(depth) for depth in config.routed_depths]
        ids_NLK = torch.cat(self._ids_TLK).cpu().numpy()
        labels_N = label(ids_NLK[:, :, 0], experts)
        masks_NLW = bit_sets(ids_NLK, max(experts))
        plans = (config.plans.experts, config.plans.router, config.plans.decision)
        shared_LL = shared_labels(
            *([plan.banks[depth] for depth in config.routed_depths] for plan in plans)
        )
        by_pair = [
            (bool(shared_LL[a, b]), float(jaccard(masks_NLW[:, a], masks_NLW[:, b], top_k).mean()))
            for a, b in pairwise(range(len(experts)))
        ]
        return {
            "path_entropy": entropy_of(np.bincount(labels_N)),
            "paths": int(labels_N.max()) + 1,
            "path_tokens": len(labels_N),
            "consistency": _mean([value for _, value in by_pair]),
            "consistency_in_blocks": _mean([value for shared, value in by_pair if shared]),
            "agreement": _mean(self._agreements(masks_NLW)),
        }

    def _agreements(self, masks_NLW: npt.NDArray[np.uint64]) -> list[float]:
        """Mean agreement of the depths of each tied bank whose choices leave something out."""
        routed, top_k = self._config.routed_depths, self._config.experts.top_k
        plan, found = self._config.plans.experts, []
        for bank in range(plan.count):
            rows = [row for row, depth in enumerate(routed) if plan.banks[depth] == bank]
            experts = self._config.experts_in_bank(bank)
            if len(rows) > 1 and experts > top_k:
                found.append(float(agreement(masks_NLW[:, rows], top_k, experts).mean()))
        return found


def _of(routing: Routing, places: Tensor) -> Routing:
    return Routing(
        routing.logits_TE[places],
        routing.probs_TE[places],
        routing.expert_ids_TK[places],
        routing.weights_TK[places],
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None

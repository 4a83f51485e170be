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

    `ids` holds all that was kept, to be added up over processes that take different tokens.

    Args:
        config: of the model.
        domains: number of domains that will come; each may give an equal part of the tokens.
        tokens: kept over all domains.
        device: where what is kept lies.
    """

    def __init__(
        self,
        config: ModelConfig,
        domains: int,
        tokens: int = TOKENS,
        device: torch.device | None = None,
    ) -> None:
        self._config = config
        self._each = max(1, tokens // max(1, domains))
        self._seen: dict[str, int] = {}
        depths = len(config.routed_depths) if config.router.choice == "tokens" else 0
        shape = domains * self._each, depths, config.experts.top_k
        self.ids = torch.zeros(shape, dtype=torch.int64, device=device)
        """(tokens, L routed depths, K): the number of each expert + 1, best first; 0 where no token
        was kept"""

    @torch.no_grad()
    def add(
        self, domain: str, routings: Sequence[Routing | None], keep_T: Tensor | None = None
    ) -> None:
        """Take the routings of one forward, of the tokens that `keep_T` marks."""
        routed = [routing for routing in routings if routing is not None]
        if not self.ids.shape[1]:
            return  # where experts choose, a token has no path
        ids_TK = routed[0].expert_ids_TK
        places = torch.arange(len(ids_TK), device=ids_TK.device)
        places = places if keep_T is None else places[keep_T]
        before = self.skip(domain, len(places))
        places = places[: max(0, self._each - before)]
        if len(places):
            first = [ranked(_of(routing, places)).expert_ids_TK for routing in routed]
            row = list(self._seen).index(domain) * self._each + before
            self.ids[row : row + len(places)] = torch.stack(first, dim=1) + 1

    def skip(self, domain: str, tokens: int) -> int:
        """Pass over tokens that are another process'; return how many were before them."""
        before = self._seen.get(domain, 0)
        self._seen[domain] = before + tokens
        return before

    def figures(self) -> dict[str, Any]:
        """Path entropy and consistency, as `docs/routing.md` defines them; nothing without routers.

        `path_entropy` is the plug-in entropy in nats of the top-1 experts over all routed depths,
        `paths` the number of different ones and `path_tokens` that of the tokens, whose logarithm
        is the entropy's ceiling. `consistency` is the mean Jaccard index of neighbouring routed
        depths, `consistency_in_blocks` of those whose expert numbers mean the same; None where
        there is no such pair. `agreement` is how alike the depths of a tied bank choose, the mean
        over banks; None where none is tied.
        """
        kept_NLK = self.ids[self.ids.flatten(1).any(1)]
        if not len(kept_NLK):
            return {}
        config = self._config
        top_k = config.experts.top_k
        experts = [config.experts_at(depth) for depth in config.routed_depths]
        ids_NLK = (kept_NLK - 1).cpu().numpy()
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

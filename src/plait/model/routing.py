"""The value that routers make, collaboration re-weights, experts consume, and analysis reads."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from plait.config import RouterConfig


@dataclass(frozen=True)
class Routing:
    """The routing of T tokens over E experts, K of them chosen for each token.

    Where experts choose their tokens, N pairs of a token and an expert take the place of T · K:
    `expert_ids_TK` and `weights_TK` are (N, 1), and `tokens_N` says whose they are.
    """

    logits_TE: Tensor
    """router logits, fp32, any routing bias of a collaboration included"""
    probs_TE: Tensor
    """the logits as probabilities over all experts; sigmoid scores are divided by their sum"""
    expert_ids_TK: Tensor
    """chosen experts, int64, best first"""
    weights_TK: Tensor
    """gates of the chosen experts"""
    tokens_N: Tensor | None = None
    """token of each row of ids and gates, where experts chose; a token may have several, or none"""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Routing":
        """Return the routing on a device; itself, if it is there."""
        if self.logits_TE.device == torch.device(device):
            return self
        moved: dict[str, Any] = {}
        for field in fields(self):
            tensor: Tensor | None = getattr(self, field.name)
            moved[field.name] = (
                None if tensor is None else tensor.to(device=device, non_blocking=non_blocking)
            )
        return Routing(**moved)


def choose(
    logits_TE: Tensor,
    config: RouterConfig,
    top_k: int,
    bias_E: Tensor | None = None,
    expert_ids_TK: Tensor | None = None,
) -> Routing:
    """Turn router logits into a routing.

    Args:
        logits_TE: fp32 logits.
        config: gating, renormalisation and scale.
        top_k: experts per token.
        bias_E: added to the scores for choosing, never for weighting (arXiv 2408.15664).
        expert_ids_TK: experts chosen before: they are kept, only the gates are computed. Activation
            checkpointing recomputes with it, so that rounding can never choose others.
    """
    if config.gating == "sigmoid":
        scores_TE = logits_TE.sigmoid()
        probs_TE = scores_TE / scores_TE.sum(-1, keepdim=True).clamp_min(1e-20)
    else:
        scores_TE = probs_TE = logits_TE.softmax(-1)
    if expert_ids_TK is None:
        ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
        if config.groups > 1:
            ranked_TE = _within_best_groups(ranked_TE, config.groups, config.top_groups)
        expert_ids_TK = torch.topk(ranked_TE.detach(), top_k, dim=-1).indices
    if config.gating == "topk-softmax":
        weights_TK = logits_TE.gather(-1, expert_ids_TK).softmax(-1)
    else:
        weights_TK = scores_TE.gather(-1, expert_ids_TK)
        if config.renormalise:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True).clamp_min(1e-20)
    if config.scale != 1.0:
        weights_TK = weights_TK * config.scale
    return Routing(logits_TE, probs_TE, expert_ids_TK, weights_TK)


def _within_best_groups(scores_TE: Tensor, groups: int, top_groups: int) -> Tensor:
    """Keep the scores of the groups whose two best sum up to most; −∞ elsewhere (2412.19437)."""
    tokens, experts = scores_TE.shape
    scores_TGe = scores_TE.view(tokens, groups, experts // groups)
    sums_TG = scores_TGe.topk(2, dim=-1).values.sum(-1)
    best_TN = sums_TG.topk(top_groups, dim=-1).indices
    left_out_TG = torch.ones_like(sums_TG, dtype=torch.bool).scatter_(1, best_TN, value=False)
    return scores_TGe.masked_fill(left_out_TG[..., None], -torch.inf).view(tokens, experts)


def choose_tokens(
    logits_TE: Tensor,
    config: RouterConfig,
    top_k: int,
    sequences: int,
    tokens_N: Tensor | None = None,
) -> Routing:
    """Let each expert choose its best tokens of each sequence (expert choice, arXiv 2202.09368).

    An expert takes S · top_k ÷ E of a sequence's S tokens, rounded down, and one at the least. The
    paper chooses among all tokens of a batch; within a sequence what is chosen does not depend on
    the batch or the number of processes. Tokens that come later count as well.

    Args:
        logits_TE: fp32 logits, the sequences one after the other.
        config: gating and scale.
        top_k: experts per token, on average.
        sequences: that the T tokens are of, equally long.
        tokens_N: the choice made before, as for `choose`.
    """
    tokens, experts = logits_TE.shape
    length = tokens // sequences
    taken = max(1, length * top_k // experts)
    if config.gating == "sigmoid":
        scores_TE = logits_TE.sigmoid()
        probs_TE = scores_TE / scores_TE.sum(-1, keepdim=True).clamp_min(1e-20)
    else:
        scores_TE = probs_TE = logits_TE.softmax(-1)
    if tokens_N is None:
        scores_BSE = scores_TE.detach().view(sequences, length, experts)
        places_BCE = scores_BSE.topk(taken, dim=1).indices
        first_B = torch.arange(0, tokens, length, device=logits_TE.device)
        tokens_N = (places_BCE + first_B[:, None, None]).flatten()
    ids_N = torch.arange(experts, device=logits_TE.device).repeat(sequences * taken)
    weights_N = scores_TE[tokens_N, ids_N] * config.scale
    return Routing(logits_TE, probs_TE, ids_N[:, None], weights_N[:, None], tokens_N)


def chosen(routings: Sequence[Routing], keep_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ids and gates of G alike routings of one forward, of the tokens that count.

    (G, T, K), or (G, N, 1) where experts chose: there pairs of tokens that do not count have gate 0
    and the number E, which is no expert's.
    """
    ids_GTK = torch.stack([routing.expert_ids_TK for routing in routings])
    weights_GTK = torch.stack([routing.weights_TK for routing in routings])
    if keep_T is None:
        return ids_GTK, weights_GTK
    pairs = [routing.tokens_N for routing in routings if routing.tokens_N is not None]
    if not pairs:
        return ids_GTK[:, keep_T], weights_GTK[:, keep_T]
    kept_GN1 = torch.stack([keep_T[tokens_N] for tokens_N in pairs])[..., None]
    experts = routings[0].logits_TE.shape[-1]
    return ids_GTK.masked_fill(~kept_GN1, experts), weights_GTK * kept_GN1


def ranked(routing: Routing) -> Routing:
    """Order each token's experts by router logit, best first; equal logits by index.

    The top-1 expert is thereby the same whatever order a top-k, a selection bias or a
    collaboration's gates gave.
    """
    ids_TK, by_id = routing.expert_ids_TK.sort(dim=-1)
    weights_TK = routing.weights_TK.gather(-1, by_id)
    chosen_TK = routing.logits_TE.gather(-1, ids_TK)
    order = chosen_TK.argsort(dim=-1, descending=True, stable=True)
    return Routing(
        routing.logits_TE,
        routing.probs_TE,
        ids_TK.gather(-1, order),
        weights_TK.gather(-1, order),
    )

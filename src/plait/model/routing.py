"""The value that routers make, collaboration re-weights, experts consume, and analysis reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plait.config import RouterConfig


@dataclass(frozen=True)
class Routing:
    """The routing of T tokens over E experts, K of them chosen for each token."""

    logits_TE: Tensor
    """router logits, fp32, any routing bias of a collaboration included"""
    probs_TE: Tensor
    """the logits as probabilities over all experts; sigmoid scores are divided by their sum"""
    expert_ids_TK: Tensor
    """chosen experts, int64, best first"""
    weights_TK: Tensor
    """gates of the chosen experts"""


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

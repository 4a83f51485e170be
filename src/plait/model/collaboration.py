"""Collaboration (CT-MoE): a learned topology S over experts biases routing, re-weights gates.

Message passing between the chosen experts is gate re-weighting, exactly:
Σ_i w_i (o_i + λ Σ_j Ŝ_ij o_j) = Σ_j (w_j + λ Σ_i w_i Ŝ_ij) o_j, so w' = w + λ Ŝᵀ w and the experts
run as always. The gate mass grows by (1 + λ) when the rows of Ŝ sum to one.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from plait.config import CollaborationConfig, Role
from plait.model.routing import Routing


class Collaboration(nn.Module):
    """One bank of topology: `raw` (E, E), from which S is made."""

    raw: Tensor
    role: Role = "topology"

    def __init__(self, config: CollaborationConfig, experts: int):
        super().__init__()
        self.config = config
        self.begins_at = {"raw": "normal" if config.control == "frozen-random" else 0.0}
        if config.control in ("frozen-uniform", "frozen-random"):
            self.register_buffer("raw", torch.empty(experts, experts))
        else:
            self.raw = nn.Parameter(torch.empty(experts, experts))

    def forward(self) -> Tensor:
        """Return S (E, E)."""
        return topology(self.raw, self.config)


def topology(raw_EE: Tensor, config: CollaborationConfig) -> Tensor:
    """Return S (E, E): symmetrised, diagonal masked, tempered; row softmax or tanh.

    The row softmax makes S unsymmetric again: symmetrise before taking a symmetric spectrum.
    """
    symmetric = (raw_EE.float() + raw_EE.float().T) / (2 * config.temperature)
    diagonal = torch.eye(len(raw_EE), dtype=torch.bool, device=raw_EE.device)
    if config.signed:
        s_EE = symmetric.tanh()
        return s_EE if config.self_loop else s_EE.masked_fill(diagonal, 0.0)
    if not config.self_loop:
        symmetric = symmetric.masked_fill(diagonal, -torch.inf)
    return symmetric.softmax(-1)


def routing_bias(s_EE: Tensor, config: CollaborationConfig) -> Tensor:
    """Return what is added to the router logits: λ_r times the column sums of S (E)."""
    return config.routing_strength * s_EE.sum(0)


def messages(s_EE: Tensor, expert_ids_TK: Tensor, config: CollaborationConfig) -> Tensor:
    """Return Ŝ (T, K, K): the rows and columns of S of each token's chosen experts.

    With `row_normalise` the rows sum to one; a row without a neighbour (K = 1) stays zero.
    """
    experts = len(s_EE)
    entries = expert_ids_TK[:, :, None] * experts + expert_ids_TK[:, None, :]
    chosen_TKK = s_EE.reshape(-1)[entries]
    if config.row_normalise:
        chosen_TKK = chosen_TKK / chosen_TKK.sum(-1, keepdim=True).clamp_min(1e-20)
    return chosen_TKK


def reweight(routing: Routing, s_EE: Tensor | None, config: CollaborationConfig) -> Routing:
    """Return the routing with gates w' = w + λ_c Ŝᵀ w; for the control gate-scale, w (1 + λ_c)."""
    if config.control == "gate-scale" or s_EE is None:
        return replace(routing, weights_TK=routing.weights_TK * (1 + config.strength))
    chosen_TKK = messages(s_EE, routing.expert_ids_TK, config)
    # a sum and no product of matrices, which autocast would round to bf16
    received_TK = (chosen_TKK * routing.weights_TK[:, :, None]).sum(1)
    return replace(routing, weights_TK=routing.weights_TK + config.strength * received_TK)

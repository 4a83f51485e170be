"""Banks of experts, and the dense feed-forward layer that stands in their place or beside them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait import kernels
from plait.config import ModelConfig, Role
from plait.kernels.activation import activate
from plait.model.parameters import linear


class FeedForward(nn.Module):
    """A dense feed-forward layer: SwiGLU (gate and up in one matrix) or GELU. (…, D) → (…, D)."""

    role: Role = "matrix"

    def __init__(self, width: int, inner: int, activation: str):
        super().__init__()
        self.activation = activation
        rows = {"swiglu": 2 * inner, "gelu": inner}[activation]
        self.stacked = {"up": rows // inner}
        self.up = nn.Parameter(torch.empty(rows, width))
        self.down = nn.Parameter(torch.empty(width, inner))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return F.linear(activate(F.linear(x, self.up), self.activation), self.down)


class ExpertBank(nn.Module):
    """E experts, and if configured a shared expert that every token passes through.

    `up` is (E, 2F, D) for SwiGLU (the gate's rows first), (E, F, D) for GELU; `down` is (E, D, F).
    """

    role: Role = "expert"
    compute: Callable[..., Tensor] = staticmethod(kernels.experts)
    """what computes the experts; another where they lie on several processes"""
    _is_expert_parallel = False
    """set by transformers, where its plan dealt the experts out over processes"""

    def __init__(self, config: ModelConfig, experts: int):
        super().__init__()
        e = config.experts
        self.num_experts = experts  # in transformers' words, which counts those of one process
        self.activation = e.activation
        rows = {"swiglu": 2 * e.width, "gelu": e.width}[e.activation]
        self.stacked = {"up": rows // e.width}
        self.up = nn.Parameter(torch.empty(experts, rows, config.width))
        self.down = nn.Parameter(torch.empty(experts, config.width, e.width))
        self.shared: FeedForward | None = None
        self.shared_gate: nn.Linear | None = None
        if e.shared_width:
            self.shared = FeedForward(config.width, e.shared_width, e.activation)
            if e.shared_gate:
                self.shared_gate = linear(config.width, 1, "router")

    def forward(
        self,
        h_TD: Tensor,
        expert_ids_TK: Tensor,
        weights_TK: Tensor,
        tokens_N: Tensor | None = None,
        mix_TKK: Tensor | None = None,
    ) -> Tensor:
        """Return y_TD, the gated sum of each token's experts, plus the shared expert's output.

        Args:
            h_TD: normed input.
            expert_ids_TK: each token's experts.
            weights_TK: their gates.
            tokens_N: token of each row of ids and gates, where experts chose (`Routing`).
            mix_TKK: how the chosen experts' hidden vectors mix before the down-projection.
        """
        if self._is_expert_parallel:  # the id E is an expert that is elsewhere; its gate is 0
            expert_ids_TK = expert_ids_TK.clamp(max=self.num_experts - 1)
        y_TD = self.compute(
            h_TD if tokens_N is None else h_TD[tokens_N],
            expert_ids_TK,
            weights_TK,
            self.up,
            self.down,
            self.activation,
            mix_TKK,
        )
        if tokens_N is not None:
            y_TD = torch.zeros_like(h_TD, dtype=y_TD.dtype).index_add(0, tokens_N, y_TD)
        if self.shared is not None:
            shared_TD = self.shared(h_TD)
            if self.shared_gate is not None:
                shared_TD = shared_TD * self.shared_gate(h_TD).sigmoid()
            y_TD = y_TD + shared_TD
        return y_TD


def kernel_name(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, compiling: bool = False
) -> str:
    """Name the kernel that computes this model's experts on `device`, with products in `dtype`."""
    c = config.collaboration
    if c is not None and c.strength and c.messages == "hidden" and c.control != "gate-scale":
        return kernels.backend_name("mixing_experts", device, compiling=compiling)
    e, width = config.experts, config.width
    rows = {"swiglu": 2 * e.width, "gelu": e.width}[e.activation]
    x_TD, up_EXD = torch.empty(1, width, dtype=dtype), torch.empty(1, rows, width)
    down_EDF, one_TK = torch.empty(1, width, e.width), torch.zeros(1, 1, dtype=torch.int64)
    arguments = x_TD, one_TK, one_TK.float(), up_EXD, down_EDF, e.activation
    return kernels.backend_name("experts", device, *arguments, compiling=compiling)


def expert_bank(config: ModelConfig, bank: int) -> ExpertBank | FeedForward:
    """Build one expert bank of the plan; one with a single expert is dense."""
    experts = config.experts_in_bank(bank)
    if experts > 1:
        return ExpertBank(config, experts)
    first = config.plans.experts.uses(bank)[0]
    dense = first in config.dense_depths
    inner = config.experts.dense_width if dense else config.experts.width
    assert inner is not None
    return FeedForward(config.width, inner, config.experts.activation)

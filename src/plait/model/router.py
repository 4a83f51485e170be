"""Routers: a token's hidden state to one logit for each expert, always in fp32.

Some kinds have a part that all depths have in common (the base of low-rank routers, the GRU of
recurrent ones). It is owned by the model once and handed to each router bank at its use.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.config import ModelConfig, Role


class Router(nn.Module):
    """One bank of routing: subclasses say how logits come about."""

    role: Role = "router"

    def forward(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return fp32 logits (T, E), and the memory that the next depth's router receives.

        Args:
            h_TD: normed input of the MoE sub-layer.
            common: the part that all routers of this model have in common, where the kind has one.
            memory_TM: what the router of the depth before handed on; None at the first.
        """
        if not torch.is_autocast_enabled(h_TD.device.type):
            return self.logits(h_TD.float(), common, memory_TM)
        with torch.autocast(h_TD.device.type, enabled=False):
            return self.logits(h_TD.float(), common, memory_TM)

    def logits(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute `forward` in fp32."""
        raise NotImplementedError


class LinearRouter(Router):
    """z = W h."""

    def __init__(self, width: int, experts: int, inner: int | None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))

    def logits(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Project."""
        return F.linear(h_TD, self.weight.float()), memory_TM


class RandomFixedRouter(Router):
    """z = W h with a W that is never trained: the control for what learning to route brings."""

    weight: Tensor

    def __init__(self, width: int, experts: int, inner: int | None):
        super().__init__()
        self.register_buffer("weight", torch.empty(experts, width))

    def logits(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Project."""
        return F.linear(h_TD, self.weight.float()), memory_TM


class CosineRouter(Router):
    """z = cos(P h, e) / τ in few dimensions, with a learned τ (X-MoE, arXiv 2204.09179 eq. 5–6)."""

    begins_at = {"temperature": 0.07}  # noqa: RUF012

    def __init__(self, width: int, experts: int, inner: int | None):
        super().__init__()
        inner = inner or max(2, experts // 2)
        self.projection = nn.Parameter(torch.empty(inner, width))
        self.embeddings = nn.Parameter(torch.empty(experts, inner))
        self.temperature = nn.Parameter(torch.empty(1))

    def logits(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Compare directions."""
        projected = F.normalize(F.linear(h_TD, self.projection.float()), dim=-1)
        directions = F.normalize(self.embeddings.float(), dim=-1)
        return F.linear(projected, directions) / self.temperature.clamp_min(0.01), memory_TM


class LowRankRouter(Router):
    """z = (W + U V) h: one base W for all depths, a low-rank part for each bank; U begins at 0."""

    begins_at = {"up": 0.0}  # noqa: RUF012

    def __init__(self, width: int, experts: int, inner: int | None):
        super().__init__()
        rank = inner or 16
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.empty(experts, rank))

    def logits(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Project by the common base and by this bank's low-rank part."""
        assert common is not None
        own = F.linear(F.linear(h_TD, self.down.float()), self.up.float())
        return common(h_TD) + own, memory_TM


class LowRankBase(nn.Module):
    """The base that all low-rank routers of a model have in common."""

    role: Role = "router"

    def __init__(self, width: int, experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))

    def forward(self, h_TD: Tensor) -> Tensor:
        """Project (T, D) to (T, E)."""
        return F.linear(h_TD, self.weight.float())


class RecurrentRouter(Router):
    """z = W g, g = GRU(P h, g of the depth before): routing that remembers (RMoE, 2408.06793)."""

    def __init__(self, width: int, experts: int, inner: int | None):
        super().__init__()
        inner = inner or DEFAULT_MEMORY
        self.projection = nn.Parameter(torch.empty(inner, width))
        self.weight = nn.Parameter(torch.empty(experts, inner))

    def logits(
        self, h_TD: Tensor, common: nn.Module | None, memory_TM: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Step the memory that all depths have in common, then project it."""
        assert common is not None
        memory_TM = common(F.linear(h_TD, self.projection.float()), memory_TM)
        assert memory_TM is not None
        return F.linear(memory_TM, self.weight.float()), memory_TM


DEFAULT_MEMORY = 128


class RouterMemory(nn.GRUCell):
    """The GRU over depth that all recurrent routers of a model have in common, in fp32."""

    role: Role = "router"

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Step the memory (T, inner); it begins at zero."""
        memory = torch.zeros_like(input) if hx is None else hx
        gates = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return torch.gru_cell(input, memory, *(gate.float() for gate in gates))


ROUTERS: dict[
    str, type[LinearRouter | RandomFixedRouter | CosineRouter | LowRankRouter | RecurrentRouter]
] = {
    "linear": LinearRouter,
    "random-fixed": RandomFixedRouter,
    "cosine": CosineRouter,
    "low-rank": LowRankRouter,
    "recurrent": RecurrentRouter,
}


def router_bank(config: ModelConfig, experts: int) -> Router:
    """Build one router bank for `experts` experts."""
    return ROUTERS[config.router.kind](config.width, experts, config.router.inner_width)


def common_part(config: ModelConfig) -> nn.Module | None:
    """Build what all routers of the model have in common, or None where the kind has no such."""
    if not config.routed_depths:
        return None
    if config.router.kind == "low-rank":
        return LowRankBase(config.width, config.experts_at(config.routed_depths[0]))
    if config.router.kind == "recurrent":
        inner = config.router.inner_width or DEFAULT_MEMORY
        return RouterMemory(inner, inner)
    return None


class LoadBias(nn.Module):
    """The loss-free balancing bias: moves the choice of experts, never their weights (2408.15664).

    A buffer: it is no parameter and gets no gradient. `plait.model.balance.update_bias` moves it
    once per optimizer step.
    """

    bias_E: Tensor
    begins_at = {"bias_E": 0.0}  # noqa: RUF012

    def __init__(self, experts: int):
        super().__init__()
        self.register_buffer("bias_E", torch.empty(experts))

    def forward(self) -> Tensor:
        """Return the bias (E)."""
        return self.bias_E

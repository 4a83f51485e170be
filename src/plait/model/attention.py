"""Banks of causal self-attention: multi-head or grouped-query, and what each depth adds to them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.config import ModelConfig
from plait.model.norms import RMSNorm
from plait.model.parameters import linear

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""How queries meet keys, as (q_BSHd, k_BSGd, v_BSGd, depth) → y_BSHd: with which positions, mask
and cache is its own affair (`plait.model.attending`)"""


class LowRank(nn.Module):
    """A low-rank addition to a projection, one for each depth: x ↦ (x Aᵀ) Bᵀ, B begins at zero."""

    role = "matrix"
    begins_at = {"up": 0.0}  # noqa: RUF012

    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.empty(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs)."""
        return F.linear(F.linear(x, self.down), self.up)


class QueryKeyLora(nn.Module):
    """The LoRA of one depth on the queries and keys of an attention bank that depths share."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        heads, kv_heads, head_width = config.heads
        rank = config.attention.lora_rank
        self.query = LowRank(config.width, heads * head_width, rank)
        self.key = LowRank(config.width, kv_heads * head_width, rank)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what to add to the queries and to the keys."""
        return self.query(x_BSD), self.key(x_BSD)


class Attention(nn.Module):
    """One bank of attention."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        heads, kv_heads, self.head_width = config.heads
        a, width = config.attention, config.width
        queries, keys = heads * self.head_width, kv_heads * self.head_width
        self.q_proj = linear(width, queries, "matrix", bias=a.qkv_bias)
        self.k_proj = linear(width, keys, "matrix", bias=a.qkv_bias)
        self.v_proj = linear(width, keys, "matrix", bias=a.qkv_bias)
        self.o_proj = linear(queries, width, "matrix", bias=a.output_bias)
        # kernels divide by √head width
        self.query_scale = None if a.scale is None else a.scale * self.head_width**0.5
        self.qk_norm, self.clip = a.qk_norm, a.clip_qkv
        if a.qk_norm != "none":
            per_head = a.qk_norm == "head"
            self.q_norm = RMSNorm(self.head_width if per_head else queries, config.norm_eps)
            self.k_norm = RMSNorm(self.head_width if per_head else keys, config.norm_eps)

    def forward(
        self,
        x_BSD: Tensor,
        attend: Attend,
        depth: int,
        lora: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend: (B, S, D) → (B, S, D).

        Args:
            x_BSD: the normed input.
            attend: how queries meet keys.
            depth: where in the stack, shared bank or not.
            lora: this depth's additions to queries and keys.
        """
        batch, length, _ = x_BSD.shape
        q, k, v = self.q_proj(x_BSD), self.k_proj(x_BSD), self.v_proj(x_BSD)
        if lora is not None:
            q, k = q + lora[0], k + lora[1]
        if self.qk_norm == "width":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.clip is not None:
            q, k, v = (t.clamp(-self.clip, self.clip) for t in (q, k, v))
        # as many heads as there are here: tensor parallelism has some of them elsewhere
        q, k, v = (t.view(batch, length, -1, self.head_width) for t in (q, k, v))
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.query_scale is not None:
            q = q * self.query_scale
        y_BSHd = attend(q, k, v, depth)
        y_BSD: Tensor = self.o_proj(y_BSHd.reshape(batch, length, -1))
        return y_BSD

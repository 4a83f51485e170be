"""Causal self-attention: multi-head or grouped-query, rotary or learned positions, with a cache."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait import kernels
from plait.config import ModelConfig
from plait.kernels.attention import rotate
from plait.model.norms import RMSNorm
from plait.model.parameters import linear


class Cache(Protocol):
    """What attention needs of a key/value cache: the interface of Hugging Face's caches."""

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append (B, H, S, d) keys and values at a depth; return all that it then holds."""
        ...

    def get_seq_length(self) -> int:
        """Return the number of tokens held."""
        ...


class KVCache:
    """Keys and values by depth, in buffers that double when they are full."""

    def __init__(self) -> None:
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self.lengths: dict[int, int] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append (B, H, S, d) keys and values at a depth; return all that it then holds."""
        key_buffer, value_buffer, held = self.extend(keys, values, layer_idx)
        end = held + keys.shape[2]
        key_buffer[:, :, held:end] = keys
        value_buffer[:, :, held:end] = values
        return key_buffer[:, :, :end], value_buffer[:, :, :end]

    def extend(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor, int]:
        """Make room for (B, H, S, d) keys and values; return the buffers and where to write."""
        held = self.lengths.get(layer_idx, 0)
        end = self.lengths[layer_idx] = held + keys.shape[2]
        if held == 0 or end > self.buffers[layer_idx][0].shape[2]:
            room = max(64, (2 * end + 15) // 16 * 16)
            grown = []
            for index, new in enumerate((keys, values)):
                buffer = new.new_empty(*new.shape[:2], room, new.shape[3])
                if held:
                    buffer[:, :, :held] = self.buffers[layer_idx][index][:, :, :held]
                grown.append(buffer)
            self.buffers[layer_idx] = (grown[0], grown[1])
        return *self.buffers[layer_idx], held

    def get_seq_length(self) -> int:
        """Return the number of tokens held."""
        return self.lengths.get(0, 0)


@dataclass(frozen=True)
class Positions:
    """What attention needs to know of the places of this forward's tokens; equal at every depth."""

    cos_BSd: Tensor | None
    sin_BSd: Tensor | None
    mask: Tensor | None
    """(B or 1, 1, S, keys), True where a query may look; None: plain causal, no cache before it"""


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
        self.heads, self.kv_heads, self.head_width = config.heads
        a, width = config.attention, config.width
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
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
        positions: Positions,
        depth: int,
        cache: Cache | None = None,
        lora: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend: (B, S, D) → (B, S, D).

        Args:
            x_BSD: the normed input.
            positions: rotary angles and mask of this forward.
            depth: where in the stack; the cache keeps each depth apart, shared bank or not.
            cache: keys and values of earlier tokens, extended in place.
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
        q = q.view(batch, length, self.heads, self.head_width)
        k = k.view(batch, length, self.kv_heads, self.head_width)
        v = v.view(batch, length, self.kv_heads, self.head_width)
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if self.query_scale is not None:
            q = q * self.query_scale
        if cache is None and positions.mask is None:
            y_BSHd = kernels.causal_attention(q, k, v, positions.cos_BSd, positions.sin_BSd)
        else:
            y_BSHd = self._attend(q, k, v, positions, depth, cache)
        y_BSD: Tensor = self.o_proj(y_BSHd.reshape(batch, length, -1))
        return y_BSD

    def _attend(
        self,
        q_BSHd: Tensor,
        k_BSGd: Tensor,
        v_BSGd: Tensor,
        positions: Positions,
        depth: int,
        cache: Cache | None,
    ) -> Tensor:
        """Attend with a mask or a cache, or both: (B, S, H, d)."""
        if isinstance(cache, KVCache) and positions.mask is None and q_BSHd.shape[1] == 1:
            keys, values, held = cache.extend(k_BSGd.transpose(1, 2), v_BSGd.transpose(1, 2), depth)
            cos, sin = positions.cos_BSd, positions.sin_BSd
            return kernels.attend_one(q_BSHd, k_BSGd, v_BSGd, cos, sin, keys, values, held)
        q, k, v = (t.transpose(1, 2) for t in (q_BSHd, k_BSGd, v_BSGd))
        if positions.cos_BSd is not None and positions.sin_BSd is not None:
            q = rotate(q, positions.cos_BSd, positions.sin_BSd)
            k = rotate(k, positions.cos_BSd, positions.sin_BSd)
        if cache is not None:
            k, v = cache.update(k, v, depth)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=positions.mask,
            is_causal=positions.mask is None and q.shape[2] > 1,
            enable_gqa=self.heads != self.kv_heads,
        )
        return y.transpose(1, 2)

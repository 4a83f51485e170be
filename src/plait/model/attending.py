"""How queries meet keys: causally, behind padding, and with those that a cache holds."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from plait import kernels
from plait.config import ModelConfig
from plait.kernels.attention import torchs_kernel
from plait.kernels.rotary import rotate


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
        if layer_idx not in self.buffers:
            self.buffers[layer_idx] = keys[:, :, :0], values[:, :, :0]
        return self.room(layer_idx, keys.shape[2])

    def room(self, layer_idx: int, tokens: int) -> tuple[Tensor, Tensor, int]:
        """Make room for more tokens at a depth that has some; return as `extend` does."""
        held = self.lengths.get(layer_idx, 0)
        end = self.lengths[layer_idx] = held + tokens
        keys, values = self.buffers[layer_idx]
        if end > keys.shape[2]:
            room = max(64, (2 * end + 15) // 16 * 16)
            self.buffers[layer_idx] = _grown(keys, held, room), _grown(values, held, room)
        return *self.buffers[layer_idx], held

    def get_seq_length(self) -> int:
        """Return the number of tokens held."""
        return self.lengths.get(0, 0)


def _grown(buffer: Tensor, held: int, room: int) -> Tensor:
    grown = buffer.new_empty(*buffer.shape[:2], room, buffer.shape[3])
    grown[:, :, :held] = buffer[:, :, :held]
    return grown


@dataclass(frozen=True)
class Positions:
    """What attention needs to know of the places of this forward's tokens; equal at every depth."""

    cos_BSd: Tensor | None
    sin_BSd: Tensor | None
    mask: Tensor | None
    """(B or 1, 1, S, keys), True where a query may look; None: plain causal, no cache before it"""


def attend(
    q_BSHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    depth: int,
    positions: Positions,
    cache: Cache | None = None,
) -> Tensor:
    """Return softmax(q kᵀ / √d) v over the keys that each query may see: (B, S, H, d).

    Args:
        q_BSHd: queries, not turned yet.
        k_BSGd: keys of the same tokens.
        v_BSGd: their values.
        depth: where in the stack; the cache keeps each depth apart.
        positions: rotary angles and mask of this forward.
        cache: keys and values of earlier tokens, extended in place.
    """
    cos, sin, mask = positions.cos_BSd, positions.sin_BSd, positions.mask
    if cache is None and mask is None:
        return kernels.causal_attention(q_BSHd, k_BSGd, v_BSGd, cos, sin)
    if isinstance(cache, KVCache) and mask is None and q_BSHd.shape[1] == 1:
        keys, values, held = cache.extend(k_BSGd.transpose(1, 2), v_BSGd.transpose(1, 2), depth)
        return kernels.attend_one(q_BSHd, k_BSGd, v_BSGd, cos, sin, keys, values, held)
    q, k, v = (t.transpose(1, 2) for t in (q_BSHd, k_BSGd, v_BSGd))
    if cos is not None and sin is not None:
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if cache is not None:
        k, v = cache.update(k, v, depth)
    causal, grouped = mask is None and q.shape[2] > 1, q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=grouped)
    return y.transpose(1, 2)


def kernel_name(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, compiling: bool = False
) -> str:
    """Name what computes this model's attention in training: "native", or torch's own kernel."""
    heads, kv_heads, width = config.heads
    how: dict[str, Any] = {"dtype": dtype, "device": device, "requires_grad": True}
    q, k, v = (torch.empty(1, config.context, n, width, **how) for n in (heads, kv_heads, kv_heads))
    given = q, k, v, None, None
    name = kernels.backend_name("causal_attention", device, *given, compiling=compiling)
    return torchs_kernel(q, k, v) if name == "reference" else name

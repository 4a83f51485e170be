"""Causal attention with rotary angles: in C++ by blocks of queries, else through torch."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.attention import SDPBackend

from plait.kernels.native import GRANULE, TYPES
from plait.kernels.rotary import rotate


def reference(
    q_BSHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    cos_BSd: Tensor | None,
    sin_BSd: Tensor | None,
) -> Tensor:
    """Return softmax(q kᵀ / √d) v over the keys up to each query."""
    q, k, v = (t.transpose(1, 2) for t in (q_BSHd, k_BSGd, v_BSGd))
    if cos_BSd is not None and sin_BSd is not None:
        q, k = rotate(q, cos_BSd, sin_BSd), rotate(k, cos_BSd, sin_BSd)
    grouped = q.shape[1] != k.shape[1]
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return y.transpose(1, 2)


def torchs_kernel(q_BSHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor) -> str:
    """Name what torch's attention runs causally without a mask: "flash", "efficient", "math", ….

    All its kernels are allowed, and torch takes the first of its order that covers the arguments,
    which must lie where they are computed. Flash covers bfloat16; "math" holds S² scores.
    """
    q, k, v = (t.transpose(1, 2) for t in (q_BSHd, k_BSGd, v_BSGd))
    grouped = q.shape[1] != k.shape[1]
    choice = torch._fused_sdp_choice(q, k, v, is_causal=True, enable_gqa=grouped)
    return SDPBackend(choice).name.removesuffix("_ATTENTION").lower()


def native_covers(
    q_BSHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    cos_BSd: Tensor | None,
    sin_BSd: Tensor | None,
) -> bool:
    """Whether heads are multiples of 32 wide, all of one type."""
    return (
        q_BSHd.dtype in TYPES
        and q_BSHd.dtype == k_BSGd.dtype == v_BSGd.dtype
        and q_BSHd.shape[-1] % GRANULE == 0
    )


def native(
    q_BSHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    cos_BSd: Tensor | None,
    sin_BSd: Tensor | None,
) -> Tensor:
    """Do as `reference` does; memory grows with S, not S²."""
    return _Attention.apply(  # type: ignore[no-any-return, no-untyped-call]
        q_BSHd, k_BSGd, v_BSGd, cos_BSd, sin_BSd
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BSHd: Tensor,
        k_BSGd: Tensor,
        v_BSGd: Tensor,
        cos_BSd: Tensor | None,
        sin_BSd: Tensor | None,
    ) -> Tensor:
        q, k, v = q_BSHd.contiguous(), k_BSGd.contiguous(), v_BSGd.contiguous()
        if cos_BSd is not None and sin_BSd is not None:
            cos_BSd, sin_BSd = cos_BSd.contiguous(), sin_BSd.contiguous()
        y_BSHd, lse_BHS = torch.ops.plait.attention_forward(q, k, v, cos_BSd, sin_BSd)
        ctx.save_for_backward(q, k, v, y_BSHd, lse_BHS, cos_BSd, sin_BSd)
        return y_BSHd  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BSHd: Tensor) -> tuple[Tensor | None, ...]:
        gradients = torch.ops.plait.attention_backward(dy_BSHd.contiguous(), *ctx.saved_tensors)
        return *gradients, None, None

"""Causal attention with rotary angles: in C++ by blocks of queries, else through torch."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait import kernels


def rotate(x_BHSd: Tensor, cos_BSd: Tensor, sin_BSd: Tensor) -> Tensor:
    """Turn each head's pairs (i, i + d/2) by their position's angle (RoPE, 2104.09864)."""
    first, second = x_BHSd.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHSd * cos_BSd[:, None] + turned * sin_BSd[:, None]).to(x_BHSd.dtype)


def causal_attention(
    q_BSHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    cos_BSd: Tensor | None = None,
    sin_BSd: Tensor | None = None,
) -> Tensor:
    """Return softmax(q kᵀ / √d) v over the keys up to each query: (B, S, H, d).

    G key heads serve H query heads, H a multiple of G. With angles (B or 1, S, d), queries and
    keys are turned by them first. Memory grows with S, not S².
    """
    same = q_BSHd.dtype == k_BSGd.dtype == v_BSGd.dtype
    if kernels.compiled(q_BSHd) and same and q_BSHd.shape[-1] % 32 == 0:
        return _Attention.apply(  # type: ignore[no-any-return, no-untyped-call]
            q_BSHd, k_BSGd, v_BSGd, cos_BSd, sin_BSd
        )
    q, k, v = (t.transpose(1, 2) for t in (q_BSHd, k_BSGd, v_BSGd))
    if cos_BSd is not None and sin_BSd is not None:
        q, k = rotate(q, cos_BSd, sin_BSd), rotate(k, cos_BSd, sin_BSd)
    grouped = q.shape[1] != k.shape[1]
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return y.transpose(1, 2)


def attend_one(
    q_B1Hd: Tensor,
    k_B1Gd: Tensor,
    v_B1Gd: Tensor,
    cos_B1d: Tensor | None,
    sin_B1d: Tensor | None,
    keys_BGRd: Tensor,
    values_BGRd: Tensor,
    held: int,
) -> Tensor:
    """Append one key and value to buffers with room for R, and attend to all: (B, 1, H, d).

    Equal to turning queries and keys, writing at place `held`, and attending to held + 1 places.
    Call it where `covers_one` says so.
    """
    q, k, v = q_B1Hd.contiguous(), k_B1Gd.contiguous(), v_B1Gd.contiguous()
    y_B1Hd: Tensor = torch.ops.plait.attend_one(
        q, k, v, cos_B1d, sin_B1d, keys_BGRd, values_BGRd, held
    )
    return y_B1Hd


def covers_one(q_BSHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor) -> bool:
    """Whether `attend_one` applies: one token in the C++ kernels, without gradients."""
    return (
        q_BSHd.shape[1] == 1
        and not torch.is_grad_enabled()
        and q_BSHd.dtype == k_BSGd.dtype == v_BSGd.dtype
        and q_BSHd.shape[-1] % 32 == 0
        and kernels.compiled(q_BSHd)
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

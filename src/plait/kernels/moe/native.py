"""Experts on a CPU in C++: one task per expert and 512 rows, each on one thread.

Against `torch_cpu` it saves the passes over memory between the products, runs as many experts at
once as there are threads, and sums weight gradients in float32 whatever the products' type.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plait.kernels.activation import compute_dtype
from plait.kernels.few_rows import FEW_ROWS
from plait.kernels.native import GRANULE, TYPES


def covers(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
) -> bool:
    """Whether widths are multiples of 32; float32, bfloat16, or bfloat16 over float32 weights."""
    dtype = compute_dtype(x_TD)
    return (
        dtype in TYPES
        and x_TD.dtype in TYPES
        and up_EXD.dtype in TYPES
        and up_EXD.dtype == down_EDF.dtype
        and (dtype == torch.bfloat16 or up_EXD.dtype == torch.float32)
        and down_EDF.shape[1] % GRANULE == 0
        and down_EDF.shape[2] % GRANULE == 0
        and up_EXD.is_contiguous()
        and down_EDF.is_contiguous()
    )


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
) -> Tensor:
    """Return y_TD as `reference.experts` does."""
    dtype = compute_dtype(x_TD)
    if not torch.is_grad_enabled() and len(x_TD) < FEW_ROWS and dtype == x_TD.dtype == up_EXD.dtype:
        y_TD: Tensor = torch.ops.plait.few_rows_experts(
            x_TD.contiguous(),
            expert_ids_TK.contiguous(),
            weights_TK.float().contiguous(),
            up_EXD,
            down_EDF,
            activation == "swiglu",
        )
        return y_TD
    # asked here, since inside an autograd function it looks the same with and without no_grad
    keep = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (x_TD, weights_TK, up_EXD, down_EDF)
    )
    return _Experts.apply(  # type: ignore[no-any-return, no-untyped-call]
        x_TD, expert_ids_TK, weights_TK, up_EXD, down_EDF, activation == "swiglu", dtype, keep
    )


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        expert_ids_TK: Tensor,
        weights_TK: Tensor,
        up_EXD: Tensor,
        down_EDF: Tensor,
        swiglu: bool,
        dtype: torch.dtype,
        keep: bool,
    ) -> Tensor:
        x = x_TD.to(dtype).contiguous()
        ids_TK, gates_TK = expert_ids_TK.contiguous(), weights_TK.float().contiguous()
        y_TD, h_NX = torch.ops.plait.experts_forward(
            x, ids_TK, gates_TK, up_EXD, down_EDF, swiglu, x_TD.dtype, keep
        )
        ctx.save_for_backward(x, ids_TK, gates_TK, h_NX, up_EXD, down_EDF)
        ctx.swiglu, ctx.input_dtype, ctx.gate_dtype = swiglu, x_TD.dtype, weights_TK.dtype
        return y_TD  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, *saved = ctx.saved_tensors
        needs_weights = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        dx_TD, dgates_TK, dup_EXD, ddown_EDF = torch.ops.plait.experts_backward(
            dy_TD.to(x_TD.dtype).contiguous(),
            x_TD,
            *saved,
            ctx.swiglu,
            ctx.input_dtype,
            needs_weights,
        )
        dgates_TK = dgates_TK.to(ctx.gate_dtype)
        if not needs_weights:
            return dx_TD, None, dgates_TK, None, None, None, None, None
        return dx_TD, None, dgates_TK, dup_EXD, ddown_EDF, None, None, None

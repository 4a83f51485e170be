"""Experts on a CPU as one autograd node: sorted once, one product per expert and projection.

The gate multiplies the hidden vector instead of the output: the sum over a token's experts then
needs no weighted copy, outputs need not be kept, and the gate's gradient is a row sum. Kept for the
backward pass are the input and the pre-activations; the rest is recomputed.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait.kernels.activation import activate, activate_backward, compute_dtype
from plait.kernels.moe.sorting import sort_by_expert

MULTIPLE = 32


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
) -> Tensor:
    """Return y_TD as `reference.experts` does; products run in autocast's type where that is on."""
    dtype = compute_dtype(x_TD)
    return _Experts.apply(  # type: ignore[no-any-return, no-untyped-call]
        x_TD, expert_ids_TK, weights_TK, up_EXD, down_EDF, activation, dtype
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
        activation: str,
        dtype: torch.dtype,
    ) -> Tensor:
        segments = _segments(expert_ids_TK, len(up_EXD))
        x = x_TD.to(dtype)
        h_NX = _per_expert(x.index_select(0, segments.tokens_N), up_EXD.mT, segments)
        a_NF = activate(h_NX, activation).mul_(_sorted_gates(weights_TK, segments).to(dtype))
        y_TD = _combine(_per_expert(a_NF, down_EDF.mT, segments), segments)
        ctx.save_for_backward(x, weights_TK, up_EXD, down_EDF, h_NX)
        ctx.segments, ctx.activation, ctx.input_dtype = segments, activation, x_TD.dtype
        return y_TD.to(x_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, up_EXD, down_EDF, h_NX = ctx.saved_tensors
        segments: _Segments = ctx.segments
        gates_N1 = _sorted_gates(weights_TK, segments).to(x_TD.dtype)
        dy_ND = dy_TD.to(x_TD.dtype).index_select(0, segments.tokens_N)
        da_NF = _per_expert(dy_ND, down_EDF, segments)
        a_NF = activate(h_NX, ctx.activation)
        dweights_N = torch.linalg.vecdot(da_NF.float(), a_NF.float())
        ddown_EDF = _weight_gradient(dy_ND, a_NF.mul_(gates_N1), down_EDF, segments)
        dh_NX = activate_backward(da_NF.mul_(gates_N1), h_NX, ctx.activation)
        x_ND = x_TD.index_select(0, segments.tokens_N)
        dup_EXD = _weight_gradient(dh_NX, x_ND, up_EXD, segments)
        dx_TD = _combine(_per_expert(dh_NX, up_EXD, segments), segments).to(ctx.input_dtype)
        dweights_TK = dweights_N[segments.rows_TK].to(weights_TK.dtype)
        return dx_TD, None, dweights_TK, dup_EXD, ddown_EDF, None, None


@dataclass(frozen=True)
class _Segments:
    """Rows sorted by expert, known on the host.

    A padding row repeats the last pair and must be given gate 0.
    """

    tokens_N: Tensor
    pairs_N: Tensor
    padding_N: Tensor | None
    rows_TK: Tensor
    bounds: list[tuple[int, int]]
    """(first, last + 1) row of each expert"""


def _segments(expert_ids_TK: Tensor, experts: int) -> _Segments:
    """Sort the pairs by expert; with many rows, each expert's are padded to a multiple of 32.

    oneDNN compiles a product for every new shape, and rows per expert change at every step.
    """
    pairs = expert_ids_TK.numel()
    multiple = MULTIPLE if pairs >= 2 * MULTIPLE * experts else 1
    order = sort_by_expert(expert_ids_TK, experts, multiple, wait=True)
    pairs_N = order.pairs_N.clamp_max(pairs - 1)
    return _Segments(
        tokens_N=pairs_N // expert_ids_TK.shape[1],
        pairs_N=pairs_N,
        padding_N=order.pairs_N == pairs if len(pairs_N) > pairs else None,
        rows_TK=order.rows_TK,
        bounds=list(pairwise([0, *order.ends_E.tolist()])),
    )


def _sorted_gates(weights_TK: Tensor, segments: _Segments) -> Tensor:
    gates_N = weights_TK.reshape(-1)[segments.pairs_N]
    if segments.padding_N is not None:
        gates_N = gates_N.masked_fill(segments.padding_N, 0)
    return gates_N.unsqueeze(1)


def _combine(o_ND: Tensor, segments: _Segments) -> Tensor:
    """Sum each token's rows: a gather, which is far faster than scattering, and repeats."""
    return functional.embedding_bag(segments.rows_TK, o_ND, mode="sum")


def _per_expert(a_NI: Tensor, weights_EIO: Tensor, segments: _Segments) -> Tensor:
    out_NO = a_NI.new_empty(a_NI.shape[0], weights_EIO.shape[-1])
    for (first, end), weight_IO in zip(segments.bounds, weights_EIO, strict=True):
        if end > first:
            torch.mm(a_NI[first:end], weight_IO.to(a_NI.dtype), out=out_NO[first:end])
    return out_NO


def _weight_gradient(d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor, segments: _Segments) -> Tensor:
    gradient_EOI = torch.empty_like(like_EOI, memory_format=torch.contiguous_format)
    for (first, end), gradient_OI in zip(segments.bounds, gradient_EOI, strict=True):
        if end == first:
            gradient_OI.zero_()
        elif like_EOI.dtype == d_NO.dtype:
            torch.mm(d_NO[first:end].T, a_NI[first:end], out=gradient_OI)
        else:
            gradient_OI.copy_(d_NO[first:end].T @ a_NI[first:end])
    return gradient_EOI

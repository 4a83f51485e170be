"""Experts as one autograd node in torch's operations: rows sorted once, and little kept.

The gate multiplies the hidden vector instead of the output: the sum over a token's experts then
needs no weighted copy, outputs need not be kept, and the gate's gradient is a row sum. Kept for the
backward pass are the input, the pre-activations and the order of the rows; the rest is recomputed.
Each row of a token is found through its place, so that sums over them are gathered, forward and
backward: nothing is added into memory by index, and results repeat bit for bit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait.kernels.activation import activate, activate_backward, compute_dtype
from plait.kernels.moe.products import Products
from plait.kernels.moe.sorting import Order


def experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    mix_TKK: Tensor | None,
    activation: str,
    order: Order,
    products: Products,
) -> Tensor:
    """Return y_TD as `reference.experts` does, of rows in this order, by these products."""
    return _Experts.apply(  # type: ignore[no-any-return, no-untyped-call]
        x_TD,
        weights_TK,
        up_EXD,
        down_EDF,
        mix_TKK,
        order.pairs_N,
        order.rows_TK,
        products,
        activation,
        compute_dtype(x_TD),
    )


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weights_TK: Tensor,
        up_EXD: Tensor,
        down_EDF: Tensor,
        mix_TKK: Tensor | None,
        pairs_N: Tensor,
        rows_TK: Tensor,
        products: Products,
        activation: str,
        dtype: torch.dtype,
    ) -> Tensor:
        way = _Way.of(pairs_N, rows_TK)
        x = x_TD.to(dtype)
        h_NX = products.rows(way.out(x), up_EXD.mT)
        a_NF = _mixed(activate(h_NX, activation), mix_TKK, way)
        y_TD = way.back(products.rows(a_NF.mul_(way.gates(weights_TK, dtype)), down_EDF.mT))
        ctx.save_for_backward(x, weights_TK, up_EXD, down_EDF, mix_TKK, pairs_N, rows_TK, h_NX)
        ctx.products, ctx.activation, ctx.input_dtype = products, activation, x_TD.dtype
        return y_TD.to(x_TD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, up_EXD, down_EDF, mix_TKK, *order, h_NX = ctx.saved_tensors
        products: Products = ctx.products
        way = _Way.of(*order)
        gates_N1 = way.gates(weights_TK, x_TD.dtype)
        dup_EXD = ddown_EDF = dmix_TKK = None

        dy_ND = way.out(dy_TD.to(x_TD.dtype))
        da_NF = products.rows(dy_ND, down_EDF)
        unmixed_NF = activate(h_NX, ctx.activation)
        a_NF = _mixed(unmixed_NF, mix_TKK, way)
        exact = torch.promote_types(torch.float32, x_TD.dtype)
        dweights_N = (da_NF * a_NF).sum(1, dtype=exact)
        da_NF.mul_(gates_N1)
        if mix_TKK is not None:
            da_TKF, mix = way.by_token(da_NF), mix_TKK.to(da_NF.dtype)
            dmix_TKK = (da_TKF @ way.by_token(unmixed_NF).mT).to(mix_TKK.dtype)
            da_NF = way.sorted(torch.baddbmm(da_TKF, mix.mT, da_TKF))
        if ctx.needs_input_grad[3]:
            ddown_EDF = products.weight_gradient(dy_ND, a_NF.mul_(gates_N1), down_EDF)
        del dy_ND, a_NF, unmixed_NF
        dh_NX = activate_backward(da_NF, h_NX, ctx.activation)
        if ctx.needs_input_grad[2]:
            dup_EXD = products.weight_gradient(dh_NX, way.out(x_TD), up_EXD)
        dx_TD = way.back(products.rows(dh_NX, up_EXD)).to(ctx.input_dtype)
        dweights_TK = way.by_token(dweights_N).to(weights_TK.dtype)
        return dx_TD, dweights_TK, dup_EXD, ddown_EDF, dmix_TKK, *[None] * 5


def _mixed(a_NF: Tensor, mix_TKK: Tensor | None, way: "_Way") -> Tensor:
    """Let the hidden vectors of each token's experts talk: a_i + Σ_j mix_ij a_j."""
    if mix_TKK is None:
        return a_NF
    a_TKF = way.by_token(a_NF)
    return way.sorted(torch.baddbmm(a_TKF, mix_TKK.to(a_NF.dtype), a_TKF))


@dataclass(frozen=True)
class _Way:
    """The way of rows from tokens to experts and back.

    A padding row holds the last pair again, with gate 0 and no gradient.
    """

    pairs_N: Tensor
    tokens_N: Tensor
    rows_TK: Tensor
    padding_N1: Tensor | None

    @classmethod
    def of(cls, pairs_N: Tensor, rows_TK: Tensor) -> "_Way":
        pairs, k = rows_TK.numel(), rows_TK.shape[1]
        padding_N1 = None
        if len(pairs_N) > pairs:
            padding_N1 = (pairs_N == pairs)[:, None]
            pairs_N = pairs_N.clamp_max(pairs - 1)
        return cls(pairs_N, pairs_N // k, rows_TK, padding_N1)

    def out(self, x_TD: Tensor) -> Tensor:
        """Copy each token once for each of its experts."""
        return x_TD.index_select(0, self.tokens_N)

    def back(self, o_ND: Tensor) -> Tensor:
        """Sum each token's rows: a gather, which is far faster than scattering, and repeats."""
        return functional.embedding_bag(self.rows_TK, o_ND, mode="sum")

    def by_token(self, of_NI: Tensor) -> Tensor:
        """Put what belongs to rows in the order of pairs: (T, K, …)."""
        of_PI = of_NI.index_select(0, self.rows_TK.flatten())
        return of_PI.view(*self.rows_TK.shape, *of_NI.shape[1:])

    def gates(self, weights_TK: Tensor, dtype: torch.dtype) -> Tensor:
        """Return each row's gate in a column."""
        return self.sorted(weights_TK.to(dtype).unsqueeze(-1))

    def sorted(self, of_TKI: Tensor) -> Tensor:
        """Put what belongs to pairs in the order of rows, zero at padding: (N, …)."""
        of_NI = of_TKI.flatten(0, 1).index_select(0, self.pairs_N)
        return of_NI if self.padding_N1 is None else of_NI.masked_fill_(self.padding_N1, 0)

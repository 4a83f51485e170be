"""The way of rows to their experts and back where these lie elsewhere, in plain autograd.

Between `dispatch` and `combine` stands what computes them: rows_ND → rows_ND. It knows of rows and
experts, not of tokens and gates. No step waits for the device. Forward and backward gather rows:
nothing is added into memory by index, which takes longer on a GPU and in no order that repeats.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait.kernels.moe.sorting import Order, sort_by_expert


@dataclass(frozen=True)
class Dispatched:
    """Rows grouped by expert, and what brings their outputs back to the tokens.

    Attributes:
        rows_ND: the input of each row's expert.
        order: which (token, slot) pair each row holds, and where each expert's rows end.
        weights_TK: the gates, which `combine` applies.
    """

    rows_ND: Tensor
    order: Order
    weights_TK: Tensor


def dispatch(x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, experts: int) -> Dispatched:
    """Copy each token once for each of its experts, and put the copies of each expert together."""
    order = sort_by_expert(expert_ids_TK, experts)
    tokens_N = order.pairs_N // expert_ids_TK.shape[1]
    return Dispatched(_copied(x_TD, tokens_N, order.rows_TK), order, weights_TK)


def combine(rows_ND: Tensor, sent: Dispatched) -> Tensor:
    """Return y_TD, the sum of each token's rows by its gates."""
    rows_TK = sent.order.rows_TK
    rows_PD = _copied(rows_ND, rows_TK.flatten(), sent.order.pairs_N[:, None])
    rows_TKD = rows_PD.view(*rows_TK.shape, rows_ND.shape[1])
    return torch.bmm(sent.weights_TK[:, None].to(rows_ND.dtype), rows_TKD).squeeze(1)


def _copied(x_MD: Tensor, rows_N: Tensor, places_MK: Tensor) -> Tensor:
    """Return x_MD[rows_N], in which row m stands at the places places_MK[m]."""
    return _Copied.apply(x_MD, rows_N, places_MK)  # type: ignore[no-any-return, no-untyped-call]


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, rows_N: Tensor, places_MK: Tensor) -> Tensor:
        ctx.save_for_backward(places_MK)
        return x_MD.index_select(0, rows_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor, None, None]:
        (places_MK,) = ctx.saved_tensors
        return functional.embedding_bag(places_MK, dy_ND, mode="sum"), None, None

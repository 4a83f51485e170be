"""The way of rows to their experts and back where these lie elsewhere, in plain autograd.

Between `dispatch` and `combine` stands what computes them: rows_ND → rows_ND. It knows of rows and
experts, not of tokens and gates. No step waits for the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
    return Dispatched(x_TD[order.pairs_N // expert_ids_TK.shape[1]], order, weights_TK)


def combine(rows_ND: Tensor, sent: Dispatched) -> Tensor:
    """Return y_TD, the sum of each token's rows by its gates: gathered, which repeats its bits."""
    rows_TKD = rows_ND[sent.order.rows_TK]
    return torch.bmm(sent.weights_TK[:, None].to(rows_ND.dtype), rows_TKD).squeeze(1)

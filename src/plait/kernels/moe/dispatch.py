"""The way of rows to their experts and back, by sorting: no step waits for the device.

Between `dispatch` and `combine` stands the product of a backend: (rows_ND, ends_E, up_EXD,
down_EDF, activation) → rows_ND. It knows of rows and experts, not of tokens and gates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.moe.sorting import Order, sort_by_expert


@dataclass(frozen=True)
class Dispatched:
    """Rows grouped by expert, and what brings their outputs back to the tokens.

    Attributes:
        rows_ND: the input of each row's expert, zero at padding.
        order: which (token, slot) pair each row holds, and where each expert's rows end.
        weights_TK: the gates, which `combine` applies.
    """

    rows_ND: Tensor
    order: Order
    weights_TK: Tensor


def dispatch(
    x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, experts: int, multiple: int = 1
) -> Dispatched:
    """Copy each token once for each of its experts, and put the copies of each expert together.

    Each expert's rows are padded to a multiple of `multiple` with zeros.
    """
    order = sort_by_expert(expert_ids_TK, experts, multiple)
    if multiple > 1:
        x_TD = functional.pad(x_TD, (0, 0, 0, 1))  # row T, which padding is told to hold, is zero
    rows_ND = x_TD[order.pairs_N // expert_ids_TK.shape[1]]
    return Dispatched(rows_ND, order, weights_TK)


def combine(rows_ND: Tensor, sent: Dispatched) -> Tensor:
    """Return y_TD, the sum of each token's rows by its gates: gathered, which repeats its bits."""
    rows_TKD = rows_ND[sent.order.rows_TK]
    return torch.bmm(sent.weights_TK[:, None].to(rows_ND.dtype), rows_TKD).squeeze(1)

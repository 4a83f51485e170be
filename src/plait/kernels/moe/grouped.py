"""Experts on CUDA through torch's public grouped product, in bfloat16."""

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.activation import activate, compute_dtype
from plait.kernels.moe.dispatch import combine, dispatch

ALIGNMENT = 32
"""rows: the product wants every segment, and every row, to begin at a multiple of 16 bytes"""


def covers(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
) -> bool:
    """Whether the products are in bfloat16, over rows that begin at multiples of 16 bytes."""
    return (
        compute_dtype(x_TD) == torch.bfloat16
        and up_EXD.shape[2] % 8 == 0
        and down_EDF.shape[2] % 8 == 0
    )


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
) -> Tensor:
    """Return y_TD as `reference.experts` does; no step waits for the device."""
    x = x_TD.to(torch.bfloat16)
    sent = dispatch(x, expert_ids_TK, weights_TK, len(up_EXD), ALIGNMENT)
    o_ND = product(sent.rows_ND, sent.order.ends_E, up_EXD, down_EDF, activation)
    return combine(o_ND, sent).to(x_TD.dtype)


def product(
    rows_ND: Tensor, ends_E: Tensor, up_EXD: Tensor, down_EDF: Tensor, activation: str
) -> Tensor:
    """Return what each row's expert makes of it; segments must be aligned, see `ALIGNMENT`."""
    ends_E = ends_E.to(torch.int32)
    h_NX = functional.grouped_mm(rows_ND, up_EXD.to(rows_ND.dtype).mT, offs=ends_E)
    # no product writes the rows after the last segment: what lies there may be no number
    unused_N1 = (torch.arange(len(rows_ND), device=rows_ND.device) >= ends_E[-1])[:, None]
    a_NF = activate(h_NX, activation).masked_fill(unused_N1, 0)
    return functional.grouped_mm(a_NF, down_EDF.to(rows_ND.dtype).mT, offs=ends_E)

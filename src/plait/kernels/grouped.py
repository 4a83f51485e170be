"""Experts on CUDA through torch's public grouped product, in bfloat16.

Rows are sorted by expert and each expert's segment padded to a multiple of 32: the product wants
every segment and every row of the matrices to begin at a multiple of 16 bytes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels import reference
from plait.kernels.activation import activate, check, compute_dtype

ALIGNMENT = 32


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
) -> Tensor:
    """Return y_TD as `reference.experts` does, which takes over outside bfloat16.

    No step waits for the device: the number of padded rows is bounded, not counted.
    """
    check(activation)
    dtype = compute_dtype(x_TD)
    aligned = up_EXD.shape[2] % 8 == 0 and down_EDF.shape[2] % 8 == 0
    if dtype != torch.bfloat16 or not aligned:
        return reference.experts(x_TD, expert_ids_TK, weights_TK, up_EXD, down_EDF, activation)
    (tokens, k), experts_ = expert_ids_TK.shape, up_EXD.shape[0]
    pairs_N, rows_TK, ends_E = _aligned_order(expert_ids_TK, experts_)
    real_N1 = (pairs_N < tokens * k)[:, None]
    pairs_N = pairs_N.clamp_max(max(tokens * k - 1, 0))
    x_ND = x_TD.to(dtype)[pairs_N // k].masked_fill(~real_N1, 0)
    gates_N1 = weights_TK.reshape(-1)[pairs_N][:, None].masked_fill(~real_N1, 0)
    h_NX = functional.grouped_mm(x_ND, up_EXD.to(dtype).mT, offs=ends_E)
    a_NF = (activate(h_NX, activation) * gates_N1.to(dtype)).masked_fill(~real_N1, 0)
    o_ND = functional.grouped_mm(a_NF, down_EDF.to(dtype).mT, offs=ends_E)
    return o_ND[rows_TK].sum(1).to(x_TD.dtype)


def _aligned_order(expert_ids_TK: Tensor, experts_: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each row its pair (T·K at padding), for each pair its row, and the segments' ends.

    There are as many rows as the worst case needs, so that their number is known beforehand; those
    beyond the last segment are padding too.
    """
    ids_P = expert_ids_TK.reshape(-1)
    order_P = torch.argsort(ids_P, stable=True)
    # comparison rather than bincount, which has no deterministic version on CUDA
    counts_E = (ids_P[:, None] == torch.arange(experts_, device=ids_P.device)).sum(0)
    padded_E = (counts_E + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    ends_E = padded_E.cumsum(0)
    shift_E = (ends_E - padded_E) - (counts_E.cumsum(0) - counts_E)
    rows_P = torch.arange(len(ids_P), device=ids_P.device) + shift_E[ids_P[order_P]]
    room = (len(ids_P) + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT + experts_ * ALIGNMENT
    pairs_N = torch.full((room,), len(ids_P), device=ids_P.device)
    pairs_N[rows_P] = order_P
    rows_TK = torch.empty_like(order_P)
    rows_TK[order_P] = rows_P
    return pairs_N, rows_TK.view(expert_ids_TK.shape), ends_E.to(torch.int32)

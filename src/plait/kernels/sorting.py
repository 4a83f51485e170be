"""Putting the rows of each expert side by side, so that one product serves them all."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

GRANULE = 32


@dataclass(frozen=True)
class Segments:
    """Where each expert's rows lie once the T·K (token, slot) pairs are sorted by expert.

    Attributes:
        pairs_N: index into the flattened T·K pairs for each sorted row; a padding row repeats
            pair 0 and must be given gate 0.
        padding_N: true at padding rows; None if there are none.
        rows_TK: for each pair, its sorted row.
        bounds: (first, last + 1) row of each expert.
    """

    pairs_N: Tensor
    padding_N: Tensor | None
    rows_TK: Tensor
    bounds: list[tuple[int, int]]


def sort_by_expert(expert_ids_TK: Tensor, experts: int) -> Segments:
    """Sort the (token, slot) pairs by expert, stably, so that results repeat bit for bit.

    With many rows per expert each segment is padded to a multiple of 32 rows: oneDNN compiles a
    product for every new shape, and rows per expert change at every step.
    """
    ids_P = expert_ids_TK.reshape(-1)
    order_P = torch.argsort(ids_P, stable=True)
    counts_E = torch.bincount(ids_P, minlength=experts)
    granule = GRANULE if len(ids_P) >= 2 * GRANULE * experts else 1
    padded_E = (counts_E + granule - 1) // granule * granule
    ends = padded_E.cumsum(0)
    shift_E = (ends - padded_E) - (counts_E.cumsum(0) - counts_E)
    rows_P = torch.arange(len(ids_P), device=ids_P.device) + shift_E[ids_P[order_P]]
    bounds = [0, *ends.tolist()]
    pairs_N = order_P.new_zeros(bounds[-1])
    pairs_N[rows_P] = order_P
    padding_N = None
    if bounds[-1] > len(ids_P):
        padding_N = torch.ones(bounds[-1], dtype=torch.bool, device=ids_P.device)
        padding_N[rows_P] = False
    rows_TK = torch.empty_like(order_P)
    rows_TK[order_P] = rows_P
    return Segments(
        pairs_N,
        padding_N,
        rows_TK.view(expert_ids_TK.shape),
        list(pairwise(bounds)),
    )

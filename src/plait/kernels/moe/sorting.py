"""Putting the rows of each expert side by side, so that one product serves them all."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """Where each expert's rows lie once the T·K (token, slot) pairs are sorted by expert.

    Attributes:
        pairs_N: which pair each row holds, counted token · K + slot; T·K at a padding row.
        rows_TK: the row of each pair.
        ends_E: the row after each expert's last one, padding included.
    """

    pairs_N: Tensor
    rows_TK: Tensor
    ends_E: Tensor


def sort_by_expert(expert_ids_TK: Tensor, experts: int, multiple: int = 1) -> Order:
    """Sort the pairs by expert, stably, so that results repeat bit for bit.

    Each expert's rows are padded to a multiple of `multiple`. Above 1 the device is asked how many
    rows that makes; with 1 nothing waits for it.
    """
    ids_P, order_P = expert_ids_TK.reshape(-1).sort(stable=True)
    pairs = len(ids_P)
    # by search rather than bincount, which has no deterministic version on CUDA
    ranks_E = torch.arange(experts, device=ids_P.device)
    ends_E = torch.searchsorted(ids_P, ranks_E, right=True)
    rows_P = torch.arange(pairs, device=ids_P.device)
    pairs_N = order_P
    if multiple > 1:
        counts_E = ends_E.diff(prepend=ends_E.new_zeros(1))
        padded_E = (counts_E + multiple - 1) // multiple * multiple
        unpadded_E, ends_E = ends_E, padded_E.cumsum(0)
        rows_P += ((ends_E - padded_E) - (unpadded_E - counts_E))[ids_P]
        pairs_N = order_P.new_full((int(ends_E[-1]),), pairs).scatter_(0, rows_P, order_P)
    rows_TK = torch.empty_like(order_P).scatter_(0, order_P, rows_P).view(expert_ids_TK.shape)
    return Order(pairs_N, rows_TK, ends_E)

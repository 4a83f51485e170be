"""Matrices that no process holds whole, each computed on by one of them."""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


def has_whole_matrices(tensor: Tensor) -> bool:
    """Whether what this process holds of (R, C) or (E, R, C) are matrices and no parts of them."""
    if not isinstance(tensor, DTensor):
        return True
    return tensor.ndim == 3 and tensor.to_local().shape[1:] == tensor.shape[1:]


def by_owner(
    matrices: Sequence[DTensor], compute: Callable[[list[Tensor]], list[Tensor]]
) -> list[Tensor]:
    """Return this process' rows of what `compute` makes of each matrix (R, C), of the same size.

    Every matrix has one owner, which gathers it, computes and sends its rows back: two collectives
    for all matrices, and no work twice. Replicas do the same, each among their own.

    Args:
        matrices: sharded along their rows by FSDP2, all over one mesh.
        compute: takes the whole matrices that this process owns, in order.
    """
    mesh = matrices[0].device_mesh
    group, ranks = mesh.get_group(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    me = mesh.get_local_rank(mesh.ndim - 1)
    owners = _owners([prod(matrix.shape) for matrix in matrices], ranks)
    mine = [matrix for matrix, owner in zip(matrices, owners, strict=True) if owner == me]
    shards = [matrix.to_local() for matrix in matrices]
    by_rank = sorted(range(len(matrices)), key=owners.__getitem__)  # stable
    leaving = [0] * ranks
    for shard, owner in zip(shards, owners, strict=True):
        leaving[owner] += shard.numel()
    sizes_RM = [
        [_rows(len(one), ranks, rank) * one.shape[1] for one in mine] for rank in range(ranks)
    ]
    arriving = [sum(sizes_M) for sizes_M in sizes_RM]

    sent = torch.cat([shards[index].flatten() for index in by_rank])
    arrived = sent.new_empty(sum(arriving))
    dist.all_to_all_single(arrived, sent, arriving, leaving, group)
    pieces_RM = [
        part.split(sizes_M) for part, sizes_M in zip(arrived.split(arriving), sizes_RM, strict=True)
    ]
    gathered = [
        torch.cat(pieces_R).view(one.shape) for one, *pieces_R in zip(mine, *pieces_RM, strict=True)
    ]
    computed = [result.to(sent.dtype).flatten() for result in compute(gathered)]
    cut_MR = [
        result.split([sizes_M[m] for sizes_M in sizes_RM]) for m, result in enumerate(computed)
    ]
    returning = [cut_R[rank] for rank in range(ranks) for cut_R in cut_MR]
    back = torch.empty_like(sent)
    dist.all_to_all_single(back, torch.cat([sent[:0], *returning]), leaving, arriving, group)
    results = dict(
        zip(by_rank, back.split([shards[index].numel() for index in by_rank]), strict=True)
    )
    return [results[index].view_as(shard) for index, shard in enumerate(shards)]


def _owners(costs: Sequence[int], ranks: int) -> list[int]:
    """Give each matrix, the costly ones first, to the rank that has least to do."""
    owners, busy = [0] * len(costs), [0] * ranks
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = busy.index(min(busy))
        busy[owners[index]] += costs[index]
    return owners


def _rows(rows: int, ranks: int, rank: int) -> int:
    """Count the rows that a rank holds: those of `torch.chunk`."""
    most = -(-rows // ranks)
    return max(0, min(rows - rank * most, most))

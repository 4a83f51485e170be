"""Matrices that no process holds whole, each computed on by one of them."""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from plait.parallel.shard import local


def has_whole_matrices(tensor: Tensor) -> bool:
    """Whether what this process holds of (R, C) or (E, R, C) are matrices and no parts of them."""
    if not isinstance(tensor, DTensor):
        return True
    return tensor.ndim == 3 and tensor.to_local().shape[1:] == tensor.shape[1:]


def by_owner(
    matrices: Sequence[Tensor], compute: Callable[[list[Tensor]], list[Tensor]]
) -> list[Tensor]:
    """Return this process' rows of what `compute` makes of each matrix (R, C), of the same size.

    Every matrix has one owner, which gathers it, computes and sends its rows back: two collectives
    for all matrices, and no work twice. Replicas do the same, each among their own.

    Args:
        matrices: sharded along their rows by FSDP2, all over one mesh.
        compute: takes the whole matrices that this process owns, in order.
    """
    assert isinstance(matrices[0], DTensor)
    mesh = matrices[0].device_mesh
    group, ranks = mesh.get_group(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    me = mesh.get_local_rank(mesh.ndim - 1)
    owners = _owners([prod(matrix.shape) for matrix in matrices], ranks)
    mine = [matrix.shape for matrix, owner in zip(matrices, owners, strict=True) if owner == me]
    held = [
        [local(matrix) for matrix, owner in zip(matrices, owners, strict=True) if owner == rank]
        for rank in range(ranks)
    ]  # by owner: this process' rows of its matrices
    cuts = [[_rows(rows, ranks, rank) for rank in range(ranks)] for rows, _ in mine]

    like = local(matrices[0])
    rows_of_mine = [
        [(cut[rank], columns) for cut, (_, columns) in zip(cuts, mine, strict=True)]
        for rank in range(ranks)
    ]
    arrived = _exchange(held, rows_of_mine, like, group)
    computed = compute([torch.cat(rows) for rows in zip(*arrived, strict=True)])
    cut_up = [
        torch.split(result.to(like.dtype), cut) for result, cut in zip(computed, cuts, strict=True)
    ]
    returning = [[rows[rank] for rows in cut_up] for rank in range(ranks)]
    back = _exchange(returning, [[rows.shape for rows in one] for one in held], like, group)
    of_owner = [iter(rows) for rows in back]
    return [next(of_owner[owner]) for owner in owners]


def _exchange(
    pieces: list[list[Tensor]],
    shapes: Sequence[Sequence[tuple[int, ...]]],
    like: Tensor,
    group: dist.ProcessGroup,
) -> list[list[Tensor]]:
    """Send each rank its pieces, of the type of `like`; return what each sent, by its shapes."""
    sent = torch.cat([like.new_empty(0), *(one.flatten() for some in pieces for one in some)])
    leaving = [sum(one.numel() for one in some) for some in pieces]
    sizes = [[prod(shape) for shape in some] for some in shapes]
    received = like.new_empty(sum(map(sum, sizes)))
    dist.all_to_all_single(received, sent, [sum(some) for some in sizes], leaving, group)
    parts = iter(torch.split(received, [size for some in sizes for size in some]))
    return [[next(parts).view(shape) for shape in some] for some in shapes]


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

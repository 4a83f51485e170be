"""Tensors that no process holds whole, each computed on or written by one of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from plait.parallel.shard import held, local
from plait.parallel.world import World


def has_whole_matrices(tensor: Tensor) -> bool:
    """Whether what this process holds of (R, C) or (E, R, C) are matrices and no parts of them."""
    if not isinstance(tensor, DTensor):
        return True
    return tensor.ndim == 3 and tensor.to_local().shape[1:] == tensor.shape[1:]


def by_mesh(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group sharded tensors by the processes that they are spread over."""
    groups: dict[DeviceMesh, list[Tensor]] = {}
    for tensor in tensors:
        assert isinstance(tensor, DTensor)
        groups.setdefault(tensor.device_mesh, []).append(tensor)
    return list(groups.values())


def by_owner(
    matrices: Sequence[Tensor], compute: Callable[[list[Tensor]], list[Tensor]]
) -> list[Tensor]:
    """Return this process' rows of what `compute` makes of each matrix, of the same size.

    Every matrix has one owner, which gathers it, computes and sends its rows back: two collectives
    for all matrices, and no work twice. Replicas do the same, each among their own.

    Args:
        matrices: (R, C), or banks of them (E, R, C), sharded along their rows by FSDP2, all over
            one mesh.
        compute: takes the whole matrices (R, C) that this process owns, in order.
    """
    assert isinstance(matrices[0], DTensor)
    mesh = matrices[0].device_mesh
    rows_over = matrices[0].placements.index(Shard(matrices[0].ndim - 2))
    group, ranks = mesh.get_group(rows_over), mesh.size(rows_over)
    me = mesh.get_local_rank(rows_over)
    here = [list(part) if part.ndim == 3 else [part] for part in map(local, matrices)]
    single = [rows for of_matrix in here for rows in of_matrix]
    shapes = [matrix.shape[-2:] for matrix, rows in zip(matrices, here, strict=True) for _ in rows]
    owner_of = owners([prod(shape) for shape in shapes], ranks)
    mine = [shape for shape, owner in zip(shapes, owner_of, strict=True) if owner == me]
    held = [
        [rows for rows, owner in zip(single, owner_of, strict=True) if owner == rank]
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
    returned = iter([next(of_owner[owner]) for owner in owner_of])
    return [
        torch.stack([next(returned) for _ in rows]) if matrix.ndim == 3 else next(returned)
        for matrix, rows in zip(matrices, here, strict=True)
    ]


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


def owners(costs: Sequence[int], ranks: int) -> list[int]:
    """Give each of some things, the costly ones first, to the rank that has least to do."""
    owner_of, busy = [0] * len(costs), [0] * ranks
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owner_of[index] = busy.index(min(busy))
        busy[owner_of[index]] += costs[index]
    return owner_of


def pieces(
    tensors: Mapping[str, Tensor], owner_of: Mapping[str, int], world: World
) -> Iterator[Tensor]:
    """Yield the elements of the tensors that this process owns, in order, piece by piece.

    Every process must go through it to its end, and apart from training: it uses `world.host`.

    Args:
        tensors: in host memory, or what this process holds of them; in the same order everywhere.
        owner_of: the rank that gets each of them.
        world: all processes.
    """
    runs = {
        name: {(first, part.numel()): part.reshape(-1) for part, first in held(tensor)}
        for name, tensor in tensors.items()
    }
    spans = world.gathered({name: list(of) for name, of in runs.items()})
    sent, coming, tags = [], [], count()
    for name, owner in owner_of.items():
        for span, rank in _holders([of[name] for of in spans], owner):
            tag = next(tags)
            if owner == world.rank:
                coming.append((name, span, rank, tag))
            elif rank == world.rank:
                sent.append(dist.isend(runs[name][span], owner, group=world.host, tag=tag))
    for name, span, rank, tag in coming:
        if rank == world.rank:
            yield runs[name][span]
        else:
            arrived = local(tensors[name]).new_empty(span[1])
            dist.recv(arrived, rank, group=world.host, tag=tag)
            yield arrived
    for work in sent:
        assert work is not None
        work.wait()


_Span = tuple[int, int]
"""first element and number of elements of a run"""


def _holders(spans: Sequence[Sequence[_Span]], owner: int) -> list[tuple[_Span, int]]:
    """Return the runs that make up a tensor, each with a rank that holds it: the owner, if any.

    Args:
        spans: of each rank.
        owner: whose own are taken before others' copies.
    """
    by_rank = [owner, *range(len(spans))]
    runs = sorted({span for of_rank in spans for span in of_rank if span[1]})
    return [(span, next(rank for rank in by_rank if span in spans[rank])) for span in runs]


def _rows(rows: int, ranks: int, rank: int) -> int:
    """Count the rows that a rank holds: those of `torch.chunk`."""
    most = -(-rows // ranks)
    return max(0, min(rows - rank * most, most))

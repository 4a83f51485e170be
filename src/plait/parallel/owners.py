"""Tensors that no process holds whole, each computed on or written by one of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from plait.parallel.shard import held, local
from plait.parallel.world import World


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
    owner_of = owners([prod(matrix.shape) for matrix in matrices], ranks)
    mine = [matrix.shape for matrix, owner in zip(matrices, owner_of, strict=True) if owner == me]
    held = [
        [local(matrix) for matrix, owner in zip(matrices, owner_of, strict=True) if owner == rank]
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
    returned = [iter(rows) for rows in back]
    return [next(returned[owner]) for owner in owner_of]


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
    parts = {name: held(tensor) for name, tensor in tensors.items()}
    spans = world.gathered({name: (first, part.numel()) for name, (part, first) in parts.items()})
    sent, coming = [], []
    for tag, (name, owner) in enumerate(owner_of.items()):
        flat = parts[name][0].reshape(-1)
        for count, rank in _holders([span[name] for span in spans], owner):
            if owner == world.rank:
                coming.append((flat, count, rank, tag))
            elif rank == world.rank:
                sent.append(dist.isend(flat, owner, group=world.host, tag=tag))
    for flat, count, rank, tag in coming:
        if rank == world.rank:
            yield flat
        else:
            arrived = flat.new_empty(count)
            dist.recv(arrived, rank, group=world.host, tag=tag)
            yield arrived
    for work in sent:
        assert work is not None
        work.wait()


def _holders(spans: Sequence[tuple[int, int]], owner: int) -> list[tuple[int, int]]:
    """Return (elements, rank) of the parts that make up a tensor; of replicas, the owner's own."""
    parts = sorted({span for span in spans if span[1]})
    ranks = [owner if spans[owner] == span else spans.index(span) for span in parts]
    return [(count, rank) for (_, count), rank in zip(parts, ranks, strict=True)]


def _rows(rows: int, ranks: int, rank: int) -> int:
    """Count the rows that a rank holds: those of `torch.chunk`."""
    most = -(-rows // ranks)
    return max(0, min(rows - rank * most, most))

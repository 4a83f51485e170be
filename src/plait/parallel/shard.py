"""Tensors of which each process holds a part: whole again, filled, and measured together."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from plait import kernels


def whole(tensor: Tensor) -> Tensor:
    """Gather the full tensor from its shards; a plain tensor is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part that this process holds, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placement(tensor: Tensor, processes: int) -> Shard:
    """Return the dimension that a tensor of a unit is divided along among `processes`.

    It is the first: of a bank (E, R, C) its experts, so that matrices stay whole. Where there are
    more processes than experts each gets some rows of every expert, if these divide evenly.
    """
    many = tensor.ndim == 3 and local(tensor).shape[0] < processes
    return Shard(1 if many and tensor.shape[1] % processes == 0 else 0)


def held(tensor: Tensor) -> list[tuple[Tensor, int]]:
    """Return the runs that this process holds, each with its first element's place in the whole."""
    if not isinstance(tensor, DTensor):
        return [(tensor, 0)]
    [chunk] = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    part, step = tensor.to_local(), prod(tensor.shape[1:])
    if chunk.sizes[1:] == tensor.shape[1:]:
        return [(part, step * chunk.offsets[0])]
    assert chunk.sizes[2:] == tensor.shape[2:], "only experts and rows are divided"
    row = prod(tensor.shape[2:]) * chunk.offsets[1]
    return [(rows, step * (chunk.offsets[0] + i) + row) for i, rows in enumerate(part)]


@torch.no_grad()
def fill(parameter: Tensor, values: Tensor) -> None:
    """Copy `values`, which may be mapped from a file, into what this process holds of a tensor."""
    flat = values.reshape(-1)
    for part, first in held(parameter):
        part.copy_(flat[first : first + part.numel()].view_as(part))


def squared_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return this process' part () of the sum of squares over all gradients, in float64.

    Added over processes, it is all of it: what several of them hold alike is parted among them.
    """
    of_copies: dict[int, list[Tensor]] = {}
    for gradient in gradients:
        of_copies.setdefault(_copies(gradient), []).append(local(gradient))
    squares = [
        kernels.total_norm(shards).double().square() / copies
        for copies, shards in of_copies.items()
    ]
    return torch.stack(squares).sum()


def _copies(tensor: Tensor) -> int:
    """Count the processes that hold what this one holds of a tensor spread over all of them."""
    if not isinstance(tensor, DTensor):
        return 1
    where = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return prod(size for size, placement in where if placement.is_replicate())

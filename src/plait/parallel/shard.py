"""Tensors of which each process holds a part: whole again, filled, and measured together."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from plait import kernels


def whole(tensor: Tensor) -> Tensor:
    """Gather the full tensor from its shards; a plain tensor is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part that this process holds, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def held(tensor: Tensor) -> tuple[Tensor, int]:
    """Return what this process holds, and the element of the whole at which that begins."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    [chunk] = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    assert chunk.sizes[1:] == tensor.shape[1:], "only rows are divided among processes"
    return tensor.to_local(), prod(tensor.shape[1:]) * chunk.offsets[0]


@torch.no_grad()
def fill(parameter: Tensor, values: Tensor) -> None:
    """Copy `values`, which may be mapped from a file, into what this process holds of a tensor."""
    part, first = held(parameter)
    part.copy_(values.reshape(-1)[first : first + part.numel()].view_as(part))


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

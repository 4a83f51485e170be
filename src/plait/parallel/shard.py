"""Tensors of which each process holds a part: whole again, filled, and measured together."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from plait import kernels


def whole(tensor: Tensor) -> Tensor:
    """Gather the full tensor from its shards; a plain tensor is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part that this process holds, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(parameter: Tensor, values: Tensor) -> None:
    """Copy `values`, which every rank has whole, into a parameter or into this rank's shard."""
    if isinstance(parameter, DTensor):
        values = values.to(device=parameter.device, dtype=parameter.dtype)
        shards = distribute_tensor(
            values, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.to_local().copy_(shards.to_local())
    else:
        parameter.copy_(values)


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

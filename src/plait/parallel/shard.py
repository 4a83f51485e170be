"""Tensors of which each process holds a part: whole again, filled, and measured together."""

import math
from collections.abc import Sequence

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


def total_norm(gradients: Sequence[Tensor]) -> float:
    """Return the root of the sum of squares over all gradients, of shards over all processes.

    Gradients that are sharded over different processes are gathered apart: no operation takes both.
    """
    together: dict[object, list[Tensor]] = {}
    for gradient in gradients:
        mesh = gradient.device_mesh if isinstance(gradient, DTensor) else None
        together.setdefault(mesh, []).append(gradient)
    norms = [float(whole(kernels.total_norm(members))) for members in together.values()]
    return norms[0] if len(norms) == 1 else math.hypot(*norms)

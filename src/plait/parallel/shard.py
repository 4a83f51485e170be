"""Who holds what: each bank of a model is sharded by itself, by FSDP2.

A bank used at several depths is gathered for each use, and its gradients add before they are sent.
"""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from plait.parallel.world import World


def shard(model: nn.Module, world: World) -> None:
    """Shard each bank, then what is left, over the world; nothing where there is one process.

    A bank is a child of a `ModuleDict` of the model; banks without parameters are passed over.
    """
    if world.mesh is None:
        return
    for banks in model.children():
        if isinstance(banks, nn.ModuleDict):
            for bank in banks.values():
                if any(True for _ in bank.parameters()):
                    fully_shard(bank, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh)


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Say whether the next backward sends its gradients: only the last of an accumulation does."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def whole(tensor: Tensor) -> Tensor:
    """Gather the full tensor from its shards; a plain tensor is itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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

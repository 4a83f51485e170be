"""The only file that knows ranks and meshes: who is there, who holds what, how sums meet.

One process needs none of it: ``World.alone`` makes every collective the identity. Under torchrun,
``World.start`` joins the processes, and ``shard`` gives each bank of the model its own FSDP2 unit:
a bank used at several depths is gathered for each use, and its gradients add before they are sent.
"""

import atexit
import os
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @classmethod
    def start(cls, device: str | None = None) -> "World":
        """Join the processes that torchrun started, or be alone.

        Args:
            device: as torch names it; by default CUDA where there is one, else the CPU.

        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if size == 1:
            return cls(torch.device(kind))
        kind = torch.device(kind).type
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if kind == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)
        here = (
            torch.device("cuda", torch.cuda.current_device())
            if kind == "cuda"
            else torch.device(kind)
        )
        return cls(here, dist.get_rank(), size, init_device_mesh(kind, (size,)))

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files and shows the progress."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: T) -> T:
        """Give every rank the main rank's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether it holds on at least one rank."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def sum(self, value: Tensor) -> Tensor:
        """Add up over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Average over ranks, in place."""
        return self.sum(value).div_(self.size)


def shard(model: nn.Module, world: World) -> None:
    """Shard each bank, then what is left, over the world; nothing where there is one process.

    A bank is a child of a ``ModuleDict`` of the model; banks without parameters are passed over.
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
    """Copy ``values``, which every rank has whole, into a parameter or into this rank's shard."""
    if isinstance(parameter, DTensor):
        values = values.to(device=parameter.device, dtype=parameter.dtype)
        shards = distribute_tensor(
            values, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
        parameter.to_local().copy_(shards.to_local())
    else:
        parameter.copy_(values)

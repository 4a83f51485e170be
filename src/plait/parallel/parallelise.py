"""A model spread over the processes of a run: one flat function, in one order.

1. expert parallelism: the experts of each bank are parted among the `expert` places
2. activation checkpointing: each depth is recomputed in the backward pass
3. torch.compile, where it is asked for: each depth becomes one graph
4. FSDP2, or HSDP where there are replicas: every unit of the model is sharded

A unit is what is gathered, and whose gradients are sent, in one go: the attention and the experts
that a depth has for itself, each bank of them that several depths use, and the rest, which stays
gathered for the whole step. A bank of several depths stays gathered between its uses where memory
allows (`residency`), and its gradients add before they are sent. What is compiled cannot stop in a
depth to gather a unit, so there all of a depth's units are gathered before it, for each use.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Shard, distribute_tensor

from plait.config import ModelConfig
from plait.config.counts import Bank
from plait.parallel.compiling import compiled
from plait.parallel.dispatch import experts_over_ranks
from plait.parallel.mesh import ParallelConfig
from plait.parallel.residency import Residency, stay_between_uses
from plait.parallel.shard import placement
from plait.parallel.world import World


class Matrices(Protocol):
    """The parts of a depth that hold nearly all of its parameters."""

    @property
    def attention(self) -> nn.Module:
        """Return the bank of attention."""
        ...

    @property
    def experts(self) -> nn.Module:
        """Return the bank of experts."""
        ...


class Divisible(Protocol):
    """A model over depth that says of what it is made."""

    checkpointing: bool

    @property
    def one_depth(self) -> Callable[..., Any]:
        """Return what computes a depth, (banks, stream …) → what it hands on; another may be set.

        It calls the banks, and knows a depth by them alone.
        """
        ...

    @property
    def config(self) -> ModelConfig:
        """Return the structure."""
        ...

    def parts_at(self, depth: int) -> Matrices:
        """Return the banks that this depth uses."""
        ...

    def expert_banks(self) -> Sequence[nn.Module]:
        """Return the banks whose own tensors count experts along their first dimension."""
        ...


def parallelise(
    model: Divisible,
    world: World,
    checkpointing: bool = False,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
) -> None:
    """Spread a model, best on the meta device; one process only recomputes and compiles.

    Args:
        model: in float32.
        world: its processes.
        checkpointing: recompute each depth in the backward pass.
        dtype: of the products. Attention and experts are gathered in it, so that nothing is cast
            and kept for the backward; the rest stays float32, and so does what is sent back.
        compile: each depth by torch.compile, in training.

    Raises:
        ValueError: its experts cannot be parted so.
    """
    banks: Sequence[nn.Module] = ()
    if world.meshes is not None and world.layout.expert != 1:
        require_divisible(model.config, world.layout)
        banks = model.expert_banks()
        for bank in banks:
            _part_experts(bank, world.meshes.experts["expert"])

    model.checkpointing = checkpointing

    if compile:
        for bank in banks:  # hosts tell each other how many rows come: a depth's only break
            bank.forward = torch.compiler.disable(bank.forward)  # type: ignore[no-untyped-call]
        model.one_depth = compiled(model.one_depth, whole=not banks)  # type: ignore[misc]

    if world.meshes is not None:
        dense = _of_data(world.meshes.dense)
        policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        residency = Residency.plan(model.config, world.layout)
        units = []
        for unit in dict.fromkeys(residency.units):
            # of a bank that was parted the rest goes with the depth: each process holds all of it
            for modules in _beside([_module(bank, model) for bank in unit], banks):
                fully_shard(
                    modules, mesh=dense, mp_policy=policy, shard_placement_fn=_placement(dense)
                )
                units.append(modules)
        for bank in banks:
            _shard_experts(bank, world, policy)
            units.append([bank])
        if compile:
            model.one_depth = _gathered_before(model.one_depth, units)  # type: ignore[misc]
        assert isinstance(model, nn.Module)
        fully_shard(model, mesh=dense)
        if not compile:
            stay_between_uses(
                model,
                {
                    module: stays
                    for bank, stays in residency.stays.items()
                    for module in _module(bank, model).modules()
                    if isinstance(module, FSDPModule) and any(stays)
                },
            )


def require_divisible(config: ModelConfig, mesh: ParallelConfig) -> None:
    """Refuse a mesh over which a model's experts cannot be parted.

    Raises:
        ValueError: their hidden vectors would have to meet, or `expert` does not divide them.
    """
    places = mesh.expert or 1
    c = config.collaboration
    hidden = c is not None and c.strength and c.messages == "hidden" and c.control != "gate-scale"
    if places > 1 and hidden:
        raise ValueError(
            "collaboration.messages hidden mixes the hidden vectors of experts that lie on "
            "different processes: train it with expert=1 in the mesh, or take messages outputs"
        )
    for depth in config.routed_depths:
        if config.experts_at(depth) % places:
            raise ValueError(
                f"the {config.experts_at(depth)} experts at depth {depth} cannot be parted among "
                f"expert={places} places: make that a divisor of their number"
            )


def _part_experts(bank: nn.Module, mesh: DeviceMesh) -> None:
    for name, tensor in list(bank.named_parameters(recurse=False)):
        parted = distribute_tensor(tensor.detach(), mesh, [Shard(0)], src_data_rank=None)
        setattr(bank, name, nn.Parameter(parted))
    bank.compute = partial(experts_over_ranks, mesh=mesh)  # type: ignore[assignment]


def _shard_experts(bank: nn.Module, world: World, policy: MixedPrecisionPolicy) -> None:
    assert world.meshes is not None
    mesh, data = world.meshes.experts, _of_data(world.meshes.experts)
    fully_shard(bank, mesh=data, mp_policy=policy, shard_placement_fn=_placement(data))
    assert isinstance(bank, FSDPModule)
    # an expert sees the tokens of all expert places, which add up before FSDP2 averages the rest
    bank.set_gradient_divide_factor(world.size)
    if world.device.type == "cpu" and mesh["shard"].size() > 1:
        bank.set_force_sum_reduction_for_comms(True)  # gloo cannot divide while it adds


def _placement(mesh: DeviceMesh) -> Callable[[nn.Parameter], Shard]:
    return partial(placement, processes=mesh.size(-1))


def _module(bank: Bank, model: Divisible) -> nn.Module:
    return cast(nn.Module, getattr(model.parts_at(bank.depths[0]), bank.kind))


def _gathered_before(
    one_depth: Callable[..., Any], units: Sequence[Sequence[nn.Module]]
) -> Callable[..., Any]:
    """Gather a depth's units around it, and no more around each module, which breaks its graph."""
    for first, *_ in units:
        assert isinstance(first, FSDPModule)
        state = first._get_fsdp_state()
        state._pre_forward_hook_handle.remove()
        state._post_forward_hook_handle.remove()
        first.around = _run  # type: ignore[assignment]
        register_fsdp_forward_method(first, "around")
    gathering = {first for first, *_ in units}

    def run(banks: Sequence[nn.Module | None], *stream: Any, **how: Any) -> Any:
        depth = partial(one_depth, banks, **how)
        for bank in filter(None, banks):
            for module in filter(gathering.__contains__, bank.modules()):
                depth = partial(cast(Callable[..., Any], module.around), depth)
        return depth(*stream)

    return run


def _run(depth: Callable[..., Any], *stream: Any) -> Any:
    return depth(*stream)


def _of_data(mesh: DeviceMesh) -> DeviceMesh:
    """Return the dimensions that FSDP2 acts on: HSDP's two only where there are replicas."""
    return mesh["replicate", "shard"] if mesh["replicate"].size() > 1 else mesh["shard"]


def _beside(unit: list[nn.Module], banks: Sequence[nn.Module]) -> list[list[nn.Module]]:
    """Return a unit without the tensors of parted experts, as what is gathered together."""
    held = [module for module in unit if module not in banks]
    children = [child for bank in unit if bank in banks for child in bank.children()]
    # together only behind a part that all others come after, whose gradient is the unit's last
    return [held + children] if held else [[child] for child in children]


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Say whether the next backward sends its gradients: only the last of an accumulation does."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)

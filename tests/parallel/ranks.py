"""Real processes that talk over gloo, and what they are asked in these tests."""

import json
import os
import socket
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from plait import kernels
from plait.config import AttentionConfig, ExpertConfig, ModelConfig, OptimizerConfig
from plait.evaluation.heldout import evaluate
from plait.model import LanguageModel
from plait.model.balance import balance_losses
from plait.optim.groups import build_optimizers, move
from plait.parallel import (
    ParallelConfig,
    World,
    by_owner,
    held,
    local,
    owners,
    parallelise,
    pieces,
    squared_norm,
    whole,
)
from plait.parallel.dispatch import experts_over_ranks

SEQUENCES = 8


def start(processes, size, function, *arguments):
    """Run function(rank, …) in `size` processes; all must end well."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ranks = [
        processes.Process(target=_be_rank, args=(rank, size, port, function, arguments))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    assert [process.exitcode for process in ranks] == [0] * size


def _be_rank(rank, size, port, function, arguments):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    function(rank, *arguments)
    torch.distributed.barrier()  # who has done waits for the others


@cache
def world_of(mesh):
    """Join the others once for each mesh."""
    return World.start("cpu", ParallelConfig.parse(mesh))


def toy(**options):
    base = ModelConfig(
        vocab_size=64,
        depth=8,
        width=32,
        context=16,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=32, top_k=2),
    )
    return replace(base, **options)


def batch():
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 64, (2, SEQUENCES, 16), generator=generator)
    return tokens[0], tokens[1]


def backward(model, rank=0, size=1):
    """Add the gradients of this rank's share of the batch; return its loss."""
    share = SEQUENCES // size
    tokens_BS, targets_BS = (part[rank * share : (rank + 1) * share] for part in batch())
    out = model(tokens_BS, targets_BS, routings=True)
    losses = balance_losses(model.config, out.routings)
    loss = out.loss if losses is None else out.loss + losses.weighted(model.config)
    loss.backward()
    return loss.detach()


def spread(config, world, checkpointing=False, dtype=torch.float32, compile=False):
    """A model of which no process ever held more than its share, as a run builds it."""
    with torch.device("meta"):
        model = LanguageModel(config)
    parallelise(model, world, checkpointing, dtype, compile)
    model.to_empty(device="cpu")
    model.initialise(0, held)
    return model


def require_same_weights(model, config):
    """Parameters and buffers are those of one process, bit for bit."""
    found, expected = model.state_dict(), LanguageModel(config, 0).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(whole(found[name]), tensor), name


def gradients(model):
    return {
        name: whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None
    }


def products_in(dtype):
    return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)


def write_gradients(rank, cases, folder, dtype=torch.float32):
    """For each case (name, configuration, mesh, checkpointing): loss, norm and gradients."""
    for name, config, mesh, checkpointing in cases:
        world = world_of(mesh)
        model = spread(config, world, checkpointing, dtype)
        require_same_weights(model, config)
        with products_in(dtype):
            loss = world.mean(backward(model, rank, world.size))
        square = squared_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = float(world.sum(square).sqrt())
        found = gradients(model)
        if rank == 0:
            torch.save({"loss": loss, "norm": norm, "gradients": found}, folder / f"{name}.pt")


class Collectives(TorchDispatchMode):
    """Counts what is sent while it is entered, and its bytes by kind."""

    def __init__(self):
        super().__init__()
        self.counted, self.bytes = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.partition("::")[2].strip("_")
            self.counted[name] += 1
            if name in ("allgather_base", "reduce_scatter_base"):
                # whole: what is gathered, what is sent back
                self.bytes[name] += args[name == "reduce_scatter_base"].nbytes
            elif name == "all_to_all_single" and args[0].is_floating_point():
                self.bytes[name] += args[0].nbytes
        return func(*args, **(kwargs or {}))


def write_collectives(rank, cases, folder):
    """For each case (name, configuration, mesh, type): the collectives of forward and backward."""
    for name, config, mesh, dtype in cases:
        world = world_of(mesh)
        model = spread(config, world, dtype=dtype)
        for _ in range(2):  # the first step also learns the order
            with Collectives() as collectives, products_in(dtype):
                backward(model, rank, world.size)
        if rank == 0:
            found = dict(collectives.counted), dict(collectives.bytes)
            torch.save(found, folder / f"{name}.pt")


def write_what_moves(rank, config, mesh, folder):
    """By optimizer: the parameters that a step which is left out moves, and the next."""
    world = world_of(mesh)
    for name in ("adamw", "muon"):
        model = LanguageModel(config, 0)
        parallelise(model, world)
        optimizers = build_optimizers(model.parameters_by_role(), OptimizerConfig(name=name))
        moved = []
        for left_out in (1.0, 0.0):
            backward(model, rank, world.size)
            if left_out:
                for parameter in model.parameters():
                    local(parameter.grad).fill_(torch.nan)
            before = [whole(parameter).clone() for parameter in model.parameters()]
            move(optimizers, 1.0, torch.tensor(left_out))
            model.zero_grad()
            after = [whole(parameter) for parameter in model.parameters()]
            same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
            finite = all(parameter.isfinite().all() for parameter in after)
            moved.append((same.count(False), len(same), finite))
        if rank == 0:
            torch.save(moved, folder / f"{name}.pt")


def write_scores(rank, config, corpus, mesh, folder):
    """What this process says of all held-out text."""
    world = world_of(mesh)
    model = LanguageModel(config, 0)
    parallelise(model, world)
    found = score(model, corpus, world)
    (folder / f"{rank}.json").write_text(json.dumps(found))


def score(model, corpus, world=None):
    """Score held-out text in 33 batches of two lengths: readings, routing, each expert's load."""
    how = {"sequence_length": 16, "tokens_per_domain": 15_000, "batch_size": 58}
    found = evaluate(model, corpus, **how, world=world)
    return [found.to_dict(), found.routing(), found.meter.shares(), found.meter.gate_mass()]


def in_turn(rank, *calls):
    """Do several of these in the same processes."""
    for function, *arguments in calls:
        function(rank, *arguments)


def write_refusals(rank, models, mesh, folder):
    """What each model is refused with."""
    world = world_of(mesh)
    for name, config in models.items():
        try:
            parallelise(LanguageModel(config, 0), world)
        except ValueError as error:
            (folder / f"{name}.txt").write_text(str(error))


def check_dispatch(rank, folder):
    """Experts parted over two processes give each token what they give it here, all of them."""
    world = World.start("cpu", ParallelConfig(expert=2))
    mesh = world.meshes.experts["expert"]
    generator = torch.Generator().manual_seed(3)
    up, down = (
        torch.randn(4, 64, 32, generator=generator) / 6,
        torch.randn(4, 32, 32, generator=generator) / 6,
    )
    ids = {
        "spread": torch.randint(0, 4, (2, 7, 3), generator=generator)[rank],
        "all on one": torch.full((5, 1), 3),
        "one token": torch.tensor([[2, 0]]),
        "nobody here": torch.randint(0, 4, (0 if rank else 6, 2), generator=generator),
    }
    for name, ids_TK in ids.items():
        x = torch.randn(len(ids_TK), 32, generator=generator)
        gates = torch.rand(ids_TK.shape, generator=generator)
        here = [t.clone().requires_grad_() for t in (x, gates, up, down)]
        there = [t.clone().requires_grad_() for t in (x, gates)]
        parted = [
            distribute_tensor(t, mesh, [Shard(0)], src_data_rank=None).requires_grad_()
            for t in (up, down)
        ]
        y = experts_over_ranks(there[0], ids_TK, there[1], *parted, "swiglu", mesh=mesh)
        expected = kernels.experts(here[0], ids_TK, *here[1:], "swiglu")
        y.square().sum().backward()
        expected.square().sum().backward()
        pairs = [(y, expected), *zip((t.grad for t in there), (t.grad for t in here), strict=False)]
        for got, wanted in zip(parted, here[2:], strict=True):
            pairs.append((whole(got.grad), world.sum(wanted.grad)))
        for got, wanted in pairs:
            error = (got - wanted).abs().sum() / wanted.abs().sum().clamp_min(1e-20)
            assert error < 1e-5, (name, error)
    (folder / f"{rank}.txt").write_text(" ".join(ids))


def check_owners(rank, folder):
    """What one process makes of each matrix arrives as the rows that each holds of it."""
    world = World.start("cpu")
    generator = torch.Generator().manual_seed(4)
    sizes = [(5, 3), (1, 4), (8, 2), (7, 7), (3, 5)]
    whole_ones = [torch.randn(size, generator=generator) for size in sizes]
    mesh = world.meshes.dense["shard"]
    parts = [distribute_tensor(one, mesh, [Shard(0)], src_data_rank=None) for one in whole_ones]
    counted = torch.zeros(1)

    def cubed(matrices):
        counted.add_(len(matrices))
        return [matrix @ matrix.T @ matrix for matrix in matrices]

    found = by_owner(parts, cubed)
    for part, one, mine in zip(parts, whole_ones, found, strict=True):
        expected = distribute_tensor(one @ one.T @ one, mesh, [Shard(0)], src_data_rank=None)
        assert mine.shape == part.to_local().shape
        torch.testing.assert_close(mine, expected.to_local())
    assert float(counted) < len(sizes)
    assert float(world.sum(counted)) == len(sizes)

    # parts of a matrix, of one that is nowhere divided, and of rows that only some processes have
    named = {str(number): part for number, part in enumerate(parts)} | {"one": torch.arange(3.0)}
    owner_of = dict(
        zip(named, owners([part.nbytes for part in named.values()], world.size), strict=True)
    )
    mine = [name for name, owner in owner_of.items() if owner == rank]
    expected = [whole(part).flatten() for part in named.values()]
    arrived = torch.cat(list(pieces(named, owner_of, world)))
    wanted = torch.cat([one for one, name in zip(expected, named, strict=True) if name in mine])
    assert torch.equal(arrived, wanted)

    assert world.together(lambda: rank) == list(range(world.size))
    here = ZeroDivisionError if rank == 1 else OSError  # what failed on one fails on all
    with pytest.raises(here, match="division"):
        world.together(lambda: 1 // (1 - rank))
    (folder / f"{rank}.txt").write_text("done")


@contextmanager
def counted():
    """Count what torch.compile makes inside: graphs, and what broke them."""
    counters.clear()
    found = {}
    yield found
    found["graphs"] = counters["stats"]["unique_graphs"]
    found["breaks"] = sum(counters["graph_break"].values())


def steps(config, world=None, count=3, **how):
    """Losses before each of some steps of SGD, in fp32."""
    world = world or World(torch.device("cpu"))
    model = spread(config, world, **how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(count):
        losses.append(float(world.mean(backward(model, world.rank, world.size))))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def write_compiled(rank, cases, folder):
    """For each case (name, configuration, mesh, checkpointing): losses, and what was counted."""
    torch.compile = partial(torch.compile, backend="aot_eager")
    for name, config, mesh, again in cases:
        world = world_of(mesh)
        torch._dynamo.reset()
        eager = steps(config, world, checkpointing=again)
        with counted() as found:
            compiled = steps(config, world, checkpointing=again, compile=True)
        if rank == 0:
            done = {"eager": eager, "compiled": compiled, "counted": found}
            torch.save(done, folder / f"{name}, {mesh}.pt")

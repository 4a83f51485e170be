"""What the real processes of these tests are asked."""

import json
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
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
    fill,
    has_whole_matrices,
    held,
    local,
    owners,
    parallelise,
    pieces,
    reduce_gradients,
    squared_norm,
    whole,
)
from plait.parallel.dispatch import experts_over_ranks
from plait.parallel.shard import placement

SEQUENCES = 8


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


def require_shards(model):
    """Nothing of attention and experts is whole any more."""
    for part in (model.attention, model.experts):
        assert all(isinstance(parameter, DTensor) for parameter in part.parameters())


def gradients(model):
    return {
        name: whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None
    }


def products_in(dtype):
    return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)


def write_gradients(rank, cases, folder, dtype=torch.float32, times=1):
    """For each case (name, configuration, mesh, checkpointing): loss, norm and gradients.

    The batch is taken `times` times, and gradients are sent with the last.
    """
    for name, config, mesh, checkpointing in cases:
        world = world_of(mesh)
        model = spread(config, world, checkpointing, dtype)
        require_same_weights(model, config)
        for time in range(times):
            reduce_gradients(model, now=time == times - 1)
            with products_in(dtype):
                loss = world.mean(backward(model, rank, world.size))
            require_shards(model)
        square = squared_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = float(world.sum(square).sqrt())
        found = gradients(model)
        if rank == 0:
            torch.save({"loss": loss, "norm": norm, "gradients": found}, folder / f"{name}.pt")


class Collectives(TorchDispatchMode):
    """Counts what is sent while it is entered, and the bytes that reach this process by kind."""

    def __init__(self):
        super().__init__()
        self.counted, self.bytes = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.partition("::")[2].strip("_")
            self.counted[name] += 1
            if name in ("allgather_base", "reduce_scatter_base"):
                # what is whole less what is here, of weights or of gradients
                self.bytes[name] += abs(args[0].nbytes - args[1].nbytes)
            elif name == "allreduce":  # in a ring of two: half of it, twice
                self.bytes[name] += sum(tensor.nbytes for tensor in args[0])
            elif name == "all_to_all_single" and args[0].is_floating_point():
                self.bytes[name] += args[0].nbytes // 2  # half stays at home, nearly
        return func(*args, **(kwargs or {}))


def write_collectives(rank, cases, folder):
    """For each case: the collectives of forward and backward.

    A case is (name, configuration, mesh, type, checkpointing).
    """
    for name, config, mesh, dtype, checkpointing in cases:
        world = world_of(mesh)
        model = spread(config, world, checkpointing, dtype)
        for _ in range(2):  # the first step also learns the order
            with Collectives() as collectives, products_in(dtype):
                backward(model, rank, world.size)
        if rank == 0:
            found = dict(collectives.counted), dict(collectives.bytes)
            torch.save(found, folder / f"{name}.pt")


def write_copies(rank, config, meshes, folder):
    """By mesh and type of gathering: bytes kept for the backward of copies of banks' weights.

    A copy has the shape of a weight, or of it transposed, and is not the gathered weight itself.
    Products are in bf16.
    """
    matrices = LanguageModel(config, 0)
    banks = [*matrices.attention.values(), *matrices.experts.values()]
    shapes = {tuple(sorted(p.shape)) for bank in banks for p in bank.parameters()}
    for mesh in meshes:
        places = ParallelConfig.parse(mesh).expert or 1
        found = {}
        for dtype in (torch.bfloat16, torch.float32):
            world = world_of(mesh)
            model = spread(config, world, dtype=dtype)
            kept = Counter()

            def keep(tensor, model=model, kept=kept, places=places):
                weights = {local(p).untyped_storage().data_ptr() for p in model.parameters()}
                here = local(tensor)
                parted = [len(here) * places, *here.shape[1:]] if here.dim() == 3 else []
                if {tuple(sorted(here.shape)), tuple(sorted(parted))} & shapes:
                    own = here.untyped_storage().data_ptr() in weights
                    kept["own" if own else "copies"] += here.nbytes
                return tensor

            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            with hooks, products_in(torch.bfloat16):
                backward(model, rank, world.size)
            found[dtype] = dict(kept)
        if rank == 0:
            torch.save(found, folder / f"{mesh}.pt")


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


def write_moved(rank, config, meshes, folder):
    """For each mesh: the parameters after a step of Muon."""
    for mesh in meshes:
        world = world_of(mesh)
        model = spread(config, world)
        muon_step(model, rank, world.size)
        moved = {name: whole(parameter) for name, parameter in model.named_parameters()}
        if rank == 0:
            torch.save(moved, folder / f"{mesh}.pt")


def muon_step(model, rank=0, size=1):
    """Move a model by its share of the batch."""
    how = OptimizerConfig(name="muon", learning_rate=0.01, muon_precision="fp32")
    optimizers = build_optimizers(model.parameters_by_role(), how)
    backward(model, rank, size)
    move(optimizers, 1.0, torch.tensor(0.0))


def write_scores(rank, config, corpus, mesh, folder):
    """What this process says of all held-out text."""
    world = world_of(mesh)
    model = LanguageModel(config, 0)
    parallelise(model, world)
    found = score(model, corpus, world)
    require_shards(model)
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


ADDING = {
    "embedding_dense_backward",
    "index_add",
    "index_add_",
    "_index_put_impl_",
    "index_put",
    "index_put_",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
}
"""operations that add into memory by index: on a GPU slowly, and in any order"""


class Operations(TorchDispatchMode):
    """Counts by name what is computed while it is entered."""

    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counted[func._schema.name.partition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


def check_dispatch(rank, folder):
    """Experts parted over two processes give each token what they give it here, all of them.

    By the operations that a GPU takes nothing is added by index, and all bits repeat.
    """
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
        os.environ["PLAIT_KERNEL"] = "grouped"
        found = []
        for _ in range(2):
            leaves = [t.detach().clone().requires_grad_() for t in (*there, *parted)]
            with Operations() as operations:
                y = experts_over_ranks(leaves[0], ids_TK, *leaves[1:], "swiglu", mesh=mesh)
                y.square().sum().backward()
            assert not ADDING & operations.counted.keys(), operations.counted
            assert operations.counted["all_to_all_single"] == 5, operations.counted
            found.append([y, *(local(leaf.grad) for leaf in leaves)])
        assert all(torch.equal(*pair) for pair in zip(*found, strict=True)), name
        del os.environ["PLAIT_KERNEL"]
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

    bank = torch.randn(2, 6, 4, generator=generator)  # of fewer experts than processes
    rows = distribute_tensor(bank, mesh, [Shard(1)], src_data_rank=None)
    assert placement(bank, world.size) == Shard(1)
    assert placement(bank, 2) == placement(bank[:, :5], world.size) == Shard(0)
    assert not has_whole_matrices(rows)
    [found] = by_owner([rows], cubed)
    expected = distribute_tensor(bank @ bank.mT @ bank, mesh, [Shard(1)], src_data_rank=None)
    torch.testing.assert_close(found, expected.to_local())
    refilled = torch.zeros_like(rows)
    fill(refilled, bank)
    assert torch.equal(whole(refilled), bank)
    parts.append(rows)

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
    (folder / f"{rank}.txt").write_text("done")


def check_turns(rank, folder):
    """What each does for all arrives everywhere, in order, and so does a failure."""
    world = World.of_copies("cpu")
    assert str(world.layout) == f"replicate={world.size} shard=1 expert=1"
    assert world.together(lambda: rank) == list(range(world.size))
    here = ZeroDivisionError if rank == 1 else OSError  # what failed on one fails on all
    with pytest.raises(here, match="division"):
        world.together(lambda: 1 // (1 - rank))

    for items in (range(7), range(2), ()):  # not divided evenly, fewer than processes, none
        assert world.in_turn(items, lambda n: (n, rank)) == [(n, n % world.size) for n in items]
    with pytest.raises(ZeroDivisionError if rank == 2 else OSError, match="division"):
        world.in_turn(range(3), lambda n: 1 // (2 - n))
    entered = []

    @contextmanager
    def entering(what):
        entered.append(f"{what} on {rank}")
        yield int(what)

    with world.on_main(entering("7")) as given:
        assert given == 7
    refused = ValueError if rank == 0 else OSError
    with pytest.raises(refused, match="invalid literal"), world.on_main(entering("seven")):
        pytest.fail("entered")
    assert entered == (["7 on 0", "seven on 0"] if rank == 0 else [])
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

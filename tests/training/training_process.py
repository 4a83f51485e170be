"""What runs in the real processes of these tests."""

import os
import resource
import signal
import sys
import time
import weakref
from contextlib import suppress
from itertools import count

import torch
from fsspec.implementations.local import LocalFileSystem
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plait.data.corpus import Corpus
from plait.kernels import processor
from plait.parallel import ParallelConfig, World, local
from plait.storage import checkpoint
from plait.training import Interrupted, train
from plait.training.state import TrainState


def run(config, folder, threads=1, largest_file=None):
    """Train as the command line would: one line on an error, exit code 1."""
    torch.set_num_threads(threads)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        train(config, folder, device="cpu")
    except (ValueError, Interrupted) as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)


def join(rank, size, port):
    """Be one of the processes that torchrun would start."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)


def run_rank(rank, world, port, config, folder, stop_after=None, device="cpu"):
    """Be one of the processes that torchrun would start; stop after `stop_after` steps."""
    join(rank, world, port)
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    try:
        train(config, folder, device=device, stop=stop)
    except Interrupted:
        assert stop_after is not None


def run_meshes(rank, world, port, runs):
    """Be one of several processes and train each (configuration, folder, mesh, steps) in turn.

    What asks for bf16 computes in it, slowly where the processor has no units for it.
    """
    join(rank, world, port)
    processor.multiplies_bf16 = lambda: True
    for config, folder, mesh, stop_after in runs:
        asked = count()
        with suppress(Interrupted):
            train(
                config,
                folder,
                device="cpu",
                parallel=ParallelConfig.parse(mesh),
                stop=lambda asked=asked, last=stop_after: next(asked) == last,
            )


class Storages(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, and the most there were at once."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.most = set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self._count(local(tensor).untyped_storage())
        return out

    def _count(self, storage):
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key, size):
        self.known.remove(key)
        self.now -= size


def run_and_die_writing(rank, size, port, config, folder):
    """Train; rank 1 dies in its second save, while training has gone on for three steps."""
    join(rank, size, port)
    real, rows = checkpoint.write_divided, folder / "metrics.jsonl"
    saves = count(1)

    def write_divided(*args):
        if next(saves) == 2:
            while f'"step": {2 * config.checkpoint.every + 3}' not in rows.read_text():
                time.sleep(0.005)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    checkpoint.write_divided = write_divided
    train(config, folder, device="cpu")


def measure_states(rank, size, port, config, meshes, folder):
    """Be one of several processes and note the most bytes while each mesh's state is made."""
    join(rank, size, port)
    for mesh in meshes:
        world = World.start("cpu", ParallelConfig.parse(mesh))
        with Storages() as storages:
            state = TrainState(config, Corpus.open(config.data.corpus), world)
        parameters = sum(parameter.nbytes for parameter in state.model.parameters())
        (folder / f"{mesh}, {rank}.txt").write_text(f"{storages.most} {parameters}")
    torch.distributed.barrier()  # who has done waits for the others


def run_away(rank, size, port, config, folder, address, die=None, shared=True):
    """Be one of several processes; rank `die[0]` dies before it sends its file number `die[1]`.

    Where nothing is shared, each has a folder of its own and fetches what it needs.
    """
    if size > 1:
        join(rank, size, port)
    if not shared:
        folder = folder.parents[2] / f"machine-{rank}" / folder.parent.name / folder.name
        checkpoint.machine = lambda: str(rank)
    real, sent = LocalFileSystem.put_file, count(1)

    def put_file(*args, **kwargs):
        if die is not None and die == (rank, next(sent)):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    LocalFileSystem.put_file = put_file
    train(config, folder, device="cpu", checkpoints=address)

"""What runs in the real processes of these tests."""

import os
import resource
import sys
from contextlib import suppress
from itertools import count

import torch

from plait.parallel import ParallelConfig
from plait.training import Interrupted, train


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


def run_rank(rank, world, port, config, folder, stop_after=None, device="cpu"):
    """Be one of the processes that torchrun would start; stop after `stop_after` steps."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
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
    """Be one of several processes and train each (configuration, folder, mesh, steps) in turn."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
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

"""Real processes that talk over gloo, as torchrun would start them."""

import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch


def start(
    processes: ForkServerContext, size: int, function: Callable[..., object], *arguments: Any
) -> None:
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


def _be_rank(
    rank: int, size: int, port: int, function: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    function(rank, *arguments)
    if size > 1:
        torch.distributed.barrier()  # who has done waits for the others

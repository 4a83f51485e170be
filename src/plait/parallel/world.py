"""The processes of a run, seen from one of them, and how their sums meet.

One process needs none of it: every collective is then the identity. Under torchrun, `World.start`
joins the processes.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from plait.kernels.precision import full_float32
from plait.parallel.mesh import ALONE, Meshes, ParallelConfig
from plait.reading import one_line

S = TypeVar("S")
T = TypeVar("T")


def default_device(name: str | None = None) -> torch.device:
    """Return the device of a name; without one CUDA where there is one, else the CPU.

    From then on a GPU computes products of float32 in float32 (`full_float32`).

    Raises:
        ValueError: there is no such device here.
    """
    full_float32()
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split(".")[0].split())
        raise ValueError(f"there is no device {name!r} here ({reason}): try cpu") from None


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them. Each sees data of its own."""

    device: torch.device
    rank: int = 0
    size: int = 1
    layout: ParallelConfig = ALONE
    """how many processes there are along each dimension"""
    meshes: Meshes | None = None
    """None where there is one process"""
    host: dist.ProcessGroup | None = None
    """all processes over host memory, apart from training, which another thread may use"""

    @classmethod
    def start(cls, device: str | None = None, parallel: ParallelConfig | None = None) -> "World":
        """Join the processes that torchrun started, or be alone.

        Args:
            device: as torch names it; by default CUDA where there is one, else the CPU.
            parallel: how they are laid out; None: all of them shard everything.

        Raises:
            ValueError: there is no such device, or the layout does not fit the processes.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        layout = (parallel or ParallelConfig()).resolved(size)
        if size == 1:
            return cls(default_device(device))
        kind = default_device(device).type
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            # questions of hosts go over gloo, so that they wait for no GPU
            backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
            store, rank, _ = next(rendezvous("env://"))
            # where torchrun starts all again it keeps the store, and in it where the dead listened
            store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
            atexit.register(dist.destroy_process_group)
        here = (
            torch.device("cuda", torch.cuda.current_device())
            if kind == "cuda"
            else torch.device(kind)
        )
        host = dist.new_group(backend="gloo")
        return cls(here, dist.get_rank(), size, layout, Meshes.build(kind, layout), host)

    @classmethod
    def of_copies(cls, device: str | None = None) -> "World":
        """Join the processes as `start` does; each of them has the whole model."""
        return cls.start(device, ParallelConfig(shard=1))

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

    def gathered(self, value: T) -> list[T]:
        """Give every rank the values of all, over `host`."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value, group=self.host)
        return values

    def together(self, action: Callable[[], T]) -> list[T]:
        """Do something on every rank, over `host`, and give each the results of all.

        Raises:
            OSError: it failed on another rank; where it failed here, what happened.
        """
        if self.size == 1:
            return [action()]
        try:
            mine: tuple[T | None, str] = action(), ""
            failure = None
        except Exception as error:
            mine, failure = (None, one_line(error)), error
        results = self.gathered(mine)
        if failure is not None:
            raise failure
        for _, problem in results:
            if problem:
                raise OSError(problem)
        return [cast(T, result) for result, _ in results]

    def in_turn(self, items: Sequence[S], action: Callable[[S], T]) -> list[T]:
        """Do something with every item, the ranks taking them in turn, and give each all results.

        Returns:
            the results in the order of the items, the same on every rank.

        Raises:
            OSError: as `together`.
        """
        found = self.together(lambda: [action(item) for item in items[self.rank :: self.size]])
        return [found[place % self.size][place // self.size] for place in range(len(items))]

    @contextmanager
    def on_main(self, context: AbstractContextManager[T]) -> Iterator[T]:
        """Enter a context on the main rank alone, and give every rank what it gave there.

        Raises:
            OSError: as `together`, where it cannot be entered.
        """
        with ExitStack() as stack:
            yield cast(
                T, self.together(lambda: stack.enter_context(context) if self.is_main else None)[0]
            )

    def any(self, flag: bool) -> bool:
        """Whether it holds on at least one rank."""
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    def sum(self, value: Tensor) -> Tensor:
        """Add up over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Average over ranks, in place."""
        return self.sum(value).div_(self.size)

"""How the processes of a run are laid out: a mesh whose dimensions have names.

    replicate   groups of processes that hold the same; gradients are averaged between them
    shard       processes that hold a share of every parameter (FSDP2)
    expert      processes that hold some experts of each bank, whole

Every process sees different tokens, whatever its place. What is no bank of experts is sharded over
shard × expert processes; of a bank, each `expert` place holds its experts, sharded over `shard`.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Self

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from plait.reading import quoted

NAMES = ("replicate", "shard", "expert")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The size of each dimension, and what memory may be taken to send less.

    It belongs to the launch, never to the experiment.
    """

    replicate: int | None = None
    """None: 1, or all processes that `shard`, where that is given, and `expert` leave"""
    shard: int | None = None
    """None: all processes that the others leave"""
    expert: int | None = None
    """None: 1, each process computes all experts of its own tokens"""
    resident: int = 1
    """how many times the largest bank of several depths may be held beyond what is gathered at once
    anyway, so that such banks stay gathered between their uses"""

    def __post_init__(self) -> None:
        for name, size in self._sizes().items():
            if size < 1:
                raise ValueError(f"mesh: {name} is {size}: 1 or more")
        if self.resident < 0:
            raise ValueError(f"mesh: resident is {self.resident}: 0 or more")

    def _sizes(self) -> dict[str, int]:
        """Return what is said of the dimensions."""
        return {name: getattr(self, name) for name in NAMES if getattr(self, name) is not None}

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "replicate=2 shard=2 resident=0"; what is not named is as it is by default.

        Raises:
            ValueError: a word that is not NAME=NUMBER, or a name twice.
        """
        sizes: dict[str, int] = {}
        for word in text.replace(",", " ").split():
            name, _, number = word.partition("=")
            whole = number.isascii() and number.isdigit() and len(number) < 8
            known = name in (*NAMES, "resident") and name not in sizes
            if not known or not whole or int(number) < (name in NAMES):
                raise ValueError(
                    f"mesh {quoted(text)}: {quoted(word)} is not one of replicate=N, shard=N, "
                    "expert=N and resident=N, each at most once; write for example "
                    '"replicate=2 shard=4"'
                )
            sizes[name] = int(number)
        return cls(**sizes)

    def resolved(self, processes: int) -> "ParallelConfig":
        """Return it for a number of processes, no size of a dimension being None.

        Raises:
            ValueError: they do not multiply to it.
        """
        sizes = self._sizes()
        found = "replicate" if "shard" in sizes and "replicate" not in sizes else "shard"
        if found not in sizes:
            named = prod(sizes.values())
            sizes[found] = max(1, processes // named)
        sizes = {name: sizes.get(name, 1) for name in NAMES}
        if prod(sizes.values()) != processes:
            raise ValueError(
                f'mesh "{self}" does not fit {processes} process{"es" if processes > 1 else ""}: '
                "its product must be their number; start as many with torchrun "
                "--nproc-per-node, or change the mesh"
            )
        return replace(self, **sizes)

    def __str__(self) -> str:
        said = self._sizes() | ({} if self.resident == 1 else {"resident": self.resident})
        return " ".join(f"{name}={number}" for name, number in said.items())


ALONE = ParallelConfig(replicate=1, shard=1, expert=1)


@dataclass(frozen=True)
class Meshes:
    """The processes as torch sees them: once for banks of experts, once for all else."""

    dense: DeviceMesh
    """(replicate, shard), the expert places counted as shards"""
    experts: DeviceMesh
    """(replicate, shard, expert)"""

    @classmethod
    def build(cls, device: str, sizes: ParallelConfig) -> Self:
        """Group the processes; every one of them must call it."""
        replicate, shard, expert = sizes.replicate or 1, sizes.shard or 1, sizes.expert or 1
        return cls(
            init_device_mesh(device, (replicate, shard * expert), mesh_dim_names=NAMES[:2]),
            init_device_mesh(device, (replicate, shard, expert), mesh_dim_names=NAMES),
        )

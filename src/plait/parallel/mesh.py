"""How the processes of a run are laid out: a mesh whose dimensions have names.

    replicate   groups of processes that hold the same; gradients are averaged between them
    shard       processes that hold a share of every parameter (FSDP2)
    expert      processes that hold some experts of each bank, whole

Every process sees different tokens, whatever its place. What is no bank of experts is sharded over
shard × expert processes; of a bank, each `expert` place holds its experts, sharded over `shard`.
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Self

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from plait.reading import quoted

NAMES = ("replicate", "shard", "expert")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The size of each dimension; it belongs to the launch, never to the experiment."""

    replicate: int | None = None
    """None: 1, or all processes that `shard`, where that is given, and `expert` leave"""
    shard: int | None = None
    """None: all processes that the others leave"""
    expert: int | None = None
    """None: 1, each process computes all experts of its own tokens"""

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size is not None and size < 1:
                raise ValueError(f"mesh: {name} is {size}: 1 or more")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "replicate=2 shard=2"; what is not named is None.

        Raises:
            ValueError: a word that is not NAME=NUMBER, or a name twice.
        """
        sizes: dict[str, int] = {}
        for word in text.replace(",", " ").split():
            name, _, number = word.partition("=")
            whole = number.isascii() and number.isdigit() and len(number) < 8 and int(number) > 0
            if name not in NAMES or name in sizes or not whole:
                raise ValueError(
                    f"mesh {quoted(text)}: {quoted(word)} is not one of replicate=N, shard=N and "
                    'expert=N, each at most once; write for example "replicate=2 shard=4"'
                )
            sizes[name] = int(number)
        return cls(**sizes)

    def resolved(self, processes: int) -> "ParallelConfig":
        """Return the sizes for a number of processes, none of them None.

        Raises:
            ValueError: they do not multiply to it.
        """
        sizes = {name: size for name, size in asdict(self).items() if size is not None}
        found = "replicate" if "shard" in sizes and "replicate" not in sizes else "shard"
        if found not in sizes:
            named = prod(sizes.values())
            sizes[found] = max(1, processes // named)
        result = ParallelConfig(**{name: sizes.get(name, 1) for name in NAMES})
        if prod(asdict(result).values()) != processes:
            raise ValueError(
                f'mesh "{self}" does not fit {processes} process{"es" if processes > 1 else ""}: '
                "its product must be their number; start as many with torchrun "
                "--nproc-per-node, or change the mesh"
            )
        return result

    def __str__(self) -> str:
        return " ".join(f"{name}={size}" for name, size in asdict(self).items() if size)


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

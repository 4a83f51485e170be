"""Ranks and meshes, of which no other folder knows: who is there, and who holds what."""

from plait.parallel.compiling import require_compiler
from plait.parallel.mesh import ParallelConfig
from plait.parallel.owners import by_mesh, by_owner, has_whole_matrices, owners, pieces
from plait.parallel.parallelise import parallelise, reduce_gradients, require_divisible
from plait.parallel.shard import fill, held, local, squared_norm, whole
from plait.parallel.world import World, default_device

__all__ = [
    "ParallelConfig",
    "World",
    "by_mesh",
    "by_owner",
    "default_device",
    "fill",
    "has_whole_matrices",
    "held",
    "local",
    "owners",
    "parallelise",
    "pieces",
    "reduce_gradients",
    "require_compiler",
    "require_divisible",
    "squared_norm",
    "whole",
]

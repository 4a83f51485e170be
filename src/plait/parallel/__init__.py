"""Ranks and meshes, of which no other folder knows: who is there, and who holds what."""

from plait.parallel.shard import fill, reduce_gradients, shard, whole
from plait.parallel.world import World, default_device

__all__ = ["World", "default_device", "fill", "reduce_gradients", "shard", "whole"]
